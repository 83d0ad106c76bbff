use std::time::Duration;

use setgate_delivery::{
    Bytes, Class, ErrorCode, HttpError, HttpFault, HttpResponse, Outcome, Receipt, Refusal, Scope, Timestamp, Verdict,
    axum::response::Response, endpoint, http::StatusCode,
};

use super::*;

fn answer(status: u16, body: &str) -> HttpResponse {
    HttpResponse {
        status: StatusCode::from_u16(status).unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        truncated: false,
    }
}

fn meaning(status: u16, body: &str) -> Outcome {
    outcome(&answer(status, body), Taken::Tolerant, Timestamp::from_seconds(784_111_740))
}

/// Returns the outcome in short: `accepted`, a refusal's code, or scope and cause of a retry.
fn word(outcome: &Outcome) -> String {
    match outcome {
        Ok(Receipt::Receiver) => "accepted".to_owned(),
        Ok(Receipt::Broker) => "carrier".to_owned(),
        Err(Verdict::Refuse(refusal)) => format!("refused {}", refusal.code),
        Err(Verdict::Retry { scope: Scope::Set, cause, .. }) => format!("set {}", cause.code),
        Err(Verdict::Retry { scope: Scope::Channel, cause, .. }) => format!("channel {}", cause.code),
        Err(other) => format!("{other:?}"),
    }
}

/// Checks that the code follows the table in the README.
#[test]
fn every_row_of_the_readmes_table_is_what_the_code_does() {
    let readme = include_str!("../../README.md");
    let mut rows = 0;
    for line in readme.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let Some(status) = cells.first().and_then(|status| status.parse::<u16>().ok()) else { continue };
        let [_, body, meant, _] = cells.as_slice() else { panic!("{line}") };
        let body = if *body == "any" { "" } else { body };
        let outcome = meaning(status, body);
        assert_eq!(word(&outcome), *meant, "{line}");
        if let Err(Verdict::Retry { scope: Scope::Channel, cause, .. }) = outcome {
            assert_eq!(cause.class == Class::Configuration, line.contains("fault of the stream"), "{line}");
        }
        rows += 1;
    }
    assert!(rows > 40, "the table has {rows} rows");
}

#[test]
fn every_status_has_an_outcome_and_only_what_receivers_say_accepts() {
    for status in 100..1000 {
        for body in ["", "{}", r#"{"err":"x"}"#, "[1", "null"] {
            let told = !body.contains("err");
            let all = outcome(&answer(status, body), Taken::ByTheLetter, Timestamp::from_seconds(1)).is_ok();
            assert_eq!(all, status == 202 && told, "{status} {body}: by the letter of RFC 8935, 2.2");
            assert_eq!(
                meaning(status, body).is_ok(),
                matches!(status, 200 | 201 | 202 | 204) && told,
                "{status} {body}"
            );
        }
    }
}

/// Checks that a page that answers in place of a receiver settles nothing (RFC 8935 §2.2: 202 and an empty body).
#[test]
fn a_page_for_people_acknowledges_nothing() {
    const PAGE: &str = "<form action=\"/login\"><input name=\"password\"></form>";
    let typed = |status, body, media: &'static str| {
        let mut page = answer(status, body);
        page.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        page
    };
    let word_of = |answer: &HttpResponse| word(&outcome(answer, Taken::Tolerant, Timestamp::from_seconds(1)));
    for media in ["text/html", "Text/HTML; charset=utf-8", "application/xhtml+xml"] {
        assert_eq!(word_of(&typed(200, PAGE, media)), "channel answer_contradicts", "{media}");
        assert_eq!(word_of(&typed(201, PAGE, media)), "channel answer_contradicts", "{media}");
        assert_eq!(word_of(&typed(202, PAGE, media)), "accepted", "the status is the protocol's own");
        assert_eq!(word_of(&typed(200, " \r\n", media)), "accepted", "servers give their type to an empty body");
        let broken = HttpResponse { truncated: true, ..typed(200, "", media) };
        assert_eq!(word_of(&broken), "channel answer_contradicts", "its beginning is missing");
    }
    for body in ["<!DOCTYPE html><p>", "\u{feff}\n <HTML lang=de>"] {
        assert_eq!(word_of(&answer(200, body)), "channel answer_contradicts", "{body}: whatever type it claims");
    }
    for (media, body) in [("text/plain", "OK"), ("application/json", r#"{"status":"ok"}"#), ("text/plain", "<3")] {
        assert_eq!(word_of(&typed(200, body, media)), "accepted", "{body}");
    }
    let Err(Verdict::Retry { cause, .. }) =
        outcome(&typed(200, PAGE, "text/html"), Taken::Tolerant, Timestamp::default())
    else {
        panic!()
    };
    assert_eq!(&*cause.text, "the receiver answered 200 and sent a page for people: that is no acknowledgement");
}

#[test]
fn an_error_under_a_success_acknowledges_nothing() {
    for status in [200, 201, 202, 204] {
        assert_eq!(word(&meaning(status, r#"{"err":"invalid_key","description":"d"}"#)), "channel answer_contradicts");
        assert_eq!(word(&meaning(status, r#"{"err":"dup"}"#)), "accepted", "the receiver has it already");
    }
    let Err(Verdict::Retry { cause, .. }) = meaning(202, r#"{"err":"authentication_failed"}"#) else { panic!() };
    assert!(cause.text.contains("said authentication_failed"), "{}", cause.text);
}

#[test]
fn who_wants_the_letter_is_told_so() {
    let letter = |status| outcome(&answer(status, ""), Taken::ByTheLetter, Timestamp::from_seconds(1));
    assert_eq!(word(&letter(202)), "accepted");
    for status in [200, 201, 203, 204, 205, 206, 207, 208, 226, 299] {
        assert_eq!(word(&letter(status)), "channel http_2xx", "{status}");
    }
    let Err(Verdict::Retry { cause, .. }) = letter(200) else { panic!() };
    let told = "the receiver answered 200; with `accept_only_202` only 202 acknowledges a SET";
    assert_eq!(&*cause.text, told);
}

#[test]
fn every_registered_code_is_kept_and_every_historic_one_understood() {
    for code in [
        "invalid_request",
        "invalid_key",
        "invalid_issuer",
        "invalid_audience",
        "authentication_failed",
        "access_denied",
        "invalid_state",
    ] {
        assert_eq!(word(&meaning(400, &format!(r#"{{"err":"{code}","description":"d"}}"#))), format!("refused {code}"));
    }
    for (old, new) in [
        ("jwtParse", "invalid_request"),
        ("jwtHdr", "invalid_request"),
        ("json", "invalid_request"),
        ("setParse", "invalid_request"),
        ("setData", "invalid_request"),
        ("setType", "invalid_request"),
        ("jwtCrypto", "invalid_key"),
        ("jwtCypto", "invalid_key"),
        ("jws", "invalid_key"),
        ("jwe", "invalid_key"),
        ("jwtAud", "invalid_audience"),
        ("jwtIss", "invalid_issuer"),
        ("Vendor_7", "Vendor_7"),
    ] {
        assert_eq!(word(&meaning(400, &format!(r#"{{"err":"{old}"}}"#))), format!("refused {new}"));
    }
    for taken in ["dup", "duplicate"] {
        assert_eq!(word(&meaning(400, &format!(r#"{{"err":"{taken}"}}"#))), "accepted");
    }
}

#[test]
fn an_error_body_is_read_tolerantly() {
    for body in [
        "\u{feff}{\"err\":\"invalid_key\"}",
        r#" {"err":"invalid_key","description":7,"more":[{}]} "#,
        r#"{"description":null,"err":"invalid_key"}"#,
    ] {
        assert_eq!(word(&meaning(400, body)), "refused invalid_key", "{body}");
    }
    for body in [
        "",
        "<html>",
        r#"{"err":""}"#,
        r#"{"err":1}"#,
        r#"{"error":"x"}"#,
        r#"{"err":"invalid_key""#,
        r#"["This field is required."]"#,
        r#"["dup"]"#,
        r#" ["invalid_key", "no object"]"#,
        &"[".repeat(8000),
    ] {
        assert_eq!(word(&meaning(400, body)), "set http_400", "{body}");
    }
}

#[test]
fn the_figures_of_rfc_8935_mean_what_it_says() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../../../tests/vectors/rfc8935.json")).unwrap();
    let mut seen = 0;
    for vector in vectors.as_array().unwrap().iter().filter(|vector| vector["kind"] == "http-response") {
        let value = &vector["value"];
        let status = u16::try_from(value["status"].as_u64().unwrap()).unwrap();
        let body = if value["body"].is_null() { String::new() } else { value["body"].to_string() };
        let meant = match value["body"]["err"].as_str() {
            Some(err) => format!("refused {err}"),
            None => "accepted".to_owned(),
        };
        assert_eq!(word(&meaning(status, &body)), meant, "{}", vector["name"]);
        seen += 1;
    }
    assert_eq!(seen, 4);
}

#[test]
fn retry_after_and_language_are_kept() {
    let mut busy = answer(503, "");
    busy.headers.insert(header::RETRY_AFTER, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));
    let now = Timestamp::from_seconds(784_111_740);
    let Err(Verdict::Retry { after, .. }) = outcome(&busy, Taken::Tolerant, now) else { panic!() };
    assert_eq!(after, Some(Duration::from_secs(37)));

    let mut refused = answer(400, r#"{"err":"invalid_key","description":"nein"}"#);
    refused.headers.insert(header::CONTENT_LANGUAGE, HeaderValue::from_static("de"));
    let Err(Verdict::Refuse(refusal)) = outcome(&refused, Taken::Tolerant, now) else { panic!() };
    assert_eq!((refusal.description.as_deref(), refusal.language.as_deref()), (Some("nein"), Some("de")));
}

#[test]
fn what_a_peer_says_cannot_steer_a_terminal() {
    let hostile = "\\u001b[31m\\u202e".repeat(200);
    let Err(Verdict::Retry { cause, .. }) = meaning(401, &format!(r#"{{"err":"{hostile}"}}"#)) else { panic!() };
    assert!(!cause.text.contains(['\u{1b}', '\u{202e}']) && cause.text.len() < 200, "{}", cause.text);
}

#[test]
fn every_fault_of_the_network_is_the_channels() {
    use HttpFault::{Closed, Connect, Guard, Protocol, Proxy, Resolve, Timeout, Tls, TooLarge};
    let readme = include_str!("../../README.md");
    for fault in [Guard, Resolve, Connect, Proxy, Tls, Timeout, Closed, Protocol, TooLarge] {
        let verdict = endpoint::no_answer(&HttpError::new(fault, "why"));
        let Verdict::Retry { scope, after: None, cause } = verdict else { panic!() };
        assert_eq!((scope, cause.code), (Scope::Channel, fault.code()));
        let row = readme.lines().find(|line| line.starts_with(&format!("| `{}` |", fault.code())));
        let told = row.map(|row| row.contains("fault of the stream"));
        assert_eq!(told, Some(cause.class == Class::Configuration), "{}", fault.code());
    }
}

#[test]
fn a_content_type_is_compared_without_case_and_parameters() {
    let is = |text: &'static str, legacy| is_set(Some(&HeaderValue::from_static(text)), legacy);
    assert!(is("application/secevent+jwt", false) && is("Application/SecEvent+JWT; charset=utf-8", false));
    assert!(!is("application/jwt", false) && is("application/jwt", true));
    assert!(!is("application/json", true) && !is("", true) && !is_set(None, true));
}

#[test]
fn a_refusal_is_answered_as_rfc_8935_2_3_demands() {
    let refusal = Refusal { code: ErrorCode::InvalidAudience, description: Some("not us".into()), language: None };
    let answer = Response::from(Reply::Refused(refusal));
    assert_eq!(answer.status(), 400);
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert_eq!(answer.headers()["content-language"], "en");
}

#[test]
fn an_empty_answer_says_that_it_is_empty() {
    let accepted = Response::from(Reply::Accepted);
    assert_eq!(
        (accepted.status().as_u16(), &accepted.headers()["content-length"]),
        (202, &HeaderValue::from_static("0"))
    );
    let busy = Response::from(Reply::Busy(Duration::from_millis(1)));
    assert_eq!((busy.status().as_u16(), &busy.headers()["retry-after"]), (503, &HeaderValue::from(1)));
    assert_eq!(Response::from(Reply::Busy(Duration::from_millis(2001))).headers()["retry-after"], "3");
    assert_eq!(Response::from(Reply::Status(StatusCode::METHOD_NOT_ALLOWED)).headers()["allow"], "POST");
}
