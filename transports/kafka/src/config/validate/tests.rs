use serde_json::{Value, json};

use super::*;

fn section(cluster: &Value) -> Section {
    serde_json::from_value(json!({ "clusters": { "main": cluster } })).unwrap()
}

/// Returns a cluster on this machine with further members.
fn local(more: &Value) -> Value {
    let mut cluster = json!({ "bootstrap": ["127.0.0.1:9092"] });
    cluster.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    cluster
}

fn says(cluster: &Value) -> String {
    section(cluster).validate().unwrap_err().to_string()
}

/// Returns a self-signed certificate and its key, both as PEM.
fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

#[test]
fn takes_a_section_without_clusters_and_one_with_defaults() {
    Section::default().validate().unwrap();
    section(&local(&json!({}))).validate().unwrap();
}

#[test]
fn each_range_is_kept_and_named() {
    for (key, bad) in [
        ("in_flight", json!(0)),
        ("in_flight", json!(1_000_001)),
        ("in_flight_bytes", json!((1 << 20) - 1)),
        ("in_flight_bytes", json!((1 << 30) + 1)),
        ("linger", json!("1001ms")),
        ("timeout", json!("4s")),
        ("timeout", json!("601s")),
        ("record_bytes", json!(1023)),
        ("record_bytes", json!((64 << 20) + 1)),
        ("statistics_interval", json!("3601s")),
        ("create_topics", json!({"partitions": 0, "replication": 1})),
        ("create_topics", json!({"partitions": 10_001, "replication": 1})),
        ("create_topics", json!({"partitions": 1, "replication": 16})),
        ("bootstrap", json!([])),
    ] {
        let text = says(&local(&json!({ key: bad })));
        assert!(text.starts_with("[methods.kafka.clusters.main]: `") && text.contains(key), "{text}");
        assert!(text.contains("write") || text.contains("name"), "{text}");
    }
    let text = says(&local(&json!({ "record_bytes": 2 << 20, "in_flight_bytes": 1 << 20 })));
    assert!(text.contains("in_flight_bytes"), "{text}");
}

#[test]
fn a_broker_is_a_host_and_a_port() {
    for good in ["127.0.0.1:9092", "localhost:1", "[::1]:65535", "LOCALHOST:9092"] {
        section(&json!({ "bootstrap": [good] })).validate().unwrap();
    }
    for bad in [
        "",
        "localhost",
        "localhost:",
        ":9092",
        "localhost:0",
        "localhost:65536",
        "localhost:+1",
        "::1:9092",
        "[::1]",
        "[::1",
        "[localhost]:9092",
        "a b:9092",
        "a,b:9092",
        "PLAINTEXT://localhost:9092",
        "user@localhost:9092",
        "localhost:9092/x",
        "a\n:1",
    ] {
        let text = says(&json!({ "bootstrap": [bad] }));
        assert!(text.contains("`bootstrap`") && text.contains("HOST:PORT"), "{bad}: {text}");
    }
}

#[test]
fn without_tls_a_cluster_lies_on_this_machine_or_is_called_trusted() {
    for there in
        ["kafka.example:9092", "192.0.2.1:9092", "[2001:db8::1]:9092", "localhost.evil.example:9092", "0.0.0.0:9092"]
    {
        let text = says(&json!({ "bootstrap": ["127.0.0.1:9092", there] }));
        assert!(text.contains("`tls`") && text.contains("`allow_plaintext = true`"), "{text}");
        section(&json!({ "bootstrap": [there], "allow_plaintext": true })).validate().unwrap();
        section(&json!({ "bootstrap": [there], "tls": {} })).validate().unwrap();
    }
}

#[test]
fn credentials_that_can_be_read_along_need_tls() {
    let plain = json!({ "mechanism": "PLAIN", "username": "gw", "password": "pw" });
    let bearer = json!({ "mechanism": "OAUTHBEARER", "token_endpoint": "https://as.example/t", "client_id": "gw", "client_secret": "s" });
    let scram = json!({ "mechanism": "SCRAM-SHA-256", "username": "gw", "password": "pw" });
    for sasl in [&plain, &bearer] {
        let text = says(&local(&json!({ "sasl": sasl, "allow_plaintext": true })));
        assert!(text.contains("`sasl`") && text.contains("clusters.main.tls"), "{text}");
        section(&local(&json!({ "sasl": sasl, "tls": {} }))).validate().unwrap();
    }
    section(&local(&json!({ "sasl": scram }))).validate().unwrap();
    let shape = json!({ "partitions": 1, "replication": 1 });
    let text = says(&local(&json!({ "sasl": bearer, "tls": {}, "create_topics": shape })));
    assert!(text.contains("create_topics"), "{text}");
}

#[test]
fn a_certificate_goes_with_its_key() {
    let ((chain, key), (other, _)) = (pair(), pair());
    let with = |tls: Value| section(&local(&json!({ "tls": tls }))).validate();
    with(json!({ "ca_pem": chain, "certificate_pem": chain, "key_pem": key })).unwrap();
    for (tls, names) in [
        (json!({ "certificate_pem": chain }), "tls.key_pem"),
        (json!({ "key_pem": key }), "tls.certificate_pem"),
        (json!({ "certificate_pem": other, "key_pem": key }), "tls.certificate_pem"),
        (json!({ "certificate_pem": "no", "key_pem": key }), "tls.certificate_pem"),
        (json!({ "certificate_pem": chain, "key_pem": "no" }), "tls.certificate_pem"),
        (json!({ "ca_pem": "no" }), "tls.ca_pem"),
        (json!({ "ca_pem": "" }), "tls.ca_pem"),
        (json!({ "ca_pem": key }), "tls.ca_pem"),
    ] {
        let text = with(tls).unwrap_err().to_string();
        assert!(text.contains(names), "{text}");
        assert!(!text.contains("PRIVATE"), "{text}");
    }
}

#[test]
fn a_token_section_keeps_the_rules_of_its_documents() {
    let with = |key: &str, value: Value| {
        let mut sasl = json!({ "mechanism": "OAUTHBEARER", "token_endpoint": "https://as.example/t", "client_id": "gw",
            "client_secret": "canary", "scope": "kafka write", "audience": "kafka" });
        sasl[key] = value;
        section(&local(&json!({ "tls": {}, "sasl": sasl }))).validate()
    };
    for good in ["https://as.example", "http://127.0.0.1:8080/t", "http://localhost/t", "http://[::1]:1/t"] {
        with("token_endpoint", json!(good)).unwrap();
    }
    for (key, bad) in [
        ("token_endpoint", json!("http://as.example/t")),
        ("token_endpoint", json!("as.example/t")),
        ("token_endpoint", json!("https://u:p@as.example/t")),
        ("token_endpoint", json!("https://as.example/t#f")),
        ("token_endpoint", json!("file:///etc/passwd")),
        ("client_id", json!("")),
        ("client_id", json!("a\nb")),
        ("client_secret", json!("")),
        ("client_secret", json!("canary\n")),
        ("scope", json!("a  b")),
        ("scope", json!("")),
        ("scope", json!("a\"b")),
        ("audience", json!("")),
    ] {
        let text = with(key, bad.clone()).unwrap_err().to_string();
        assert!(text.contains(&format!("sasl.{key}")), "{bad}: {text}");
        assert!(!text.contains("canary"), "{text}");
    }
}

#[test]
fn a_cluster_has_a_plain_name() {
    for bad in ["", "a b", "a.b", "a/b", "ä", &"a".repeat(65)] {
        let section: Section = serde_json::from_value(json!({ "clusters": { bad: local(&json!({})) } })).unwrap();
        assert!(section.validate().is_err(), "{bad}");
    }
}

fn terms_of(topic: &str, grant: Value, operator_owned: bool) -> Result<(), Fault> {
    let terms: Terms = serde_json::from_value(json!({ "cluster": "main", "topic": topic })).unwrap();
    let grant: Grant = serde_json::from_value(grant).unwrap();
    terms.validate(&section(&local(&json!({}))), &grant, operator_owned)
}

#[test]
fn a_stream_names_a_known_cluster() {
    let terms: Terms = serde_json::from_value(json!({ "cluster": "mian", "topic": "sets" })).unwrap();
    let text = terms.validate(&section(&local(&json!({}))), &Grant::default(), true).unwrap_err().to_string();
    assert!(text.contains("/cluster") && text.contains("`mian`") && text.contains("known: main"), "{text}");
}

#[test]
fn a_topic_has_a_name_that_kafka_takes_and_is_not_its_own() {
    for good in ["a", "sets.acme_1-2", "_schemas", "...", &"a".repeat(249)] {
        terms_of(good, json!({}), true).unwrap();
    }
    for bad in [
        "",
        ".",
        "..",
        "a b",
        "a/b",
        "ä",
        "a:b",
        "a\0",
        &"a".repeat(250),
        "__consumer_offsets",
        "__transaction_state",
        "__x",
    ] {
        let text = terms_of(bad, json!({ "topics": { "main": ["", "__"] } }), true).unwrap_err().to_string();
        assert!(text.contains("/topic"), "{bad}: {text}");
    }
}

#[test]
fn a_receivers_stream_names_only_what_was_granted() {
    let acme = json!({ "topics": { "main": ["sets.acme.", "shared-acme"] } });
    for good in ["sets.acme.a", "sets.acme.", "shared-acme", "shared-acme-2"] {
        terms_of(good, acme.clone(), false).unwrap();
    }
    for bad in ["sets.acme", "sets.other.a", "Sets.acme.a", "x.sets.acme.a"] {
        let text = terms_of(bad, acme.clone(), false).unwrap_err().to_string();
        assert!(text.contains("/topic") && text.contains("sets.acme., shared-acme"), "{text}");
        assert!(terms_of(bad, acme.clone(), true).is_err(), "a list holds for the operator's own streams too");
    }
    for nothing in [
        json!({}),
        json!({ "topics": {} }),
        json!({ "topics": { "main": [] } }),
        json!({ "topics": { "other": ["a"] } }),
    ] {
        assert!(terms_of("a", nothing.clone(), false).is_err(), "{nothing}");
    }
    terms_of("a", json!({}), true).unwrap();
    assert!(terms_of("a", json!({ "topics": { "main": [] } }), true).is_err());
}

#[test]
fn all_topics_are_the_operators_alone() {
    let all = json!({ "topics": { "main": [""] } });
    terms_of("anything", all.clone(), true).unwrap();
    assert!(terms_of("anything", all, false).unwrap_err().to_string().contains("empty prefix"));
    assert!(
        terms_of("a.b", json!({ "topics": { "main": ["a.*", "a."] } }), false)
            .unwrap_err()
            .to_string()
            .contains("wildcards")
    );
}

#[test]
fn a_source_names_topics_a_group_and_where_refused_records_go() {
    let validate = |key: &str, value: Value| {
        let mut from = json!({ "cluster": "main", "topics": ["events"], "group": "setgate" });
        from[key] = value;
        let from: From = serde_json::from_value(from).unwrap();
        from.validate(&section(&local(&json!({}))))
    };
    validate("error_topic", json!("events.bad")).unwrap();
    for (key, bad, says) in [
        ("cluster", json!("other"), "known: main"),
        ("topics", json!([]), "1 to 64"),
        ("topics", json!(["a", "a"]), "/topics/1"),
        ("topics", json!(["^a.*"]), "/topics/0"),
        ("topics", json!(["__consumer_offsets"]), "Kafka's own"),
        ("group", json!(""), "/group"),
        ("group", json!("a\u{1b}b"), "/group"),
        ("error_topic", json!("events"), "come back for ever"),
        ("error_topic", json!("__x"), "Kafka's own"),
        ("batch", json!(0), "1 to 10000"),
        ("batch", json!(10_001), "1 to 10000"),
    ] {
        let text = validate(key, bad).unwrap_err().to_string();
        assert!(text.contains(says), "{text}");
    }
}
