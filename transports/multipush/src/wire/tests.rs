use std::time::Duration;

use serde_json::{Value as Json, json};
use setgate_delivery::{Bytes, Class, Envelope, HttpError, HttpFault, OrderKey, Receipt};

use super::*;

const NOW: Timestamp = Timestamp::from_seconds(784_111_740);

fn answer(status: u16, body: &str) -> HttpResponse {
    HttpResponse {
        status: StatusCode::from_u16(status).unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        truncated: false,
    }
}

fn jti(number: u128) -> Jti {
    Jti::from_block(b't', number.to_be_bytes())
}

/// Returns a meaning in short.
fn word(meaning: &Meaning) -> String {
    match meaning {
        Meaning::Understood(_) => "understood".to_owned(),
        Meaning::TooMany => "too many".to_owned(),
        Meaning::Halve => "halve".to_owned(),
        Meaning::Each(Verdict::Refuse(refusal)) => format!("refused {}", refusal.code),
        Meaning::Each(Verdict::Retry { scope: Scope::Set, cause, .. }) => format!("set {}", cause.code),
        Meaning::Each(Verdict::Retry { scope: Scope::Channel, cause, .. }) => format!("channel {}", cause.code),
        Meaning::Fault(cause) => format!("fault {}", cause.code),
        other => format!("{other:?}"),
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
        let [_, body, sets, meant, _] = cells.as_slice() else { panic!("{line}") };
        let body = if *body == "any" { "" } else { body };
        let counts: &[usize] = match *sets {
            "none" => &[0],
            "one" => &[1],
            "many" => &[2, 200],
            _ => &[0, 1, 2, 200],
        };
        for sent in counts {
            let meant_here = meaning(&answer(status, body), *sent, NOW);
            assert_eq!(word(&meant_here), *meant, "{sent}: {line}");
            if let Meaning::Each(Verdict::Retry { scope: Scope::Channel, cause, .. }) = meant_here {
                assert_eq!(cause.class == Class::Configuration, line.contains("fault of the stream"), "{line}");
            }
        }
        rows += 1;
    }
    assert!(rows > 55, "the table has {rows} rows");
}

#[test]
fn every_status_has_a_meaning_and_only_a_success_settles_by_name() {
    for status in 100..1000 {
        for body in ["", "{}", r#"{"err":"x"}"#, "[1", "null"] {
            for sent in [0, 1, 9] {
                let meant = meaning(&answer(status, body), sent, NOW);
                assert!(
                    !matches!(meant, Meaning::Understood(_)) || (200..300).contains(&status),
                    "{status} {body} {sent}: {meant:?}"
                );
            }
        }
    }
}

#[test]
fn every_fault_of_the_network_and_every_cause_of_ours_is_in_the_readme() {
    use HttpFault::{Closed, Connect, Guard, Protocol, Resolve, Timeout, Tls, TooLarge};
    let readme = include_str!("../../README.md");
    let told = |code: &str| {
        let row = readme.lines().find(|line| line.starts_with(&format!("| `{code}` |")));
        row.map(|row| row.contains("fault of the stream"))
    };
    for fault in [Guard, Resolve, Connect, Tls, Timeout, Closed, Protocol, TooLarge] {
        let Verdict::Retry { scope, after: None, cause } = endpoint::no_answer(&HttpError::new(fault, "why")) else {
            panic!()
        };
        assert_eq!((scope, cause.code), (Scope::Channel, fault.code()));
        assert_eq!(told(fault.code()), Some(cause.class == Class::Configuration), "{}", fault.code());
    }
    let ids = format!(r#"{{"ack":["{}x"]}}"#, r#"x",""#.repeat(10_000));
    let cut = HttpResponse { truncated: true, ..answer(202, r#"{"ack":[]"#) };
    for (answer, code) in
        [(cut, "answer_cut"), (answer(202, &ids), "answer_too_large"), (answer(202, "[]"), "answer_invalid")]
    {
        let meant = meaning(&answer, 3, NOW);
        assert_eq!(word(&meant), format!("channel {code}"));
        let Meaning::Each(Verdict::Retry { cause, .. }) = meant else { panic!() };
        assert_eq!(told(code), Some(cause.class == Class::Configuration), "{code}");
    }
}

#[test]
fn acknowledgements_and_errors_name_sets_of_any_request() {
    let body = json!({
        "ack": [jti(1).as_str(), "4d3559ec67504aaba65d40b0363faad8", jti(2).as_str()],
        "setErrs": {
            jti(3).as_str(): {"err": "invalid_key", "description": "nein"},
            // In older drafts both members were optional, and `err` was free text.
            jti(4).as_str(): {},
            jti(5).as_str(): {"err": "invalid subject"},
            jti(2).as_str(): {"err": "access_denied"},
        },
        "more": 1,
    });
    let mut said = answer(200, &body.to_string());
    said.headers.insert(header::CONTENT_LANGUAGE, HeaderValue::from_static("de"));
    let Meaning::Understood(mut outcomes) = meaning(&said, 1, NOW) else { panic!() };
    outcomes.sort_by_key(|(jti, ..)| jti.as_str().to_owned());
    let words: Vec<_> = outcomes
        .iter()
        .map(|(_, attempt, outcome)| {
            assert_eq!(*attempt, None);
            match outcome {
                Ok(Receipt::Receiver) => "taken".to_owned(),
                Err(Verdict::Refuse(refusal)) => format!("{} {:?}", refusal.code, refusal.language),
                other => panic!("{other:?}"),
            }
        })
        .collect();
    assert_eq!(
        words,
        [
            "taken",
            r#"access_denied Some("de")"#,
            r#"invalid_key Some("de")"#,
            r#"invalid_request Some("de")"#,
            r#"invalid subject Some("de")"#
        ]
    );
}

#[test]
fn the_figures_of_the_draft_mean_what_it_says() {
    let vectors: Json = serde_json::from_str(include_str!("../../../../tests/vectors/multi-push.json")).unwrap();
    let mut seen = Vec::new();
    for vector in vectors.as_array().unwrap() {
        let (name, value) = (vector["name"].as_str().unwrap(), &vector["value"]);
        match vector["kind"].as_str().unwrap() {
            "multi-push-request" => {
                let read = sets(value.to_string().as_bytes(), Receives { sets: 2, bytes: 1 << 20 }).unwrap();
                let owed = value["sets"].as_object().unwrap();
                assert_eq!(read.len(), owed.len(), "{name}");
                assert!(read.iter().all(|(jti, token)| owed[&**jti].as_str().unwrap().as_bytes() == token), "{name}");
            }
            "http-response" => {
                let status = u16::try_from(value["status"].as_u64().unwrap()).unwrap();
                let meant = meaning(&answer(status, &value["body"].to_string()), 2, NOW);
                // The ids are none of this gateway's, hence unknown and ignored.
                let due = match value["body"]["err"].as_str() {
                    Some(_) => "channel http_401",
                    None => "understood",
                };
                assert_eq!(word(&meant), due, "{name}");
            }
            "string-list" => {
                for code in value.as_array().unwrap() {
                    let body = json!({ "err": code, "description": "d" }).to_string();
                    let due = match code.as_str().unwrap() {
                        "too_many_sets" => "too many",
                        "invalid_request" => "halve",
                        "authentication_failed" => "channel http_401",
                        "access_denied" => "channel http_403",
                        other => panic!("{other}"),
                    };
                    assert_eq!(word(&meaning(&answer(400, &body), 2, NOW)), due, "{code}");
                }
            }
            "set-jwt" => {
                let token = value.as_str().unwrap();
                assert!(vectors[0]["value"]["sets"].as_object().unwrap().values().any(|one| one == token), "{name}");
            }
            "set-decoded" => {
                // The key of a SET in the figures is its `jti` (draft §4.3).
                let jti = value["claims"]["jti"].as_str().unwrap();
                assert!(vectors[0]["value"]["sets"].get(jti).is_some(), "{name}");
            }
            other => panic!("{other}"),
        }
        seen.push(name);
    }
    assert_eq!(seen.len(), 10);
}

#[test]
fn a_request_names_each_set_by_its_jti() {
    let set = |number: u128| SealedSet {
        jti: jti(number),
        attempt: Attempt(1),
        body: Bytes::from_static(b"a.b.c"),
        envelope: std::sync::Arc::new(Envelope::new(NOW, Bytes::from_static(b"{}"))),
        order: OrderKey::from_bits(1),
    };
    let body = request(&[set(1), set(2)]);
    let read: Json = serde_json::from_slice(&body).unwrap();
    assert_eq!(read, json!({"sets": {jti(1).as_str(): "a.b.c", jti(2).as_str(): "a.b.c"}}));
    assert!(body.len() <= 10 + 2 * (5 + OVERHEAD), "the overhead of a SET is counted too low");
    assert_eq!(request(&[]), br#"{"sets":{}}"#);
}

#[test]
fn retry_after_is_passed_on() {
    let mut busy = answer(503, "");
    busy.headers.insert(header::RETRY_AFTER, HeaderValue::from_static("37"));
    let Meaning::Each(Verdict::Retry { after, .. }) = meaning(&busy, 5, NOW) else { panic!() };
    assert_eq!(after, Some(Duration::from_secs(37)));
}

#[test]
fn what_a_peer_says_cannot_steer_a_terminal() {
    let hostile = "\\u001b[31m\\u202e".repeat(200);
    for (status, body) in [
        (400, format!(r#"{{"err":"{hostile}"}}"#)),
        (400, format!(r#"{{"err":"access_denied","description":"{hostile}"}}"#)),
        (202, format!(r#"{{"ack":{{"{hostile}":1}}}}"#)),
        (202, format!(r#"{{"ack":"{hostile}"}}"#)),
    ] {
        let Meaning::Each(Verdict::Retry { cause, .. }) = meaning(&answer(status, &body), 5, NOW) else { panic!() };
        assert!(!cause.text.contains(['\u{1b}', '\u{202e}']) && cause.text.len() < 600, "{}", cause.text);
    }
    let too_many = format!(r#"{{"err":"too_many_sets","description":"{hostile}"}}"#);
    let Meaning::Each(Verdict::Refuse(refusal)) = meaning(&answer(400, &too_many), 1, NOW) else { panic!() };
    assert!(!refusal.description.unwrap().contains('\u{1b}'));
}

#[test]
fn a_request_is_read_within_limits() {
    let receives = Receives { sets: 2, bytes: 100 };
    let read = |text: &str| sets(text.as_bytes(), receives);
    assert_eq!(read("{}").unwrap(), []);
    assert_eq!(read(r#"{"sets":{}}"#).unwrap(), []);
    assert_eq!(read(r#"{"sets":{"a":"x","b":"y"},"other":[1]}"#).unwrap().len(), 2);
    assert_eq!(read(r#"{"sets":{"a":"x","b":"y","c":"z"}}"#), Err(Reply::TooMany));
    assert_eq!(read(&format!(r#"{{"sets":{{"a":"{}"}}}}"#, "x".repeat(100))), Err(Reply::TooMany));
    for bad in ["", "[]", "null", r#"{"sets":[]}"#, r#"{"sets":{"a":1}}"#, r#"{"sets":{"a":"x","a":"y"}}"#, "{} {}"] {
        assert!(matches!(read(bad), Err(Reply::Invalid(_))), "{bad}");
    }
}

fn shown(reply: Reply) -> (u16, HeaderMap) {
    let answer = Response::from(reply);
    (answer.status().as_u16(), answer.headers().clone())
}

#[test]
fn answers_carry_what_the_draft_demands() {
    let refusal = |language: Option<&str>| Refusal {
        code: ErrorCode::InvalidAudience,
        description: Some("not us".into()),
        language: language.map(Into::into),
    };
    let understood = |languages: &[Option<&str>]| Reply::Understood {
        ack: vec!["a".into()],
        set_errs: languages.iter().map(|language| ("b".into(), refusal(*language))).collect(),
    };
    let (status, fields) = shown(understood(&[]));
    assert_eq!((status, fields.get("content-language")), (202, None));
    assert_eq!(fields["content-type"], "application/json");
    for (languages, due) in
        [(&[None][..], "en"), (&[Some("de"), Some("de")], "de"), (&[Some("de"), None], "mul"), (&[Some("\n")], "en")]
    {
        assert_eq!(shown(understood(languages)).1["content-language"], due);
    }
    let (status, fields) = shown(Reply::TooMany);
    assert_eq!((status, &fields["content-language"]), (413, &HeaderValue::from_static("en")));
    let (status, fields) = shown(Reply::Invalid("no"));
    assert_eq!((status, &fields["content-type"]), (400, &HeaderValue::from_static("application/json")));
    let (status, fields) = shown(Reply::Busy(Duration::from_millis(2001)));
    assert_eq!((status, &fields["retry-after"]), (503, &HeaderValue::from(3)));
    assert_eq!(fields["content-length"], "0");
    assert_eq!(shown(Reply::Status(StatusCode::METHOD_NOT_ALLOWED)).1["allow"], "POST");
}

#[test]
fn a_content_type_is_compared_without_case_and_parameters() {
    let is = |text: &'static str| is_json(Some(&HeaderValue::from_static(text)));
    assert!(is("application/json") && is("Application/JSON; charset=utf-8"));
    assert!(!is("application/secevent+jwt") && !is("application/jsonp") && !is("") && !is_json(None));
}
