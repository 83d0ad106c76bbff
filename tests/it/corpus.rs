//! The standards' examples and many mutations of them, run through every parser of foreign bytes.

use serde_json::Value;
use setgate_transports::{multipush, poll, push, websocket};

#[path = "../fuzz/checks.rs"]
mod checks;
#[path = "../fuzz/exchanges.rs"]
mod exchanges;

/// The least number of executions with which a replay counts.
const LEAST_RUNS: usize = 10_000;

/// Returns every value of the vectors, and every object inside one, as JSON text.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.path().extension().is_some_and(|end| end == "json") {
            collect(&serde_json::from_slice(&std::fs::read(entry.path()).unwrap()).unwrap(), &mut seeds);
        }
    }
    seeds.extend(events());
    seeds.sort();
    seeds.dedup();
    assert!(seeds.len() > 300, "only {} seeds", seeds.len());
    seeds
}

/// Returns events made of the subjects and payloads of the examples.
fn events() -> Vec<Vec<u8>> {
    let text = include_str!("../vectors/caep.json");
    let examples: Vec<Value> = serde_json::from_str(text).unwrap();
    let claims = examples.iter().filter(|example| example["kind"] == "set-claims").map(|example| &example["value"]);
    let event = |claims: &Value| serde_json::json!({"events": claims["events"], "sub_id": claims["sub_id"], "id": "a", "txn": "8675309"});
    claims.map(|claims| event(claims).to_string().into_bytes()).collect()
}

/// Returns a signed SET and the key set that verifies it, for each algorithm.
fn tokens() -> Vec<Vec<u8>> {
    let make = |algorithm| {
        let key = setgate_jose::Key::generate(algorithm, setgate_jose::RsaBits::Bits2048).unwrap();
        let set = br#"{"iss":"https://idp.example.com","jti":"a","iat":1,"aud":"b","events":{"urn:example":{}}}"#;
        [key.signer().sign(set).unwrap(), format!("{{\"keys\":[{}]}}", key.public_jwk()).into_bytes()]
    };
    setgate_jose::Algorithm::ALL.into_iter().flat_map(make).collect()
}

/// Returns answers of push receivers: two bytes of status, a `Retry-After`, a body.
fn answers() -> Vec<Vec<u8>> {
    let bodies = ["", "{\"err\":\"invalid_key\",\"description\":\"which key?\"}", "{\"err\":7}", "<html>"];
    let statuses = [200_u16, 202, 204, 301, 400, 401, 403, 404, 410, 413, 422, 429, 500, 503];
    let fields = ["", "120", "Fri, 31 Dec 2099 23:59:59 GMT", "-1", "99999999999999999999"];
    let mut answers = Vec::new();
    for status in statuses {
        for field in fields {
            for body in bodies {
                let mut answer = (status - 100).to_be_bytes().to_vec();
                answer.extend_from_slice(format!("{field}\n{body}").as_bytes());
                answers.push(answer);
            }
        }
    }
    answers
}

/// Returns objects of `sets`, `ack` and `setErrs` with ids of this gateway, full enough to reach the bounds; `prefix`
/// is what a target reads before the body.
fn objects(prefix: &[u8]) -> Vec<Vec<u8>> {
    let id = |number: u128| setgate_set::Jti::from_block(b'a', number.to_be_bytes()).to_string();
    let refusal = serde_json::json!({ "err": "invalid_key", "description": "which \\ key\u{1b}?", "more": [{}] });
    let ids: Vec<String> = (0..7).map(id).collect();
    let mut objects = vec![
        serde_json::json!({}),
        serde_json::json!({ "ack": [], "setErrs": {}, "sets": {} }),
        serde_json::json!({ "maxEvents": 7, "returnImmediately": true, "moreAvailable": true, "maxResponseEvents": 0 }),
        serde_json::json!({ "ack": [ids[0], ids[1], "foreign"], "setErrs": { ids[2].clone(): refusal, "other": {} } }),
        serde_json::json!({ "ack": [ids[0]], "setErrs": { ids[0].clone(): { "err": null } }, "unknown": { "ack": 1 } }),
        serde_json::json!({ "setErrs": { ids[1].clone(): { "err": "a\"b\\c", "description": "\"" } } }),
        serde_json::json!({ "sets": { "a": "a.b.c", "b": "\"\u{7f}\\é" } }),
        serde_json::json!({ "err": "too_many_sets", "description": "two" }),
    ];
    for count in [4, 5, 6, 7] {
        let sets: serde_json::Map<_, _> = (0..count).map(|at| (format!("s{at}"), "a.b.c".into())).collect();
        objects.push(serde_json::json!({ "sets": sets, "ack": ids[..count.min(3)] }));
        objects.push(serde_json::json!({ "ack": ids[..count] }));
    }
    let twice = format!(r#"{{"ack":["{}"],"sets":{{"a":"x","a":"y"}},"ack":[]}}"#, ids[0]);
    let listed = format!(r#"{{"setErrs":{{"{}":["invalid_key","no object"]}}}}"#, ids[0]);
    let texts = objects.iter().map(ToString::to_string).chain([twice, listed]);
    texts.map(|text| [prefix, text.as_bytes()].concat()).collect()
}

/// Returns opening handshakes of WebSockets, one header field per line.
fn handshakes() -> Vec<Vec<u8>> {
    let whole = "Upgrade: websocket\nConnection: keep-alive, Upgrade\nSec-WebSocket-Version: 13\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Protocol: setgate.v1, pushpull";
    let others = [
        "",
        "\nOrigin: https://app.example.com",
        "\nOrigin: null",
        "\nOrigin: https://app.example.com\nOrigin: null",
        "\nSec-WebSocket-Protocol: pushpull",
    ];
    others.iter().map(|other| format!("\u{1}{whole}{other}").into_bytes()).collect()
}

/// Returns the seeds with what a target reads before the body.
fn prefixed(prefix: &[u8]) -> Vec<Vec<u8>> {
    seeds().into_iter().map(|seed| [prefix, &seed[..]].concat()).collect()
}

fn collect(value: &Value, seeds: &mut Vec<Vec<u8>>) {
    match value {
        Value::Object(members) => {
            seeds.push(value.to_string().into_bytes());
            members.values().for_each(|value| collect(value, seeds));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, seeds)),
        Value::String(text) if text.matches('.').count() == 2 || text.starts_with('{') => {
            seeds.push(text.clone().into_bytes())
        }
        _ => {}
    }
}

/// A small generator of numbers with a fixed seed, so that every run has the same mutations.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % most.max(1)
    }
}

/// Pieces of text that parsers often handle wrongly.
const STUMBLING: &[&str] = &[
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    ".",
    "null",
    "1e400",
    "-0",
    "\\ud800",
    "\\u0000",
    "\u{0}",
    "\u{feff}",
    "\u{202e}",
    "\"format\":\"opaque\",",
    "\"sub_id\":{},",
    "\"events\":{},",
    "\"exp\":1,",
    "99999999999999999999",
    "=",
    "\r\n",
];

fn mutate(seed: &[u8], others: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len() + 1);
        match dice.below(6) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            2 => drop(bytes.splice(at..at, STUMBLING[dice.below(STUMBLING.len())].bytes())),
            3 if at < bytes.len() => drop(bytes.remove(at)),
            4 => {
                let other = &others[dice.below(others.len())];
                let part = dice.below(other.len() + 1);
                drop(bytes.splice(at..at, other[part..(part + 24).min(other.len())].iter().copied()));
            }
            _ => {
                let end = (at + dice.below(40)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                drop(bytes.splice(end..end, copy));
            }
        }
    }
    bytes
}

/// Runs a check over all seeds and mutations of each; both answers must occur at least `least` times.
fn replay(check: fn(&[u8]) -> bool, own: Vec<Vec<u8>>, least: usize) {
    let mut seeds = seeds();
    seeds.extend(own);
    let mut dice = Dice(42);
    let (mut accepted, mut refused) = (0, 0);
    for seed in &seeds {
        for round in 0..40 {
            let bytes = if round == 0 { seed.clone() } else { mutate(seed, &seeds, &mut dice) };
            if check(&bytes) { accepted += 1 } else { refused += 1 }
        }
    }
    assert!(accepted + refused >= LEAST_RUNS, "{accepted} accepted and {refused} refused: too few runs");
    assert!(
        accepted >= least && refused >= least,
        "{accepted} accepted and {refused} refused: too few to mean anything"
    );
}

#[test]
fn two_readers_agree_on_every_json_text_that_is_accepted() {
    replay(checks::json, vec![], 500);
}

#[test]
fn every_accepted_event_reads_the_same_after_its_way_into_a_set() {
    replay(checks::event, vec![], 30);
}

#[test]
fn every_accepted_subject_has_one_canonical_text() {
    replay(checks::subject, vec![], 200);
}

#[test]
fn no_token_and_no_key_set_breaks_the_reader() {
    replay(checks::token, tokens(), 20);
}

#[test]
fn every_answer_of_a_push_receiver_has_an_outcome() {
    replay(checks::answer, answers(), 50);
}

#[test]
fn two_readers_agree_on_every_object_of_sets_and_acknowledgements() {
    replay(exchanges::exchange, objects(b""), 500);
}

#[test]
fn every_poll_is_read_and_answered_as_it_was_meant() {
    replay(exchanges::poll, [objects(b"en\n"), prefixed(b"\n")].concat(), 500);
}

#[test]
fn every_answer_to_many_sets_means_something() {
    // The prefixes stand for 200, 202, 400, 413 and 500 to two, one and no SETs.
    let kinds: [&[u8]; 7] = [
        b"\x00\x64\x02\n",
        b"\x00\x66\x01120\n",
        b"\x01\x2c\x01\n",
        b"\x01\x2c\x02\n",
        b"\x01\x39\x00\n",
        b"\x01\x39\x02\n",
        b"\x01\x90\x02\n",
    ];
    replay(exchanges::multipush, kinds.iter().flat_map(|kind| objects(kind)).collect(), 200);
}

#[test]
fn every_message_of_a_socket_is_read_or_gets_a_close_code() {
    replay(exchanges::websocket, [objects(b"\x00"), handshakes(), prefixed(b"\x00")].concat(), 500);
}

#[test]
fn an_error_that_reports_a_duplicate_is_an_acknowledgement() {
    // Two bytes of status (100 + 300), a line of header field, the body.
    assert!(checks::answer(b"\x01\x2c\n{\"err\":\"dup\"}"));
}
