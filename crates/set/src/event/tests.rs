//! Tests of the events that producers may put in, and of their payloads.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{Envelope, JsonLimits, Jti, Timestamp, parse_json, payload};

const REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";

fn event(value: Value) -> Event {
    Event::parse(value.clone(), &EventLimits::default()).unwrap_or_else(|error| panic!("{value}: {error}"))
}

/// Returns a valid event with some members changed; `null` removes a member.
fn with(changes: Value) -> Value {
    let mut value = json!({"events": {REVOKED: {}}, "sub_id": {"format": "email", "email": "a@example.com"}});
    for (name, change) in changes.as_object().unwrap() {
        if change.is_null() {
            value.as_object_mut().unwrap().remove(name);
        } else {
            value[name] = change.clone();
        }
    }
    value
}

#[track_caller]
fn refused(changes: Value, pointer: &str, message: &str) {
    let error = Event::parse(with(changes.clone()), &EventLimits::default()).unwrap_err();
    assert_eq!((error.pointer.as_str(), error.forbidden), (pointer, false), "{changes}: {error}");
    assert!(error.message.contains(message), "{changes}: {error}");
}

#[test]
fn takes_every_example_of_the_standards() {
    let files = [
        include_str!("../../../../tests/vectors/caep.json"),
        include_str!("../../../../tests/vectors/risc.json"),
        include_str!("../../../../tests/vectors/ssf.json"),
        include_str!("../../../../tests/vectors/rfc8417.json"),
        include_str!("../../../../tests/vectors/rfc9493.json"),
    ];
    let (mut taken, mut framework) = (0, 0);
    for vector in files.iter().flat_map(|file| serde_json::from_str::<Vec<Value>>(file).unwrap()) {
        if vector["kind"] != "set-claims" {
            continue;
        }
        let (name, mut claims) = (vector["name"].as_str().unwrap(), vector["value"].clone());
        let members = claims.as_object_mut().unwrap();
        for envelope in ["iss", "aud", "jti", "sub", "sid"] {
            members.remove(envelope);
        }
        // RFC 8417 and one figure of RFC 9493 are older than `sub_id`.
        members.entry("sub_id").or_insert(json!({"format": "opaque", "id": "1"}));
        let text = claims.to_string();
        let value = parse_json(text.as_bytes(), &JsonLimits::default()).unwrap();
        match Event::parse(value, &EventLimits::default()) {
            Ok(event) => {
                let body: Value = serde_json::from_slice(&event.body()).unwrap();
                assert_eq!(body["events"], claims["events"], "{name}");
                assert_eq!(body["sub_id"], claims["sub_id"], "{name}");
                assert_eq!(body["toe"], claims["iat"], "{name}");
                assert_eq!(body.get("txn"), claims.get("txn"), "{name}");
                taken += 1;
            }
            Err(error) => {
                assert!(
                    error.forbidden && claims["events"].to_string().contains("/ssf/event-type/"),
                    "{name}: {error}"
                );
                framework += 1;
            }
        }
    }
    assert_eq!((taken, framework), (30, 3));
}

#[test]
fn forbids_framework_events_whatever_stands_beside_them() {
    for uri in framework::RESERVED {
        let error = Event::parse(with(json!({"events": {REVOKED: {}, *uri: {"state": "x"}}})), &EventLimits::default())
            .unwrap_err();
        assert!(error.forbidden, "{error}");
        assert_eq!(error.pointer, format!("/events/{}", token(uri)));
    }
}

#[test]
fn refuses_members_that_are_not_an_events() {
    refused(json!({"scope": "ssf.manage"}), "/scope", "no such member");
    refused(json!({"client_id": "x"}), "/client_id", "no such member");
    refused(json!({"exp": 1}), "/exp", "no `exp`");
    refused(json!({"sub": "x"}), "/sub", "`sub_id`");
    refused(json!({"iss": "https://other.example"}), "/iss", "for each stream");
    refused(json!({"a/b": 1}), "/a~1b", "no such member");
    assert_eq!(Event::parse(json!([]), &EventLimits::default()).unwrap_err().message, "an event is a JSON object");
}

#[test]
fn refuses_events_without_types_or_payloads() {
    refused(json!({"events": null}), "", "`events` is missing");
    refused(json!({"events": {}}), "/events", "1 to 16");
    refused(json!({"events": [REVOKED]}), "/events", "an object");
    refused(json!({"events": {REVOKED: []}}), &format!("/events/{}", token(REVOKED)), "an object");
    refused(json!({"events": {"session-revoked": {}}}), "/events/session-revoked", "absolute URI");
    refused(json!({"events": {"": {}}}), "/events/", "absolute URI");
    refused(json!({"events": {format!("urn:{}", "x".repeat(509)): {}}}), "/events", "512 bytes");
    let many: Map<String, Value> = (0..17).map(|n| (format!("urn:x:{n}"), json!({}))).collect();
    refused(json!({"events": many}), "/events", "1 to 16");
}

#[test]
fn refuses_events_without_a_good_subject() {
    refused(json!({"sub_id": null}), "", "`sub_id` is missing");
    refused(json!({"sub_id": {"format": "email", "email": "x"}}), "/sub_id/email", "e-mail");
    refused(
        json!({"sub_id": {"format": "complex", "user": {"format": "phone", "phone_number": "+12065550100"}}}),
        "/sub_id/user/format",
        "phone_number",
    );
}

#[test]
fn keeps_names_within_their_limits() {
    for name in ["id", "order_key", "txn"] {
        let pointer = format!("/{name}");
        refused(json!({name: ""}), &pointer, "1 to 256");
        refused(json!({name: "x".repeat(257)}), &pointer, "1 to 256");
        refused(json!({name: "a\nb"}), &pointer, "control");
        refused(json!({name: ["x"]}), &pointer, "a string");
        event(with(json!({name: "x".repeat(256)})));
    }
    refused(json!({"id": 7}), "/id", "a string");
    assert_eq!(event(with(json!({"txn": 8675309}))).txn.as_deref(), Some("8675309"));
}

#[test]
fn takes_seconds_for_dates_and_nothing_else() {
    for name in ["iat", "toe"] {
        let pointer = format!("/{name}");
        refused(json!({name: "1615305159"}), &pointer, "a number");
        refused(json!({name: 1_615_305_159_000_u64}), &pointer, "not milliseconds");
        refused(json!({name: -1}), &pointer, "since 1970");
        event(with(json!({name: 15_203_800_012_u64})));
        event(with(json!({name: 1_615_304_991.123})));
    }
}

#[test]
fn the_body_has_its_members_in_a_fixed_order() {
    let text = format!(
        r#"{{"order_key":"k","txn":"a\"b","id":"1","sub_id":{{"id":"7","format":"opaque"}},"toe":5.5,"iat":6,"events":{{"urn:b":{{"z":1,"a":[18446744073709551615,1e2]}},"{REVOKED}":{{}}}}}}"#
    );
    let event = event(parse_json(text.as_bytes(), &JsonLimits::default()).unwrap());
    let body = format!(
        r#"{{"events":{{"{REVOKED}":{{}},"urn:b":{{"a":[18446744073709551615,100.0],"z":1}}}},"sub_id":{{"format":"opaque","id":"7"}},"toe":5.5,"txn":"a\"b"}}"#
    );
    assert_eq!(event.body(), body.as_bytes());
    assert_eq!(*event.types, [REVOKED.into(), "urn:b".into()]);
}

#[test]
fn the_producers_iat_becomes_toe_only_where_there_is_none() {
    let toe = |changes| serde_json::from_slice::<Value>(&event(with(changes)).body()).unwrap()["toe"].clone();
    assert_eq!(toe(json!({"iat": 6})), json!(6));
    assert_eq!(toe(json!({"iat": 6, "toe": 5})), json!(5));
    assert_eq!(toe(json!({})), Value::Null);
    let body = event(with(json!({"iat": 6}))).body();
    assert!(!String::from_utf8_lossy(&body).contains("iat"));
}

#[test]
fn makes_a_txn_once_and_only_where_there_is_none() {
    let mut given = event(with(json!({"txn": "mine"})));
    assert_eq!(given.txn_or(|| unreachable!()), "mine");
    let mut missing = event(with(json!({})));
    assert_eq!(missing.txn_or(|| "made".into()), "made");
    assert_eq!(missing.txn_or(|| unreachable!()), "made");
    assert_eq!(Envelope::new(Timestamp::default(), missing.body()).txn().as_deref(), Some("made"));
}

#[test]
fn the_digest_is_of_what_the_producer_sent() {
    let digest = |changes| event(with(changes)).digest();
    let plain = digest(json!({}));
    let mut made = event(with(json!({})));
    made.txn_or(|| "made".into());
    assert_eq!(made.digest(), plain);
    assert_eq!(digest(json!({"id": "1"})), plain);
    let others = [
        json!({"txn": "made"}),
        json!({"txn": "other"}),
        json!({"toe": 5}),
        json!({"iat": 5}),
        json!({"order_key": "5"}),
        json!({"events": {"urn:x": {}}}),
        json!({"events": {REVOKED: {"a": 1}}}),
        json!({"sub_id": {"format": "email", "email": "b@example.com"}}),
    ];
    let mut all: Vec<_> = others.into_iter().map(digest).chain([plain]).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 9);
    let reordered = br#"{"sub_id":{"email":"a@example.com","format":"email"}, "events":{"https://schemas.openid.net/secevent/caep/event-type/session-revoked":{ }}}"#;
    assert_eq!(event(parse_json(reordered, &JsonLimits::default()).unwrap()).digest(), plain);
}

#[test]
fn order_follows_the_principal() {
    let email = json!({"format": "email", "email": "a@example.com"});
    let opaque = json!({"format": "opaque", "id": "1"});
    let iss_sub = json!({"format": "iss_sub", "iss": "i", "sub": "1"});
    let jwt_id = json!({"format": "jwt_id", "iss": "i", "jti": "1"});
    let text = |sub_id: Value| event(with(json!({"sub_id": sub_id}))).order_text().into_owned();
    let complex = |members: Value| {
        let mut members = members;
        members["format"] = json!("complex");
        members
    };
    assert_eq!(text(email.clone()), email.to_string());
    assert_eq!(text(complex(json!({"tenant": opaque, "user": email, "session": iss_sub}))), email.to_string());
    assert_eq!(text(complex(json!({"tenant": opaque, "session": iss_sub}))), iss_sub.to_string());
    assert_eq!(text(complex(json!({"tenant": opaque, "device": iss_sub}))), iss_sub.to_string());
    assert_eq!(text(complex(json!({"group": opaque, "tenant": email}))), email.to_string());
    let odd = complex(json!({"group": opaque}));
    assert_eq!(text(odd.clone()), odd.to_string());
    let aliases = |items: &[&Value]| json!({"format": "aliases", "identifiers": items});
    assert_eq!(text(aliases(&[&email, &opaque, &iss_sub])), iss_sub.to_string());
    assert_eq!(text(aliases(&[&email, &jwt_id])), email.to_string());
    assert_eq!(text(aliases(&[&jwt_id])), aliases(&[&jwt_id]).to_string());
    assert_eq!(text(complex(json!({"user": aliases(&[&email, &opaque])}))), opaque.to_string());
    let other = json!({"format": "email", "email": "b@example.com"});
    assert_eq!(text(aliases(&[&other, &email])), text(aliases(&[&email, &other])));
    assert_eq!(event(with(json!({"order_key": "cart 7"}))).order_text(), "cart 7");
}

#[test]
fn a_payload_parses_as_the_claims_of_the_stream_and_the_event() {
    let mut event = event(with(json!({"toe": 5})));
    event.txn_or(|| "t".into());
    let jti = Jti::from_block(b'a', [7; 16]);
    let bytes = payload("\"https://i.example\"", &jti, Timestamp::from_millis(1999), "[\"a\",\"b\"]", &event.body());
    let claims = parse_json(&bytes, &JsonLimits::default()).unwrap();
    let expected = json!({"iss": "https://i.example", "jti": jti.as_str(), "iat": 1, "aud": ["a", "b"], "events": {REVOKED: {}},
        "sub_id": {"format": "email", "email": "a@example.com"}, "toe": 5, "txn": "t"});
    assert_eq!(claims, expected);
}

fn any_simple() -> impl Strategy<Value = Value> {
    prop_oneof![
        "\\PC{1,20}".prop_map(|id| json!({"format": "opaque", "id": id})),
        ("[a-z\"\\\\/ü]{1,5}", "\\PC{1,5}").prop_map(|(iss, sub)| json!({"format": "iss_sub", "iss": iss, "sub": sub})),
        "[a-z]{1,5}@[a-z]{1,5}".prop_map(|email| json!({"format": "email", "email": email})),
        ("[a-z]{1,8}x", "\\PC{0,8}", any::<f64>())
            .prop_map(|(name, text, number)| json!({"format": name, "a": {"b": [text, number]}})),
    ]
}

fn any_subject() -> impl Strategy<Value = Value> {
    prop_oneof![
        any_simple(),
        prop::collection::vec(any_simple(), 1..5).prop_map(|all| json!({"format": "aliases", "identifiers": all})),
        prop::collection::btree_map("user|tenant|device|\\PC{1,6}", any_simple(), 1..4).prop_map(|members| {
            let mut members: Map<String, Value> = members.into_iter().collect();
            members.remove("format");
            members.entry("user").or_insert(json!({"format": "opaque", "id": "1"}));
            members.insert("format".into(), "complex".into());
            members.into()
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Hardening H30: policy and router decide about the subject that the receiver will read.
    #[test]
    fn a_second_parser_reads_the_same_subject_from_the_set(sub_id in any_subject(), data in "\\PC{0,12}", pretty in any::<bool>()) {
        let value = with(json!({"sub_id": sub_id, "events": {REVOKED: {"data": data}}}));
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let Ok(read) = parse_json(text.as_bytes(), &JsonLimits::default()) else { return Ok(()) };
        let event = event(read);
        prop_assert_eq!(event.subject.canonical(), event.subject.value().to_string());
        let jti = Jti::from_block(b'a', [7; 16]);
        let token = payload("\"i\"", &jti, Timestamp::default(), "\"a\"", &event.body());
        let theirs: Value = serde_json::from_slice(&token).unwrap();
        prop_assert_eq!(&theirs["sub_id"], &sub_id);
        prop_assert_eq!(&theirs["sub_id"], &event.subject.value());
        prop_assert_eq!(&theirs["events"], &value["events"]);
        let again = Event::parse(json!({"events": theirs["events"], "sub_id": theirs["sub_id"]}), &EventLimits::default()).unwrap();
        prop_assert_eq!(again.subject.canonical(), event.subject.canonical());
        prop_assert_eq!(again.order_text(), event.order_text());
    }

    #[test]
    fn never_panics(value in prop::collection::btree_map("events|sub_id|txn|toe|iat|id|order_key|[a-z]", prop_oneof![
        any_subject(), any::<u64>().prop_map(Value::from), any::<String>().prop_map(Value::from), Just(json!({REVOKED: {}})),
    ], 0..5)) {
        let _ = Event::parse(value.into_iter().collect::<Map<_, _>>().into(), &EventLimits::default());
    }
}
