//! Properties that every parser of foreign bytes must have, whatever the bytes.
//!
//! The fuzz targets and the corpus replay of `tests/it` run the same functions. Each returns whether the bytes were
//! accepted, so that a run can tell that both answers occurred.

use serde_json::Value;
use setgate_jose::{Jwks, Token};
use setgate_set::{Event, EventLimits, JsonLimits, Subject, parse_json};

// In the replay the crate is reached through `transports`.
use super::push;

/// Checks that a second reader parses accepted JSON as the same value (hardening H30); the second may accept more.
pub(crate) fn json(data: &[u8]) -> bool {
    let Ok(ours) = parse_json(data, &JsonLimits::default()) else { return false };
    let theirs: Value = serde_json::from_slice(data).expect("accepted what is no JSON");
    assert_eq!(ours, theirs, "two readers disagree");
    assert!(depth(&ours) <= JsonLimits::default().depth, "deeper than the limit");
    true
}

/// Checks that an accepted event has the same subject, routing and digest when it is parsed again from the body of its
/// SET.
pub(crate) fn event(data: &[u8]) -> bool {
    let Ok(value) = parse_json(data, &JsonLimits::default()) else { return false };
    let Ok(event) = Event::parse(value, &EventLimits::default()) else { return false };
    assert!(!event.types.is_empty(), "an event without a type");
    assert!(event.types.iter().all(|uri| !setgate_set::framework::is_reserved(uri)), "a framework event was accepted");
    let body: Value = serde_json::from_slice(&event.body()).expect("the body of a SET is no JSON");
    let members = body.as_object().expect("the body of a SET is no object");
    for name in members.keys() {
        assert!(matches!(name.as_str(), "events" | "sub_id" | "toe" | "txn"), "a SET would have the claim {name}");
    }
    let subject = Subject::parse(&body["sub_id"]).expect("the subject of the SET is none");
    assert_eq!(subject.canonical(), event.subject.canonical(), "the subject changed on the way");
    let types: Vec<&str> =
        body["events"].as_object().expect("events is no object").keys().map(String::as_str).collect();
    let routed: Vec<&str> = event.types.iter().map(|uri| &**uri).collect();
    assert_eq!(types, routed, "routed by other types than the SET has");
    let again = Event::parse(body, &EventLimits::default()).expect("the body of a SET is no event");
    assert_eq!(again.events_json(), event.events_json(), "the events changed on the way");
    if event.order_key.is_none() {
        assert_eq!(again.order_text(), event.order_text(), "the order key changed on the way");
    }
    true
}

/// Checks that an accepted subject has one canonical text, which parses as the same subject.
pub(crate) fn subject(data: &[u8]) -> bool {
    let Ok(value) = parse_json(data, &JsonLimits::default()) else { return false };
    let Ok(subject) = Subject::parse(&value) else { return false };
    let canonical = subject.canonical().into_owned();
    let value: Value = serde_json::from_str(&canonical).expect("a canonical text that is no JSON");
    assert_eq!(value, subject.value(), "the canonical text is another value");
    let again = Subject::parse(&value).expect("a canonical text that is no subject");
    assert_eq!(again.canonical(), canonical, "the canonical text is not stable");
    assert!(setgate_stream::matches(&subject, &again, false), "a subject does not match itself");
    true
}

/// Checks that a token or a key set is parsed or refused, and that nothing verifies without a key.
pub(crate) fn token(data: &[u8]) -> bool {
    let keys = Jwks::parse(data);
    let allowed = setgate_jose::AllowedAlgorithms::default();
    if let Ok(token) = Token::parse(data) {
        assert!(token.unverified_payload().len() <= data.len(), "the payload is longer than the token");
        let nothing = Jwks::parse(br#"{"keys":[]}"#).expect("an empty key set");
        assert!(token.check(&nothing, allowed).is_err(), "a token verified without a key");
        return true;
    }
    keys.is_ok()
}

/// Checks that every answer of a push receiver has an outcome, that only a success accepts a SET (RFC 8935 §2.2), by
/// the letter only 202, and that no text is longer than allowed.
pub(crate) fn answer(data: &[u8]) -> bool {
    let Some(([high, low], rest)) = data.split_first_chunk() else { return false };
    let Ok(status) = setgate_delivery::http::StatusCode::from_u16(100 + u16::from_be_bytes([*high, *low]) % 900) else {
        return false;
    };
    let (field, body) = rest.split_at(rest.iter().position(|byte| *byte == b'\n').unwrap_or(0));
    let mut headers = setgate_delivery::http::HeaderMap::new();
    if let Ok(value) = setgate_delivery::http::HeaderValue::from_bytes(field) {
        headers.insert(setgate_delivery::http::header::RETRY_AFTER, value);
    }
    let body = setgate_delivery::Bytes::copy_from_slice(body);
    let answer = setgate_delivery::HttpResponse { status, headers, body, truncated: false };
    let meant = |taken| push::wire::outcome(&answer, taken, setgate_set::Timestamp::from_seconds(1_800_000_000));
    if meant(push::wire::Taken::ByTheLetter).is_ok() {
        assert!(!status.is_success() || status.as_u16() == 202, "{status} was taken for 202");
    }
    match meant(push::wire::Taken::Tolerant) {
        Ok(_) => {
            // Drafts before RFC 8935 report a SET that the receiver has already as an error.
            let had = matches!(status.as_u16(), 400 | 422);
            assert!(status.is_success() || had, "{status} was taken for an acknowledgement");
            true
        }
        Err(setgate_delivery::Verdict::Refuse(refusal)) => {
            assert!(!status.is_success(), "{status} was taken for a refusal");
            assert!(refusal.code.as_str().len() <= 64, "a code of {} bytes", refusal.code.as_str().len());
            let text = refusal.description.as_deref().unwrap_or_default();
            assert!(text.len() <= 512 && !text.chars().any(char::is_control), "a description that nobody should see");
            false
        }
        Err(setgate_delivery::Verdict::Retry { cause, .. } | setgate_delivery::Verdict::Halt { cause, .. }) => {
            assert!(cause.text.len() <= 1024, "{status}: {} bytes of cause", cause.text.len());
            false
        }
        Err(_) => false,
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
