//! The library's callbacks for a producer: delivery reports, errors that break the producer, and statistics.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rdkafka::{
    ClientContext, Statistics, client::OAuthToken, config::RDKafkaLogLevel, error::KafkaError, message::DeliveryResult,
    producer::ProducerContext, types::RDKafkaErrorCode,
};
use setgate_delivery::Receipt;

use super::{
    Shared,
    engine::{Engine, code_of},
    reports::PendingRecord,
};
use crate::{
    context::Context,
    wire::verdict::{self, Circumstances},
};

/// The bytes above which statistics are called large: the library writes 1.1 kB for each partition, under a lock that
/// senders need.
const LARGE: usize = 8 << 20;

/// The context of a producer, which takes delivery reports beside what the common context does.
pub(super) struct Reporting {
    context: Context,
    shared: Arc<Shared>,
    /// The engine that sends records alone after a batch with them was refused.
    lone: Option<Arc<Engine>>,
    broken: AtomicBool,
    /// True once the warning that the statistics are large was logged.
    is_large: AtomicBool,
}

impl ClientContext for Reporting {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.context.log(level, facility, text);
    }

    fn stats(&self, _: Statistics) {}

    fn stats_raw(&self, statistics: &[u8]) {
        if statistics.len() > LARGE && !self.is_large.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                broker = %self.shared.reported.broker(),
                bytes = statistics.len(),
                "the figures of the Kafka client are large, since they list each partition of each topic: raise `statistics_interval` \
                 of the cluster"
            );
        }
        self.context.stats_raw(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::Fatal
                    | RDKafkaErrorCode::OutOfOrderSequenceNumber
                    | RDKafkaErrorCode::UnknownProducerId
                    | RDKafkaErrorCode::InvalidProducerEpoch
            )
        ) {
            self.breaks();
        }
        self.context.error(error, reason);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.context.generate_oauth_token(config)
    }
}

impl Reporting {
    pub(super) fn new(shared: Arc<Shared>, lone: Option<Arc<Engine>>) -> Self {
        let context = shared.context();
        Self { context, shared, lone, broken: AtomicBool::new(false), is_large: AtomicBool::new(false) }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Marks the producer as broken: nothing is claimed for this cluster until another producer is there.
    pub(super) fn breaks(&self) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            self.shared.gate.shut(self.lone.is_none());
        }
    }
}

impl ProducerContext for Reporting {
    type DeliveryOpaque = Box<PendingRecord>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Box<PendingRecord>) {
        match result {
            Ok(_) => self.shared.resolve(*pending, Ok(Receipt::Broker)),
            Err((error, message)) => {
                let code = code_of(error);
                if code == RDKafkaErrorCode::Fatal {
                    self.breaks();
                }
                match &self.lone {
                    Some(lone) if verdict::is_of_batch(code) => lone.queue_alone(message.detach(), pending),
                    _ => self.shared.failed(*pending, code, self.lone.is_none()),
                }
            }
        }
    }
}

impl Shared {
    /// Resolves a record that was not taken with the verdict on its error, and doubts its topic if the error is the
    /// topic's.
    pub(super) fn failed(&self, pending: PendingRecord, code: RDKafkaErrorCode, alone: bool) {
        let (topic, since) = match &pending {
            PendingRecord::Set { context, since, .. } => (context.topic.clone(), *since),
            PendingRecord::Single { topic, since, .. } => (topic.clone(), *since),
        };
        if verdict::is_of_topic(code) {
            self.doubt(&topic);
        }
        let why = || self.reported.why(since);
        let verdict =
            verdict::of(code, &Circumstances { topic: &topic, alone, why: &why, makes_topics: self.makes_topics });
        self.resolve(pending, Err(verdict));
    }
}
