//! The health of a source: its lag, what errors mean for the operator, and how soon a commit that failed is tried
//! again.

use std::{collections::HashMap, time::Duration};

use rdkafka::{error::KafkaError, types::RDKafkaErrorCode};
use serde::Deserialize;
use setgate_delivery::{Backoff, Cause, Jitter};

/// The first and the longest rest between two tries of a commit.
const REST: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// The state of an offset's commit.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum CommitState {
    No,
    /// The commit was sent. The binding does not report its outcome: its commit callback is never called.
    Sent,
    Yes,
}

/// The rest of failed commits before they may be tried again.
#[derive(Default)]
pub(super) struct Patience {
    failures: u32,
    until: Duration,
}

impl Patience {
    /// Notes that a commit succeeded.
    pub(super) fn on_success(&mut self) {
        *self = Self::default();
    }

    /// Notes that a commit failed.
    pub(super) fn failed(&mut self, now: Duration) {
        let failures = self.failures.saturating_add(1);
        *self = Self { failures, until: now + REST.wait(failures, Jitter::None) };
    }

    /// Returns whether a commit may be tried.
    pub(super) fn is_over(&self, now: Duration) -> bool {
        now >= self.until
    }
}

/// The part of the library's statistics that is reported.
#[derive(Deserialize)]
pub(super) struct Statistics {
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
    /// Returns the number of records that wait in this member's partitions; a lag that is not known (-1) counts as 0.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub(super) fn lag(&self) -> f64 {
        let partitions = self.topics.values().flat_map(|topic| topic.partitions.values());
        partitions.map(|partition| partition.consumer_lag.max(0)).sum::<i64>() as f64
    }
}

/// Returns the cause that is reported for an error, if any, and whether the member must be created anew.
pub(super) fn fault(error: &KafkaError, group: &str) -> (Option<Cause>, bool) {
    let is_fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
    let group = setgate_delivery::clean(group, 255);
    match code {
        RDKafkaErrorCode::GroupAuthorizationFailed => {
            let text = format!("the group `{group}` is not ours to join: grant Read on the group");
            (Some(Cause::configuration("group_authorization", text)), true)
        }
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            let text = "a topic of the source is not ours to read: grant Read and Describe on each";
            (Some(Cause::configuration("topic_authorization", text)), is_fatal)
        }
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
            let text = "a topic of the source is not there, or not ours to see: create it, or grant Describe";
            (Some(Cause::configuration("unknown_topic", text)), is_fatal)
        }
        code if is_fatal => (Some(Cause::new("fatal", format!("the Kafka client cannot go on: {code}"))), true),
        _ => (None, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_again_and_again_is_tried_less_and_less() {
        let (mut patience, mut now, mut tries) = (Patience::default(), Duration::ZERO, 0);
        while now < Duration::from_secs(3600) {
            if patience.is_over(now) {
                tries += 1;
                patience.failed(now);
            }
            now += Duration::from_millis(100);
        }
        assert!((120..130).contains(&tries), "{tries}");
        patience.on_success();
        assert!(patience.is_over(Duration::ZERO));
    }
}
