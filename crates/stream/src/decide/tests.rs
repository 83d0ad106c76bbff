//! Tests of every reason, and of their precedence.

use serde_json::{Value, json};
use setgate_set::Timestamp;

use super::*;
use crate::Reason;

const REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";

fn stream(changes: Value) -> Stream {
    let mut value = json!({
        "no": 1, "id": "s1", "issuer": "https://issuer.example", "audience": "a",
        "delivery": {"method": "urn:ietf:rfc:8935", "terms": {"endpoint_url": "https://r.example/"}},
        "events": {"exact": [REVOKED]}, "default_subjects": "ALL", "roster": {}, "algorithm": "RS256", "status": "enabled",
        "owner": "operator", "retention": {"age": {"secs": 60, "nanos": 0}, "sets": 10, "budget_percent": 10}, "created": 0
    });
    for (name, change) in changes.as_object().unwrap() {
        value[name] = change.clone();
    }
    serde_json::from_value(value).unwrap()
}

fn subject(id: &str) -> Value {
    json!({"format": "opaque", "id": id})
}

fn decided(changes: Value) -> Decision {
    decide(&stream(changes), &[REVOKED.into()], &Subject::parse(&subject("1")).unwrap())
}

fn halted(word: &str) -> Value {
    json!({word: {"at": 5, "why": {"operator": "maintenance"}}})
}

#[test]
fn delivers_what_is_wanted() {
    assert_eq!(decided(json!({})), Decision::Deliver);
    assert_eq!(decided(json!({"events": "all"})), Decision::Deliver);
    assert_eq!(decided(json!({"default_subjects": "NONE", "roster": {"added": [subject("1")]}})), Decision::Deliver);
}

#[test]
fn holds_what_is_wanted_while_paused_and_nothing_else() {
    assert_eq!(decided(json!({"status": halted("paused")})), Decision::Hold);
    assert_eq!(
        decided(json!({"status": halted("paused"), "events": {"exact": []}})),
        Decision::Skip(Why::EventNotWanted)
    );
    assert_eq!(decided(json!({"status": halted("disabled")})), Decision::Skip(Why::Disabled));
}

#[test]
fn skips_and_says_why() {
    assert_eq!(decided(json!({"events": {"exact": [format!("{REVOKED}/")]}})), Decision::Skip(Why::EventNotWanted));
    assert_eq!(decided(json!({"roster": {"removed": [subject("1")]}})), Decision::Skip(Why::SubjectRemoved));
    assert_eq!(decided(json!({"default_subjects": "NONE"})), Decision::Skip(Why::SubjectNotAdded));
    assert_eq!(
        decided(json!({"default_subjects": "NONE", "roster": {"added": [subject("2")]}})),
        Decision::Skip(Why::SubjectNotAdded)
    );
    for why in [Why::Disabled, Why::EventNotWanted, Why::SubjectRemoved, Why::SubjectNotAdded] {
        assert!(why.to_string().ends_with('.'), "{why}");
    }
}

#[test]
fn one_wanted_type_is_enough() {
    let subject = Subject::parse(&subject("1")).unwrap();
    assert_eq!(decide(&stream(json!({})), &["urn:x".into(), REVOKED.into()], &subject), Decision::Deliver);
    assert_eq!(decide(&stream(json!({})), &["urn:x".into()], &subject), Decision::Skip(Why::EventNotWanted));
}

#[test]
fn a_removed_subject_wins_over_an_added_one_that_covers_the_event() {
    let (tenant, user) = (subject("t"), subject("u"));
    let event = json!({"format": "complex", "tenant": tenant, "user": user});
    let stream = stream(json!({"default_subjects": "NONE", "roster": {
        "added": [{"format": "complex", "tenant": tenant}], "removed": [{"format": "complex", "user": user}]}}));
    let decision = decide(&stream, &[REVOKED.into()], &Subject::parse(&event).unwrap());
    assert_eq!(decision, Decision::Skip(Why::SubjectRemoved));
}

#[test]
fn says_when_a_stream_receives_nothing_and_why() {
    let why = |changes| why_nothing(&stream(changes));
    assert_eq!(why(json!({})), None);
    assert_eq!(why(json!({"default_subjects": "NONE", "roster": {"added": [subject("1")]}})), None);
    assert_eq!(
        why(json!({"status": halted("paused")})).unwrap(),
        "The stream is paused: maintenance. Events are held."
    );
    assert_eq!(
        why(json!({"status": halted("disabled")})).unwrap(),
        "The stream is disabled: maintenance. Events are not held."
    );
    assert!(why(json!({"events": {"exact": []}})).unwrap().contains("no event types"));
    assert!(why(json!({"default_subjects": "NONE"})).unwrap().contains("none was added"));
}

#[test]
fn a_stream_reads_back_what_it_wrote() {
    let one = stream(
        json!({"status": halted("paused"), "roster": {"removed": [{"format": "ratio", "value": 9.841_690_688_809_713e-26}]}}),
    );
    assert_eq!(
        one.status,
        Status::Paused { at: Timestamp::from_millis(5), why: Reason::Operator("maintenance".into()) }
    );
    assert_eq!(serde_json::from_slice::<Stream>(&serde_json::to_vec(&one).unwrap()).unwrap(), one);
    let unknown = serde_json::from_value::<Stream>({
        let mut value = serde_json::to_value(&one).unwrap();
        value["colour"] = json!("blue");
        value
    });
    assert!(unknown.unwrap_err().to_string().contains("colour"));
}
