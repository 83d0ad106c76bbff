//! Streams as control-plane records: loaded at start, reconciled with the configuration, changed one at a time.

mod grant;
mod reconcile;
mod served;

use std::{collections::BTreeMap, sync::Arc};

use setgate_set::Timestamp;
use setgate_store::{
    Done, Durability, Key, Parked, ParkedFilter, Position, Put, Rule, StoreError, StreamNo, Unit, Version,
};
use setgate_stream::{InvalidTransition, Reason, Status, Stream};
use setgate_telemetry::chain;

use crate::{
    Index, Inner, Router, StartError, StreamView, VaultError,
    announce::Announcement,
    record::{PREFIX, key},
    subscription::{Served, Subscription},
    vault,
};

pub use reconcile::{ReconcileError, Reconciled};
pub use served::StreamError;

/// All streams, by number, with the version in which the filter of each last changed.
#[derive(Default)]
pub(crate) struct StreamTable {
    pub(crate) streams: BTreeMap<StreamNo, (Arc<Stream>, Version)>,
    /// True while the outcome of a change is unknown: its caller went away, or the store failed in between.
    pub(crate) unsure: bool,
    /// True when all parked SETs are known to be of streams that exist: a deletion may have broken off, in this process
    /// or before its start.
    pub(crate) swept: bool,
}

impl StreamTable {
    /// Returns the stream with this id.
    pub(crate) fn by_id(&self, id: &str) -> Option<&Arc<Stream>> {
        self.streams.values().map(|(stream, _)| stream).find(|stream| stream.id.as_str() == id)
    }

    fn named(&self, id: &str) -> Result<Arc<Stream>, ChangeError> {
        self.by_id(id).cloned().ok_or_else(|| ChangeError::Unknown(format!("stream `{id}`")))
    }
}

/// The reason why a stream was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The thing that was asked for does not exist; the text names it.
    #[error("there is no {0}")]
    Unknown(String),
    /// The change cannot be made now; the text gives the reason.
    #[error("{0}")]
    Invalid(String),
    /// The stream's status does not allow the change.
    #[error(transparent)]
    Transition(#[from] InvalidTransition),
    /// The stream's record cannot be written.
    #[error(transparent)]
    Record(#[from] VaultError),
    /// The store did not accept the change.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Inner {
    pub(crate) async fn load_streams(self: &Arc<Self>, last: Position) -> Result<(), StartError> {
        let mut kept = self.kept.lock().await;
        kept.streams = self.read_streams().await?;
        for (stream, version) in kept.streams.values() {
            self.put_in_force(stream, *version, last).await?;
        }
        self.publish(&kept, self.shared.store.version());
        Ok(())
    }

    pub(crate) async fn read_streams(&self) -> Result<BTreeMap<StreamNo, (Arc<Stream>, Version)>, StartError> {
        let mut streams = BTreeMap::new();
        for record in self.shared.store.range(Key::from(PREFIX)).await? {
            let opened = self.open(&record.value);
            let stream = opened.map_err(|source| StartError::Record { no: record.key.0.clone(), source })?;
            streams.insert(StreamNo(stream.no), (Arc::new(stream), record.version));
        }
        Ok(streams)
    }

    /// Reads a stream from its record, with its secrets in the clear.
    fn open(&self, record: &[u8]) -> Result<Stream, VaultError> {
        let mut stream: Stream = serde_json::from_slice(record)?;
        let secrets = self.secrets(&stream.delivery.method);
        vault::open(&self.kek, stream.id.as_str(), &mut stream.delivery, secrets)?;
        grant::with_units(&mut stream.delivery.grant);
        Ok(stream)
    }

    pub(crate) async fn put_in_force(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        filter_changed: Version,
        last: Position,
    ) -> Result<(), StoreError> {
        match self.served(stream, filter_changed) {
            Ok(served) => self.install(stream, served, last).await?,
            Err(error) => {
                let why = chain(&error);
                tracing::error!(stream = %stream.id, why, "the stream cannot be delivered; its SETs wait");
            }
        }
        Ok(())
    }

    async fn install(self: &Arc<Self>, stream: &Stream, served: Served, last: Position) -> Result<(), StoreError> {
        let no = StreamNo(stream.no);
        self.shared.observed.counts.served_by(no, served.method);
        if let Some(subscription) = self.subscription(no) {
            let changed = subscription.served.load().stream.on_refusal != stream.on_refusal;
            subscription.serve(served);
            if changed {
                self.stop_as_parked(no).await?;
            }
            return Ok(());
        }
        let subscription = Subscription::new(no, self.shared.clone(), served, last);
        if stream.on_refusal == setgate_stream::OnRefusal::StopKey {
            subscription.stop_keys(&self.all_parked(no).await?.iter().map(|parked| parked.order).collect());
        }
        let control = self.shared.store.owed_control(no).await?;
        self.subscriptions.write().insert(no, subscription.clone());
        subscription.push_control(control);
        Ok(())
    }

    /// Puts a version in force for decisions. The store answers `Stale` to appends that were decided before.
    pub(crate) fn publish(&self, kept: &StreamTable, version: Version) {
        let streams: Vec<_> = kept.streams.values().map(|(stream, _)| stream.clone()).collect();
        let by_id = streams.iter().map(|stream| (stream.id.as_str().to_owned(), StreamNo(stream.no))).collect();
        for word in ["enabled", "paused", "disabled"] {
            let count = streams.iter().filter(|stream| stream.status.word() == word).count();
            self.shared
                .observed
                .streams
                .get_or_create(&[("status", word)])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.streams_by_id.store(Arc::new(by_id));
        self.index.store(Arc::new(Index::build(&streams, version)));
        self.published.send_replace(version);
    }

    fn put(&self, stream: &Stream) -> Result<Put, VaultError> {
        let mut sealed = stream.clone();
        let secrets = self.secrets(&stream.delivery.method);
        vault::seal(&self.kek, stream.id.as_str(), &mut sealed.delivery, secrets)?;
        let value = serde_json::to_vec(&sealed)?;
        Ok(Put { key: key(StreamNo(stream.no)), value: Some(value.into()) })
    }

    /// Writes changed streams in one unit, with what goes along, and puts them in force.
    async fn write(
        self: &Arc<Self>,
        kept: &mut StreamTable,
        changed: Vec<Arc<Stream>>,
        drop_through: Vec<(StreamNo, Rule)>,
        announcements: Vec<(Arc<Stream>, Announcement)>,
    ) -> Result<(), ChangeError> {
        let now = self.shared.store.version();
        let mut notice = Vec::new();
        for (stream, announcement) in announcements {
            if let Some(issuer) = self.issuer(&stream.issuer) {
                notice.push(announcement.record(self, issuer, &stream, now));
            }
        }
        let change = changed.iter().map(|stream| self.put(stream)).collect::<Result<_, _>>()?;
        let membership = true;
        let unit = Unit::Configure { change, expect: None, membership, drop_through, notice };
        kept.unsure = true;
        let done = self.shared.store.commit(vec![unit], Durability::Sync).await?;
        let Some(Done::Configured { version, .. }) = done.into_iter().next() else {
            return Err(ChangeError::Invalid("the store gave no version".into()));
        };
        let last = self.shared.store.bounds().last;
        for stream in changed {
            let before = kept.streams.get(&StreamNo(stream.no));
            let same_filter = before.is_some_and(|(before, _)| same_filter(before, &stream));
            let filter_changed = before.filter(|_| same_filter).map_or(version, |(_, at)| *at);
            self.put_in_force(&stream, filter_changed, last).await?;
            kept.streams.insert(StreamNo(stream.no), (stream, filter_changed));
        }
        self.publish(kept, version);
        kept.unsure = false;
        Ok(())
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.shared.runtime.clock.wall_millis())
    }

    pub(crate) async fn pause_by_fault(self: &Arc<Self>, no: StreamNo, why: String) {
        let mut kept = self.kept.lock().await;
        let Some((stream, _)) = kept.streams.get(&no).cloned() else { return };
        if stream.status != Status::Enabled {
            return;
        }
        tracing::error!(stream = %stream.id, why, "paused a stream by its own fault; `setgate streams resume` when it is fixed");
        self.shared.observed.paused_by_fault.inc();
        self.pause_alone(&mut kept, &stream, Reason::Fault(why), "delivery failed too often").await;
    }

    /// Pauses a stream whose receiver did not come (SSF 1.0 §8.1.1), unless it came in the meantime.
    pub(crate) async fn pause_by_absence(self: &Arc<Self>, no: StreamNo) {
        let mut kept = self.kept.lock().await;
        let Some((stream, _)) = kept.streams.get(&no).cloned() else { return };
        if stream.status != Status::Enabled
            || self.subscription(no).is_none_or(|subscription| !subscription.is_abandoned())
        {
            return;
        }
        let seconds = stream.inactivity_timeout_seconds.map_or(0, std::num::NonZeroU32::get);
        tracing::warn!(stream = %stream.id, seconds, "paused a stream whose receiver did not come within its inactivity timeout");
        let why = Reason::Inactive(format!("the receiver did not come for {seconds} seconds"));
        self.pause_alone(&mut kept, &stream, why, "inactivity timeout").await;
    }

    async fn pause_alone(self: &Arc<Self>, kept: &mut StreamTable, stream: &Stream, why: Reason, announced: &str) {
        let mut stream = stream.clone();
        stream.status = Status::Paused { at: self.now(), why };
        let stream = Arc::new(stream);
        let announcement = Announcement::StreamUpdated { status: "paused", reason: Some(announced.into()) };
        if let Err(error) = self.write(kept, vec![stream.clone()], vec![], vec![(stream.clone(), announcement)]).await {
            tracing::error!(stream = %stream.id, error = chain(&error), "cannot pause the stream");
        }
    }
}

fn same_filter(a: &Stream, b: &Stream) -> bool {
    a.events == b.events
        && a.roster == b.roster
        && a.default_subjects == b.default_subjects
        && a.match_by_the_letter == b.match_by_the_letter
}

impl Router {
    /// Returns every stream, by number.
    pub async fn streams(&self) -> Vec<StreamView> {
        let streams: Vec<_> = self.0.kept.lock().await.streams.values().map(|(stream, _)| stream.clone()).collect();
        let mut views = Vec::with_capacity(streams.len());
        for stream in streams {
            views.push(self.0.view(&stream).await);
        }
        views
    }

    /// Returns the stream with this id.
    pub async fn stream(&self, id: &str) -> Option<StreamView> {
        let stream = self.0.stream(id).await?;
        Some(self.0.view(&stream).await)
    }

    /// Stops delivery and keeps what is due. After the answer no new hand-over begins.
    ///
    /// # Errors
    /// [`ChangeError`] when the stream does not exist, or is not enabled.
    pub async fn pause(&self, id: &str, reason: String) -> Result<StreamView, ChangeError> {
        self.0.change_status(id, |status, at| status.pause(at, Reason::Operator(reason.clone())), Some(&reason)).await
    }

    /// Resumes delivery; with `reissue` also issues again, as new SETs, those that were parked by the stream's own
    /// fault.
    ///
    /// # Errors
    /// [`ChangeError`] when the stream does not exist, or is enabled already.
    pub async fn resume(&self, id: &str, reissue: bool) -> Result<StreamView, ChangeError> {
        let view = self.0.change_status(id, |status, _| status.enable(), None).await?;
        if reissue {
            let no = StreamNo(view.no);
            let jtis = self
                .0
                .all_parked(no)
                .await?
                .into_iter()
                .filter(|parked| parked.stream_fault)
                .map(|parked| parked.jti.to_string());
            let jtis = jtis.collect();
            self.reissue(jtis, true).await?;
        }
        Ok(view)
    }

    /// Deletes a stream with its cursor and what it is owed; its number is never used again.
    ///
    /// # Errors
    /// [`ChangeError`] when the stream does not exist.
    pub async fn delete(&self, id: &str) -> Result<(), ChangeError> {
        let inner = &self.0;
        let mut kept = inner.kept.lock().await;
        let stream = kept.named(id)?;
        let no = StreamNo(stream.no);
        let unit = Unit::Configure {
            change: vec![Put { key: key(no), value: None }],
            expect: None,
            membership: true,
            drop_through: vec![(no, Rule::Deleted)],
            notice: vec![],
        };
        (kept.unsure, kept.swept) = (true, false);
        let done = inner.shared.store.commit(vec![unit], Durability::Sync).await?;
        let Some(Done::Configured { version, .. }) = done.into_iter().next() else {
            return Err(ChangeError::Invalid("the store gave no version".into()));
        };
        inner.forget(&mut kept, no);
        inner.publish(&kept, version);
        kept.unsure = false;
        // The stream is gone, whatever the outcome of this: it is tried again until it succeeds.
        inner.sweep(&mut kept).await;
        if !kept.swept {
            tracing::warn!(stream = id, "the stream is deleted, and what is parked of it will be");
        }
        Ok(())
    }
}

impl Inner {
    /// Returns everything that is parked of a stream, read in pages and without the bodies.
    pub(crate) async fn all_parked(&self, no: StreamNo) -> Result<Vec<Parked>, StoreError> {
        const PAGE: usize = 200;
        let mut all: Vec<Parked> = Vec::new();
        loop {
            let from = all.last().map(|last| (no, Position { seq: last.at.seq + 1, ..last.at }));
            let page =
                self.shared.store.parked(ParkedFilter { stream: Some(no), code: None, from, most: PAGE }).await?;
            let more = page.len() == PAGE;
            all.extend(page.into_iter().map(|parked| Parked { body: bytes::Bytes::new(), ..parked }));
            if !more {
                return Ok(all);
            }
        }
    }

    pub(crate) async fn stream(&self, id: &str) -> Option<Arc<Stream>> {
        self.kept.lock().await.by_id(id).cloned()
    }

    async fn change_status(
        self: &Arc<Self>,
        id: &str,
        change: impl Fn(Status, Timestamp) -> Result<Status, InvalidTransition>,
        reason: Option<&String>,
    ) -> Result<StreamView, ChangeError> {
        let mut kept = self.kept.lock().await;
        let stream = kept.named(id)?;
        let mut stream = Stream::clone(&stream);
        stream.status = change(stream.status, self.now())?;
        let stream = Arc::new(stream);
        let announcement = Announcement::StreamUpdated {
            status: stream.status.word(),
            reason: reason.cloned().filter(|text| !text.is_empty()),
        };
        self.write(&mut kept, vec![stream.clone()], vec![], vec![(stream.clone(), announcement)]).await?;
        drop(kept);
        Ok(self.view(&stream).await)
    }
}
