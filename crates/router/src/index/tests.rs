//! Tests of the index against the plain rule, and of the cost of a decision.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use setgate_set::EventLimits;

use super::*;

const ISSUER: &str = "https://issuer.example";

fn stream(no: u32, changes: Value) -> Arc<Stream> {
    let mut value = json!({
        "no": no, "id": format!("s{no}"), "issuer": ISSUER, "audience": "a", "delivery": {"method": "urn:ietf:rfc:8935", "terms": {}},
        "events": "all", "default_subjects": "ALL", "roster": {}, "algorithm": "RS256", "status": "enabled", "owner": "operator",
        "retention": {"age": {"secs": 60, "nanos": 0}, "sets": 10, "budget_percent": 10}, "created": 0
    });
    for (name, change) in changes.as_object().unwrap() {
        value[name] = change.clone();
    }
    Arc::new(serde_json::from_value(value).unwrap())
}

fn event(types: &[&str], sub_id: &Value) -> Event {
    let events: Map<_, _> = types.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
    Event::parse(json!({"events": events, "sub_id": sub_id}), &EventLimits::default()).unwrap()
}

fn opaque(id: impl ToString) -> Value {
    json!({"format": "opaque", "id": id.to_string()})
}

fn status(word: &str) -> Value {
    json!({word: {"at": 1, "why": {"operator": "x"}}})
}

fn targets(decided: &Decided) -> Vec<u32> {
    decided.targets.iter().collect()
}

fn any_subject() -> impl Strategy<Value = Value> {
    let simple = prop_oneof![
        3 => (0..4u8).prop_map(opaque),
        1 => prop::collection::vec((0..4u8).prop_map(opaque), 1..3).prop_map(|all| json!({"format": "aliases", "identifiers": all})),
    ];
    let complex = prop::collection::btree_map("user|tenant|device", simple.clone(), 1..3).prop_map(|members| {
        let mut members: Map<String, Value> = members.into_iter().collect();
        members.insert("format".into(), "complex".into());
        members.into()
    });
    prop_oneof![simple, complex]
}

fn any_stream() -> impl Strategy<Value = Value> {
    let events = prop_oneof![
        1 => Just(json!("all")),
        3 => prop::collection::btree_set("urn:[abc]", 0..3).prop_map(|uris| json!({"exact": uris})),
    ];
    let status = prop_oneof![3 => Just(json!("enabled")), 1 => Just(status("paused")), 1 => Just(status("disabled"))];
    let subjects = || prop::collection::vec(any_subject(), 0..4);
    (events, status, any::<bool>(), any::<bool>(), subjects(), subjects(), any::<bool>()).prop_map(
        |(events, status, all, letter, added, removed, other)| {
            json!({
                "events": events, "status": status, "default_subjects": if all { "ALL" } else { "NONE" }, "match_by_the_letter": letter,
                "roster": {"added": added, "removed": removed}, "issuer": if other { "https://other.example" } else { ISSUER },
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn decides_as_the_plain_rule_does(
        streams in prop::collection::vec(any_stream(), 0..12),
        events in prop::collection::vec((prop::collection::btree_set("urn:[abcd]", 1..3), any_subject()), 1..4),
    ) {
        let streams: Vec<_> = (1..).zip(streams).map(|(no, changes)| stream(no, changes)).collect();
        let index = Index::build(&streams, Version(3));
        for (types, sub_id) in events {
            let event = event(&types.iter().map(String::as_str).collect::<Vec<_>>(), &sub_id);
            for issuer in [ISSUER, "https://other.example", "https://nobody.example"] {
                let plain: Vec<_> = streams
                    .iter()
                    .filter(|stream| &*stream.issuer == issuer)
                    .map(|stream| (StreamNo(stream.no), setgate_stream::decide(stream, &event.types, &event.subject)))
                    .collect();
                let owed: Vec<u32> = plain.iter().filter(|(_, decision)| decision.is_owed()).map(|(no, _)| no.0).collect();
                prop_assert_eq!(targets(&index.decide(issuer, &event)), owed);
                prop_assert_eq!(index.explain(issuer, &event), plain);
            }
        }
    }
}

/// Returns the number of streams that a decision checked, with `count` streams that do not want the event beside three
/// that do.
fn cost_among(count: u32, others: impl Fn(u32) -> Value, sub_id: &Value) -> u64 {
    let wants = json!({"events": {"exact": ["urn:a"]}});
    let listed = json!({"events": {"exact": ["urn:a"]}, "default_subjects": "NONE", "roster": {"added": [sub_id]}});
    let cut = json!({"roster": {"removed": [sub_id]}});
    let first = [wants.clone(), listed, wants, cut];
    let streams: Vec<_> =
        (1..).zip(first.into_iter().chain((0..count).map(others))).map(|(no, one)| stream(no, one)).collect();
    let decided = Index::build(&streams, Version(1)).decide(ISSUER, &event(&["urn:a"], sub_id));
    assert_eq!(targets(&decided), [1, 2, 3]);
    decided.looked_at
}

#[test]
fn looks_at_no_more_streams_when_ten_thousand_others_do_not_want_the_event() {
    let user = |id: u32| json!({"format": "complex", "tenant": opaque("t"), "user": opaque(id)});
    let others: [(&str, &dyn Fn(u32) -> Value); 5] = [
        ("another type", &|_| json!({"events": {"exact": ["urn:b"]}})),
        ("disabled", &|_| json!({"status": status("disabled")})),
        ("another subject", &|n| json!({"default_subjects": "NONE", "roster": {"added": [opaque(n)]}})),
        ("another user of the tenant", &move |n| json!({"default_subjects": "NONE", "roster": {"added": [user(n)]}})),
        ("another issuer", &|_| json!({"issuer": "https://other.example"})),
    ];
    for sub_id in [opaque("wanted"), user(1_000_000)] {
        for (what, others) in &others {
            assert_eq!(cost_among(10, others, &sub_id), 2, "{what}");
            assert_eq!(cost_among(10_000, others, &sub_id), 2, "{what}");
        }
    }
}

#[test]
fn events_that_no_subject_list_concerns_share_one_set() {
    let cut = json!({"roster": {"removed": [opaque("gone")]}});
    let mixed =
        (0..100).map(|n| stream(n, if n % 2 == 0 { json!({}) } else { json!({"events": {"exact": ["urn:a"]}}) }));
    let streams: Vec<_> = mixed.chain([stream(100, cut)]).collect();
    let index = Index::build(&streams, Version(1));
    let decide = |uri: &str, id: &str| index.decide(ISSUER, &event(&[uri], &opaque(id)));
    let (one, other) = (decide("urn:a", "1"), decide("urn:a", "2"));
    assert_eq!(one.targets.len(), 101);
    assert!(Arc::ptr_eq(&one.targets, &other.targets));
    assert!(Arc::ptr_eq(&decide("urn:x", "1").targets, &decide("urn:y", "2").targets));
    assert_eq!(targets(&decide("urn:a", "gone")), (0..100).collect::<Vec<_>>());
}

#[test]
fn an_event_of_several_types_goes_to_the_streams_that_want_any_of_them() {
    let streams = [
        stream(1, json!({"events": {"exact": ["urn:a"]}})),
        stream(2, json!({"events": {"exact": ["urn:b"]}})),
        stream(3, json!({"events": {"exact": ["urn:c"]}})),
        stream(4, json!({})),
    ];
    let index = Index::build(&streams, Version(1));
    assert_eq!(targets(&index.decide(ISSUER, &event(&["urn:a", "urn:b", "urn:z"], &opaque(1)))), [1, 2, 4]);
}

#[test]
fn finds_streams_by_number_and_by_id_of_their_issuer() {
    let other = "https://other.example";
    let streams = [
        stream(1, json!({})),
        stream(2, json!({"id": "s1", "issuer": other})),
        stream(3, json!({"status": status("disabled")})),
    ];
    let index = Index::build(&streams, Version(7));
    assert_eq!(index.version(), Version(7));
    assert_eq!(index.decide(ISSUER, &event(&["urn:a"], &opaque(1))).version, Version(7));
    assert_eq!(index.by_id(ISSUER, "s1").map(|stream| stream.no), Some(1));
    assert_eq!(index.by_id(other, "s1").map(|stream| stream.no), Some(2));
    assert_eq!(index.by_id(ISSUER, "s2").map(|stream| stream.no), None);
    assert_eq!(index.stream(StreamNo(3)).map(|stream| stream.id.as_str()), Some("s3"));
    assert!(index.stream(StreamNo(4)).is_none());
    assert_eq!(index.streams().count(), 3);
}

#[test]
fn knows_when_a_subject_names_a_stream_wherever_it_hides() {
    let index = Index::build(&[stream(1, json!({"status": status("disabled")}))], Version(1));
    let names = |value: Value| index.names_stream(&Subject::parse(&value).unwrap());
    assert!(names(opaque("s1")));
    assert!(names(json!({"format": "aliases", "identifiers": [opaque("x"), opaque("s1")]})));
    assert!(names(json!({"format": "complex", "device": opaque("s1")})));
    assert!(!names(opaque("s2")));
    assert!(!names(json!({"format": "iss_sub", "iss": "i", "sub": "s1"})));
}
