//! A producer and the thread that serves it: creates it, polls it, replaces it after a fatal error, and ends it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex, RwLock};
use rdkafka::{
    ClientConfig, Message,
    config::FromClientConfigAndContext,
    error::KafkaError,
    message::{OwnedHeaders, OwnedMessage},
    producer::{BaseProducer, BaseRecord, Producer, PurgeConfig},
    types::RDKafkaErrorCode,
};
use setgate_delivery::{Backoff, Cause, Jitter, Verdict, clean};
use tokio::sync::watch;

use super::{Shared, reporting::Reporting, reports::PendingRecord};

/// The longest time of one poll, and so the longest time until an order to stop is noticed.
const POLL: Duration = Duration::from_millis(100);
/// The waits between two tries to create a producer.
const REST: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// The longest wait for a purged producer, which answers at once.
const PURGE: Duration = Duration::from_secs(10);

/// A record to be sent.
pub(crate) struct Record<'a> {
    pub(crate) topic: &'a str,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) headers: OwnedHeaders,
    pub(crate) value: &'a [u8],
    /// The timestamp in milliseconds; `None` means the moment of sending.
    pub(crate) timestamp: Option<i64>,
}

/// The state of a producer.
#[derive(Clone, Debug)]
pub(crate) enum ProducerState {
    /// The producer was not asked for yet, or is being created.
    Absent,
    /// The producer takes records.
    Ready,
    /// The producer cannot be created for this cause; further tries follow.
    Failing(Cause),
    /// The producer has ended and is not replaced.
    Over,
}

/// A producer with its thread. A cluster has one for all records, and one that sends every record alone.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    config: ClientConfig,
    /// The engine that sends records alone after a batch with them was refused; `None` in that engine itself.
    lone: Option<Arc<Engine>>,
    producer: RwLock<Option<Arc<BaseProducer<Reporting>>>>,
    /// Records that the lone engine sends as soon as it has a producer.
    queue: Mutex<Vec<(OwnedMessage, Box<PendingRecord>)>>,
    producer_state: watch::Sender<ProducerState>,
    started: AtomicBool,
    stop: Mutex<Option<Duration>>,
    stopped: Condvar,
}

impl Engine {
    pub(super) fn new(shared: Arc<Shared>, config: ClientConfig, lone: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            config,
            lone,
            producer: RwLock::default(),
            queue: Mutex::default(),
            producer_state: watch::Sender::new(ProducerState::Absent),
            started: AtomicBool::new(false),
            stop: Mutex::default(),
            stopped: Condvar::new(),
        })
    }

    /// Starts the thread, once.
    pub(super) fn begin(self: &Arc<Self>) {
        if self.started.swap(true, Ordering::AcqRel) {
            return;
        }
        let name = format!("setgate-kafka-{}", self.shared.name);
        let engine = self.clone();
        if std::thread::Builder::new().name(name).spawn(move || engine.serve()).is_err() {
            let cause = Cause::new("resources", "no thread could be started for a Kafka producer");
            self.shared.reported.down(cause.clone());
            // The next caller tries again.
            self.started.store(false, Ordering::Release);
            let over = self.stop.lock().is_some();
            self.producer_state.send_replace(if over { ProducerState::Over } else { ProducerState::Failing(cause) });
        }
    }

    pub(super) fn producer_state(&self) -> watch::Receiver<ProducerState> {
        self.producer_state.subscribe()
    }

    /// Orders the end: records under way have until `by` of the monotonic clock, then they are given back.
    pub(super) fn end(&self, by: Duration) {
        *self.stop.lock() = Some(by);
        self.stopped.notify_all();
        if !self.started.swap(true, Ordering::AcqRel) {
            self.producer_state.send_replace(ProducerState::Over);
        }
    }

    /// Hands a record to the library and returns whether it would take another. `pending` comes back with the delivery
    /// report, or at once if the record is refused.
    pub(super) fn send(&self, record: Record<'_>, pending: Box<PendingRecord>) -> bool {
        let refused = {
            let producer = self.producer.read();
            let Some(producer) = &*producer else {
                self.shared.resolve(*pending, Err(Verdict::Return));
                return false;
            };
            let record = BaseRecord::<[u8], [u8], Box<PendingRecord>> {
                topic: record.topic,
                partition: None,
                payload: Some(record.value),
                key: record.key,
                timestamp: record.timestamp,
                headers: Some(record.headers),
                delivery_opaque: pending,
            };
            let refused = producer.send(record).err().map(|(error, record)| (code_of(&error), record.delivery_opaque));
            if let Some((RDKafkaErrorCode::Fatal, _)) = &refused {
                producer.context().breaks();
            }
            refused
        };
        let Some((code, pending)) = refused else { return true };
        // A record that the library refuses at once was in no batch.
        self.shared.failed(*pending, code, true);
        !matches!(code, RDKafkaErrorCode::Fatal | RDKafkaErrorCode::QueueFull)
    }

    fn serve(&self) {
        let mut failures = 0u32;
        loop {
            let producer = match self.make() {
                Ok(producer) => producer,
                Err(cause) => {
                    failures = failures.saturating_add(1);
                    self.shared.reported.down(cause.clone());
                    self.producer_state.send_replace(ProducerState::Failing(cause));
                    if self.rest(failures) {
                        break;
                    }
                    continue;
                }
            };
            let made_at = self.shared.reported.now();
            *self.producer.write() = Some(Arc::new(producer));
            self.shared.gate.open(self.is_lone());
            self.producer_state.send_replace(ProducerState::Ready);
            if let Some(by) = self.poll() {
                self.flush(by);
                self.retire();
                break;
            }
            // A producer that worked before it broke is replaced at once.
            let worked = self.shared.reported.succeeded_at().is_some_and(|at| at >= made_at);
            failures = if worked { 0 } else { failures.saturating_add(1) };
            self.producer_state.send_replace(ProducerState::Absent);
            self.retire();
            if failures > 0 && self.rest(failures) {
                break;
            }
        }
        self.producer_state.send_replace(ProducerState::Over);
        // This comes last: a later caller sees that the engine has ended, and gives back its record itself.
        self.give_back_queue();
    }

    fn is_lone(&self) -> bool {
        self.lone.is_none()
    }

    fn make(&self) -> Result<BaseProducer<Reporting>, Cause> {
        if let Some(tokens) = &self.shared.tokens {
            // If the library asks for a token before there is one, it tries again only after ten seconds.
            for _ in 0..100 {
                if tokens.current().is_ok() || self.pause(POLL) {
                    break;
                }
            }
        }
        let reporting = Reporting::new(self.shared.clone(), self.lone.clone());
        BaseProducer::from_config_and_context(&self.config, reporting).map_err(|error| {
            let text = match &error {
                // The library's text may repeat the value, and the value may be a secret.
                KafkaError::ClientConfig(_, _, property, _) => {
                    format!("the Kafka library takes no such value as `{}`", clean(property, 80))
                }
                KafkaError::ClientCreation(why) => format!("no Kafka producer can be made: {}", clean(why, 300)),
                other => format!("no Kafka producer can be made: {:?}", other.rdkafka_error_code()),
            };
            Cause::configuration("configuration", text)
        })
    }

    /// Polls until the engine is told to stop, and returns the deadline; `None` means that the producer is broken.
    fn poll(&self) -> Option<Duration> {
        let producer = self.current()?;
        loop {
            producer.poll(POLL);
            if let Some(by) = *self.stop.lock() {
                return Some(by);
            }
            // The error callback names the error that broke the producer, but does not say that it is broken.
            if producer.context().is_broken() || producer.client().fatal_error().is_some() {
                producer.context().breaks();
                let (code, text) = producer.client().fatal_error().unzip();
                let text = format!(
                    "the Kafka library gave up this producer, another one takes its place: {}",
                    clean(text.as_deref().unwrap_or_default(), 300)
                );
                tracing::warn!(broker = %self.shared.reported.broker(), ?code, text, "a Kafka producer is replaced");
                self.shared.reported.down(Cause::new("fatal", text));
                return None;
            }
            let waiting = std::mem::take(&mut *self.queue.lock());
            for (message, pending) in waiting {
                self.resend(&message, pending);
            }
        }
    }

    /// Sends a record that came back once more, as it was.
    fn resend(&self, message: &OwnedMessage, pending: Box<PendingRecord>) {
        let record = Record {
            topic: message.topic(),
            key: message.key(),
            headers: message.headers().cloned().unwrap_or_default(),
            value: message.payload().unwrap_or_default(),
            timestamp: message.timestamp().to_millis().filter(|at| *at > 0),
        };
        let _ = self.send(record, pending);
    }

    /// Waits for the records under way, until `by` at the latest.
    fn flush(&self, by: Duration) {
        let Some(producer) = self.current() else { return };
        while producer.in_flight_count() > 0 && self.shared.reported.now() < by {
            producer.poll(Duration::from_millis(10));
        }
    }

    /// Takes the producer out, collects a report for every record that it still has, and closes its connections.
    /// Afterwards it sends nothing more, though what the system had taken for a broker before may still arrive there.
    fn retire(&self) {
        // The lock waits for senders that are using the producer.
        let Some(producer) = self.producer.write().take() else { return };
        producer.purge(PurgeConfig::default().queue().inflight());
        let until = self.shared.reported.now() + PURGE;
        while producer.in_flight_count() > 0 && self.shared.reported.now() < until {
            producer.poll(Duration::from_millis(5));
        }
        if producer.in_flight_count() > 0 {
            tracing::error!(broker = %self.shared.reported.broker(), records = producer.in_flight_count(), "a Kafka producer keeps records");
        }
        let mut shared = producer;
        // Another task may be looking at a topic with this producer; that look ends by itself.
        while let Err(still) = Arc::try_unwrap(shared) {
            still.poll(Duration::from_millis(5));
            shared = still;
        }
    }

    fn current(&self) -> Option<Arc<BaseProducer<Reporting>>> {
        self.producer.read().clone()
    }

    /// Asks a broker about a topic and returns the topic's error, or `None` if it has none or no answer came within
    /// `patience`. Blocks.
    pub(super) fn look(&self, topic: &str, patience: Duration) -> Option<RDKafkaErrorCode> {
        let metadata = self.current()?.client().fetch_metadata(Some(topic), patience).ok()?;
        let topic = metadata.topics().iter().find(|of| of.name() == topic)?;
        topic.error().map(Into::into)
    }

    fn give_back_queue(&self) {
        for (_, pending) in std::mem::take(&mut *self.queue.lock()) {
            self.shared.resolve(*pending, Err(Verdict::Return));
        }
    }

    /// Waits before the next try, longer each time, and returns whether the engine was told to stop.
    fn rest(&self, failures: u32) -> bool {
        self.pause(REST.wait(failures, Jitter::None))
    }

    fn pause(&self, rest: Duration) -> bool {
        let mut stop = self.stop.lock();
        if stop.is_none() {
            self.stopped.wait_for(&mut stop, rest);
        }
        stop.is_some()
    }

    /// Queues a record of a refused batch, to be sent alone.
    pub(super) fn queue_alone(self: &Arc<Self>, message: OwnedMessage, pending: Box<PendingRecord>) {
        self.queue.lock().push((message, pending));
        self.begin();
        // An engine that ended before it saw this record gives it back here.
        if matches!(*self.producer_state.borrow(), ProducerState::Over) {
            self.give_back_queue();
        }
    }
}

/// Returns the code of an error of sending.
pub(super) fn code_of(error: &KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::InvalidArgument)
}
