//! Tests of the probe against the library's own mock cluster, which knows neither TLS nor SASL, rights nor settings,
//! and of the texts of its findings.

use rdkafka::{
    error::RDKafkaErrorCode,
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use serde_json::{Value, json};
use setgate_delivery::testkit::clock;

use super::*;

fn subject(section: &Value) -> Subject {
    let section = serde_json::from_value(section.clone()).unwrap();
    Subject { name: "main".into(), section, tokens: None, runtime: clock::system() }
}

fn mock(brokers: i32) -> MockCluster<'static, DefaultProducerContext> {
    MockCluster::new(brokers).unwrap()
}

fn of(mock: &MockCluster<'_, DefaultProducerContext>) -> Value {
    let brokers = mock.bootstrap_servers();
    json!({ "bootstrap": brokers.split(',').collect::<Vec<_>>() })
}

/// Returns an address at which nothing listens.
fn deaf() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn each_broker_answers_and_the_cluster_lists_all() {
    let mock = mock(3);
    let found = cluster(&subject(&of(&mock))).await;
    assert!(found.iter().all(|found| found.good), "{found:?}");
    assert_eq!(found.iter().filter(|found| found.what.contains("WITHOUT TLS")).count(), 3, "{found:?}");
    assert!(found.iter().any(|found| found.what.contains("3 brokers listed")), "{found:?}");
}

#[tokio::test]
async fn brokers_that_only_the_cluster_names_are_looked_at_as_well() {
    let mock = mock(2);
    let mut section = of(&mock);
    section["bootstrap"].as_array_mut().unwrap().truncate(1);
    let found = cluster(&subject(&section)).await;
    assert!(found.iter().all(|found| found.good), "{found:?}");
    assert!(found.iter().any(|found| found.what.contains("which the cluster names itself, answers")), "{found:?}");
}

#[tokio::test]
async fn a_broker_that_is_down_does_not_hide_the_others() {
    let mock = mock(1);
    let mut section = of(&mock);
    section["bootstrap"].as_array_mut().unwrap().push(json!(deaf()));
    let found = cluster(&subject(&section)).await;
    let down: Vec<_> = found.iter().filter(|found| !found.good).collect();
    assert!(down.len() == 1 && down[0].remedy.contains("nothing listens there"), "{found:?}");
    assert!(found.iter().any(|found| found.what.contains("1 broker listed")), "{found:?}");
}

#[tokio::test]
async fn a_topic_that_is_there_is_described_and_nothing_is_written() {
    let mock = mock(3);
    mock.create_topic("sets.acme", 4, 3).unwrap();
    let seen = subject(&of(&mock));
    let found = seen.blocking(|seen| look::topic(&look::reach(seen, None)?, seen, "sets.acme")).await.unwrap();
    assert_eq!(found, Topic::There(look::Shape { partitions: 4, copies: 3, fewest_in_sync: 3, leaderless: 0 }));
    let ends = seen.blocking(|seen| Ok(look::reach(seen, None)?.watermarks("sets.acme"))).await.unwrap();
    assert_eq!(ends, (0, 0));
}

#[tokio::test]
async fn a_source_may_read_what_is_there_and_commits_nothing() {
    let mock = mock(1);
    mock.create_topic("events", 2, 1).unwrap();
    mock.create_topic("events.bad", 1, 1).unwrap();
    let from = json!({ "cluster": "main", "topics": ["events"], "group": "setgate", "error_topic": "events.bad" });
    let from: From = serde_json::from_value(from).unwrap();
    let found = source(&subject(&of(&mock)), &from).await;
    assert!(found.iter().all(|found| found.good), "{found:?}");
    assert!(found.iter().any(|found| found.what.ends_with("topic events: 2 partitions, may be read")), "{found:?}");
    assert!(found.iter().any(|found| found.what.contains("writing to events.bad")), "{found:?}");
}

#[tokio::test]
async fn a_coordinator_that_is_not_there_yet_is_waited_for() {
    let mock = mock(1);
    mock.create_topic("events", 1, 1).unwrap();
    let from = json!({ "cluster": "main", "topics": ["events"], "group": "setgate" });
    let from: From = serde_json::from_value(from).unwrap();
    for error in [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
    ] {
        // The errors are more than the library retries by itself.
        mock.request_errors(RDKafkaApiKey::OffsetFetch, &[error; 4]);
        let found = source(&subject(&of(&mock)), &from).await;
        assert!(found.iter().all(|found| found.good), "{error:?}: {found:?}");
    }
}

#[test]
fn what_is_missing_at_a_topic_is_named_with_its_command() {
    let mut section = json!({ "bootstrap": ["localhost:9092"] });
    let said = |section: &Value, found: &Topic| written(&subject(section), "sets.acme", found);
    let absent = said(&section, &Topic::Absent);
    assert!(!absent.good && absent.remedy.contains("kafka-topics.sh"), "{absent:?}");
    let forbidden = said(&section, &Topic::Forbidden);
    assert!(!forbidden.good && forbidden.remedy.contains("--operation Write --topic sets.acme"), "{forbidden:?}");
    let there = said(&section, &Topic::There(look::Shape::default()));
    assert!(there.good && there.what.contains("shows at the first record"), "{there:?}");
    section["create_topics"] = json!({ "partitions": 1, "replication": 1 });
    assert!(said(&section, &Topic::Absent).good);
}

#[test]
fn what_is_missing_at_a_source_is_named_with_its_command() {
    let from = json!({ "cluster": "main", "topics": ["a", "b", "c", "d"], "group": "g" });
    let from: From = serde_json::from_value(from).unwrap();
    let there = Topic::There(look::Shape::default());
    let seen = look::SourceFindings {
        group: look::Group::Forbidden,
        topics: vec![
            ("a".to_owned(), there.clone(), look::Reading::Forbidden),
            ("b".to_owned(), Topic::Forbidden, look::Reading::Untold),
            ("c".to_owned(), Topic::Absent, look::Reading::Untold),
            ("d".to_owned(), there, look::Reading::Untold),
        ],
        errors: Some(("e".to_owned(), Topic::Forbidden)),
    };
    let found = sourced(&subject(&json!({ "bootstrap": ["localhost:9092"] })), &from, &seen);
    let says = [
        "--operation Read --group g",
        "--operation Read --topic a",
        "--operation Read --topic b",
        "--create --topic c",
        "neither gave records nor refused",
        "--operation Write --topic e",
    ];
    assert_eq!(found.len(), says.len());
    for (found, says) in found.iter().zip(says) {
        assert!(!found.good && found.remedy.contains(says), "{says}: {found:?}");
    }
}

#[test]
fn a_broker_elsewhere_without_tls_is_a_fault_that_nobody_allowed() {
    let mut section = json!({ "bootstrap": ["localhost:9092"] });
    assert!(subject(&section).exposes("kafka.example:9092"));
    assert!(!subject(&section).exposes("127.0.0.1:9092") && !subject(&section).exposes("[::1]:9092"));
    section["allow_plaintext"] = json!(true);
    assert!(!subject(&section).exposes("kafka.example:9092"));
}

#[test]
fn no_answer_is_explained_by_its_true_cause() {
    let section = |more: &Value| {
        let mut section = json!({ "bootstrap": ["localhost:9092"] });
        section.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        subject(&section).section
    };
    let tls = json!({ "tls": {} });
    let scram = json!({ "tls": {}, "sasl": { "mechanism": "SCRAM-SHA-512", "username": "gw", "password": "canary" } });
    for (more, code, said, says) in [
        (&scram, RDKafkaErrorCode::Authentication, "SASL authentication error: invalid credentials", "`sasl.username`"),
        (
            &scram,
            RDKafkaErrorCode::Authentication,
            "SASL SCRAM-SHA-512 mechanism handshake failed: Broker: Unsupported SASL mechanism: broker's supported mechanisms: PLAIN",
            "does not offer this `sasl.mechanism`",
        ),
        (&scram, RDKafkaErrorCode::UnsupportedSASLMechanism, "it is not there", "does not offer this `sasl.mechanism`"),
        (
            &scram,
            RDKafkaErrorCode::Authentication,
            "SASL SCRAM-SHA-512 mechanism handshake failed: Broker: Request not valid in current SASL state: broker's supported mechanisms: ",
            "does not speak SASL",
        ),
        (&tls, RDKafkaErrorCode::SSL, "error:0A000086:SSL routines::certificate verify failed", "`tls.ca_pem`"),
        (
            &tls,
            RDKafkaErrorCode::BrokerTransportFailure,
            "error:0A000412:SSL routines::ssl/tls alert bad certificate",
            "`tls.certificate_pem`",
        ),
        (&tls, RDKafkaErrorCode::Resolve, "Failed to resolve", "cannot be resolved"),
        (&json!({}), RDKafkaErrorCode::BrokerTransportFailure, "Connection refused", "nothing listens"),
        (&json!({}), RDKafkaErrorCode::BrokerTransportFailure, "Disconnected", "TLS or SASL"),
    ] {
        let text = look::explain(&section(more), Some((code, said.to_owned())));
        assert!(text.contains(says) && text.contains(said) && !text.contains("canary"), "{text}");
    }
    let text = look::explain(
        &section(&json!({})),
        Some((RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down".to_owned())),
    );
    assert!(!text.contains("1/1"), "{text}");
    assert!(look::explain(&section(&json!({})), None).contains("firewall"));
}
