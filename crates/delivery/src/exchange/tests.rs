use setgate_set::{Envelope, OrderKey, Timestamp};

use super::*;

fn jti(number: u128) -> Jti {
    Jti::from_block(b'a', number.to_be_bytes())
}

fn parse(text: &str) -> Result<Exchange, Malformed> {
    Exchange::parse(text.as_bytes(), Bounds::OF_RECEIVER, Some("en"))
}

fn sealed(number: u128, token: &str) -> SealedSet {
    SealedSet {
        jti: jti(number),
        attempt: Attempt(1),
        body: Bytes::copy_from_slice(token.as_bytes()),
        envelope: Arc::new(Envelope::new(Timestamp::from_seconds(1), Bytes::from_static(b"{}"))),
        order: OrderKey::from_bits(1),
    }
}

#[test]
fn an_empty_object_says_nothing() {
    assert_eq!(parse("{}").unwrap(), Exchange::default());
    assert_eq!(parse(" { } ").unwrap(), Exchange::default());
}

#[test]
fn every_member_is_read() {
    let text = format!(
        r#"{{"ack":["{}","foreign"],"setErrs":{{"{}":{{"err":"invalid_key","description":"x\u001by"}},"other":{{"err":"a"}}}},
        "maxEvents":7,"returnImmediately":true,"maxResponseEvents":3,"moreAvailable":true,"sets":{{"j":"a.b.c"}},"unknown":[1,{{}}]}}"#,
        jti(1),
        jti(2)
    );
    let read = parse(&text).unwrap();
    assert_eq!((read.ack.clone(), read.unknown), (vec![jti(1)], 2));
    assert_eq!((read.max_events, read.max_response_events), (Some(7), Some(3)));
    assert!(read.return_immediately && read.more_available);
    assert_eq!(read.sets.unwrap(), [("j".into(), Bytes::from_static(b"a.b.c"))]);
    let (id, refusal) = &read.set_errs[0];
    assert_eq!((*id, &refusal.code, refusal.language.as_deref()), (jti(2), &ErrorCode::InvalidKey, Some("en")));
    assert!(!refusal.description.as_ref().unwrap().contains('\u{1b}'), "hardening H50");
}

#[test]
fn what_is_no_such_object_is_refused_with_a_reason() {
    for text in [
        "",
        "[]",
        "1",
        "{",
        "{}{}",
        r#"{"ack":{}}"#,
        r#"{"ack":[1]}"#,
        r#"{"ack":null}"#,
        r#"{"setErrs":{"a":["invalid_key","an array"]}}"#,
        r#"{"setErrs":{"a":{"err":"x","err":"y"}}}"#,
        r#"{"maxEvents":-1}"#,
        r#"{"maxEvents":"1"}"#,
        r#"{"maxEvents":1.5}"#,
        r#"{"returnImmediately":"true"}"#,
        r#"{"setErrs":[]}"#,
        r#"{"setErrs":{"a":"b"}}"#,
        r#"{"sets":["a"]}"#,
        r#"{"sets":{"a":1}}"#,
        r#"{"ack":[],"ack":[]}"#,
        r#"{"sets":{"a":"b","a":"c"}}"#,
        r#"{"ack":["\ud800"]}"#,
    ] {
        assert!(matches!(parse(text), Err(Malformed::Invalid(_))), "{text}");
    }
    assert!(matches!(Exchange::parse(b"{\"ack\":[\"\xff\"]}", Bounds::OF_RECEIVER, None), Err(Malformed::Invalid(_))));
}

#[test]
fn bounds_are_kept_and_named() {
    let bounds = Bounds { bytes: 100, ids: 2, sets: 1 };
    let refused = |text: &str| Exchange::parse(text.as_bytes(), bounds, None).unwrap_err().to_string();
    assert_eq!(refused(r#"{"ack":["a","b"],"setErrs":{"c":{}}}"#), "more than 2 ids");
    assert_eq!(refused(r#"{"sets":{"a":"","b":""}}"#), "more than 1 SETs");
    assert_eq!(refused(&format!(r#"{{"ack":["{}"]}}"#, "x".repeat(100))), "more than 100 bytes");
}

#[test]
fn an_id_that_is_acknowledged_and_refused_is_refused() {
    let mut both =
        parse(&format!(r#"{{"ack":["{0}","{1}"],"setErrs":{{"{0}":{{"err":"invalid_request"}}}}}}"#, jti(1), jti(2)))
            .unwrap();
    let outcomes = both.outcomes();
    assert_eq!(outcomes.len(), 2);
    assert_eq!(outcomes[0], (jti(2), None, Ok(Receipt::Receiver)));
    assert!(matches!(&outcomes[1], (id, None, Err(Verdict::Refuse(_))) if *id == jti(1)));
}

#[test]
fn what_is_written_is_read_back() {
    let sets = [sealed(1, "a.b.c"), sealed(2, "d.e.\"f\u{1}")];
    let refusal = Refusal { code: ErrorCode::AccessDenied, description: None, language: None };
    let (ack, errors) = (["x".into(), "y\"".into()], [("z".into(), refusal)]);
    let speech = Speech {
        sets: Some(&sets),
        ack: Some(&ack),
        set_errs: Some(&errors),
        more_available: Some(true),
        max_events: Some(32),
        return_immediately: Some(false),
        max_response_events: Some(5),
    };
    let text = speech.to_json();
    let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(value["ack"], serde_json::json!(["x", "y\""]));
    assert_eq!(value["setErrs"]["z"], serde_json::json!({"err": "access_denied", "description": "no description"}));
    let read = Exchange::parse(&text, Bounds::OF_RECEIVER, None).unwrap();
    let back = read.sets.unwrap();
    assert_eq!((&*back[0].0, &back[0].1), (jti(1).as_str(), &sets[0].body));
    assert_eq!((&*back[1].0, &back[1].1), (jti(2).as_str(), &sets[1].body));
    assert_eq!((read.max_events, read.max_response_events, read.more_available), (Some(32), Some(5), true));
    assert_eq!(Speech { sets: Some(&[]), ..Speech::default() }.to_json(), br#"{"sets":{}}"#);
    assert_eq!(Speech::default().to_json(), b"{}");
}
