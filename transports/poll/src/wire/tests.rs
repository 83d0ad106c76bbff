use setgate_delivery::{Bytes, Envelope, ErrorCode, Json, OrderKey, Receipt, Timestamp, Verdict};

use super::*;

const VECTORS: &str = include_str!("../../../../tests/vectors/rfc8936.json");

fn vectors(kind: &str) -> Vec<(String, Json)> {
    let all: Vec<Json> = serde_json::from_str(VECTORS).unwrap();
    let of_kind = all.into_iter().filter(|vector| vector["kind"] == kind);
    of_kind.map(|vector| (vector["name"].as_str().unwrap().to_owned(), vector["value"].clone())).collect()
}

fn vector(name: &str) -> Json {
    let all: Vec<Json> = serde_json::from_str(VECTORS).unwrap();
    all.into_iter().find(|vector| vector["name"] == name).unwrap()["value"].clone()
}

fn headers(value: &Json) -> HeaderMap {
    let mut all = HeaderMap::new();
    for (name, text) in value["headers"].as_object().unwrap() {
        let name = setgate_delivery::http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        all.insert(name, text.as_str().unwrap().parse().unwrap());
    }
    all
}

fn jti(number: u128) -> Jti {
    Jti::from_block(b'a', number.to_be_bytes())
}

/// Replaces the ids of the printed examples by ids of this gateway.
fn with_own_ids(body: &Json) -> (String, Jti, Jti) {
    let (first, second) = (jti(1), jti(2));
    let text = body
        .to_string()
        .replace("4d3559ec67504aaba65d40b0363faad8", first.as_str())
        .replace("3d0c3cf797584bd193bd0fb1bd4e7d30", second.as_str());
    (text, first, second)
}

fn ask(text: &str) -> Ask {
    Ask::parse(text.as_bytes(), &HeaderMap::new()).unwrap()
}

#[test]
fn every_printed_request_is_labelled_and_read() {
    let requests = vectors("http-request");
    assert_eq!(requests.len(), 5);
    for (name, value) in requests {
        assert_eq!(value["method"], "POST", "{name}");
        assert!(is_json(&headers(&value)), "{name}");
        assert!(Ask::parse(value["body"].to_string().as_bytes(), &headers(&value)).is_ok(), "{name}");
    }
}

#[test]
fn figures_1_and_2_ask_for_everything_at_once_or_not() {
    let short = ask(&vector("rfc8936-fig1-initial-poll-request")["body"].to_string());
    assert_eq!((short.sets, short.waits, short.outcomes.len()), (usize::MAX, false, 0));
    let long = ask(&vector("rfc8936-fig2-default-poll-request")["body"].to_string());
    assert_eq!((long.sets, long.waits, long.outcomes.len()), (usize::MAX, true, 0));
}

#[test]
fn figures_3_and_4_acknowledge_and_poll_or_not() {
    let (text, first, second) = with_own_ids(&vector("rfc8936-fig3-acknowledge-only-request")["body"]);
    let only = ask(&text);
    assert_eq!((only.sets, only.waits, only.unknown), (0, false, 0));
    let both = [(first, None, Ok(Receipt::Receiver)), (second, None, Ok(Receipt::Receiver))];
    assert_eq!(only.outcomes, both);
    let (text, ..) = with_own_ids(&vector("rfc8936-fig4-poll-with-acknowledgement-and-no-errors")["body"]);
    let poll = ask(&text);
    assert_eq!((poll.sets, poll.waits), (usize::MAX, true));
    assert_eq!(poll.outcomes, both);
}

#[test]
fn figure_5_reports_an_error_in_a_language() {
    let value = vector("rfc8936-fig5-poll-acknowledgement-with-error");
    let (text, first, second) = with_own_ids(&value["body"]);
    let read = Ask::parse(text.as_bytes(), &headers(&value)).unwrap();
    assert!(!read.waits);
    assert_eq!(read.outcomes[0], (second, None, Ok(Receipt::Receiver)));
    let refusal = Refusal {
        code: ErrorCode::AuthenticationFailed,
        description: Some("The SET could not be authenticated".into()),
        language: Some("en-US".into()),
    };
    assert_eq!(read.outcomes[1], (first, None, Err(Verdict::Refuse(refusal))));
}

#[test]
fn foreign_ids_are_counted_and_ignored() {
    let value = vector("rfc8936-fig5-poll-acknowledgement-with-error");
    let read = ask(&value["body"].to_string());
    assert_eq!((read.unknown, read.outcomes.len()), (2, 0));
}

#[test]
fn an_id_in_both_members_is_an_error() {
    let text = format!(r#"{{"ack":["{0}"],"setErrs":{{"{0}":{{"err":"invalid_key"}}}}}}"#, jti(1));
    let read = ask(&text);
    assert_eq!(read.outcomes.len(), 1);
    assert!(read.outcomes[0].2.is_err());
}

#[test]
fn without_max_events_zero_nothing_is_answered_at_once_unasked() {
    for (text, sets, waits) in [
        (r#"{"maxEvents":0}"#, 0, false),
        (r#"{"maxEvents":0,"returnImmediately":false}"#, 0, false),
        (r#"{"maxEvents":1}"#, 1, true),
        (r#"{"maxEvents":18446744073709551615,"returnImmediately":true}"#, usize::MAX, false),
        (r#"{"maxEvents":5,"foreign":{"a":[1]}}"#, 5, true),
    ] {
        let read = ask(text);
        assert_eq!((read.sets, read.waits), (sets, waits), "{text}");
    }
}

#[test]
fn what_is_no_poll_request_is_refused() {
    for text in ["", "[]", "null", r#"{"maxEvents":-1}"#, r#"{"ack":"a"}"#, r#"{"returnImmediately":1}"#, "{}x"] {
        assert!(Ask::parse(text.as_bytes(), &HeaderMap::new()).is_err(), "{text}");
    }
    let ids: Vec<String> = (0..10_001).map(|_| "\"a\"".to_owned()).collect();
    let many = format!(r#"{{"ack":[{}]}}"#, ids.join(","));
    assert!(matches!(Ask::parse(many.as_bytes(), &HeaderMap::new()), Err(Malformed::TooLarge(_))));
}

#[test]
fn the_content_type_must_be_json_and_be_there_once() {
    let labelled = |all: &[&'static str]| {
        let mut headers = HeaderMap::new();
        for one in all {
            headers.append(header::CONTENT_TYPE, HeaderValue::from_static(one));
        }
        is_json(&headers)
    };
    for fine in ["application/json", "application/json; charset=utf-8", "Application/JSON"] {
        assert!(labelled(&[fine]), "{fine}");
    }
    for wrong in ["text/plain", "application/jsonx", "application/secevent+jwt", "", "x; application/json"] {
        assert!(!labelled(&[wrong]), "{wrong}");
    }
    assert!(!labelled(&[]) && !labelled(&["application/json", "application/json"]));
}

#[test]
fn figures_6_and_7_are_written_and_read() {
    let full = vector("rfc8936-fig6-poll-response");
    let read = read_answer(full["body"].to_string().as_bytes()).unwrap();
    let sets = read.sets.unwrap();
    assert_eq!((sets.len(), read.more_available), (2, false));
    for (name, token) in &sets {
        assert_eq!(full["body"]["sets"][&**name], String::from_utf8_lossy(token).as_ref());
    }
    let sealed: Vec<_> = (1..).zip(&sets).map(|(at, (_, token))| sealed(at, token.clone())).collect();
    let (expected, ..) = with_own_ids(&full["body"]);
    let written = answer(&sealed, false);
    // The order of the object's members is not defined, so only their values are compared.
    let mut texts: Vec<Json> =
        [serde_json::from_slice(&written).unwrap(), serde_json::from_str(&expected).unwrap()].into();
    let values = |value: &Json| {
        let mut all: Vec<String> = value["sets"].as_object().unwrap().values().map(Json::to_string).collect();
        all.sort();
        all
    };
    assert_eq!(values(&texts[0]), values(&texts[1]));
    assert_eq!(texts.pop().unwrap().as_object().unwrap().len(), texts.pop().unwrap().as_object().unwrap().len());

    let empty = vector("rfc8936-fig7-no-sets-poll-response");
    assert_eq!(answer(&[], false), empty["body"].to_string().as_bytes());
    assert_eq!(answer(&[], true), br#"{"sets":{},"moreAvailable":true}"#);
    for response in [full, empty] {
        assert_eq!((&response["status"], headers(&response)[header::CONTENT_TYPE].clone()), (&200.into(), JSON));
    }
    assert_eq!(vector("rfc8936-2.5.1-poll-error-response")["status"], 400);
}

#[test]
fn printed_tokens_hold_the_printed_claims() {
    for (name, claims) in vectors("set-decoded") {
        let token = vector(name.strip_suffix("-decoded").unwrap());
        let jti = claims["claims"]["jti"].as_str().unwrap();
        let all = vector("rfc8936-fig6-poll-response");
        assert_eq!(all["body"]["sets"][jti], token, "{name}: an answer lists a SET under its own jti");
    }
}

fn sealed(number: u128, token: Bytes) -> SealedSet {
    SealedSet {
        jti: jti(number),
        attempt: Attempt(1),
        body: token,
        envelope: std::sync::Arc::new(Envelope::new(Timestamp::from_seconds(1), Bytes::from_static(b"{}"))),
        order: OrderKey::from_bits(1),
    }
}

#[test]
fn what_the_receiving_half_writes_the_responder_reads() {
    let refusal = Refusal { code: ErrorCode::InvalidKey, description: Some("no \"key\"".into()), language: None };
    let body = request(&[jti(1).as_str().into()], &[(jti(2).as_str().into(), refusal)], 7, true);
    let fields = request_fields(Some(&HeaderValue::from_static("Bearer x")), true);
    assert!(is_json(&fields));
    assert!(fields[header::CONTENT_LANGUAGE] == "en" && fields[header::AUTHORIZATION] == "Bearer x");
    let read = Ask::parse(&body, &fields).unwrap();
    assert_eq!((read.sets, read.waits, read.outcomes.len()), (7, false, 2));
    let Err(Verdict::Refuse(refusal)) = &read.outcomes[1].2 else { panic!("{read:?}") };
    assert_eq!((refusal.language.as_deref(), refusal.description.as_deref()), (Some("en"), Some("no \"key\"")));
    assert_eq!(request(&[], &[], 100, false), br#"{"maxEvents":100}"#);
    assert!(!request_fields(None, false).contains_key(header::CONTENT_LANGUAGE));
}
