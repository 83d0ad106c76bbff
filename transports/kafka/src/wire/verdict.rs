//! What a broker's or the library's error means for a SET; the table in the README, in code.

use rdkafka::types::RDKafkaErrorCode as Code;
use setgate_delivery::{Cause, ErrorCode, Refusal, Scope, Verdict};

use crate::told::Why;

/// What is known beside the code.
pub(crate) struct Circumstances<'a> {
    /// The topic.
    pub(crate) topic: &'a str,
    /// Whether the record travelled in nobody's company: only then it is itself too large, or invalid.
    pub(crate) alone: bool,
    /// Why brokers are silent; asked only where that matters.
    pub(crate) why: &'a dyn Fn() -> Why,
    /// Whether topics are made that are not there.
    pub(crate) makes_topics: bool,
}

/// Whether a batch was refused: proof against a record only if it travelled alone. Brokers that say which record it was do not say
/// it of size, and not all say it at all.
pub(crate) const fn is_of_batch(code: Code) -> bool {
    is_too_large(code) || matches!(code, Code::InvalidRecord | Code::InvalidMessage | Code::InvalidTimestamp)
}

const fn is_too_large(code: Code) -> bool {
    matches!(code, Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize)
}

/// Whether the producer keeps on refusing records of the topic until its next look at it.
pub(crate) const fn is_of_topic(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed | Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition
    )
}

/// The verdict on one record.
pub(crate) fn of(code: Code, known: &Circumstances<'_>) -> Verdict {
    let topic = known.topic;
    let halt = |scope, code, text: String| Verdict::Halt { scope, cause: Cause::configuration(code, text) };
    let retry = |scope, code, text: String| Verdict::Retry { scope, after: None, cause: Cause::new(code, text) };
    match code {
        // Not sent, or with a producer that is replaced.
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
        // The other record of its batch is refused; this one was well.
        | Code::InvalidDifferentRecord => Verdict::Return,
        code if is_of_batch(code) && !known.alone => Verdict::Return,
        code if is_too_large(code) => refuse(
            ErrorCode::TooLarge,
            format!("the record is larger than the topic `{topic}` takes: raise `max.message.bytes` of the topic, or lower `record_bytes` of the cluster"),
        ),
        Code::InvalidRecord | Code::InvalidMessage => {
            refuse(ErrorCode::InvalidRequest, format!("the broker finds the record invalid for the topic `{topic}`: it may want a key (`cleanup.policy = compact`)"))
        }
        Code::InvalidTimestamp => refuse(
            ErrorCode::InvalidRequest,
            format!("the topic `{topic}` takes no record of that time: see `message.timestamp.before.max.ms`, or choose the timestamp `hand-over`"),
        ),
        Code::TopicAuthorizationFailed => halt(
            Scope::Line,
            "topic_authorization",
            format!("the gateway may not write to the topic `{topic}`: grant its principal the operation Write on it"),
        ),
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition if known.makes_topics => {
            retry(Scope::Line, "topic_unknown", format!("the topic `{topic}` is not there and is being made"))
        }
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => halt(
            Scope::Line,
            "topic_unknown",
            format!("the topic `{topic}` is not there, or not for the gateway: create it, or let the cluster's `create_topics` make it"),
        ),
        Code::InvalidTopic => halt(
            Scope::Line,
            "topic_invalid",
            format!("the cluster takes no records into a topic of the name `{topic}`: name another one"),
        ),
        Code::UnsupportedForMessageFormat | Code::UnsupportedCompressionType | Code::InvalidConfig | Code::PolicyViolation
        | Code::InvalidRequiredAcks | Code::UnsupportedVersion => {
            halt(Scope::Line, "topic_settings", format!("the settings of the topic `{topic}` do not let it take records as the gateway sends them ({code:?})"))
        }
        Code::ClusterAuthorizationFailed => halt(
            Scope::Endpoint,
            "cluster_authorization",
            "the gateway may not write idempotently: grant its principal the operation IdempotentWrite on the cluster".to_owned(),
        ),
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::SecurityDisabled
        | Code::SSL
        | Code::UnsupportedFeature => match (known.why)() {
            Why::Refused(cause) => Verdict::Halt { scope: Scope::Endpoint, cause },
            _ => halt(Scope::Endpoint, "credentials", format!("the brokers and the gateway do not accept each other ({code:?})")),
        },
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
        | Code::ThrottlingQuotaExceeded => match (known.why)() {
            Why::Refused(cause) => Verdict::Halt { scope: Scope::Endpoint, cause },
            Why::Lost(cause) => Verdict::Retry { scope: Scope::Endpoint, after: None, cause },
            Why::OnlyHere => retry(
                Scope::Line,
                "timeout",
                format!("no broker acknowledged a record for the topic `{topic}` in time, while others got through: its leader is away, or fewer replicas are in sync than `min.insync.replicas` ({code:?})"),
            ),
            Why::Unknown => retry(Scope::Endpoint, "timeout", format!("no broker acknowledged a record in time ({code:?})")),
        },
        other => retry(Scope::Line, "kafka", format!("a record for the topic `{topic}` failed ({other:?})")),
    }
}

fn refuse(code: ErrorCode, text: String) -> Verdict {
    Verdict::Refuse(Refusal { code, description: Some(text.into()), language: Some("en".into()) })
}

#[cfg(test)]
mod tests;
