use rdkafka::message::Headers;
use serde_json::json;
use setgate_delivery::{Attempt, Bytes, Envelope, Jti, OrderKey};

use super::*;

const BODY: &str = r#"{"events":{"https://a.example/é":{},"urn:b":{"x":1}},"sub_id":{"format":"email","email":"canary@example.com"},"toe":1700000001,"txn":"t-\u00fc"}"#;

fn set(body: &'static str, envelope: &'static str) -> SealedSet {
    SealedSet {
        jti: Jti::from_block(b't', [7; 16]),
        attempt: Attempt(1),
        body: Bytes::from_static(body.as_bytes()),
        envelope: Arc::new(Envelope::new(
            Timestamp::from_millis(1_700_000_000_500),
            Bytes::from_static(envelope.as_bytes()),
        )),
        order: OrderKey::from_bits(0xabc),
    }
}

fn shape(mut terms: Json) -> Shape {
    terms["cluster"] = "main".into();
    terms["topic"] = "sets".into();
    let about = About { stream: "s1".into(), issuer: "https://iss.example".into(), operator_owned: true };
    Shape::new(&serde_json::from_value(terms).unwrap(), &about)
}

fn headers(made: &Made<'_>) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    made.headers.iter().map(|header| (header.key.to_owned(), text(header.value.unwrap()))).collect()
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_plain_record_names_every_event() {
    let (shape, set) = (shape(json!({})), set("a.b.c", BODY));
    let made = shape.make(&set);
    let jti = set.jti.to_string();
    assert_eq!(
        headers(&made),
        pairs(&[
            ("content-type", "application/secevent+jwt"),
            ("set_jti", &jti),
            ("set_iss", "https://iss.example"),
            ("set_event", "https://a.example/é"),
            ("set_event", "urn:b"),
            ("set_iat", "1700000000"),
            ("set_stream", "s1"),
            ("set_txn", "t-ü"),
        ])
    );
    assert_eq!(made.value, Cow::Borrowed(b"a.b.c".as_slice()));
    assert_eq!(made.timestamp, None);
}

/// Checks CloudEvents 1.0, Kafka protocol binding §3.2.
#[test]
fn a_binary_cloud_event_has_its_attributes_in_headers() {
    let (shape, set) = (shape(json!({ "cloudevents": "binary", "value": "claims" })), set("{}", BODY));
    let made = shape.make(&set);
    let jti = set.jti.to_string();
    assert_eq!(
        headers(&made),
        pairs(&[
            ("content-type", "application/json"),
            ("ce_specversion", "1.0"),
            ("ce_id", &jti),
            ("ce_source", "https://iss.example"),
            ("ce_type", "https://a.example/é"),
            ("ce_time", "2023-11-14T22:13:21Z"),
            ("set_stream", "s1"),
            ("set_txn", "t-ü"),
        ])
    );
}

/// Checks CloudEvents 1.0, Kafka protocol binding §3.3, and JSON format §3.1.1.
#[test]
fn a_structured_cloud_event_is_one_json_text() {
    for (value, data, kind) in
        [("set", json!("a\"b.c"), "application/secevent+jwt"), ("claims", json!({ "jti": "x" }), "application/json")]
    {
        let body = if value == "set" { "a\"b.c" } else { r#"{"jti":"x"}"# };
        let (shape, set) = (shape(json!({ "cloudevents": "structured", "value": value })), set(body, BODY));
        let made = shape.make(&set);
        assert_eq!(
            headers(&made),
            pairs(&[
                ("content-type", "application/cloudevents+json; charset=UTF-8"),
                ("set_stream", "s1"),
                ("set_txn", "t-ü")
            ])
        );
        let event: Json = serde_json::from_slice(&made.value).unwrap();
        let expected = json!({
            "specversion": "1.0", "id": set.jti.to_string(), "source": "https://iss.example", "type": "https://a.example/é",
            "time": "2023-11-14T22:13:21Z", "datacontenttype": kind, "data": data,
        });
        assert_eq!(event, expected);
    }
}

#[test]
fn an_event_without_toe_has_the_time_of_its_acceptance() {
    let (shape, near) = (shape(json!({ "cloudevents": "binary" })), set("a.b.c", r#"{"events":{"urn:a":{}}}"#));
    let made = shape.make(&near);
    assert!(
        headers(&made).contains(&("ce_time".to_owned(), "2023-11-14T22:13:20.5Z".to_owned())),
        "{:?}",
        headers(&made)
    );
    // A CloudEvent without events and without a valid time still has its required attributes.
    let far = set("a.b.c", r#"{"toe":9000000000000}"#);
    let far = shape.make(&far);
    assert!(headers(&far).contains(&("ce_type".to_owned(), NO_TYPE.to_owned())));
    assert!(!headers(&far).iter().any(|(name, _)| name == "ce_time"));
}

#[test]
fn keys_are_what_the_terms_say_and_never_the_subject() {
    let set = set("a.b.c", BODY);
    for (key, due) in
        [("subject", Some("0000000000000abc")), ("stream", Some("s1")), ("txn", Some("t-ü")), ("none", None)]
    {
        let shape = shape(json!({ "key": key }));
        assert_eq!(shape.make(&set).key.as_deref(), due.map(str::as_bytes), "{key}");
    }
    for cloudevents in ["none", "binary", "structured"] {
        for key in ["subject", "stream", "txn", "none"] {
            let shape = shape(json!({ "cloudevents": cloudevents, "key": key }));
            let made = shape.make(&set);
            let all = format!("{:?}{:?}", headers(&made), made.key.map(|key| String::from_utf8(key.to_vec())));
            assert!(!all.contains("canary"), "{all}");
        }
    }
}

#[test]
fn the_time_of_a_record_is_the_tokens_where_that_is_asked() {
    let set = set("a.b.c", BODY);
    assert_eq!(shape(json!({ "timestamp": "iat" })).make(&set).timestamp, Some(1_700_000_000_000));
}

#[test]
fn what_is_published_is_what_was_said_without_the_defaults() {
    let terms = |text: &str| serde_json::from_str::<Terms>(text).unwrap();
    let plain = publish(&terms(r#"{"cluster":"main","topic":"t","value":"set","key":"subject"}"#), "urn:x");
    assert_eq!(plain, json!({ "method": "urn:x", "cluster": "main", "topic": "t" }));
    let all =
        r#"{"cluster":"main","topic":"t","value":"claims","cloudevents":"binary","key":"none","timestamp":"iat"}"#;
    let mut due: Json = serde_json::from_str(all).unwrap();
    due["method"] = "urn:x".into();
    assert_eq!(publish(&terms(all), "urn:x"), due);
}

/// Checks the empty body that the SETs of the delivery suite have.
#[test]
fn a_body_that_says_nothing_makes_a_record() {
    let (shape, set) = (shape(json!({ "key": "txn" })), set("a.b.c", "{}"));
    let made = shape.make(&set);
    assert_eq!(made.key, None);
    assert_eq!(headers(&made).len(), 5);
}
