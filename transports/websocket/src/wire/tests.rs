use setgate_delivery::{ErrorCode, http::HeaderValue};

use super::*;

/// The examples of the draft.
const DRAFT: &str = include_str!("../../../../tests/vectors/pushpull.json");
const BOUNDS: Bounds = Bounds::OF_RECEIVER;

fn headers(all: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in all {
        headers.append(header::HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");

fn handshake(more: &[(&str, &str)]) -> Result<Opening, Declined> {
    let mut all =
        vec![("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket"), ("sec-websocket-version", "13"), KEY];
    all.extend(more);
    opening(&Method::GET, &headers(&all))
}

#[test]
fn a_handshake_is_answered_as_in_rfc_6455_1_3() {
    let opening = handshake(&[("sec-websocket-protocol", "setgate.v1")]).unwrap();
    assert_eq!(opening.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(opening.protocol, Subprotocol::Setgate);
}

#[test]
fn the_first_known_offer_is_taken_and_others_are_skipped() {
    let chosen = |offers: &[&str]| {
        let offers: Vec<_> = offers.iter().map(|offer| ("sec-websocket-protocol", *offer)).collect();
        handshake(&offers).map(|opening| opening.protocol)
    };
    assert_eq!(chosen(&["setgate.v1, pushpull"]), Ok(Subprotocol::Setgate));
    assert_eq!(chosen(&["pushpull,setgate.v1"]), Ok(Subprotocol::PushPull));
    assert_eq!(chosen(&["graphql-ws", "  setgate.v1 "]), Ok(Subprotocol::Setgate));
    for none in [&[][..], &["mqtt"], &["setgate.v2"], &["SETGATE.V1"], &["setgate.v1x, x"], &[""]] {
        let Declined(status, why) = chosen(none).unwrap_err();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{none:?}");
        assert!(why.contains("`setgate.v1`") && why.contains("`pushpull`"), "{why}");
    }
}

#[test]
fn a_handshake_that_is_none_says_what_is_missing() {
    let status = |method: Method, all: &[(&str, &str)]| opening(&method, &headers(all)).unwrap_err().0.as_u16();
    let whole = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        KEY,
        ("sec-websocket-protocol", "pushpull"),
    ];
    let without = |name: &str| whole.into_iter().filter(|(own, _)| *own != name).collect::<Vec<_>>();
    assert!(opening(&Method::GET, &headers(&whole)).is_ok());
    assert_eq!(status(Method::PUT, &whole), 405);
    assert_eq!(status(Method::GET, &without("upgrade")), 426);
    assert_eq!(status(Method::GET, &without("connection")), 426);
    assert_eq!(status(Method::GET, &without("sec-websocket-version")), 426);
    assert_eq!(status(Method::GET, &without("sec-websocket-key")), 400);
    let mut twice = whole.to_vec();
    twice.push(KEY);
    assert_eq!(status(Method::GET, &twice), 400);
}

#[test]
fn a_page_connects_only_from_an_origin_of_the_list() {
    let allowed: Box<[Box<str>]> = ["https://app.example".into(), "http://localhost:8080".into()].into();
    let validate = |origins: &[&str]| {
        let all: Vec<_> = origins.iter().map(|origin| ("origin", *origin)).collect();
        origin(&headers(&all), &allowed)
    };
    assert_eq!(validate(&[]), Ok(()));
    assert_eq!(validate(&["https://app.example"]), Ok(()));
    assert_eq!(validate(&["http://localhost:8080"]), Ok(()));
    for bad in [
        &["https://app.example.evil.example"][..],
        &["http://app.example"],
        &["https://app.example:8443"],
        &["https://app.example/"],
        &["http://localhost"],
        &["null"],
        &[""],
        &["https://app.example", "https://app.example"],
        &["https://app.example", "https://evil.example"],
        &["https://app.example, https://evil.example"],
    ] {
        assert_eq!(validate(bad).unwrap_err().0, StatusCode::FORBIDDEN, "{bad:?}");
    }
    assert!(origin(&headers(&[("origin", "https://app.example")]), &[]).is_err());
}

#[test]
fn the_drafts_objects_are_read() {
    let all: Vec<serde_json::Value> = serde_json::from_str(DRAFT).unwrap();
    let value = |name: &str| all.iter().find(|one| one["name"] == name).unwrap()["value"].clone();
    let object = |value: serde_json::Value| message(value.to_string().as_bytes(), BOUNDS).unwrap();

    let both = object(value("pushpull-5.1-of-a-communication-object"));
    // These ids are not the gateway's: they are counted and ignored.
    assert_eq!((both.sets.as_ref().map(Vec::len), both.unknown), (Some(2), 4));
    let request = value("pushpull-6.3.1-pushpull-request");
    let asked = object(request["body"].clone());
    assert_eq!((asked.max_response_events, asked.sets.as_ref().map(Vec::len), asked.unknown), (Some(10), Some(2), 1));
    let fields: Vec<_> = request["headers"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(n, v)| (n.to_lowercase(), v.as_str().unwrap().to_owned()))
        .collect();
    let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert!(is_json(&headers(&fields)));
    let answer = object(value("pushpull-6.3.2-pushpull-response")["body"].clone());
    let (named, token) = answer.sets.unwrap().remove(0);
    assert_eq!(&*named, "3f1c5fc7-99c5-4c2b-a9a3-68ea90be9ca9");
    assert_eq!(
        token,
        value("pushpull-6.3.2-pushpull-response-3f1c5fc7-99c5-4c2b-a9a3-68ea90be9ca9-jwt").as_str().unwrap()
    );
}

#[test]
fn credit_is_a_number_of_the_own_protocol() {
    let credit = |text: &str| message(text.as_bytes(), BOUNDS).map(|object| object.max_events);
    assert_eq!(credit(r#"{"maxEvents":7}"#), Ok(Some(7)));
    assert_eq!(credit("{}"), Ok(None));
    for bad in
        [r#"{"maxEvents":-1}"#, r#"{"maxEvents":1.5}"#, r#"{"maxEvents":"7"}"#, r#"{"maxEvents":1,"maxEvents":2}"#]
    {
        assert_eq!(credit(bad), Err(Goodbye::MALFORMED), "{bad}");
    }
}

#[test]
fn bad_objects_are_malformed_and_large_ones_too_big() {
    for bad in ["", "[]", "null", "{", r#"{"ack":{}}"#, r#"{"sets":[]}"#, r#"{"setErrs":{"a":1}}"#, "{} {}"] {
        assert_eq!(message(bad.as_bytes(), BOUNDS).unwrap_err().code, 1007, "{bad}");
    }
    let small = Bounds { bytes: 64, ids: 2, sets: 1 };
    for large in
        [r#"{"ack":["a","b","c"]}"#, r#"{"sets":{"a":"x","b":"y"}}"#, &format!(r#"{{"x":"{}"}}"#, "y".repeat(64))]
    {
        assert_eq!(message(large.as_bytes(), small).unwrap_err().code, 1009, "{large}");
    }
}

#[test]
fn every_goodbye_fits_into_a_close_frame_and_means_something() {
    for goodbye in Goodbye::ALL {
        assert!(!goodbye.reason.is_empty() && goodbye.reason.len() <= 123, "{goodbye:?}");
        assert!(matches!(goodbye.code, 1000..=1003 | 1007..=1009 | 1011..=1013 | 4000..=4999), "{goodbye:?}");
    }
}

#[test]
fn every_goodbye_stands_in_the_documentation() {
    let page = include_str!("../../../../docs/websocket.md");
    for goodbye in Goodbye::ALL {
        assert!(page.contains(&format!("`{}`", goodbye.code)), "{goodbye:?}");
        assert!(page.contains(goodbye.reason), "{goodbye:?}");
    }
}

#[test]
fn a_consumer_that_ends_says_why() {
    let code = |closed| Goodbye::of_consumer(&closed).code;
    assert_eq!(code(Closed::Draining), 1012);
    assert_eq!(code(Closed::Reconfigured), 1012);
    assert_eq!(Goodbye::of_consumer(&Closed::Deleted), Goodbye::DELETED);
    assert_eq!(Goodbye::of_consumer(&Closed::Disabled), Goodbye::DISABLED);
    assert_eq!((Goodbye::DELETED.code, Goodbye::DISABLED.code), (1008, 1008));
}

#[test]
fn a_refused_handshake_is_validated_by_its_status() {
    let validate = |status: u16| refused(StatusCode::from_u16(status).unwrap());
    assert!([401, 403, 404].into_iter().all(|status| validate(status) == Refused::ForGood));
    assert!([429, 503].into_iter().all(|status| validate(status) == Refused::Later));
    assert!([200, 301, 400, 405, 426, 500, 501, 502].into_iter().all(|status| validate(status) == Refused::ByHttp));
}

#[test]
fn sets_of_a_peer_that_may_not_send_are_refused_by_name() {
    assert_eq!(not_allowed().code, ErrorCode::AccessDenied);
}

#[test]
fn bodies_are_json_and_nothing_else() {
    let json = |all: &[(&str, &str)]| is_json(&headers(all));
    assert!(json(&[("content-type", "application/json")]));
    assert!(json(&[("content-type", "Application/JSON; charset=utf-8")]));
    assert!(!json(&[("content-type", "application/jsonp")]));
    assert!(!json(&[("content-type", "text/plain")]));
    assert!(!json(&[("content-type", "application/json"), ("content-encoding", "gzip")]));
    assert!(!json(&[]));
}
