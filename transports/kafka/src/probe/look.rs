//! A client that looks at a cluster and changes nothing. Its calls block, so they belong on a thread of their own.

use std::{error::Error, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    client::OAuthToken,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    metadata::MetadataTopic,
};
use setgate_delivery::{Finding, clean};
use tokio::task::spawn_blocking;

use super::{PATIENCE, Subject, shape::Settings, wrong};
use crate::{
    client::{Role, client_config},
    config::{ClusterSection, From, SaslSection},
    tokens::Tokens,
    words,
};

/// The time of one wait for a sign of life.
const STEP: Duration = Duration::from_millis(100);
/// The time without an answer after which a broker that hangs up again and again is called unreachable.
const HUNG_UP: Duration = Duration::from_secs(3);
/// The most errors that are kept.
const KEPT: usize = 16;
/// A topic that does not exist: asking for it lists brokers without listing all topics.
const NOBODYS: &str = "setgate-check";

/// A client context that collects the errors which the library reports beside its answers, and gives out the token.
pub(super) struct Ear {
    tokens: Option<Arc<Tokens>>,
    errors: Mutex<Vec<(RDKafkaErrorCode, String)>>,
}

impl ClientContext for Ear {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(facility, text = clean(text, 300), "the Kafka client that looks says");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let mut errors = self.errors.lock();
        if errors.len() < KEPT {
            errors.push((error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown), clean(reason, 300)));
        }
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.tokens.as_ref().ok_or("this cluster is not configured for bearer tokens")?.current()
    }
}

impl ConsumerContext for Ear {}

impl Ear {
    fn new(subject: &Subject) -> Self {
        Self { tokens: subject.tokens.clone(), errors: Mutex::default() }
    }

    fn has_heard(&self, code: RDKafkaErrorCode) -> bool {
        self.errors.lock().iter().any(|(seen, _)| *seen == code)
    }

    /// Returns the error that explains best why there is no answer: authentication, then TLS, then the network.
    fn why(&self) -> Option<(RDKafkaErrorCode, String)> {
        let weight = |code: RDKafkaErrorCode| match code {
            RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::UnsupportedSASLMechanism => 4,
            RDKafkaErrorCode::SSL => 3,
            RDKafkaErrorCode::Resolve => 2,
            RDKafkaErrorCode::AllBrokersDown => 0,
            _ => 1,
        };
        self.errors.lock().iter().max_by_key(|(code, _)| weight(*code)).cloned()
    }
}

/// A client with a connection.
pub(super) struct Seen {
    client: BaseConsumer<Ear>,
    /// The time from the first packet to the answer.
    pub(super) took: Duration,
}

/// Connects to one broker, or to any.
///
/// # Errors
/// A finding with the true cause.
pub(super) fn reach(subject: &Subject, broker: Option<&str>) -> Result<Seen, Finding> {
    connect(subject, broker, Role::Look)
}

fn connect(subject: &Subject, broker: Option<&str>, role: Role<'_>) -> Result<Seen, Finding> {
    let what = subject.says(broker.unwrap_or("its brokers"));
    let mut config =
        client_config(&subject.name, &subject.section, role).map_err(|fault| wrong(what.clone(), fault.to_string()))?;
    if let Some(broker) = broker {
        config.set("bootstrap.servers", broker);
    }
    // The end of a partition shows that reading is allowed where there is nothing to read.
    config.set("enable.partition.eof", "true").set("statistics.interval.ms", "0");
    let clock = &subject.runtime.clock;
    let began = clock.monotonic();
    let client: BaseConsumer<Ear> = config.create_with_context(Ear::new(subject)).map_err(|error| {
        let why = match error {
            KafkaError::ClientCreation(why) => clean(&why, 300),
            _ => "the Kafka library does not take its options".to_owned(),
        };
        wrong(what.clone(), why)
    })?;
    loop {
        // This poll serves the library's callbacks, above all the one for tokens.
        drop(client.poll(Duration::ZERO));
        if client.client().fetch_cluster_id(STEP).is_some() {
            let took = clock.monotonic().saturating_sub(began);
            return Ok(Seen { client, took });
        }
        drop(client.poll(STEP));
        let passed = clock.monotonic().saturating_sub(began);
        let why = client.context().why();
        if passed >= PATIENCE || why.as_ref().is_some_and(|(code, said)| passed >= enough(*code, said)) {
            let remedy = explain(&subject.section, why);
            return Err(wrong(what, remedy));
        }
    }
}

/// Returns the time to go on after such an error: a fault that will not pass needs no second try.
fn enough(code: RDKafkaErrorCode, said: &str) -> Duration {
    match code {
        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL | RDKafkaErrorCode::UnsupportedSASLMechanism => {
            Duration::ZERO
        }
        _ if words::alert(said).is_some() => Duration::ZERO,
        _ => HUNG_UP,
    }
}

/// Returns the advice for a missing answer, in the gateway's words and the library's.
pub(super) fn explain(section: &ClusterSection, why: Option<(RDKafkaErrorCode, String)>) -> String {
    let Some((code, said)) = why else {
        return format!("no answer within {} s: is the port right, does a firewall drop packets?", PATIENCE.as_secs());
    };
    let advice = match code {
        _ if words::is_without_sasl(code, &said) => {
            "the port does not speak SASL: take the one that does, or leave `sasl` out"
        }
        _ if words::is_of_mechanism(code, &said) => {
            "the listener does not offer this `sasl.mechanism`: write one that it offers, or have it offered; user and password were not asked for"
        }
        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => match &section.sasl {
            Some(SaslSection::OauthBearer(_)) => "the broker refuses the token: its issuer, audience, scope and clock",
            _ => "the broker does not know this user and password: fix `sasl.username` and `sasl.password`",
        },
        RDKafkaErrorCode::SSL if words::is_other_name(&said) => {
            "the broker's certificate is for another name: write a name in `bootstrap` that is in it"
        }
        RDKafkaErrorCode::SSL if words::is_unknown_authority(&said) => {
            "the broker's certificate is of an authority that is not trusted: write that authority's certificate into `tls.ca_pem`"
        }
        RDKafkaErrorCode::SSL => "TLS with the broker fails: does the port speak TLS, are `tls` and its files right?",
        RDKafkaErrorCode::Resolve => "the name cannot be resolved: fix `bootstrap`, or the name service",
        _ if words::alert(&said).is_some() => {
            "the broker does not take our certificate: fix `tls.certificate_pem` and `tls.key_pem`"
        }
        _ if words::is_nobody_there(&said) => "nothing listens there: is the broker up, is the port right?",
        _ if section.tls.is_none() => "it hangs up: does the port want TLS or SASL, which `tls` and `sasl` configure?",
        _ if section.sasl.is_none() => {
            "it hangs up: does the port want SASL, which `sasl` configures, or no TLS at all?"
        }
        _ => "it hangs up, or cannot be reached",
    };
    // The words that all brokers are down name no cause.
    if code == RDKafkaErrorCode::AllBrokersDown {
        return advice.to_owned();
    }
    format!("{advice}; the client says: {said}")
}

/// Returns the brokers that the cluster names itself, with their numbers.
///
/// # Errors
/// A finding, if the cluster does not name them.
pub(super) fn brokers(subject: &Subject) -> Result<Vec<(i32, String)>, Finding> {
    let seen = reach(subject, None)?;
    let answer = seen.client.client().fetch_metadata(Some(NOBODYS), PATIENCE);
    let answer = answer.map_err(|error| wrong(subject.says("its list of brokers"), clean(&error.to_string(), 300)))?;
    let address =
        |host: &str, port: i32| if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let one =
        |broker: &rdkafka::metadata::MetadataBroker| (broker.id(), address(&clean(broker.host(), 255), broker.port()));
    Ok(answer.brokers().iter().map(one).collect())
}

/// The answer to the question for a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    /// The topic exists and has this shape.
    There(Shape),
    /// The topic does not exist.
    Absent,
    /// The gateway may not see the topic.
    Forbidden,
    /// The topic cannot be used, for this reason.
    Unhealthy(String),
}

/// The shape of a topic as the brokers report it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// The number of partitions.
    pub(super) partitions: usize,
    /// The copies of the partition that has the fewest.
    pub(super) copies: usize,
    /// The copies in sync of the partition that has the fewest.
    pub(super) fewest_in_sync: usize,
    /// The number of partitions without a leader.
    pub(super) leaderless: usize,
}

/// Asks for a topic.
///
/// # Errors
/// A finding, if there is no answer.
pub(super) fn topic(seen: &Seen, subject: &Subject, topic: &str) -> Result<Topic, Finding> {
    let what = subject.says(&format!("topic {topic}"));
    let clock = &subject.runtime.clock;
    let until = clock.monotonic() + PATIENCE;
    loop {
        let answer = seen.client.client().fetch_metadata(Some(topic), PATIENCE);
        let answer = answer.map_err(|error| wrong(what.clone(), clean(&error.to_string(), 300)))?;
        let found = answer.topics().iter().find(|found| found.name() == topic);
        let waits = found.and_then(|found| found.error()).is_some_and(|error| passes(error.into()));
        if !waits || clock.monotonic() >= until {
            return Ok(found.map_or(Topic::Absent, described));
        }
        drop(seen.client.poll(STEP));
    }
}

fn described(found: &MetadataTopic) -> Topic {
    if let Some(error) = found.error() {
        return match RDKafkaErrorCode::from(error) {
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => Topic::Absent,
            RDKafkaErrorCode::TopicAuthorizationFailed => Topic::Forbidden,
            RDKafkaErrorCode::LeaderNotAvailable => {
                Topic::Unhealthy("it has no leaders yet: check again in a moment".to_owned())
            }
            code => Topic::Unhealthy(clean(&code.to_string(), 300)),
        };
    }
    let partitions = found.partitions();
    Topic::There(Shape {
        partitions: partitions.len(),
        copies: partitions.iter().map(|one| one.replicas().len()).min().unwrap_or_default(),
        fewest_in_sync: partitions.iter().map(|one| one.isr().len()).min().unwrap_or_default(),
        leaderless: partitions.iter().filter(|one| one.leader() < 0).count(),
    })
}

/// Asks for the settings of a topic.
pub(super) async fn settings(subject: &Subject, topic: &str) -> Settings {
    // The binding's administrative client never serves the library's request for a token.
    if subject.tokens.is_some() {
        return Settings::NotWithTokens;
    }
    let Ok(config) = client_config(&subject.name, &subject.section, Role::Look) else {
        return Settings::Untold("its client cannot be made".to_owned());
    };
    let ear = Ear::new(subject);
    let made = spawn_blocking(move || config.create_with_context::<_, AdminClient<Ear>>(ear)).await;
    let Ok(Ok(admin)) = made else { return Settings::Untold("its client cannot be made".to_owned()) };
    let options = AdminOptions::new().request_timeout(Some(PATIENCE));
    let answer = admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await;
    // Dropping the client waits for its thread.
    drop(spawn_blocking(move || drop(admin)).await);
    match answer.map(|mut answer| answer.pop()) {
        // The binding does not report a refusal: it gives a resource without settings, which no topic is.
        Ok(Some(Ok(resource))) if resource.entries.is_empty() => Settings::Forbidden,
        Ok(Some(Ok(resource))) => {
            let entries = resource.entries.into_iter();
            Settings::Are(entries.filter_map(|entry| Some((entry.name, entry.value?))).collect())
        }
        Ok(Some(Err(code))) => Settings::Untold(clean(&code.to_string(), 300)),
        Ok(None) => Settings::Untold("the answer was empty".to_owned()),
        Err(error) => Settings::Untold(clean(&error.to_string(), 300)),
    }
}

/// The findings about the group and the topics of a source.
pub(super) struct SourceFindings {
    pub(super) group: Group,
    pub(super) topics: Vec<(String, Topic, Reading)>,
    pub(super) errors: Option<(String, Topic)>,
}

/// The usability of a group, found without joining it: that would disturb its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Readable,
    Forbidden,
    Unhealthy(String),
}

/// The right to read a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Allowed,
    Forbidden,
    Untold,
}

/// Looks at the group, the topics and the error topic of a source.
///
/// # Errors
/// A finding, if there is no answer at all.
pub(super) fn source(subject: &Subject, from: &From) -> Result<SourceFindings, Finding> {
    let seen = connect(subject, None, Role::Consumer { group: &from.group })?;
    let mut topics = Vec::new();
    for name in &from.topics {
        let found = topic(&seen, subject, name)?;
        topics.push((name.clone(), found, Reading::Untold));
    }
    let there: Vec<_> =
        topics.iter().filter(|(_, found, _)| matches!(found, Topic::There(_))).map(|(name, ..)| name.clone()).collect();
    let group = group(subject, &seen, &there);
    for (name, found, reading) in &mut topics {
        if matches!(found, Topic::There(_)) {
            *reading = read(subject, &seen, name);
        }
    }
    let errors = match &from.error_topic {
        Some(name) => Some((name.clone(), topic(&seen, subject, name)?)),
        None => None,
    };
    Ok(SourceFindings { group, topics, errors })
}

fn group(subject: &Subject, seen: &Seen, topics: &[String]) -> Group {
    let mut asked = TopicPartitionList::new();
    // The right to the group is checked before topics are.
    for topic in topics.iter().map(String::as_str).chain(topics.is_empty().then_some(NOBODYS)) {
        asked.add_partition(topic, 0);
    }
    let clock = &subject.runtime.clock;
    let until = clock.monotonic() + PATIENCE;
    loop {
        let Err(error) = seen.client.committed_offsets(asked.clone(), STEP * 10) else { return Group::Readable };
        // Without the right to know the coordinator, the refusal comes through the error callback, and the call waits
        // in vain.
        drop(seen.client.poll(STEP));
        let refused = RDKafkaErrorCode::GroupAuthorizationFailed;
        if error.rdkafka_error_code() == Some(refused) || seen.client.context().has_heard(refused) {
            return Group::Forbidden;
        }
        match error.rdkafka_error_code() {
            Some(code) if passes(code) => {
                if clock.monotonic() >= until {
                    return Group::Unhealthy(format!(
                        "its coordinator does not answer ({}): look at the brokers' logs",
                        clean(&error.to_string(), 300)
                    ));
                }
            }
            _ => return Group::Unhealthy(clean(&error.to_string(), 300)),
        }
    }
}

/// Returns whether the error will pass soon: a cluster that has just started has no coordinators and leaders yet, or
/// still reads what they knew.
fn passes(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::WaitingForCoordinator
            | RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::CoordinatorLoadInProgress
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::BrokerTransportFailure
    )
}

/// Begins to read at the end of one partition, where there is nothing to read; the broker allows it, refuses it, or
/// does not answer in time. No offset is committed.
fn read(subject: &Subject, seen: &Seen, topic: &str) -> Reading {
    let mut at_end = TopicPartitionList::new();
    if at_end.add_partition_offset(topic, 0, Offset::End).is_err() || seen.client.assign(&at_end).is_err() {
        return Reading::Untold;
    }
    let clock = &subject.runtime.clock;
    let until = clock.monotonic() + PATIENCE;
    let mut reading = Reading::Untold;
    while reading == Reading::Untold && clock.monotonic() < until {
        reading = match seen.client.poll(STEP) {
            // A record that comes at this moment is seen by other readers of the topic as well.
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => Reading::Allowed,
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Reading::Forbidden,
                _ => Reading::Untold,
            },
            None => Reading::Untold,
        };
    }
    drop(seen.client.unassign());
    reading
}

#[cfg(test)]
impl Seen {
    /// Returns the first and the next offset of partition 0.
    pub(super) fn watermarks(&self, topic: &str) -> (i64, i64) {
        self.client.fetch_watermarks(topic, 0, PATIENCE).unwrap()
    }
}
