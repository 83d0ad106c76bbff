//! Stores of earlier versions: this version opens them and delivers what was waiting. `tests/stores/README.md`
//! describes their contents.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::{Value, json};

use crate::boxed::{Gateway, Plan};
use crate::http::{self, request};
use crate::sink::{Arrived, Reply, Sink};

/// The changes that an operator makes in the configuration of an archive, as the gateway asks for them.
const RENAMED: &[(&str, &str)] = &[
    ("drain_delay_seconds = 0", "drain_delay = \"0s\""),
    ("world =", "public ="),
    ("operator =", "admin ="),
    ("keep_settled_seconds = 0", "keep_settled = \"0s\""),
    ("flush_milliseconds = 50", "flush = \"50ms\""),
    ("backoff_first_ms = 50", "backoff_initial = \"50ms\""),
    ("backoff_most_s = 1", "backoff_max = \"1s\""),
    ("retention_every_s = 1", "retention_interval = \"1s\""),
];

/// Returns the gateway of an archive, on ports of its own, with all its receivers at the sink.
fn unpacked(archive: &str, sink: &Sink) -> Gateway {
    let mut gateway = Plan::new().prepare();
    let archive = format!("{}/tests/stores/{archive}", env!("CARGO_MANIFEST_DIR"));
    let mut tar = Command::new("tar");
    assert!(tar.arg("-C").arg(gateway.folder.path()).args(["-xzf", &archive]).status().unwrap().success());
    let mut config = std::fs::read_to_string(gateway.config()).unwrap();
    for (old, new) in RENAMED {
        config = config.replace(old, new);
    }
    let config = config
        .replace("127.0.0.1:18080", &format!("127.0.0.1:{}", gateway.world))
        .replace("127.0.0.1:18081", &format!("127.0.0.1:{}", gateway.operator))
        .replace("127.0.0.1:18090", &format!("127.0.0.1:{}", sink.port));
    std::fs::write(gateway.config(), config).unwrap();
    gateway.token = token(&gateway, "producer.token");
    gateway
}

fn token(gateway: &Gateway, file: &str) -> String {
    std::fs::read_to_string(gateway.path(file)).unwrap().trim().to_owned()
}

/// Returns a sink that accepts all SETs of push and of multi-SET push.
fn taking() -> Sink {
    Sink::new(|request, _| {
        let ids: Vec<String> = sets(request).into_keys().collect();
        if request.line.contains("/batch") {
            Reply::with(202, "content-type: application/json\r\n", &json!({ "ack": ids }).to_string())
        } else {
            Reply::status(202)
        }
    })
}

/// Returns the claims of the SETs in a request, by `jti`.
fn sets(request: &Arrived) -> BTreeMap<String, Value> {
    let tokens = match serde_json::from_slice::<Value>(&request.body) {
        Ok(body) => {
            body["sets"].as_object().unwrap().values().map(|token| token.as_str().unwrap().to_owned()).collect()
        }
        Err(_) => vec![String::from_utf8(request.body.clone()).unwrap()],
    };
    tokens
        .iter()
        .map(|token| claims(token))
        .map(|claims| (claims["jti"].as_str().unwrap().to_owned(), claims))
        .collect()
}

fn claims(token: &str) -> Value {
    let token = setgate_jose::Token::parse(token.as_bytes()).unwrap();
    serde_json::from_slice(token.unverified_payload()).unwrap()
}

/// Returns the number of a test's event; `None` for the gateway's own SETs.
fn number(claims: &Value) -> Option<u64> {
    claims["events"][crate::boxed::TYPE]["number"].as_u64()
}

/// Returns the numbers of the events that have arrived for a stream of the sink.
fn came(sink: &Sink, stream: &str) -> BTreeSet<u64> {
    let to = format!("POST /{stream} ");
    let requests = sink.arrived().into_iter().filter(|request| request.line.starts_with(&to));
    requests
        .flat_map(|request| sets(&request).into_values().collect::<Vec<_>>())
        .filter_map(|one| number(&one))
        .collect()
}

#[test]
fn a_store_of_format_1_is_sound_and_shows_what_it_holds() {
    let gateway = unpacked("format-1.tar.gz", &taking());
    let checked = gateway.run(&["store", "check"]);
    let said = format!("{}{}", String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
    assert!(checked.status.success(), "{said}");
    for shown in ["46 heads and 46 bodies read", "52 deliveries waiting in 4 streams", "20 parked SETs", "it is sound"]
    {
        assert!(said.contains(shown), "{shown} is not shown: {said}");
    }
}

#[test]
fn a_store_of_format_1_delivers_what_was_waiting_in_it() {
    let sink = taking();
    let mut gateway = unpacked("format-1.tar.gz", &sink);
    // The store is a copy; the original is gone.
    let adopted = gateway.run(&["store", "adopt", "--yes"]);
    assert!(adopted.status.success(), "{}", String::from_utf8_lossy(&adopted.stderr));
    gateway.start();
    for stream in ["push", "batch"] {
        let view = gateway.until_stream(stream, "nothing waits", |view| view["waiting"] == 0);
        assert_eq!(view["acknowledged"], 60, "{view}");
        assert_eq!(came(&sink, stream), (56..=60).collect(), "{stream}");
    }

    // The stream that was paused is still paused, and continues where it was.
    let view = gateway.stream("refusing");
    assert_eq!(json!([view["status"], view["waiting"], view["parked"]]), json!(["paused", 11, 20]), "{view}");
    assert_eq!(came(&sink, "refusing"), BTreeSet::new());
    gateway.command(&["streams", "resume", "refusing"]);
    gateway.until_stream("refusing", "nothing waits", |view| view["waiting"] == 0 && view["parked"] == 20);
    assert_eq!(came(&sink, "refusing"), (50..=60).collect());

    // A poll returns what was not acknowledged, signed with the keys of the archive.
    let bearer = format!("Bearer {}", token(&gateway, "receiver.token"));
    let fields = [("authorization", &*bearer), ("content-type", "application/json")];
    let body = json!({"maxEvents": 100, "returnImmediately": true}).to_string();
    let answer = http::send(gateway.world, &request("POST", "/poll/poll", &fields, body.as_bytes()));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    let tokens: Vec<&str> = answer["sets"].as_object().unwrap().values().map(|token| token.as_str().unwrap()).collect();
    let numbers: BTreeSet<u64> = tokens.iter().filter_map(|token| number(&claims(token))).collect();
    assert_eq!(numbers, std::iter::once(3).chain(31..=60).collect());
    let keys = http::send(gateway.world, &request("GET", "/jwks.json", &[], b"")).text();
    assert!(keys.contains(KID), "{keys}");
    for token in tokens {
        assert_eq!(setgate_jose::Token::parse(token.as_bytes()).unwrap().header().kid.as_deref(), Some(KID));
    }

    // An `id` from the archive is still known; a new one goes to all streams.
    let again = gateway.accept(&event(60));
    assert_eq!(again["repeated"], true, "{again}");
    gateway.accept(&event(61));
    for stream in ["push", "batch", "refusing"] {
        gateway.until_stream(stream, "nothing waits", |view| view["waiting"] == 0);
        assert!(came(&sink, stream).contains(&61), "{stream}");
    }
    assert!(gateway.stop().success());
}

/// The `kid` of the issuer's key in `format-1.tar.gz`.
const KID: &str = "Fd_ywptE6uxXkC8FZp8GdxYNTSs2BH9802SsuYhqusg";

/// Returns an event as it was put in for the archive.
fn event(number: u64) -> Value {
    json!({
        "id": format!("event-{number}"),
        "txn": format!("txn-{number}"),
        "sub_id": {"format": "email", "email": format!("user-{}@example.com", number % 5)},
        "events": {crate::boxed::TYPE: {"number": number}},
    })
}
