//! Receivers that connect to collect their SETs: who is admitted, to what, and until when.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::boxed::{Gateway, Plan, binary, event};
use crate::http::{self, Answer, request};

const PAGE: &str = "https://page.example";
const POLL: &str = r#"{"returnImmediately": true}"#;

/// A receiver's token with its hash.
struct Token {
    text: String,
    hash: String,
}

fn token() -> Token {
    let words = ["receivers", "new", "x", "--issuer", "http://127.0.0.1:1", "--all-streams", "--json"];
    let made = binary().args(words).output().unwrap();
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    Token { text: text("token"), hash: text("hash") }
}

/// Adds a receiver to the configuration.
fn receiver(gateway: &Gateway, name: &str, hash: &str, issuer: &str, streams: &str) {
    let issuer = gateway.issuer(issuer);
    let section = format!(
        "\n[[receivers]]\nname = \"{name}\"\ntoken_hashes = [{hash}]\nissuers = [\"{issuer}\"]\nstreams = {streams}\n"
    );
    let mut file = std::fs::File::options().append(true).open(gateway.config()).unwrap();
    file.write_all(section.as_bytes()).unwrap();
}

fn quoted(hash: &str) -> String {
    format!("\"{hash}\"")
}

fn poll(gateway: &Gateway, path: &str, fields: &[(&str, &str)]) -> Answer {
    let mut all = vec![("content-type", "application/json")];
    all.extend_from_slice(fields);
    http::send(gateway.world, &request("POST", path, &all, POLL.as_bytes()))
}

/// The answer to an opening handshake: its head, and the connection.
struct Offered {
    head: String,
    stream: TcpStream,
}

impl Offered {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {:?}", self.head)).parse().unwrap()
    }
}

fn offer(gateway: &Gateway, path: &str, origin: &str, protocols: &str) -> Offered {
    let mut stream = http::connect(gateway.world).unwrap();
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\norigin: {origin}\r\nsec-websocket-protocol: {protocols}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or_default() == 1 {
        head.push(byte[0]);
    }
    Offered { head: String::from_utf8(head).unwrap(), stream }
}

/// Returns a gateway that logs at the level `trace`, with polled streams of two issuers, a pushed stream and one of
/// WebSocket.
fn plan() -> Plan {
    Plan::new()
        .issuer("/two")
        .options("[log]\nlevel = \"trace\"\nformat = \"json\"")
        .stream_by("crm", "{ method = \"poll\" }")
        .stream_by("hr", "{ method = \"poll\" }")
        .stream_by("pushed", "{ method = \"push\", endpoint_url = \"http://127.0.0.1:9/\" }")
        .stream_by("live", &format!("{{ method = \"websocket\" }}\ngrant = {{ origins = [\"{PAGE}\"] }}"))
        .stream_of("/two", "of-b", "", "delivery = { method = \"poll\" }")
}

/// Waits until `count` sessions of the method are open.
fn until_open(gateway: &mut Gateway, method: &str, count: usize) {
    let metrics = request("GET", "/metrics", &[], b"");
    let line = format!("setgate_sessions_open{{method=\"{method}\"}} {count}\n");
    gateway.until(&line, |gateway| http::send(gateway.operator, &metrics).text().contains(&line));
}

#[test]
fn only_its_own_receiver_opens_a_stream() {
    let mut gateway = plan().prepare();
    let [crm, all, b, expired, unknown] = [(); 5].map(|()| token());
    receiver(&gateway, "crm", &quoted(&crm.hash), "", "[\"crm\", \"pushed\", \"none\"]");
    receiver(&gateway, "all", &quoted(&all.hash), "", "\"all\"");
    receiver(&gateway, "b", &quoted(&b.hash), "/two", "\"all\"");
    let ended = format!("{{ hash = \"{}\", expires = \"2026-01-01T00:00:00Z\" }}", expired.hash);
    receiver(&gateway, "expired", &ended, "", "\"all\"");
    gateway.start();
    gateway.accept(&event(1, "jane"));
    let bearer = |token: &str| format!("Bearer {token}");
    // A poll that does not wait may come before the stream has seen the event.
    let mut set = String::new();
    gateway.until("a SET for crm", |gateway| {
        let sets = poll(gateway, "/poll/crm", &[("authorization", &bearer(&crm.text))]).json();
        let token = sets["sets"].as_object().unwrap().values().next().and_then(Value::as_str);
        set = token.unwrap_or_default().to_owned();
        !set.is_empty()
    });
    let mut producer = String::new();
    gateway.fields(&mut producer, "");

    // The targets are the receiver's own stream, another's, none, one of the other issuer here and at its own path, and
    // one of another method.
    let targets =
        ["/poll/crm", "/poll/hr", "/poll/none", "/poll/of-b", "/two/poll/of-b", "/two/poll/crm", "/poll/pushed"];
    let rows = [
        ("no token", None, [401; 7]),
        ("an unknown token", Some(bearer(&unknown.text)), [401; 7]),
        ("a producer's token", Some(producer.clone()), [401; 7]),
        ("an expired token", Some(bearer(&expired.text)), [401; 7]),
        // A SET is never a bearer token (RFC 8417 §4.2, hardening H41).
        ("a SET", Some(bearer(&set)), [401; 7]),
        ("its own token", Some(bearer(&crm.text)), [200, 404, 404, 404, 403, 403, 404]),
        ("another receiver's token", Some(bearer(&b.text)), [403, 403, 403, 403, 200, 404, 403]),
        ("a token of all streams", Some(bearer(&all.text)), [200, 200, 404, 404, 403, 403, 404]),
    ];
    for (who, authorization, statuses) in &rows {
        for (target, status) in targets.iter().zip(statuses) {
            let fields: Vec<_> = authorization.iter().map(|value| ("authorization", value.as_str())).collect();
            let answer = poll(&gateway, target, &fields);
            assert_eq!(answer.status, *status, "{who} at {target}: {}", answer.text());
            let challenge = answer.field("www-authenticate").unwrap_or_default();
            assert_eq!(challenge.starts_with("Bearer "), matches!(status, 401 | 403), "{who} at {target}: {challenge}");
            // A token in the query (RFC 6750 §2.3) is not supported.
            let answer = poll(&gateway, &format!("{target}?access_token={}", crm.text), &fields);
            assert_eq!(answer.status, 400, "{who} at {target}, and a token in the query");
        }
    }
    // A receiver cannot put events in.
    let fields = [("authorization", &*bearer(&all.text)), ("content-type", "application/json")];
    let answer = http::send(gateway.world, &request("POST", "/events", &fields, event(2, "x").to_string().as_bytes()));
    assert_eq!(answer.status, 401);
    let answer = poll(&gateway, "/poll/crm", &[("cookie", &format!("token={}", crm.text))]);
    assert_eq!(answer.status, 401, "a cookie is no credential");

    let log = gateway.log();
    assert!(log.contains("TRACE"), "the log tells too little to be looked at");
    for token in [&crm, &all, &b, &expired, &unknown] {
        assert!(!log.contains(&token.text), "a token stands in the log");
    }
    assert!(!log.contains(&set), "a SET stands in the log");
}

#[test]
fn a_refusal_comes_before_the_body_and_before_100_continue() {
    let gateway = plan().start();
    let mut stream = http::connect(gateway.world).unwrap();
    let head = "POST /poll/crm HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 1000\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 401");
}

#[test]
fn a_ticket_opens_one_socket_and_stands_in_no_log() {
    let mut gateway = plan().prepare();
    let ws = token();
    receiver(&gateway, "live", &quoted(&ws.hash), "", "[\"live\", \"crm\"]");
    gateway.start();
    let authorization = format!("Bearer {}", ws.text);
    let mut tickets = Vec::new();
    let mut ticket = |path: &str| {
        let fields = [("authorization", authorization.as_str()), ("origin", PAGE)];
        let answer = http::send(gateway.world, &request("POST", &format!("{path}/ticket"), &fields, b""));
        assert_eq!((answer.status, answer.field("cache-control")), (201, Some("no-store")), "{}", answer.text());
        let answer = answer.json();
        assert_eq!(answer["expires_in"], json!(30));
        tickets.push(answer["ticket"].as_str().unwrap().to_owned());
        format!("setgate.v1, ticket.{}", tickets.last().unwrap())
    };
    let good = ticket("/websocket/live");
    let opened = offer(&gateway, "/websocket/live", PAGE, &good);
    assert_eq!(opened.status(), 101, "{}", opened.head);
    assert!(opened.head.to_ascii_lowercase().contains("sec-websocket-protocol: setgate.v1\r\n"), "{}", opened.head);
    assert!(!opened.head.contains("ticket."), "the ticket is echoed: {}", opened.head);
    assert_eq!(offer(&gateway, "/websocket/live", PAGE, &good).status(), 401, "used twice");
    for (path, origin) in [
        ("/websocket/crm", PAGE),
        ("/poll/crm", PAGE),
        ("/websocket/live", "https://evil.example"),
        ("/websocket/live", "null"),
    ] {
        let offered = ticket("/websocket/live");
        assert_eq!(offer(&gateway, path, origin, &offered).status(), 401, "{path} from {origin}");
        assert_eq!(offer(&gateway, "/websocket/live", PAGE, &offered).status(), 401, "{path} from {origin}: used up");
    }
    assert_eq!(offer(&gateway, "/websocket/live", PAGE, "setgate.v1, ticket.AAAA").status(), 401);
    assert_eq!(offer(&gateway, "/websocket/live", PAGE, "setgate.v1").status(), 401);
    let log = gateway.log();
    for said in ["a receiver asks for a ticket", "a session begins", "a receiver was not let in"] {
        assert!(log.contains(said), "the log tells too little to be looked at: {said}");
    }
    for ticket in &tickets {
        assert!(!log.contains(ticket), "a ticket stands in the log");
    }
    assert!(!log.contains(&ws.text), "a token stands in the log");
}

#[test]
fn waiting_receivers_never_take_the_places_of_intake() {
    let mut gateway = Plan::new()
        .options("[listen.limits]\nconnections = 3\nconnections_per_address = 3\n[sessions]\nconnections = 8\n")
        .stream_by("s1", "{ method = \"poll\" }")
        .stream_by("s2", "{ method = \"poll\" }")
        .stream_by("s3", "{ method = \"poll\" }")
        .prepare();
    let all = token();
    receiver(&gateway, "all", &quoted(&all.hash), "", "\"all\"");
    gateway.start();
    let authorization = format!("Bearer {}", all.text);
    let fields = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let mut waiting = Vec::new();
    for place in 0..8 {
        let path = format!("/poll/s{}", place % 3 + 1);
        let mut stream = http::connect(gateway.world).unwrap();
        stream.write_all(&request("POST", &path, &fields, b"{}")).unwrap();
        waiting.push(stream);
        until_open(&mut gateway, "poll", place + 1);
    }
    let late = poll(&gateway, "/poll/s1", &fields[..1]);
    assert_eq!((late.status, late.field("retry-after").is_some()), (503, true), "{}", late.text());
    // Eight polls wait on a listener of three places, and events are still accepted and delivered at once.
    gateway.accept(&event(1, "jane"));
    let answer = http::answer(&mut waiting[0]).expect("an answer");
    assert_eq!((answer.status, answer.json()["sets"].as_object().map(serde_json::Map::len)), (200, Some(1)));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a real process is timed, in real time")]
fn a_stop_answers_idle_polls_and_hangs_up_sockets_before_the_listener_is_cut() {
    let mut gateway = plan().prepare();
    let all = token();
    receiver(&gateway, "all", &quoted(&all.hash), "", "\"all\"");
    gateway.start();
    let authorization = format!("Bearer {}", all.text);
    let fields = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let mut polling = http::connect(gateway.world).unwrap();
    polling.write_all(&request("POST", "/poll/crm", &fields, b"{}")).unwrap();
    let ticket = [("authorization", authorization.as_str()), ("origin", PAGE)];
    let ticket = http::send(gateway.world, &request("POST", "/websocket/live/ticket", &ticket, b"")).json();
    let protocols = format!("setgate.v1, ticket.{}", ticket["ticket"].as_str().unwrap());
    let mut socket = offer(&gateway, "/websocket/live", PAGE, &protocols);
    assert_eq!(socket.status(), 101);
    until_open(&mut gateway, "poll", 1);
    until_open(&mut gateway, "websocket", 1);
    let begun = Instant::now();
    gateway.signal("-TERM");
    let answer = http::answer(&mut polling).expect("an answer");
    assert_eq!((answer.status, &answer.json()["sets"]), (200, &json!({})));
    let mut frames = Vec::new();
    socket.stream.read_to_end(&mut frames).unwrap();
    // The close frame has the code of a service that restarts (RFC 6455 §5.5.1).
    assert!(frames.windows(2).any(|code| code == 1012_u16.to_be_bytes()), "{frames:?}");
    assert!(gateway.ended().success(), "{}", gateway.log());
    assert!(begun.elapsed() < Duration::from_secs(15), "it waited for polls and sockets: {:?}", begun.elapsed());
}

/// Reads frames until a text frame comes or the stream ends.
fn text(socket: &mut impl Read) -> Option<Value> {
    loop {
        let mut head = [0; 2];
        socket.read_exact(&mut head).ok()?;
        // Lengths from 126 on take two more bytes (RFC 6455 §5.2); a SET of a test needs no more.
        let mut long = [0; 2];
        let length = match head[1] {
            126 => {
                socket.read_exact(&mut long).ok()?;
                u16::from_be_bytes(long).into()
            }
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        socket.read_exact(&mut payload).ok()?;
        if head[0] & 0x0f == 1 {
            return serde_json::from_slice(&payload).ok();
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a real process is timed, in real time")]
fn a_socket_that_holds_sets_holds_up_no_stop() {
    let mut gateway = plan().prepare();
    let all = token();
    receiver(&gateway, "all", &quoted(&all.hash), "", "\"all\"");
    gateway.start();
    let authorization = format!("Bearer {}", all.text);
    let ticket = [("authorization", authorization.as_str()), ("origin", PAGE)];
    let ticket = http::send(gateway.world, &request("POST", "/websocket/live/ticket", &ticket, b"")).json();
    let protocols = format!("setgate.v1, ticket.{}", ticket["ticket"].as_str().unwrap());
    let mut socket = offer(&gateway, "/websocket/live", PAGE, &protocols);
    assert_eq!(socket.status(), 101);
    // A client's frame, with a mask of zeros: it grants one SET, which the client never settles.
    let credit = br#"{"maxEvents":1}"#;
    let frame = [&[0x81, 0x80 | u8::try_from(credit.len()).unwrap(), 0, 0, 0, 0], &credit[..]].concat();
    socket.stream.write_all(&frame).unwrap();
    gateway.accept(&event(1, "jane"));
    let held = text(&mut socket.stream).expect("a SET");
    assert_eq!(held["sets"].as_object().map(serde_json::Map::len), Some(1), "{held}");
    let begun = Instant::now();
    gateway.signal("-TERM");
    let mut frames = Vec::new();
    socket.stream.read_to_end(&mut frames).unwrap();
    assert!(frames.windows(2).any(|code| code == 1012_u16.to_be_bytes()), "{frames:?}");
    assert!(gateway.ended().success(), "{}", gateway.log());
    assert!(begun.elapsed() < Duration::from_secs(12), "it waited for a socket: {:?}", begun.elapsed());
    gateway.start();
    let view = gateway.stream("live");
    assert_eq!((&view["waiting"], &view["acknowledged"]), (&json!(1), &json!(0)), "{view}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a real process is timed, in real time")]
fn a_session_ends_with_its_credential() {
    let mut gateway = plan().prepare();
    let soon = token();
    let at = Command::new("date").args(["-u", "-d", "+12 seconds", "+%Y-%m-%dT%H:%M:%SZ"]).output().unwrap();
    let at = String::from_utf8(at.stdout).unwrap();
    let ended = format!("{{ hash = \"{}\", expires = \"{}\" }}", soon.hash, at.trim());
    receiver(&gateway, "soon", &ended, "", "[\"crm\"]");
    gateway.start();
    let authorization = format!("Bearer {}", soon.text);
    let fields = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let mut polling = http::connect(gateway.world).unwrap();
    polling.write_all(&request("POST", "/poll/crm", &fields, b"{}")).unwrap();
    let began = Instant::now();
    let answer = http::answer(&mut polling).expect("an answer");
    // The poll was admitted, and ended long before the 25 s for which it would be held.
    assert_eq!((answer.status, &answer.json()["sets"]), (200, &json!({})));
    assert!(began.elapsed() < Duration::from_secs(20), "it was held for {:?}", began.elapsed());
    assert_eq!(poll(&gateway, "/poll/crm", &fields[..1]).status, 401);
}

#[test]
fn check_names_receivers_and_streams_that_nobody_may_open() {
    let gateway = plan().prepare();
    let crm = token();
    receiver(&gateway, "crm", &quoted(&crm.hash), "", "[\"crm\"]");
    let output = gateway.run(&["check", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!output.status.success(), "{report}");
    let finding = |what: &str| {
        let all = report["findings"].as_array().unwrap();
        all.iter().find(|finding| finding["what"] == what).map(|finding| finding["good"].as_bool().unwrap())
    };
    assert_eq!(finding("receiver crm (crm)"), Some(true));
    assert_eq!(finding("receivers of the stream hr"), Some(false), "{report}");
    assert_eq!(finding("receivers of the stream crm"), None);
    assert_eq!(finding("receivers of the stream pushed"), None, "a pushed stream needs none");
}

#[test]
fn the_running_gateway_lists_its_receivers() {
    let mut gateway = plan().prepare();
    let crm = token();
    receiver(&gateway, "crm", &quoted(&crm.hash), "", "[\"crm\"]");
    gateway.start();
    let all = gateway.command(&["receivers", "list"]);
    assert_eq!(all["receivers"][0]["streams"], json!(["crm"]), "{all}");
    assert!(!all.to_string().contains(crm.hash.trim_start_matches("sha256:")), "{all}");
}
