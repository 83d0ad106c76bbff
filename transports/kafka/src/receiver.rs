//! The source side of the method, which collects the records of topics as events.
//!
//! A batch is in hand until each of its records is durable, is in the error topic, or is parked; only then are offsets
//! committed. The batch in hand when the gateway ends comes again, and its records are known by then.

mod batch;
mod end;
mod group;
mod health;
mod message;
pub mod record;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
    message::{Header, OwnedHeaders},
};
use setgate_delivery::{
    Answer, Backoff, BrokerEvent, Cause, ErrorCode, Fault, Incoming, Ingest, Jitter, Refusal, Rejected, Stop, raised,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    client::{Role, client_config},
    cluster::Cluster,
    config::From,
};
use batch::{Item, Record, positions};
use group::{Member, Shared};
use record::{Read, read, refusal};

/// The first and the longest rest between two tries of what must not be lost.
const REST: Backoff = Backoff::new(Duration::from_millis(500), LONGEST_REST);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// The longest time that a member has to leave its group.
const LEAVE: Duration = Duration::from_secs(5);
/// The most records that are under way to the error topic at once.
const AT_ONCE: usize = 64;
/// The bytes that are allowed for a record beside key, headers and value.
const FRAME: usize = 1024;

/// Collects records until `stop`.
///
/// # Errors
/// The group cannot be joined, or the client library gives up.
pub(crate) async fn collect(
    cluster: &Cluster,
    from: From,
    ingest: Arc<dyn Ingest>,
    mut stop: Stop,
) -> Result<(), Fault> {
    let config = config(cluster, &from)?;
    let broker: Arc<str> = format!("{}/{}", cluster.broker(), from.group).into();
    let shared = Shared::new(ingest, broker, cluster.reported().clone(), from.start);
    let (batches, mut taken) = mpsc::channel(1);
    let (end, mut ended) = oneshot::channel();
    let (leave, left) = oneshot::channel::<()>();
    let member = Member { inner: cluster.context(), shared: shared.clone() };
    // Dropping this future ends the thread.
    let _guard = EndOnDrop(shared.clone());
    let (on_thread, of) = (shared.clone(), from.clone());
    let thread = std::thread::Builder::new().name("kafka source".to_owned()).spawn(move || {
        let consumer = match join(&config, member, &of) {
            Ok(consumer) => consumer,
            Err(cause) => {
                let _ = end.send(Err(cause));
                return;
            }
        };
        let _ = end.send(group::poll(&consumer, &on_thread, &of.group, of.batch, &batches));
        // The consumer leaves the group here, and waits for brokers that may be away for long.
        drop(consumer);
        let _ = leave.send(());
    });
    thread.map_err(|error| Fault::Start(Cause::new("thread", error.to_string())))?;
    let mut worker = Worker { cluster, from: &from, shared: &shared, stop: stop.clone(), counts: Counts::default() };
    loop {
        tokio::select! {
            biased;
            ended = &mut ended => {
                let gone = || Err(Cause::new("panic", "the thread of the source is gone"));
                tokio::select! {
                    _ = left => {}
                    () = cluster.runtime().clock.sleep(LEAVE) => {
                        tracing::info!(broker = %shared.broker, "the group was not left in order: it will miss its member for a while");
                    }
                }
                return ended.unwrap_or_else(|_| gone()).map_err(Fault::Start);
            }
            Some(batch) = taken.recv() => {
                worker.work(batch).await;
                shared.give_back();
            }
            () = raised(&mut stop), if !shared.stop.load(Ordering::Acquire) => shared.end(),
        }
    }
}

/// Creates a member of the group.
fn join(config: &ClientConfig, member: Member, from: &From) -> Result<BaseConsumer<Member>, Cause> {
    let unhealthy =
        |error: rdkafka::error::KafkaError| Cause::new("client", format!("no consumer can be made: {error}"));
    let consumer: BaseConsumer<Member> = config.create_with_context(member).map_err(unhealthy)?;
    let topics: Vec<&str> = from.topics.iter().map(String::as_str).collect();
    consumer.subscribe(&topics).map_err(unhealthy)?;
    Ok(consumer)
}

/// Returns the configuration of the consumer: its look ahead is bounded, and it soon sees topics and rights that were
/// missing.
///
/// A consumer that has as many records as it may hold asks for more after 20 ms. The library's own second would leave a
/// partition empty meanwhile, so that it would bring no more than `queued.min.messages` a second.
fn config(cluster: &Cluster, from: &From) -> Result<ClientConfig, Fault> {
    let role = Role::Consumer { group: &from.group };
    let mut config = client_config(cluster.name(), cluster.section(), role)?;
    let ours = [
        ("queued.min.messages", "10000"),
        ("fetch.queue.backoff.ms", "20"),
        ("topic.metadata.refresh.interval.ms", "10000"),
    ];
    for (property, value) in ours {
        if !cluster.section().properties.contains_key(property) {
            config.set(property, value);
        }
    }
    Ok(config)
}

struct EndOnDrop(Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
        self.0.give_back();
    }
}

#[derive(Default)]
struct Counts {
    taken: u64,
    refused: u64,
    skipped: u64,
}

/// A worker that processes one batch after the other.
struct Worker<'a> {
    cluster: &'a Cluster,
    from: &'a From,
    shared: &'a Shared,
    stop: Stop,
    counts: Counts,
}

impl Worker<'_> {
    /// Does everything that is to be done for a batch, and less only when it is told to stop.
    async fn work(&mut self, batch: Vec<Record>) {
        let mut items: Vec<Item> = batch.into_iter().map(|record| self.item(record)).collect();
        self.shared.durable(positions(&items));
        if self.hand_in(&mut items).await {
            self.put_away(&mut items).await;
        }
        self.shared.durable(positions(&items));
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let figures = vec![
            ("taken_records_total", self.counts.taken as f64),
            ("refused_records_total", self.counts.refused as f64),
            ("skipped_records_total", self.counts.skipped as f64),
        ];
        self.shared.ingest.report(BrokerEvent::Figures { broker: self.shared.broker.clone(), figures });
    }

    fn item(&mut self, record: Record) -> Item {
        let at = record.name(self.cluster.name());
        let left = match record.headers_bad {
            Some(why) => Read::Bad(refusal(ErrorCode::InvalidRequest, why)),
            None => read(self.from.format, self.from.identity, &at, &record.headers, record.value.as_ref()),
        };
        match left {
            Read::Nothing => {
                self.counts.skipped += 1;
                Item { record, left: None }
            }
            left => Item { record, left: Some(left) },
        }
    }

    /// Hands events to the ingest until none is put off, and returns false when it is told to stop before that.
    async fn hand_in(&mut self, items: &mut [Item]) -> bool {
        loop {
            let (mut asked, mut events) = (Vec::new(), Vec::new());
            for (at, item) in items.iter().enumerate() {
                if let Some(Read::Event(id, body)) = &item.left {
                    asked.push(at);
                    events.push(Incoming::Event { id: id.clone(), body: body.clone() });
                }
            }
            if events.is_empty() {
                return true;
            }
            let answers = self.shared.ingest.accept(&self.shared.broker, events).await;
            let mut rest: Option<Duration> = None;
            for (at, answer) in asked.into_iter().zip(answers.into_iter().map(Some).chain(std::iter::repeat(None))) {
                let Some(item) = items.get_mut(at) else { continue };
                match answer {
                    Some(Answer::Taken) => {
                        self.counts.taken += 1;
                        item.left = None;
                    }
                    Some(Answer::Refused(why)) => item.left = Some(Read::Bad(why)),
                    Some(Answer::Busy { after }) => rest = Some(rest.unwrap_or_default().max(after)),
                    // An event without an answer was not accepted.
                    Some(Answer::Status(_)) | None => rest = Some(rest.unwrap_or_default()),
                }
            }
            self.shared.durable(positions(items));
            if let Some(rest) = rest
                && !self.rest(rest.clamp(Duration::from_millis(50), LONGEST_REST)).await
            {
                return false;
            }
        }
    }

    /// Waits for the rest, and returns false when it is told to stop meanwhile.
    async fn rest(&mut self, rest: Duration) -> bool {
        tokio::select! {
            () = raised(&mut self.stop) => false,
            () = self.cluster.runtime().clock.sleep(rest) => true,
        }
    }

    /// Brings records that are no events to the error topic, or parks them; tries until that is done, or until it is
    /// told to stop.
    async fn put_away(&mut self, items: &mut [Item]) {
        let mut failures = 0_u32;
        loop {
            let mut bad: Vec<&mut Item> = items.iter_mut().filter(|item| item.left.is_some()).collect();
            if bad.is_empty() {
                if failures > 0 {
                    self.shared.ingest.report(BrokerEvent::Up { broker: self.shared.broker.clone() });
                }
                return;
            }
            let mut trouble: Option<Cause> = None;
            for some in bad.chunks_mut(AT_ONCE) {
                if let Err(cause) = self.put_some(some).await {
                    trouble = Some(cause);
                    break;
                }
            }
            let positions = positions(items);
            self.shared.durable(positions);
            let Some(cause) = trouble else { continue };
            tracing::error!(
                broker = %self.shared.broker, code = cause.code, cause = %cause.text,
                "records that are no events cannot be put away: the source stands still until they can"
            );
            failures = failures.saturating_add(1);
            self.shared.ingest.report(BrokerEvent::Down { broker: self.shared.broker.clone(), cause });
            if !self.rest(REST.wait(failures, Jitter::None)).await {
                return;
            }
        }
    }

    /// Puts a few records away at once; those that the error topic does not take are parked in one commit.
    async fn put_some(&mut self, some: &mut [&mut Item]) -> Result<(), Cause> {
        let written = join_all(some.iter().map(|item| self.write(item))).await;
        let (mut trouble, mut left, mut rejected) = (None, Vec::new(), Vec::new());
        for (item, written) in some.iter_mut().zip(written) {
            match written {
                Ok(true) => {
                    item.left = None;
                    self.counts.refused += 1;
                }
                Ok(false) => {
                    if let Some(Read::Bad(why)) = &item.left {
                        rejected.push(parked(&item.record, why));
                    }
                    left.push(item);
                }
                Err(cause) => trouble = Some(cause),
            }
        }
        if !rejected.is_empty() {
            if self.shared.ingest.park(rejected).await {
                self.counts.refused += left.len() as u64;
                left.into_iter().for_each(|item| item.left = None);
            } else {
                trouble = Some(Cause::new("park", "records that are no events cannot be parked"));
            }
        }
        trouble.map_or(Ok(()), Err)
    }

    /// Writes a record to the error topic; returns false if there is none, or if it would never take the record.
    async fn write(&self, item: &Item) -> Result<bool, Cause> {
        let Some(Read::Bad(why)) = &item.left else { return Ok(true) };
        let record = &item.record;
        let Some(topic) = &self.from.error_topic else { return Ok(false) };
        if record.bytes() + FRAME > self.cluster.section().record_bytes {
            return Ok(false);
        }
        let value = record.value.as_deref().unwrap_or_default();
        match self.cluster.produce(topic, record.key.as_deref(), headers(record, why), value).await {
            Ok(()) => Ok(true),
            Err(cause) if matches!(cause.code, "refused" | "too_large") => Ok(false),
            Err(cause) => Err(Cause::new(cause.code, format!("the error topic `{topic}`: {}", cause.text))),
        }
    }
}

/// Returns a record in the form in which it is parked.
fn parked(record: &Record, why: &Refusal) -> Rejected {
    Rejected {
        at: record.at(),
        key: record.key.clone(),
        body: record.value.clone().unwrap_or_default(),
        refusal: why.clone(),
    }
}

/// Returns the headers of a record in the error topic: its own, and those that name the reason and the place it came
/// from.
fn headers(record: &Record, why: &Refusal) -> OwnedHeaders {
    let mut all = OwnedHeaders::new_with_capacity(record.headers.len() + 5);
    let ours = ["err", "description", "source_topic", "source_partition", "source_offset"];
    // A header of the record that has the name of one of these is not passed on.
    for (name, value) in
        record.headers.iter().filter(|(name, _)| !ours.iter().any(|own| name.eq_ignore_ascii_case(own)))
    {
        if !name.contains('\0') {
            all = all.insert(Header { key: name, value: value.as_deref() });
        }
    }
    let description = setgate_delivery::clean(why.description.as_deref().unwrap_or_default(), 512);
    let (partition, offset) = (record.place.partition.to_string(), record.offset.to_string());
    let values: [&[u8]; 5] = [
        why.code.as_str().as_bytes(),
        description.as_bytes(),
        record.place.topic.as_bytes(),
        partition.as_bytes(),
        offset.as_bytes(),
    ];
    for (key, value) in ours.into_iter().zip(values) {
        all = all.insert(Header { key, value: Some(value) });
    }
    all
}
