use proptest::prelude::*;
use setgate_delivery::ErrorCode;

use super::*;
use crate::{Taken, verify::refusal};

const HOSTILE: &str = "\u{1b}]0;title\u{7}\u{1b}[2J\r\n\u{202e}gpj.exe\u{2066}\u{200b}\u{9b}31m\u{7f}";

fn received(claims: Value) -> Received {
    let text = |name: &str| claims[name].as_str().unwrap_or_default().to_owned();
    let taken = Taken {
        jti: text("jti"),
        iss: text("iss"),
        txn: claims["txn"].as_str().map(str::to_owned),
        kid: Some("k1".into()),
        algorithm: setgate_jose::Algorithm::EdDSA,
        claims: claims.as_object().unwrap().clone(),
        discard: None,
    };
    Received { taken, peer: "127.0.0.1:9".into(), at_millis: 1_800_000_000_123 }
}

fn example() -> Received {
    received(json!({
        "iss": "https://idp.example.com", "jti": "24c6", "iat": 1, "aud": "x", "txn": "8675309",
        "sub_id": {"format": "email", "email": "jane@example.com"},
        "events": {"https://schemas.openid.net/secevent/caep/event-type/session-revoked": {}},
    }))
}

/// Returns whether a text contains a character that could steer a terminal or mislead the eye.
fn steers(text: &str) -> bool {
    text.chars().any(|c| c.is_control() || clean(&c.to_string(), 16).starts_with("\\u"))
}

#[test]
fn a_set_is_one_line_with_what_people_look_for() {
    assert_eq!(
        line(&Report::Taken(example())),
        "2027-01-15T08:00:00.123Z  taken     https://idp.example.com  session-revoked  email:jane@example.com  jti 24c6  txn 8675309"
    );
    let on_purpose = Report::Refused {
        peer: "127.0.0.1:9".into(),
        at_millis: 1_800_000_000_000,
        refusal: refusal(ErrorCode::InvalidAudience, "refused on purpose"),
        on_purpose: true,
    };
    assert_eq!(line(&on_purpose), "2027-01-15T08:00:00.000Z  refused   invalid_audience on purpose  from 127.0.0.1:9");
}

#[test]
fn subjects_are_shown_in_short() {
    for (value, shown) in [
        (json!({"format": "iss_sub", "iss": "https://i", "sub": "7"}), "iss_sub:https://i:7"),
        (
            json!({"format": "complex", "user": {"format": "email", "email": "j@x"}, "tenant": {"format": "opaque", "id": "1"}}),
            "complex tenant=opaque:1 user=email:j@x",
        ),
        (json!({"format": "aliases", "identifiers": [1]}), "aliases:[1]"),
        (json!("x"), ""),
    ] {
        assert_eq!(subject(&value), shown);
    }
    let long = json!({"format": "opaque", "id": "x".repeat(10_000)});
    assert!(subject(&long).len() < 600);
}

#[test]
fn event_names_are_the_last_part_that_says_something() {
    for (uri, name) in [
        ("https://schemas.openid.net/secevent/caep/event-type/session-revoked", "session-revoked"),
        ("urn:ietf:params:scim:event:prov:delete", "delete"),
        ("https://example.com/a/", "a"),
        ("x", "x"),
        ("/", "/"),
        ("", ""),
    ] {
        assert_eq!(short_name(uri), name);
    }
}

#[test]
fn hostile_text_steers_no_terminal() {
    let hostile = received(json!({
        "iss": HOSTILE, "jti": HOSTILE, "txn": HOSTILE,
        "sub_id": {"format": HOSTILE, HOSTILE: HOSTILE, "x": {"format": HOSTILE, "y": [HOSTILE]}},
        "events": {HOSTILE: {HOSTILE: HOSTILE}},
    }));
    let mut discarded = hostile.clone();
    discarded.taken.discard = Some(HOSTILE.into());
    let at_millis = 0;
    for report in [
        Report::Taken(hostile.clone()),
        Report::Duplicate { received: hostile.clone(), same_claims: false },
        Report::Discarded(discarded),
        Report::Refused {
            peer: HOSTILE.into(),
            at_millis,
            refusal: refusal(ErrorCode::Other(HOSTILE.into()), HOSTILE),
            on_purpose: false,
        },
        Report::PutOff { peer: HOSTILE.into(), at_millis, why: HOSTILE.into() },
        Report::Failed { peer: HOSTILE.into(), at_millis, status: 503 },
    ] {
        assert!(!steers(&line(&report)), "{}", line(&report).escape_debug());
        let json = json_line(&report);
        assert!(!steers(&json), "{}", json.escape_debug());
        serde_json::from_str::<Value>(&json).unwrap();
    }
}

#[test]
fn json_reads_back_as_it_was() {
    let claims =
        json!({"iss": HOSTILE, "jti": "ä \u{1f600} \\ \"", "events": {HOSTILE: {}}, "sub_id": {"format": "x"}});
    let read: Value = serde_json::from_str(&json_line(&Report::Taken(received(claims.clone())))).unwrap();
    assert_eq!(read["claims"], claims);
    assert_eq!((read["report"].as_str(), read["alg"].as_str()), (Some("taken"), Some("EdDSA")));
    assert_eq!(read["at"], "2027-01-15T08:00:00.123Z");
    let duplicate = Report::Duplicate { received: example(), same_claims: true };
    let read: Value = serde_json::from_str(&json_line(&duplicate)).unwrap();
    assert_eq!((read["report"].as_str(), read["same_claims"].as_bool()), (Some("duplicate"), Some(true)));
}

proptest! {
    #[test]
    fn any_text_is_one_harmless_line(text in any::<String>()) {
        let report = Report::Taken(received(json!({
            "iss": text, "jti": text, "txn": text, "sub_id": {"format": text, "a": text}, "events": {text.clone(): {}},
        })));
        prop_assert!(!steers(&line(&report)));
        let json = json_line(&report);
        prop_assert!(!steers(&json));
        let read: Value = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(read["iss"].as_str(), Some(text.as_str()));
    }
}
