//! The member of the consumer group: a thread of its own that polls, hands batches over one at a time, and commits what
//! is durable.
//!
//! While a batch is in hand, nothing else is taken. If that lasts, the partitions are paused and the polling goes on,
//! so that the group sees a live member. Offsets are committed only for partitions that still have the assignment in
//! which the records were read.

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

/// The bytes at which a batch is full; its last record may pass them.
const BATCH_BYTES: usize = 4 << 20;
/// The time for which the thread waits for a record, and for the end of a batch before it pauses the partitions.
const TICK: Duration = Duration::from_millis(100);
/// The longest wait of a rebalance for the batch in hand. Records that are not done by then come again, to the
/// partition's new owner.
const FINISH: Duration = Duration::from_secs(5);
/// The time between two looks for lost brokers, where no record shows that they are back, and the longest time of one
/// look.
const LOOK: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(1));

/// The state that the thread, its callbacks and the worker on the batches share.
pub(crate) struct Shared {
    pub(crate) ingest: Arc<dyn Ingest>,
    pub(crate) broker: Arc<str>,
    reported: Arc<ReportedHealth>,
    start: Start,
    state: Mutex<State>,
    /// Notified when the batch in hand is given back.
    over: Condvar,
    pub(crate) stop: AtomicBool,
}

#[derive(Default)]
struct State {
    /// The number of the current assignment, for each partition assigned to this member.
    ours: HashMap<(Arc<str>, i32), u64>,
    epochs: u64,
    /// The offset at which each partition goes on, and the state of its commit.
    next: HashMap<Assignment, (i64, CommitState)>,
    in_hand: bool,
    paused: bool,
    commits: Patience,
    /// The time of the last look for the brokers, while they cannot be used and that has been reported.
    lost: Option<Duration>,
    /// The reason why the member cannot go on.
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

    /// Notes that everything before these offsets is durable.
    pub(crate) fn durable(&self, positions: HashMap<Assignment, i64>) {
        let mut state = self.state.lock();
        for (place, at) in positions {
            if state.next.get(&place).is_none_or(|(known, _)| *known != at) {
                state.next.insert(place, (at, CommitState::No));
            }
        }
    }

    /// Notes that the batch is not in hand any more.
    pub(crate) fn give_back(&self) {
        self.state.lock().in_hand = false;
        self.over.notify_all();
    }

    /// Tells the thread to end.
    pub(crate) fn end(&self) {
        self.stop.store(true, Ordering::Release);
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Waits until the batch in hand is given back, and returns whether it was.
    fn wait(&self, within: Duration) -> bool {
        let mut state = self.state.lock();
        if state.in_hand {
            self.over.wait_for(&mut state, within);
        }
        !state.in_hand
    }

    /// Returns the number of a partition's assignment, if it is assigned to this member.
    pub(super) fn epoch(&self, topic: &Arc<str>, partition: i32) -> Option<u64> {
        self.state.lock().ours.get(&(topic.clone(), partition)).copied()
    }

    fn is_ours(&self, place: &Assignment) -> bool {
        self.epoch(&place.topic, place.partition) == Some(place.epoch)
    }

    /// Reports under the source's own name that the brokers cannot be used, if that is so.
    fn lose(&self) {
        let Some(cause) = self.reported.trouble() else { return };
        let new = self.state.lock().lost.replace(self.reported.now()).is_none();
        if new {
            self.ingest.report(BrokerEvent::Down { broker: self.broker.clone(), cause });
        }
    }

    /// Returns whether the brokers are lost and it is time to look for them.
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

/// The context of the consumer: that of the cluster, with the callbacks for assigned and revoked partitions.
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
        // Partitions that are assigned while a batch is in hand are paused like the others.
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
/// The reason why it cannot go on.
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

/// Waits for the end of the batch in hand, and keeps the membership alive meanwhile.
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
        // These records were under way when the partitions were paused.
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

/// Returns the next record, if one comes within this time.
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
            // The error callback has reported it, and the library goes on trying.
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
