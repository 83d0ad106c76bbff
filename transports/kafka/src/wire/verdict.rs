//! The meaning of a broker's or the library's error for a SET: the table in the README, in code.

use rdkafka::types::RDKafkaErrorCode as Code;
use setgate_delivery::{Cause, ErrorCode, Refusal, Scope, Verdict};

use crate::reported::Why;

/// The circumstances of an error that its code does not tell.
pub(crate) struct Circumstances<'a> {
    /// The topic.
    pub(crate) topic: &'a str,
    /// True if the record travelled in no batch: only then it is itself too large, or invalid.
    pub(crate) alone: bool,
    /// The reason why brokers are silent; asked for only where that matters.
    pub(crate) why: &'a dyn Fn() -> Why,
    /// True if missing topics are created.
    pub(crate) makes_topics: bool,
}

/// Returns whether a batch was refused, which is proof against a record only if it travelled alone. Brokers that name
/// the record at fault do not do so for its size, and some never name it.
pub(crate) const fn is_of_batch(code: Code) -> bool {
    is_too_large(code) || matches!(code, Code::InvalidRecord | Code::InvalidMessage | Code::InvalidTimestamp)
}

const fn is_too_large(code: Code) -> bool {
    matches!(code, Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize)
}

/// Returns whether the producer keeps on refusing records of the topic until its next look at it.
pub(crate) const fn is_of_topic(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed | Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition
    )
}

/// Returns whether the record was not sent, was sent by a producer that is being replaced, or was valid in a batch that
/// was refused for another record.
const fn is_untried(code: Code) -> bool {
    matches!(
        code,
        Code::PurgeQueue
            | Code::PurgeInflight
            | Code::Fatal
            | Code::QueueFull
            | Code::DestroyBroker
            | Code::BrokerDestroy
            | Code::OutOfOrderSequenceNumber
            | Code::DuplicateSequenceNumber
            | Code::UnknownProducerId
            | Code::InvalidProducerEpoch
            | Code::InvalidProducerIdMapping
            | Code::ProducerFenced
            | Code::Fenced
            | Code::GaplessGuarantee
            | Code::State
            | Code::InvalidDifferentRecord
    )
}

/// Returns whether the brokers and the gateway do not accept each other.
const fn is_of_credentials(code: Code) -> bool {
    matches!(
        code,
        Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::IllegalSASLState
            | Code::SecurityDisabled
            | Code::SSL
            | Code::UnsupportedFeature
    )
}

/// Returns whether no broker took the record in time.
const fn is_silence(code: Code) -> bool {
    matches!(
        code,
        Code::MessageTimedOut
            | Code::TimedOutQueue
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::NetworkException
            | Code::BrokerNotAvailable
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::ReplicaNotAvailable
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::ISRInsufficient
            | Code::KafkaStorageError
            | Code::ThrottlingQuotaExceeded
    )
}

/// Returns the verdict on one record.
pub(crate) fn of(code: Code, known: &Circumstances<'_>) -> Verdict {
    match code {
        code if is_untried(code) => Verdict::Return,
        code if is_of_batch(code) => of_batch(code, known),
        code if is_of_credentials(code) => of_credentials(code, known),
        code if is_silence(code) => of_silence(code, known),
        Code::ClusterAuthorizationFailed => halt(
            Scope::Endpoint,
            "cluster_authorization",
            "the gateway may not write idempotently: grant its principal the operation IdempotentWrite on the cluster"
                .to_owned(),
        ),
        code => of_topic(code, known),
    }
}

fn of_batch(code: Code, known: &Circumstances<'_>) -> Verdict {
    let topic = known.topic;
    if !known.alone {
        return Verdict::Return;
    }
    if is_too_large(code) {
        return refuse(
            ErrorCode::TooLarge,
            format!(
                "the record is larger than the topic `{topic}` takes: raise `max.message.bytes` of the topic, or lower `record_bytes` of the cluster"
            ),
        );
    }
    let why = if code == Code::InvalidTimestamp {
        format!(
            "the topic `{topic}` takes no record of that time: see `message.timestamp.before.max.ms`, or choose the timestamp `hand-over`"
        )
    } else {
        format!(
            "the broker finds the record invalid for the topic `{topic}`: it may want a key (`cleanup.policy = compact`)"
        )
    };
    refuse(ErrorCode::InvalidRequest, why)
}

fn of_credentials(code: Code, known: &Circumstances<'_>) -> Verdict {
    match (known.why)() {
        Why::Refused(cause) => Verdict::Halt { scope: Scope::Endpoint, cause },
        _ => halt(
            Scope::Endpoint,
            "credentials",
            format!("the brokers and the gateway do not accept each other ({code:?})"),
        ),
    }
}

fn of_silence(code: Code, known: &Circumstances<'_>) -> Verdict {
    let topic = known.topic;
    match (known.why)() {
        Why::Refused(cause) => Verdict::Halt { scope: Scope::Endpoint, cause },
        Why::Lost(cause) => Verdict::Retry { scope: Scope::Endpoint, after: None, cause },
        Why::OnlyHere => retry(
            Scope::Channel,
            "timeout",
            format!(
                "no broker acknowledged a record for the topic `{topic}` in time, while others got through: its leader is away, or fewer replicas are in sync than `min.insync.replicas` ({code:?})"
            ),
        ),
        Why::Unknown => {
            retry(Scope::Endpoint, "timeout", format!("no broker acknowledged a record in time ({code:?})"))
        }
    }
}

fn of_topic(code: Code, known: &Circumstances<'_>) -> Verdict {
    let topic = known.topic;
    match code {
        Code::TopicAuthorizationFailed => halt(
            Scope::Channel,
            "topic_authorization",
            format!("the gateway may not write to the topic `{topic}`: grant its principal the operation Write on it"),
        ),
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition if known.makes_topics => {
            retry(Scope::Channel, "topic_unknown", format!("the topic `{topic}` is not there and is being made"))
        }
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => halt(
            Scope::Channel,
            "topic_unknown",
            format!(
                "the topic `{topic}` is not there, or not for the gateway: create it, or let the cluster's `create_topics` make it"
            ),
        ),
        Code::InvalidTopic => halt(
            Scope::Channel,
            "topic_invalid",
            format!("the cluster takes no records into a topic of the name `{topic}`: name another one"),
        ),
        Code::UnsupportedForMessageFormat
        | Code::UnsupportedCompressionType
        | Code::InvalidConfig
        | Code::PolicyViolation
        | Code::InvalidRequiredAcks
        | Code::UnsupportedVersion => halt(
            Scope::Channel,
            "topic_settings",
            format!(
                "the settings of the topic `{topic}` do not let it take records as the gateway sends them ({code:?})"
            ),
        ),
        other => retry(Scope::Channel, "kafka", format!("a record for the topic `{topic}` failed ({other:?})")),
    }
}

fn halt(scope: Scope, code: &'static str, text: String) -> Verdict {
    Verdict::Halt { scope, cause: Cause::configuration(code, text) }
}

fn retry(scope: Scope, code: &'static str, text: String) -> Verdict {
    Verdict::Retry { scope, after: None, cause: Cause::new(code, text) }
}

fn refuse(code: ErrorCode, text: String) -> Verdict {
    Verdict::Refuse(Refusal { code, description: Some(text.into()), language: Some("en".into()) })
}

#[cfg(test)]
mod tests;
