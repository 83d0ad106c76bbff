//! The member of the consumer group: a thread of its own that polls, hands batches over one at a time, and commits what is durable.
//!
//! While a batch is in hand nothing else is taken: if that lasts, the partitions are paused and the polling goes on, so that the group
//! sees a member that lives. Offsets are committed of partitions only that are ours in the assignment in which they were read.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use delivery::{Bytes, CarrierEvent, Cause, Inlet};
use parking_lot::{Condvar, Mutex};
use rdkafka::{
    ClientContext, Message as _, Offset, TopicPartitionList,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance},
    error::{KafkaError, KafkaResult},
    message::{BorrowedMessage, Headers as _},
    types::RDKafkaErrorCode,
};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{
    batch::{Place, Record},
    record::{Headers, MOST_HEADER_BYTES, MOST_HEADERS},
};
use crate::{context::Context, told::Told};

/// Bytes of records that are taken together; one larger record is taken alone.
const BATCH_BYTES: usize = 4 << 20;
/// How long the thread waits for a record, and for the end of a batch before it pauses the partitions.
const TICK: Duration = Duration::from_millis(100);
/// How long a rebalance waits for the batch in hand. What is not done by then comes again, to whoever has the partition.
const FINISH: Duration = Duration::from_secs(5);

/// What the thread, its callbacks and whoever works on the batches share.
pub(crate) struct Shared {
    pub(crate) inlet: Arc<dyn Inlet>,
    pub(crate) carrier: Arc<str>,
    told: Arc<Told>,
    state: Mutex<State>,
    /// The batch in hand was given back.
    over: Condvar,
    pub(crate) stop: AtomicBool,
}

#[derive(Default)]
struct State {
    /// The assignment of each partition that is ours.
    ours: HashMap<(Arc<str>, i32), u64>,
    epochs: u64,
    /// Where each partition goes on, and whether that was committed.
    next: HashMap<Place, (i64, bool)>,
    in_hand: bool,
    paused: bool,
}

impl Shared {
    pub(crate) fn new(inlet: Arc<dyn Inlet>, carrier: Arc<str>, told: Arc<Told>) -> Arc<Self> {
        let (state, over, stop) = (Mutex::default(), Condvar::new(), AtomicBool::new(false));
        Arc::new(Self { inlet, carrier, told, state, over, stop })
    }

    /// Everything up to here is durable.
    pub(crate) fn durable(&self, positions: HashMap<Place, i64>) {
        let mut state = self.state.lock();
        for (place, at) in positions {
            let known = state.next.entry(place).or_insert((at, true));
            if known.0 != at || known.1 {
                *known = (at, false);
            }
        }
    }

    /// The batch is not in hand any more.
    pub(crate) fn give_back(&self) {
        self.state.lock().in_hand = false;
        self.over.notify_all();
    }

    /// Ends the thread.
    pub(crate) fn end(&self) {
        self.stop.store(true, Ordering::Release);
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Waits until the batch in hand is given back; tells whether it was.
    fn wait(&self, within: Duration) -> bool {
        let mut state = self.state.lock();
        if state.in_hand {
            self.over.wait_for(&mut state, within);
        }
        !state.in_hand
    }

    fn is_ours(&self, place: &Place) -> bool {
        let state = self.state.lock();
        state.ours.get(&(place.topic.clone(), place.partition)) == Some(&place.epoch)
    }

    /// What is durable and not committed, of partitions that are ours; of these only, when some are named.
    fn uncommitted(&self, of: Option<&TopicPartitionList>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        let mut state = self.state.lock();
        let State { ours, next, .. } = &mut *state;
        next.retain(|place, _| ours.get(&(place.topic.clone(), place.partition)) == Some(&place.epoch));
        for (place, (at, committed)) in next.iter_mut().filter(|(_, (_, committed))| !committed) {
            if of.is_none_or(|of| of.find_partition(&place.topic, place.partition).is_some())
                && list.add_partition_offset(&place.topic, place.partition, Offset::Offset(*at)).is_ok()
            {
                *committed = true;
            }
        }
        list
    }

    fn commit(&self, consumer: &BaseConsumer<Member>, of: Option<&TopicPartitionList>, mode: CommitMode) {
        let list = self.uncommitted(of);
        if list.count() > 0
            && let Err(error) = consumer.commit(&list, mode)
        {
            tracing::info!(carrier = %self.carrier, %error, "offsets were not committed: what was taken may come again");
            self.doubt(&list);
        }
    }

    /// These were not committed after all.
    fn doubt(&self, list: &TopicPartitionList) {
        let mut state = self.state.lock();
        for (place, known) in &mut state.next {
            if list.find_partition(&place.topic, place.partition).is_some() {
                known.1 = false;
            }
        }
    }
}

/// The context of the consumer: that of the cluster, and what becomes of partitions.
pub(crate) struct Member {
    pub(crate) inner: Context,
    pub(crate) shared: Arc<Shared>,
}

impl ClientContext for Member {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.inner.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.inner.error(error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) {
            let (carrier, figures) = (self.shared.carrier.clone(), vec![("lag_records", statistics.lag())]);
            self.shared.inlet.told(CarrierEvent::Figures { carrier, figures });
        }
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.inner.generate_oauth_token(config)
    }
}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                let mut state = self.shared.state.lock();
                for one in list.elements() {
                    state.epochs += 1;
                    let epoch = state.epochs;
                    state.ours.insert((one.topic().into(), one.partition()), epoch);
                }
                tracing::info!(carrier = %self.shared.carrier, partitions = list.count(), "partitions were assigned");
            }
            Rebalance::Revoke(list) => {
                if !consumer.assignment_lost() {
                    self.shared.wait(FINISH);
                    self.shared.commit(consumer, Some(list), CommitMode::Sync);
                }
                let mut state = self.shared.state.lock();
                for one in list.elements() {
                    state.ours.remove(&(one.topic().into(), one.partition()));
                }
                tracing::info!(carrier = %self.shared.carrier, partitions = list.count(), "partitions were taken away");
            }
            Rebalance::Error(error) => tracing::warn!(carrier = %self.shared.carrier, %error, "a rebalance failed"),
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        // What is assigned while a batch is in hand stands still as the rest does.
        if let Rebalance::Assign(list) = rebalance
            && self.shared.state.lock().paused
        {
            let _ = consumer.pause(list);
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::info!(carrier = %self.shared.carrier, %error, "offsets were not committed: what was taken may come again");
            self.shared.doubt(offsets);
        }
    }
}

/// The part of the library's statistics that is told on.
#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    topics: HashMap<String, Topic>,
}

#[derive(Deserialize)]
struct Topic {
    #[serde(default)]
    partitions: HashMap<String, Partition>,
}

#[derive(Deserialize)]
struct Partition {
    #[serde(default)]
    consumer_lag: i64,
}

impl Statistics {
    /// Records that are there and not taken, of our partitions; -1 means that it is not known.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    fn lag(&self) -> f64 {
        let partitions = self.topics.values().flat_map(|topic| topic.partitions.values());
        partitions.map(|partition| partition.consumer_lag.max(0)).sum::<i64>() as f64
    }
}

/// Polls until it is told to end, or cannot go on.
///
/// # Errors
/// Why it cannot.
pub(crate) fn poll(
    consumer: &BaseConsumer<Member>,
    shared: &Shared,
    group: &str,
    most: usize,
    batches: &mpsc::Sender<Vec<Record>>,
) -> Result<(), Cause> {
    let mut early: Vec<Record> = Vec::new();
    let mut up = None;
    while !shared.stopping() && !batches.is_closed() {
        let mut batch = std::mem::take(&mut early);
        let mut bytes: usize = batch.iter().map(Record::bytes).sum();
        while batch.len() < most && bytes < BATCH_BYTES && !shared.stopping() {
            let wait = if batch.is_empty() { TICK } else { Duration::ZERO };
            match next(consumer, shared, group, wait, &mut up)? {
                Some(record) => {
                    bytes += record.bytes();
                    batch.push(record);
                }
                None => break,
            }
        }
        // A rebalance may have passed since the first of them.
        batch.retain(|record| shared.is_ours(&record.place));
        if !batch.is_empty() {
            shared.state.lock().in_hand = true;
            if batches.blocking_send(batch).is_err() {
                shared.give_back();
                break;
            }
            attend(consumer, shared, group, &mut early, &mut up)?;
        }
        shared.commit(consumer, None, CommitMode::Async);
    }
    shared.wait(FINISH);
    shared.commit(consumer, None, CommitMode::Sync);
    Ok(())
}

/// Waits for the end of the batch in hand, and lives on meanwhile.
fn attend(
    consumer: &BaseConsumer<Member>,
    shared: &Shared,
    group: &str,
    early: &mut Vec<Record>,
    up: &mut Option<bool>,
) -> Result<(), Cause> {
    if shared.wait(TICK) {
        return Ok(());
    }
    shared.state.lock().paused = true;
    if let Ok(all) = consumer.assignment() {
        let _ = consumer.pause(&all);
    }
    while !shared.wait(Duration::ZERO) && !shared.stopping() {
        // What was on its way to us when the partitions were paused.
        early.extend(next(consumer, shared, group, TICK, up)?);
        shared.commit(consumer, None, CommitMode::Async);
    }
    shared.state.lock().paused = false;
    if let Ok(all) = consumer.assignment() {
        let _ = consumer.resume(&all);
    }
    Ok(())
}

/// The next record, if there is one within this time.
fn next(
    consumer: &BaseConsumer<Member>,
    shared: &Shared,
    group: &str,
    within: Duration,
    up: &mut Option<bool>,
) -> Result<Option<Record>, Cause> {
    match consumer.poll(within) {
        None => {
            if up.is_none() && !shared.state.lock().ours.is_empty() {
                tell_up(shared, up);
            }
            Ok(None)
        }
        Some(Ok(message)) => {
            tell_up(shared, up);
            Ok(record(shared, &message))
        }
        Some(Err(error)) => match fault(&error, group) {
            (Some(cause), true) => Err(cause),
            (Some(cause), false) => {
                *up = Some(false);
                tracing::error!(carrier = %shared.carrier, code = cause.code, cause = %cause.text, "a source cannot read");
                shared.inlet.told(CarrierEvent::Down { carrier: shared.carrier.clone(), cause });
                Ok(None)
            }
            // The error callback has said it, and the library goes on trying.
            (None, _) => Ok(None),
        },
    }
}

fn tell_up(shared: &Shared, up: &mut Option<bool>) {
    if *up != Some(true) {
        *up = Some(true);
        shared.told.connected();
        shared.inlet.told(CarrierEvent::Up { carrier: shared.carrier.clone() });
    }
}

/// What an error means for people, and whether the member must be made anew.
fn fault(error: &KafkaError, group: &str) -> (Option<Cause>, bool) {
    let is_fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
    let group = delivery::clean(group, 255);
    match code {
        RDKafkaErrorCode::GroupAuthorizationFailed => {
            let text = format!("the group `{group}` is not ours to join: grant Read on the group");
            (Some(Cause::new("group_authorization", text)), true)
        }
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            let text = "a topic of the source is not ours to read: grant Read and Describe on each";
            (Some(Cause::new("topic_authorization", text)), is_fatal)
        }
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
            let text = "a topic of the source is not there, or not ours to see: create it, or grant Describe";
            (Some(Cause::new("unknown_topic", text)), is_fatal)
        }
        code if is_fatal => (Some(Cause::new("fatal", format!("the Kafka client cannot go on: {code}"))), true),
        _ => (None, false),
    }
}

fn record(shared: &Shared, message: &BorrowedMessage<'_>) -> Option<Record> {
    let (topic, partition) = (Arc::<str>::from(message.topic()), message.partition());
    // Not ours any more: whoever has it now takes it.
    let epoch = *shared.state.lock().ours.get(&(topic.clone(), partition))?;
    let (headers, headers_bad) = match headers(message) {
        Ok(headers) => (headers, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    Some(Record {
        place: Place { topic, partition, epoch },
        offset: message.offset(),
        key: message.key().map(Bytes::copy_from_slice),
        headers,
        headers_bad,
        value: message.payload().map(Bytes::copy_from_slice),
    })
}

/// The headers, if they are few enough and have names.
fn headers(message: &BorrowedMessage<'_>) -> Result<Headers, &'static str> {
    let Some(all) = message.headers() else { return Ok(Vec::new()) };
    if all.count() > MOST_HEADERS {
        return Err("the record has more than 128 headers");
    }
    // The library insists upon UTF-8 by a panic; a producer of the topic may have written anything.
    let read = catch_unwind(AssertUnwindSafe(|| {
        let mut bytes = 0;
        let mut headers = Vec::with_capacity(all.count());
        for header in all.iter() {
            bytes += header.key.len() + header.value.map_or(0, <[u8]>::len);
            if bytes > MOST_HEADER_BYTES {
                return Err("the headers of the record have more than 64 KiB");
            }
            headers.push((header.key.to_owned(), header.value.map(Bytes::copy_from_slice)));
        }
        Ok(headers)
    }));
    read.unwrap_or(Err("the name of a header is not UTF-8"))
}
