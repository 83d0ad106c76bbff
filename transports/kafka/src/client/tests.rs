use std::collections::BTreeMap;

use super::*;
use crate::config::ClusterSection;

const ALL: [Role<'static>; 3] = [Role::Producer, Role::Consumer { group: "setgate" }, Role::Look];

fn cluster(more: &str) -> ClusterSection {
    let mut section = serde_json::json!({ "bootstrap": ["localhost:9092", "[::1]:9093"] });
    let more: serde_json::Value = serde_json::from_str(more).unwrap();
    section.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(section).unwrap()
}

fn config(more: &str, role: Role<'_>) -> ClientConfig {
    client_config("main", &cluster(more), role).unwrap()
}

fn with(property: &str, value: &str) -> ClusterSection {
    let mut section = cluster("{}");
    section.properties = BTreeMap::from([(property.to_owned(), value.to_owned())]);
    section
}

#[test]
fn a_producer_waits_for_all_replicas_and_keeps_the_order() {
    let config =
        config(r#"{"in_flight": 1000, "record_bytes": 4096, "timeout": "6s", "compression": "zstd"}"#, Role::Producer);
    for (key, value) in [
        ("acks", "all"),
        ("enable.idempotence", "true"),
        ("max.in.flight.requests.per.connection", "5"),
        ("message.timeout.ms", "6000"),
        ("topic.metadata.propagation.max.ms", "3000"),
        ("batch.size", "4096"),
        ("message.max.bytes", "4096"),
        ("compression.type", "zstd"),
        ("linger.ms", "5"),
        ("queue.buffering.max.messages", "3000"),
        ("statistics.interval.ms", "10000"),
        ("bootstrap.servers", "localhost:9092,[::1]:9093"),
    ] {
        assert_eq!(config.get(key), Some(value), "{key}");
    }
    assert_eq!(config.get("group.id"), None);
}

#[test]
fn a_consumer_commits_nothing_by_itself_and_holds_little() {
    let config = config("{}", ALL[1]);
    for (key, value) in [
        ("group.id", "setgate"),
        ("auto.offset.reset", "earliest"),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("isolation.level", "read_committed"),
        ("queued.max.messages.kbytes", "16384"),
    ] {
        assert_eq!(config.get(key), Some(value), "{key}");
    }
    assert_eq!(config.get("acks"), None);
}

#[test]
fn nobody_has_topics_made_by_asking_for_them() {
    for role in ALL {
        assert_eq!(config("{}", role).get("allow.auto.create.topics"), Some("false"), "{role:?}");
    }
}

#[test]
fn tls_verifies_who_the_broker_is() {
    for role in ALL {
        let config = config(r#"{"tls": {}}"#, role);
        assert_eq!(config.get("security.protocol"), Some("ssl"));
        assert_eq!(config.get("enable.ssl.certificate.verification"), Some("true"));
        assert_eq!(config.get("ssl.endpoint.identification.algorithm"), Some("https"));
        assert_eq!(config.get("ssl.ca.location"), Some("probe"));
    }
    let config = config(r#"{"tls": {"ca_pem": "A"}}"#, Role::Look);
    assert_eq!((config.get("ssl.ca.pem"), config.get("ssl.ca.location")), (Some("A"), None));
}

#[test]
fn each_mechanism_goes_with_its_protocol() {
    let scram = r#"{"tls": {}, "sasl": {"mechanism": "SCRAM-SHA-512", "username": "gw", "password": "pw"}}"#;
    let config_of = config(scram, Role::Producer);
    assert_eq!(config_of.get("security.protocol"), Some("sasl_ssl"));
    assert_eq!(config_of.get("sasl.mechanism"), Some("SCRAM-SHA-512"));
    assert_eq!((config_of.get("sasl.username"), config_of.get("sasl.password")), (Some("gw"), Some("pw")));
    let plaintext = scram.replace(r#""tls": {}, "#, "").replace("512", "256");
    let config_of = config(&plaintext, Role::Producer);
    assert_eq!(config_of.get("security.protocol"), Some("sasl_plaintext"));
    assert_eq!(config_of.get("sasl.mechanism"), Some("SCRAM-SHA-256"));
    let bearer = r#"{"tls": {}, "sasl": {"mechanism": "OAUTHBEARER", "token_endpoint": "https://as.example/token",
        "client_id": "gw", "client_secret": "cs"}}"#;
    let config_of = config(bearer, Role::Producer);
    assert_eq!(config_of.get("sasl.mechanism"), Some("OAUTHBEARER"));
    assert!(
        config_of.config_map().values().all(|value| !value.contains("cs")),
        "librdkafka never sees the client's secret"
    );
}

#[test]
fn the_library_takes_what_it_is_told() {
    for more in [
        "{}",
        r#"{"tls": {}, "in_flight": 1000000, "in_flight_bytes": 1073741824, "record_bytes": 67108864, "linger": "1000ms",
            "timeout": "600s", "statistics_interval": "3600s", "compression": "zstd"}"#,
        r#"{"in_flight": 1, "in_flight_bytes": 1048576, "record_bytes": 1024, "linger": "0s", "timeout": "5s",
            "statistics_interval": "0s", "compression": "lz4"}"#,
        r#"{"properties": {"client.id": "gw", "partitioner": "murmur2_random", "session.timeout.ms": "10000"}}"#,
    ] {
        validate("main", &cluster(more)).unwrap();
        let client: rdkafka::producer::BaseProducer = config(more, Role::Producer).create().unwrap();
        drop(client);
        let client: rdkafka::consumer::BaseConsumer = config(more, ALL[1]).create().unwrap();
        drop(client);
        let client: rdkafka::consumer::BaseConsumer = config(more, Role::Look).create().unwrap();
        drop(client);
    }
}

#[test]
fn a_property_goes_to_the_roles_that_know_it() {
    assert_eq!(client_config("main", &with("client.rack", "a"), Role::Look).unwrap().get("client.rack"), Some("a"));
    let section = with("session.timeout.ms", "9000");
    assert_eq!(client_config("main", &section, ALL[1]).unwrap().get("session.timeout.ms"), Some("9000"));
    assert_eq!(client_config("main", &section, Role::Producer).unwrap().get("session.timeout.ms"), None);
    let section = with("fetch.max.bytes", "1000000");
    assert_eq!(client_config("main", &section, ALL[1]).unwrap().get("fetch.max.bytes"), Some("1000000"));
}

#[test]
fn refuses_what_would_break_a_promise_and_says_why() {
    for (property, value, says) in [
        ("acks", "1", "in-sync"),
        ("request.required.acks", "0", "in-sync"),
        ("delivery.timeout.ms", "1", "`timeout`"),
        ("compression.codec", "gzip", "`compression`"),
        ("queue.buffering.max.ms", "1", "`linger`"),
        ("security.protocol", "plaintext", "`tls`"),
        ("enable.ssl.certificate.verification", "false", "verified"),
        ("ssl.cipher.suites", "NULL:@SECLEVEL=0", "weaken"),
        ("plugin.library.paths", "/tmp/evil", "load code"),
        ("sasl.kerberos.kinit.cmd", "rm", "run commands"),
        ("group.id", "other", "`from.group`"),
        ("enable.auto.commit", "true", "durable"),
        ("debug", "all", "secrets"),
        ("partitioner", "random", "murmur2"),
        ("no.such.thing", "1", "documents no such property"),
        ("test.mock.num.brokers", "3", "documents no such property"),
        ("bootstrap.servers", "evil:9092", "`bootstrap`"),
    ] {
        for role in ALL {
            let text = client_config("main", &with(property, value), role).unwrap_err().to_string();
            assert!(text.contains("[methods.kafka.clusters.main]: `properties`"), "{text}");
            assert!(text.contains(property) && text.contains(says), "{text}");
        }
    }
}

#[test]
fn the_library_validates_values_in_its_own_words() {
    let text = validate("main", &with("socket.timeout.ms", "soon")).unwrap_err().to_string();
    assert!(text.contains("socket.timeout.ms") && text.contains("[methods.kafka.clusters.main]"), "{text}");
    assert!(validate("main", &with("session.timeout.ms", "-1")).is_err(), "consumers' properties are checked as well");
    let text = validate("main", &with("client.id", "a\0b")).unwrap_err().to_string();
    assert!(text.contains("NUL"), "{text}");
}

#[test]
fn a_refused_option_of_ours_does_not_repeat_its_value() {
    let section =
        cluster(r#"{"tls": {}, "sasl": {"mechanism": "PLAIN", "username": "gw", "password": "can\u0000ary"}}"#);
    assert!(!validate("main", &section).unwrap_err().to_string().contains("ary"));
}
