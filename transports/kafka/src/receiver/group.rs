//! The member of the consumer group: a thread of its own that polls, hands batches over one at a time, and commits what is durable.
//!
//! While a batch is in hand nothing else is taken: if that lasts, the partitions are paused and the polling goes on, so that the group
//! sees a member that lives. Offsets are committed of partitions only that are ours in the assignment in which they were read.

mod offsets;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use rdkafka::{
    ClientContext,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance},
    error::KafkaError,
};
use setgate_delivery::{BrokerEvent, Cause, Ingest};
use tokio::sync::mpsc;

use super::{
    batch::{Assignment, Record},
    end,
    health::{CommitState, Patience, Statistics, fault},
    message::record,
};
use crate::{config::Start, context::Context, reported::ReportedHealth};

/// Bytes of records that are taken together; one larger record is taken alone.
const BATCH_BYTES: usize = 4 << 20;
/// How long the thread waits for a record, and for the end of a batch before it pauses the partitions.
const TICK: Duration = Duration::from_millis(100);
/// How long a rebalance waits for the batch in hand. What is not done by then comes again, to whoever has the partition.
const FINISH: Duration = Duration::from_secs(5);
/// How often brokers that were lost are looked for, where no record tells that they are back; and for how long each time.
const LOOK: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(1));

/// What the thread, its callbacks and whoever works on the batches share.
pub(crate) struct Shared {
    pub(crate) ingest: Arc<dyn Ingest>,
    pub(crate) broker: Arc<str>,
    reported: Arc<ReportedHealth>,
    start: Start,
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
    /// Where each partition goes on, and whether that is committed.
    next: HashMap<Assignment, (i64, CommitState)>,
    in_hand: bool,
    paused: bool,
    commits: Patience,
    /// The brokers cannot be used, which was told; when they were looked for last.
    lost: Option<Duration>,
    /// Why it cannot go on.
    failed: Option<Cause>,
}

impl Shared {
    pub(crate) fn new(
        ingest: Arc<dyn Ingest>,
        broker: Arc<str>,
        reported: Arc<ReportedHealth>,
        start: Start,
    ) -> Arc<Self> {
        let (state, over, stop) = (Mutex::default(), Condvar::new(), AtomicBool::new(false));
        Arc::new(Self { ingest, broker, reported, start, state, over, stop })
    }

    /// Everything up to here is durable.
    pub(crate) fn durable(&self, positions: HashMap<Assignment, i64>) {
        let mut state = self.state.lock();
        for (place, at) in positions {
            if state.next.get(&place).is_none_or(|(known, _)| *known != at) {
                state.next.insert(place, (at, CommitState::No));
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

    /// The assignment of a partition, if it is ours.
    pub(super) fn epoch(&self, topic: &Arc<str>, partition: i32) -> Option<u64> {
        self.state.lock().ours.get(&(topic.clone(), partition)).copied()
    }

    fn is_ours(&self, place: &Assignment) -> bool {
        self.epoch(&place.topic, place.partition) == Some(place.epoch)
    }

    /// The brokers cannot be used, if that is so: the source says it under its own name.
    fn lose(&self) {
        let Some(cause) = self.reported.trouble() else { return };
        let new = self.state.lock().lost.replace(self.reported.now()).is_none();
        if new {
            self.ingest.report(BrokerEvent::Down { broker: self.broker.clone(), cause });
        }
    }

    /// Whether the brokers were lost, and it is time to look for them.
    fn looks(&self) -> bool {
        let (mut state, now) = (self.state.lock(), self.reported.now());
        match &mut state.lost {
            Some(at) if now.saturating_sub(*at) >= LOOK.0 => {
                *at = now;
                true
            }
            _ => false,
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
        self.shared.lose();
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) {
            let (broker, figures) = (self.shared.broker.clone(), vec![("lag_records", statistics.lag())]);
            self.shared.ingest.report(BrokerEvent::Figures { broker, figures });
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
                let begun = match self.shared.start {
                    Start::Earliest => Ok(Vec::new()),
                    Start::Latest => end::begin(consumer, list),
                };
                let mut state = self.shared.state.lock();
                for one in list.elements() {
                    state.epochs += 1;
                    let epoch = state.epochs;
                    state.ours.insert((one.topic().into(), one.partition()), epoch);
                }
                match begun {
                    Ok(begun) => {
                        for (topic, partition, at) in begun {
                            if let Some(epoch) = state.ours.get(&(topic.clone(), partition)).copied() {
                                state.next.insert(Assignment { topic, partition, epoch }, (at, CommitState::No));
                            }
                        }
                    }
                    Err(error) => {
                        let text = format!("where its topics end cannot be learnt: {error}");
                        state.failed = Some(Cause::new("offsets", text));
                    }
                }
                tracing::info!(broker = %self.shared.broker, partitions = list.count(), "partitions were assigned");
            }
            Rebalance::Revoke(list) => {
                if !consumer.assignment_lost() {
                    self.shared.wait(FINISH);
                    self.shared.commit(consumer, Some(list));
                }
                let mut state = self.shared.state.lock();
                for one in list.elements() {
                    state.ours.remove(&(one.topic().into(), one.partition()));
                }
                tracing::info!(broker = %self.shared.broker, partitions = list.count(), "partitions were taken away");
            }
            Rebalance::Error(error) => tracing::warn!(broker = %self.shared.broker, %error, "a rebalance failed"),
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
        let idle = batch.is_empty();
        if !batch.is_empty() {
            shared.state.lock().in_hand = true;
            if batches.blocking_send(batch).is_err() {
                shared.give_back();
                break;
            }
            attend(consumer, shared, group, &mut early, &mut up)?;
        }
        match idle {
            _ if shared.is_patient() => {}
            true => shared.commit(consumer, None),
            false => shared.send(consumer, None),
        }
    }
    shared.wait(FINISH);
    shared.commit(consumer, None);
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
        if !shared.is_patient() {
            shared.commit(consumer, None);
        }
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
    let polled = consumer.poll(within);
    if let Some(cause) = shared.state.lock().failed.take() {
        return Err(cause);
    }
    match polled {
        None => {
            if shared.looks() && consumer.fetch_metadata(None, LOOK.1).is_ok() {
                tell_up(shared, up);
            }
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
                tracing::error!(broker = %shared.broker, code = cause.code, cause = %cause.text, "a source cannot read");
                shared.ingest.report(BrokerEvent::Down { broker: shared.broker.clone(), cause });
                Ok(None)
            }
            // The error callback has said it, and the library goes on trying.
            (None, _) => Ok(None),
        },
    }
}

fn tell_up(shared: &Shared, up: &mut Option<bool>) {
    let found = shared.state.lock().lost.take().is_some();
    if found || *up != Some(true) {
        *up = Some(true);
        shared.reported.on_success();
        shared.ingest.report(BrokerEvent::Up { broker: shared.broker.clone() });
    }
}
