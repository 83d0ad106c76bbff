//! The embedded store: the ledger and its cursors on fjall, in one folder.

mod batch;
pub(crate) mod believe;
mod bloom_filter;
mod bucket;
mod check;
#[cfg(any(test, feature = "testkit"))]
mod cut;
pub(crate) mod engine;
mod export;
mod fold;
mod gaps;
mod group;
mod guard;
mod holdings;
mod housekeep;
pub(crate) mod identity;
pub(crate) mod journal;
mod open;
mod place;
mod recover;
pub(crate) mod release;
mod repair;
pub(crate) mod replay;
mod room;
pub(crate) mod salvage;
pub(crate) mod seal;
mod segment;
mod shared;
mod spare;
mod survey;
mod turnover;
pub(crate) mod watermark;
mod weigh;
mod writer;

use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{SyncSender, TrySendError},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use setgate_set::Timestamp;
use tokio::sync::{oneshot, watch};

#[cfg(any(test, feature = "testkit"))]
pub(crate) use batch::Failure;
pub use check::CheckReport;
pub use export::Exported;
pub use holdings::Holdings;
#[cfg(test)]
pub(crate) use housekeep::Trim;
pub use open::{Created, OpenReport, Opened};
pub use place::{OpenError, StorePlace};
pub use repair::{Repair, Repaired};
pub use room::Room;
pub use survey::{Findings, GivenUp, LostParked, ReadableCounts, Stretch};

use crate::{
    Attempted, Bounds, Confirmed, Cursor, Done, Durability, Entry, Fence, Head, Health, Heaviest, Key, Names, Parked,
    ParkedFilter, Position, Record, Store, StoreError, StreamNo, Time, Unit, Version, Why, Witness,
    codec::WrittenHead,
    fjall::{
        engine::{Engine, bare},
        shared::Shared,
        writer::{Call, Job},
    },
    time::HeldBack,
};

/// The most bytes of bodies in the queue.
const QUEUED_BYTES: usize = 64 * 1024 * 1024;

/// The embedded store.
///
/// One thread writes. Everything that is read back is durable, except lazy settlements, which become durable within
/// moments.
pub struct FjallStore {
    shared: Arc<Shared>,
    queue: SyncSender<Job>,
}

impl std::fmt::Debug for FjallStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FjallStore({})", self.shared.place.store.display())
    }
}

type Answer<T> = BoxFuture<'static, Result<T, StoreError>>;

fn ready<T: Send + 'static>(result: Result<T, StoreError>) -> Answer<T> {
    Box::pin(std::future::ready(result))
}

fn weight(units: &[Unit]) -> usize {
    let events = units.iter().map(|unit| match unit {
        Unit::Append { events } => events.iter().map(|event| event.body.len() + 128).sum(),
        Unit::Configure { change, .. } => change.iter().map(|put| put.value.as_ref().map_or(0, Bytes::len) + 64).sum(),
        Unit::Settle { what, .. } => what.len() * 16,
        _ => 64,
    });
    events.sum()
}

impl FjallStore {
    fn over(shared: Arc<Shared>, queue: SyncSender<Job>) -> Self {
        Self { shared, queue }
    }

    /// Returns a watch that holds a text once the process must end because the store cannot be recovered; the text is
    /// the reason.
    #[must_use]
    pub fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.shared.fatal.subscribe()
    }

    /// Makes this copy the original while it is open: delivery and intake may begin. The original must not be used
    /// again.
    ///
    /// The numbers advance as in [`FjallStore::adopt`].
    ///
    /// # Errors
    /// Returns [`StoreError`] where the adoption could not be written; the store then stays held.
    pub async fn adopt_open(&self) -> Result<(), StoreError> {
        if !self.shared.held.load(Ordering::Acquire) {
            return Ok(());
        }
        housekeep::run_on_writer(&self.queue, writer::Writer::move_numbers_on).await?;
        let shared = self.shared.clone();
        let renew = move || {
            let mut instance = shared.place.instance(None)?;
            shared.place.renew(&mut instance, &shared.runtime)?;
            shared.held.store(false, Ordering::Release);
            Ok(())
        };
        let renewed: Result<(), OpenError> =
            tokio::task::spawn_blocking(renew).await.map_err(|error| StoreError::Unavailable(Why::of(error)))?;
        renewed.map_err(|error| StoreError::Unavailable(Why::of(error)))
    }

    /// Makes the next writes fail with these failures. For tests.
    #[cfg(any(test, feature = "testkit"))]
    pub(crate) fn fail(&self, failures: impl IntoIterator<Item = Failure>) {
        self.shared.faults.lock().extend(failures);
    }

    /// Ends the store as a killed process does: nothing that waits is written. For tests.
    #[doc(hidden)]
    pub async fn abandon(&self) {
        let (answer, done) = oneshot::channel();
        if self.queue.send(Job::Abandon(answer)).is_ok() {
            let _ = done.await;
        }
    }

    fn send(&self, job: Job) -> Result<(), StoreError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(StoreError::Unavailable("it is closed".into()));
        }
        self.queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Busy,
            TrySendError::Disconnected(_) => StoreError::Unavailable("it is closed".into()),
        })
    }

    /// Reads from the engine on a thread for blocking work.
    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared, &Engine) -> Result<T, StoreError> + Send + 'static,
    ) -> Answer<T> {
        let shared = self.shared.clone();
        Box::pin(read_aside(shared, read))
    }

    fn head_recent(&self, seq: u64) -> Option<Head> {
        self.shared.ring.read().get(seq).map(|recent| recent.entry.head.clone())
    }

    fn heads_of(&self, seqs: Vec<u64>) -> Answer<Vec<Option<Head>>> {
        let recent: Vec<_> = seqs.iter().map(|seq| self.head_recent(*seq)).collect();
        if recent.iter().all(Option::is_some) {
            return ready(Ok(recent));
        }
        self.read(move |_, engine| {
            let pairs = seqs.into_iter().zip(recent);
            pairs
                .map(|(seq, recent)| recent.map_or_else(|| engine.head(seq).map(bare), |head| Ok(Some(head))))
                .collect()
        })
    }
}

async fn read_aside<T: Send + 'static>(
    shared: Arc<Shared>,
    read: impl FnOnce(&Shared, &Engine) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let gone = || StoreError::Unavailable("it is closed".into());
    let permit = shared.reads.clone().acquire_owned().await.map_err(|_| gone())?;
    let work = move || {
        let _permit = permit;
        let engine = shared.engine()?;
        guard::guarded(|| read(&shared, &engine))
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| gone())?
}

/// Returns the heads of what a stream is owed, starting with `owed`; fewer than `max` only where there are no more.
///
/// A record may be settled and deleted before it is read, and a head may be damaged. Neither may hide the records after
/// it, since a caller that gets fewer than it asked for takes them for all.
async fn owed_on(
    shared: Arc<Shared>,
    stream: StreamNo,
    mut owed: Vec<u64>,
    max: usize,
) -> Result<Vec<Head>, StoreError> {
    let mut heads: Vec<Head> = Vec::new();
    loop {
        let more = owed.len() >= max - heads.len();
        let last = owed.last().copied();
        heads.extend(readable(shared.clone(), owed).await?);
        let (Some(last), true) = (last, more && heads.len() < max) else { return Ok(heads) };
        owed = shared.state.read().owed(stream, last, max - heads.len());
    }
}

/// Returns the heads of these records, without those that are gone or damaged.
async fn readable(shared: Arc<Shared>, seqs: Vec<u64>) -> Result<Vec<Head>, StoreError> {
    let recent: Vec<_> = {
        let ring = shared.ring.read();
        seqs.iter().map(|seq| ring.get(*seq).map(|recent| recent.entry.head.clone())).collect()
    };
    if recent.iter().all(Option::is_some) {
        return Ok(recent.into_iter().flatten().collect());
    }
    let read = move |_: &Shared, engine: &Engine| {
        let (mut heads, mut rotten) = (Vec::with_capacity(seqs.len()), Vec::new());
        for (seq, recent) in seqs.into_iter().zip(recent) {
            match recent.map_or_else(|| guard::guarded(|| engine.head(seq).map(bare)), |head| Ok(Some(head))) {
                Err(StoreError::Corrupt(why)) => rotten.push((seq, why)),
                read => heads.extend(read?),
            }
        }
        if let Some((first, why)) = rotten.first() {
            tracing::error!(
                records = rotten.len(),
                first,
                %why,
                "records that are owed do not read, and wait: stop the gateway and run `setgate store check`"
            );
        }
        Ok(heads)
    };
    read_aside(shared, read).await
}

async fn tail_on(shared: Arc<Shared>, after: u64, most: usize, wait: Duration) -> Result<Vec<Entry>, StoreError> {
    let mut newest = shared.last.subscribe();
    let until = shared.runtime.clock.monotonic() + wait;
    let mut after = after;
    loop {
        if *newest.borrow_and_update() <= after {
            let left = until.saturating_sub(shared.runtime.clock.monotonic());
            if left.is_zero() {
                return Ok(Vec::new());
            }
            let arrived = std::pin::pin!(newest.wait_for(|last| *last > after));
            let _ = futures_util::future::select(arrived, shared.runtime.clock.sleep(left)).await;
        }
        let last = shared.state.read().last;
        if last <= after {
            return Ok(Vec::new());
        }
        if let Some(entries) = shared.ring.read().from(after + 1, most) {
            return Ok(entries);
        }
        let (from, records) = (after + 1, most.max(1));
        let heads = read_aside(shared.clone(), move |_, engine| engine.heads_from(from, last, records)).await?;
        if !heads.is_empty() {
            let entry = |written: WrittenHead| Entry { head: written.head, targets: written.targets };
            return Ok(heads.into_iter().map(entry).collect());
        }
        // Nothing up to there is owed to any stream any more.
        after = last;
    }
}

impl Store for FjallStore {
    fn commit(&self, units: Vec<Unit>, how: Durability) -> Answer<Vec<Done>> {
        let (answer, done) = oneshot::channel();
        let (count, bytes) = (units.len(), weight(&units));
        let shared = &self.shared;
        if shared.queued_bytes.load(Ordering::Relaxed).saturating_add(bytes) > QUEUED_BYTES.max(bytes) {
            return ready(Err(StoreError::Busy));
        }
        shared.queued.fetch_add(count, Ordering::Relaxed);
        shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let since = shared.runtime.clock.monotonic();
        if let Err(error) = self.send(Job::Commit(Box::new(Call { units, how, bytes, since, answer }))) {
            shared.queued.fetch_sub(count, Ordering::Relaxed);
            shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return ready(Err(error));
        }
        Box::pin(async move {
            let lost = |_| Err(StoreError::Poisoned("the writer ended".into()));
            done.await.unwrap_or_else(lost)
        })
    }

    fn tail(&self, after: Position, most: usize, wait: Duration) -> Answer<Vec<Entry>> {
        Box::pin(tail_on(self.shared.clone(), after.seq, most, wait))
    }

    fn bodies(&self, at: Vec<Position>) -> Answer<Vec<Option<Bytes>>> {
        let ring = self.shared.ring.read();
        let recent: Vec<_> = at.iter().map(|at| ring.get(at.seq).map(|recent| recent.body.clone())).collect();
        drop(ring);
        if recent.iter().all(Option::is_some) {
            return ready(Ok(recent));
        }
        self.read(move |_, engine| {
            let pairs = at.into_iter().zip(recent);
            pairs.map(|(at, recent)| recent.map_or_else(|| engine.body(at.seq), |body| Ok(Some(body)))).collect()
        })
    }

    fn heads(&self, at: Vec<Position>) -> Answer<Vec<Option<Head>>> {
        self.heads_of(at.into_iter().map(|at| at.seq).collect())
    }

    fn owed(&self, stream: StreamNo, after: Position, max: usize) -> Answer<Vec<Head>> {
        let first = self.shared.state.read().owed(stream, after.seq, max);
        Box::pin(owed_on(self.shared.clone(), stream, first, max))
    }

    fn owed_control(&self, stream: StreamNo) -> Answer<Vec<Head>> {
        let state = self.shared.state.read();
        let owed =
            state.cursors.get(&stream).map(|cursor| cursor.control.iter().copied().collect()).unwrap_or_default();
        drop(state);
        Box::pin(readable(self.shared.clone(), owed))
    }

    fn is_owed(&self, stream: StreamNo, at: Position) -> bool {
        self.shared.state.read().is_owed(stream, at.seq)
    }

    fn waiting(&self, stream: StreamNo) -> u64 {
        self.shared.state.read().cursors.get(&stream).map_or(0, |cursor| cursor.tally.waiting)
    }

    fn attempts(&self, stream: StreamNo) -> Vec<(Position, Attempted)> {
        self.shared.state.read().attempts(stream)
    }

    fn cursor(&self, stream: StreamNo) -> Answer<Cursor> {
        let state = self.shared.state.read();
        let Some(cursor) = state.cursors.get(&stream) else { return ready(Ok(Cursor::default())) };
        let (oldest, last) = (cursor.owed.min(), state.last);
        let seen = Cursor {
            tally: cursor.tally.clone(),
            oldest: None,
            bytes: 0,
            dropped_through: Position::new(cursor.dropped_through),
            parked_now: cursor.parked_now,
        };
        let samples: Vec<u64> = cursor.owed.iter().step_by((cursor.tally.waiting as usize / 64).max(1)).collect();
        drop(state);
        if oldest.is_none() {
            return ready(Ok(seen));
        }
        let known = seen.clone();
        let read = self.read(move |_, engine| {
            let lengths: u64 = samples.iter().map(|seq| engine.mean_length(*seq, last)).sum();
            let bytes = lengths / (samples.len() as u64).max(1) * seen.tally.waiting;
            let oldest = oldest.map(|seq| engine.head(seq)).transpose()?.flatten();
            Ok(Cursor { oldest: bare(oldest), bytes, ..seen })
        });
        Box::pin(async move {
            match read.await {
                Err(error @ StoreError::Corrupt(_)) => Err(error),
                // While the engine is opened again, the last known counts are returned.
                Err(_) => Ok(known),
                read => read,
            }
        })
    }

    fn nth_newest(&self, stream: StreamNo, n: u64) -> Option<Position> {
        self.shared.state.read().nth_newest(stream, n)
    }

    fn heaviest(&self, excess: u64) -> Answer<Option<Heaviest>> {
        self.read(move |shared, engine| weigh::heaviest(shared, engine, excess))
    }

    fn first_accepted_at(&self, when: Timestamp) -> Answer<Position> {
        let (last, held_back) = {
            let state = self.shared.state.read();
            (state.last, HeldBack::first_since(&state.held_back, when))
        };
        self.read(move |_, engine| {
            let found = engine.first_accepted_at(when, last)?;
            Ok(Position::new(held_back.map_or(found, |first| first.min(found))))
        })
    }

    fn parked(&self, which: ParkedFilter) -> Answer<Vec<Parked>> {
        self.read(move |_, engine| engine.parked_rows(&which))
    }

    fn get(&self, keys: Vec<Key>) -> Answer<Vec<Option<Record>>> {
        self.read(move |_, engine| keys.iter().map(|key| engine.record(key)).collect())
    }

    fn range(&self, prefix: Key) -> Answer<Vec<Record>> {
        self.read(move |_, engine| engine.records(&prefix))
    }

    fn version(&self) -> Version {
        self.shared.state.read().version
    }

    fn bounds(&self) -> Bounds {
        let state = self.shared.state.read();
        Bounds { first: Position::new(state.first), last: Position::new(state.last) }
    }

    fn fence(&self) -> Fence {
        self.shared.fence
    }

    fn names(&self) -> &Names {
        &self.shared.names
    }

    fn health(&self) -> Health {
        let shared = &self.shared;
        let (waiting, parked, accepted) = {
            let state = shared.state.read();
            (state.waiting, state.parked, state.last_accepted)
        };
        Health {
            bytes: shared.bytes.load(Ordering::Relaxed),
            budget: shared.budget,
            free: shared.free.load(Ordering::Relaxed),
            reserve: shared.reserve,
            queued: shared.queued.load(Ordering::Relaxed),
            waiting,
            parked,
            held: shared.held.load(Ordering::Acquire),
            ..shared.sanity.health(&shared.runtime, accepted)
        }
        .hindered(shared.obstacle())
    }

    fn watch(&self, witness: Arc<dyn Witness>) {
        let state = self.shared.state.read();
        witness.saw(&state.before(), state.waiting);
        *self.shared.witness.lock() = Some(witness);
    }

    fn time(&self) -> Time {
        self.shared.sanity.time(&self.shared.runtime)
    }

    fn confirm_clock(&self) -> Answer<Confirmed> {
        let queue = self.queue.clone();
        Box::pin(async move { housekeep::run_on_writer(&queue, writer::Writer::confirm_clock).await })
    }

    fn housekeep(&self) -> Answer<()> {
        Box::pin(housekeep::housekeep(self.shared.clone(), self.queue.clone()))
    }

    fn close(&self) -> Answer<()> {
        let (answer, done) = oneshot::channel();
        if let Err(error) = self.send(Job::Close(answer)) {
            return ready(Err(error));
        }
        Box::pin(async move { done.await.unwrap_or_else(|_| Err(StoreError::Poisoned("the writer ended".into()))) })
    }
}
