//! The description of the public listener (`/openapi.json`) for receivers that connect, compared with what the program
//! does.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::boxed::{Gateway, Plan};
use crate::http::{self, request};

const PAGE: &str = "https://page.example";
/// A status that no test waits for: a body that takes half a minute (its reader has tests of its own).
const SLOW: &str = "408";

/// The served description, and the answers that were seen of each operation.
struct Description {
    document: Value,
    seen: BTreeMap<String, BTreeSet<String>>,
}

impl Description {
    fn of(gateway: &Gateway) -> Self {
        let document = http::send(gateway.world, &request("GET", "/openapi.json", &[], b"")).json();
        Self { document, seen: BTreeMap::new() }
    }

    /// Returns the target of a `$ref`, or the value itself.
    fn target<'a>(&'a self, value: &'a Value) -> &'a Value {
        value["$ref"].as_str().map_or(value, |pointer| self.document.pointer(&pointer[1..]).unwrap())
    }

    /// Records an answer, which must be described with its media type.
    fn saw(&mut self, operation: &str, status: u16, kind: Option<&str>) {
        let (method, path) = operation.split_once(' ').unwrap();
        let described = &self.document["paths"][path][method]["responses"][status.to_string()];
        assert!(described.is_object(), "{operation}: {status} is not described");
        let content = &self.target(described)["content"];
        let kind = kind.map(|kind| kind.split(';').next().unwrap().trim());
        assert_eq!(content.is_object(), kind.is_some(), "{operation}: {status} as {kind:?}");
        if let Some(kind) = kind {
            assert!(content[kind].is_object(), "{operation}: {status} is not described as {kind}");
        }
        self.seen.entry(operation.to_owned()).or_default().insert(status.to_string());
    }

    /// Checks that every described answer was seen.
    fn all_seen(&self) {
        for (operation, seen) in &self.seen {
            let (method, path) = operation.split_once(' ').unwrap();
            let responses = self.document["paths"][path][method]["responses"].as_object().unwrap();
            let described: BTreeSet<String> = responses.keys().filter(|status| *status != SLOW).cloned().collect();
            assert_eq!(&described, seen, "{operation}: what is described, and what was seen");
        }
    }
}

/// A gateway with places for three sessions of one receiver and six of all, and for one ticket of one receiver and two
/// of all.
struct PublicListener {
    gateway: Gateway,
    bearers: BTreeMap<&'static str, String>,
    description: Description,
}

impl PublicListener {
    fn open() -> Self {
        let budgets = "[sessions]\nconnections = 6\nper_receiver = 3\ntickets = 2\ntickets_per_receiver = 1\n";
        let mut gateway = Plan::new()
            .issuer("/two")
            .options(budgets)
            .stream_by("crm", "{ method = \"poll\" }")
            .stream_by("hr", "{ method = \"poll\" }")
            .stream_by("live", &format!("{{ method = \"websocket\" }}\ngrant = {{ origins = [\"{PAGE}\"] }}"))
            .prepare();
        let mut bearers = BTreeMap::new();
        let mut sections = String::new();
        for (name, path) in [("a", ""), ("b", ""), ("c", ""), ("stranger", "/two")] {
            let issuer = gateway.issuer(path);
            let made = gateway.command(&["receivers", "new", name, "--issuer", &issuer, "--all-streams"]);
            bearers.insert(name, format!("Bearer {}", made["token"].as_str().unwrap()));
            sections = format!("{sections}\n{}", made["toml"].as_str().unwrap());
        }
        let mut file = std::fs::File::options().append(true).open(gateway.config()).unwrap();
        file.write_all(sections.as_bytes()).unwrap();
        gateway.start();
        let description = Description::of(&gateway);
        Self { gateway, bearers, description }
    }

    /// Sends a request of a receiver, or without a credential if `who` is unknown, and checks that its answer is
    /// described.
    fn ask(&mut self, operation: &str, stream: &str, who: &str, fields: &[(&str, &str)], body: &str) -> Value {
        let (method, path) = operation.split_once(' ').unwrap();
        let path = path.replace("{stream}", stream);
        let mut all = fields.to_vec();
        all.extend(self.bearers.get(who).map(|bearer| ("authorization", bearer.as_str())));
        let asked = request(&method.to_ascii_uppercase(), &path, &all, body.as_bytes());
        let answer = http::send(self.gateway.world, &asked);
        self.description.saw(operation, answer.status, answer.field("content-type"));
        serde_json::from_slice(&answer.body).unwrap_or(Value::Null)
    }

    /// Asks for the answers that any operation may give before its method sees the request.
    fn guarded(&mut self, operation: &str, stream: &str, fields: &[(&str, &str)]) {
        self.ask(operation, stream, "nobody", fields, "{}");
        self.ask(operation, stream, "stranger", fields, "{}");
        self.ask(operation, "none", "a", fields, "{}");
        let with_query = format!("{stream}?access_token=x");
        self.ask(operation, &with_query, "a", fields, "{}");
    }

    /// Asks for the answers that an operation that reads an object may give.
    fn reading(&mut self, operation: &str, stream: &str, good: &str) {
        const JSON: (&str, &str) = ("content-type", "application/json");
        let answer = self.ask(operation, stream, "a", &[JSON], good);
        assert!(answer["sets"].is_object(), "{operation}: {answer}");
        self.ask(operation, stream, "a", &[JSON], "[");
        self.ask(operation, stream, "a", &[("content-type", "text/plain")], good);
        self.ask(operation, stream, "a", &[JSON, ("content-encoding", "gzip")], good);
        self.ask(operation, stream, "a", &[JSON, ("content-length", "1048577")], "");
        self.guarded(operation, stream, &[JSON]);
    }

    /// Begins `count` polls of one receiver, and waits until `then` polls are held.
    fn wait(&mut self, who: &str, stream: &str, count: usize, then: usize) -> Vec<TcpStream> {
        let fields = [("authorization", self.bearers[who].as_str()), ("content-type", "application/json")];
        let asked = request("POST", &format!("/poll/{stream}"), &fields, b"{}");
        let begin = || {
            let mut stream = http::connect(self.gateway.world).unwrap();
            stream.write_all(&asked).unwrap();
            stream
        };
        let waiting = (0..count).map(|_| begin()).collect();
        self.until_open("poll", then);
        waiting
    }

    fn until_open(&mut self, method: &str, count: usize) {
        let metrics = request("GET", "/metrics", &[], b"");
        let line = format!("setgate_sessions_open{{method=\"{method}\"}} {count}\n");
        let open = |gateway: &mut Gateway| http::send(gateway.operator, &metrics).text().contains(&line);
        self.gateway.until(&line, open);
    }
}

/// The header fields of an opening handshake.
const OPENING: [(&str, &str); 5] = [
    ("connection", "upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("sec-websocket-protocol", "setgate.v1"),
];

#[test]
fn every_answer_to_a_receiver_is_described_and_every_described_answer_is_given() {
    const POLL: &str = "post /poll/{stream}";
    const PUSH_PULL: &str = "post /websocket/{stream}";
    const SOCKET: &str = "get /websocket/{stream}";
    const TICKET: &str = "post /websocket/{stream}/ticket";
    const JSON: (&str, &str) = ("content-type", "application/json");
    let mut listener = PublicListener::open();
    listener.reading(POLL, "crm", r#"{"returnImmediately": true}"#);
    listener.reading(PUSH_PULL, "live", r#"{"maxResponseEvents": 3, "sets": {"x": "y"}}"#);
    listener.ask(PUSH_PULL, "live", "a", &[JSON, ("origin", "https://evil.example")], "{}");

    listener.guarded(SOCKET, "live", &OPENING);
    listener.ask(SOCKET, "live", "a", &OPENING[1..3], "");
    listener.ask(SOCKET, "live", "a", &OPENING[..4], "");
    let evil: Vec<_> = OPENING.into_iter().chain([("origin", "https://evil.example")]).collect();
    listener.ask(SOCKET, "live", "a", &evil, "");
    let mut opened = http::connect(listener.gateway.world).unwrap();
    let mut fields = OPENING.to_vec();
    fields.push(("authorization", &listener.bearers["a"]));
    let asked = String::from_utf8(request("GET", "/websocket/live", &fields, b"")).unwrap();
    opened.write_all(asked.replace("connection: close\r\n", "").as_bytes()).unwrap();
    let mut first = [0; 12];
    opened.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 101");
    listener.description.saw(SOCKET, 101, None);
    drop(opened);
    listener.until_open("websocket", 0);

    let page = json!({ "origin": PAGE }).to_string();
    listener.guarded(TICKET, "live", &[]);
    listener.ask(TICKET, "live", "a", &[], r#"{"origin": "page.example"}"#);
    for who in ["a", "a", "b", "c"] {
        let ticket = listener.ask(TICKET, "live", who, &[], &page);
        assert_eq!(ticket["ticket"].is_string(), ticket["status"].is_null(), "{ticket}");
    }

    let sessions = [(POLL, "crm", vec![JSON]), (PUSH_PULL, "live", vec![JSON]), (SOCKET, "live", OPENING.to_vec())];
    let _of_one = listener.wait("a", "crm", 3, 3);
    for (operation, stream, fields) in &sessions {
        listener.ask(operation, stream, "a", fields, "{}");
    }
    let _of_all = listener.wait("b", "hr", 3, 6);
    for (operation, stream, fields) in &sessions {
        listener.ask(operation, stream, "c", fields, "{}");
    }
    listener.description.all_seen();
    assert_eq!(listener.description.seen.len(), 4, "operations");
}
