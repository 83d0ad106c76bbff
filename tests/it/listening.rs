//! `setgate listen` with every method against the program: two processes, as two parties would run them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::boxed::{Gateway, Plan, TYPE, binary, event};

/// The options with which SETs that are not acknowledged are delivered again soon.
const SOON: &str = "[methods.poll]\nredelivery_timeout = \"5s\"\n[methods.websocket]\nredelivery_timeout = \"5s\"\n\
    [methods.multipush]\nredelivery_timeout = \"2s\"\ntimeout = \"5s\"\n";

/// A gateway, not running at first, with a stream of this method, for a listener that runs beside it.
struct Pair {
    gateway: Gateway,
    method: &'static str,
    /// The options of a listener that collects.
    asks: Vec<String>,
}

impl Pair {
    fn new(method: &'static str) -> Self {
        let gateway = Plan::new().options(SOON).prepare();
        let mut pair = Self { gateway, method, asks: Vec::new() };
        if pair.is_asking() {
            pair.write(&stream(&pair.gateway, &format!("method = \"{}\"", method.replace("pushpull", "websocket"))));
            let issuer = pair.gateway.issuer("");
            let made = pair.gateway.command(&["receivers", "new", "crm", "--issuer", &issuer, "--stream", "crm"]);
            pair.write(made["toml"].as_str().unwrap());
            let file = pair.token_file(made["token"].as_str().unwrap());
            pair.asks = ["--stream", "crm", "--token-file", file.to_str().unwrap()].map(str::to_owned).to_vec();
        }
        pair
    }

    fn is_asking(&self) -> bool {
        !self.method.ends_with("push")
    }

    /// Adds a section to the gateway's configuration.
    fn write(&self, section: &str) {
        let mut file = File::options().append(true).open(self.gateway.config()).unwrap();
        file.write_all(format!("\n{section}\n").as_bytes()).unwrap();
    }

    fn token_file(&self, token: &str) -> PathBuf {
        let path = self.gateway.path("receiver.token");
        std::fs::write(&path, format!("{token}\n")).unwrap();
        path
    }

    /// Starts a listener. One that waits for the transmitter listens at `at`, or at a port of its choice.
    fn listen(&self, at: Option<&str>, words: &[&str]) -> Listener {
        let mut command = binary();
        command.args(["listen", "--json", "--method", self.method, "--issuer", &self.gateway.issuer("")]);
        command.args(["--audience", "https://crm.example"]).args(&self.asks).args(words);
        if !self.is_asking() {
            command.args(["--at", at.unwrap_or("127.0.0.1:0")]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Listener::new(command.spawn().unwrap())
    }

    /// Starts a listener, and the gateway with a stream to it.
    fn start(&mut self, words: &[&str]) -> Listener {
        let listener = self.listen(None, words);
        self.until_up(&listener);
        if !self.is_asking() {
            let delivery = format!("method = \"{}\", endpoint_url = \"http://{}/\"", self.method, listener.address());
            self.write(&stream(&self.gateway, &delivery));
        }
        self.gateway.start();
        listener
    }

    /// Waits until the listener has said that it collects or listens.
    fn until_up(&mut self, listener: &Listener) {
        let said = if self.is_asking() { "asking http" } else { "listening on http" };
        self.gateway.until(said, |_| listener.said().contains(said));
    }

    fn until_taken(&mut self, listener: &Listener, count: usize) {
        self.gateway.until("SETs at the listener", |_| listener.numbers().len() >= count);
    }

    /// Waits until the stream has these counts and nothing waits.
    fn until_settled(&mut self, acknowledged: u64, parked: u64) {
        self.gateway.until_stream("crm", "settled", |view| {
            view["acknowledged"] == acknowledged && view["parked"] == parked && view["waiting"] == 0
        });
    }

    fn ended(&mut self, listener: &mut Listener) -> ExitStatus {
        let mut status = None;
        self.gateway.until("the listener's end", |_| {
            status = listener.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

fn stream(gateway: &Gateway, delivery: &str) -> String {
    let issuer = gateway.issuer("");
    format!(
        "[[streams]]\nid = \"crm\"\nissuer = \"{issuer}\"\naudience = \"https://crm.example\"\ndelivery = {{ {delivery} }}"
    )
}

fn events(numbers: std::ops::Range<u64>) -> impl Iterator<Item = Value> {
    numbers.map(|number| event(number, &format!("key-{}", number % 5)))
}

/// A listener that runs. It is killed when the value is dropped.
struct Listener {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    said: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    fn new(mut child: Child) -> Self {
        let lines = kept(child.stdout.take().unwrap());
        let said = kept(child.stderr.take().unwrap());
        Self { child, lines, said }
    }

    /// Returns the standard error of the listener.
    fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }

    fn address(&self) -> String {
        let said = self.said();
        said.split("listening on http://").nth(1).unwrap().split('/').next().unwrap().to_owned()
    }

    fn reports(&self, what: &str) -> Vec<Value> {
        let all = self.lines.lock().unwrap();
        let all = all.iter().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("{line}")));
        all.filter(|report| report["report"] == what).collect()
    }

    /// Returns the numbers of the events that the listener accepted, in order.
    fn numbers(&self) -> Vec<u64> {
        let taken = self.reports("taken");
        taken.iter().filter_map(|report| report["claims"]["events"][TYPE]["number"].as_u64()).collect()
    }

    fn interrupt(&self) {
        let id = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("listener: {}", self.said());
        }
    }
}

/// Collects the lines of a stream while they are written.
fn kept(from: impl std::io::Read + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let keep = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            keep.lock().unwrap().push(line);
        }
    });
    lines
}

/// Checks that a listener with `--count` prints exactly so many SETs, each once and those of a subject in order, and
/// that all of them are acknowledged.
fn takes_as_many_as_it_was_told_to(method: &'static str) {
    let mut pair = Pair::new(method);
    // The listener starts first and waits for the transmitter.
    let mut listener = pair.start(&["--count", "40"]);
    assert!(!listener.reports("waiting").is_empty(), "{}", listener.said());
    pair.gateway.accept_all(events(0..60));
    assert_eq!(pair.ended(&mut listener).code(), Some(0), "{}", listener.said());
    // The pipe may be read after the process has ended.
    pair.gateway.until("the last line", |_| !listener.reports("ended").is_empty());
    let taken = listener.reports("taken");
    for report in &taken {
        assert_eq!(report["claims"]["iss"], pair.gateway.issuer(""), "{report}");
    }
    let numbers = listener.numbers();
    assert_eq!((taken.len(), numbers.len()), (40, 40), "not as many as --count says");
    assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), 40, "{numbers:?}");
    for key in 0..5 {
        let of_key: Vec<u64> = numbers.iter().copied().filter(|number| number % 5 == key).collect();
        let in_order: Vec<u64> = (key..60).step_by(5).take(of_key.len()).collect();
        assert_eq!(of_key, in_order, "a SET passed its predecessor");
    }
    let acknowledged = |view: &Value| view["acknowledged"] == 40;
    let view = pair.gateway.until_stream("crm", "what was printed is acknowledged", acknowledged);
    assert_eq!(view["parked"], 0, "{view}");
    // A second listener gets the rest, and none of those that were acknowledged.
    let at = (!pair.is_asking()).then(|| listener.address());
    let mut rest = pair.listen(at.as_deref(), &["--count", "20"]);
    assert_eq!(pair.ended(&mut rest).code(), Some(0), "{}", rest.said());
    pair.gateway.until("the last line", |_| !rest.reports("ended").is_empty());
    let all: BTreeSet<u64> = rest.numbers().into_iter().chain(numbers).collect();
    assert_eq!(all, (0..60).collect(), "something is lost");
    pair.until_settled(60, 0);
}

#[test]
fn a_listener_takes_by_push_as_many_as_it_was_told_to() {
    takes_as_many_as_it_was_told_to("push");
}

#[test]
fn a_listener_takes_by_multipush_as_many_as_it_was_told_to() {
    takes_as_many_as_it_was_told_to("multipush");
}

#[test]
fn a_listener_takes_by_polling_as_many_as_it_was_told_to() {
    takes_as_many_as_it_was_told_to("poll");
}

#[test]
fn a_listener_takes_by_websocket_as_many_as_it_was_told_to() {
    takes_as_many_as_it_was_told_to("websocket");
}

#[test]
fn a_listener_takes_by_pushpull_as_many_as_it_was_told_to() {
    takes_as_many_as_it_was_told_to("pushpull");
}

#[test]
fn what_a_listener_refuses_is_parked() {
    for method in ["push", "multipush", "poll", "websocket", "pushpull"] {
        let mut pair = Pair::new(method);
        let mut listener = pair.start(&["--refuse", "invalid_request"]);
        pair.gateway.accept_all(events(0..4));
        pair.until_settled(0, 4);
        let parked = pair.gateway.command(&["parked", "list", "--stream", "crm"]).to_string();
        assert!(parked.contains("invalid_request"), "{method}: {parked}");
        listener.interrupt();
        assert_eq!(pair.ended(&mut listener).code(), Some(0), "{method}: {}", listener.said());
        pair.gateway.until("the last line", |_| !listener.reports("ended").is_empty());
        let ended = &listener.reports("ended")[0]["counts"];
        assert_eq!((&ended["refused_on_purpose"], &ended["taken"]), (&json!(4), &json!(0)), "{method}: {ended}");
    }
}

#[test]
fn a_wrong_token_ends_a_listener_with_code_4_and_a_remedy() {
    for method in ["poll", "websocket", "pushpull"] {
        let mut pair = Pair::new(method);
        pair.gateway.start();
        pair.token_file("sgr_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
        let mut listener = pair.listen(None, &[]);
        let status = pair.ended(&mut listener);
        pair.gateway.until("a remedy", |_| listener.said().contains("setgate receivers new"));
        assert_eq!(status.code(), Some(4), "{method}: {}", listener.said());
        assert!(listener.said().contains("401"), "{method}: {}", listener.said());
        assert!(!listener.said().contains("sgr_AAAA"), "{method}: the token is told");
    }
}

#[test]
fn a_listener_outlives_its_transmitter() {
    for method in ["push", "multipush", "poll", "websocket", "pushpull"] {
        let mut pair = Pair::new(method);
        let mut listener = pair.start(&["--count", "20"]);
        pair.gateway.accept_all(events(0..10));
        pair.until_taken(&listener, 10);
        pair.gateway.kill();
        pair.gateway.start();
        pair.gateway.accept_all(events(10..20));
        assert_eq!(pair.ended(&mut listener).code(), Some(0), "{method}: {}", listener.said());
        pair.gateway.until("the last line", |_| !listener.reports("ended").is_empty());
        // A SET that came twice around the crash is a duplicate, and none is printed as new.
        assert_eq!(listener.numbers().into_iter().collect::<BTreeSet<_>>(), (0..20).collect(), "{method}");
        assert_eq!(listener.reports("taken").len(), 20, "{method}");
        pair.until_settled(20, 0);
    }
}

/// Checks that SETs that are printed when the interrupt comes are acknowledged before the end, and that the next
/// listener gets the others.
fn ends_in_order(method: &'static str) {
    // The number is larger than what any method delivers at once.
    const EVENTS: u64 = 600;
    let total = usize::try_from(EVENTS).unwrap();
    let mut pair = Pair::new(method);
    let mut first = pair.start(&["--delay", "5ms"]);
    pair.gateway.accept_all(events(0..EVENTS));
    pair.until_taken(&first, 20);
    first.interrupt();
    assert_eq!(pair.ended(&mut first).code(), Some(0), "{}", first.said());
    pair.gateway.until("the last line", |_| !first.reports("ended").is_empty());
    let printed = first.numbers();
    assert!((20..total).contains(&printed.len()), "{} were printed: the interrupt came too late", printed.len());
    pair.gateway
        .until_stream("crm", "what was printed is acknowledged", |view| view["acknowledged"] == printed.len() as u64);
    let at = (!pair.is_asking()).then(|| first.address());
    let rest = pair.listen(at.as_deref(), &[]);
    pair.until_settled(EVENTS, 0);
    pair.until_taken(&rest, total - printed.len());
    let all: BTreeSet<u64> = rest.numbers().into_iter().chain(printed.iter().copied()).collect();
    assert_eq!(all, (0..EVENTS).collect(), "something is lost");
    assert_eq!(rest.numbers().len() + printed.len(), total, "something that was acknowledged came again");
}

#[test]
fn an_interrupted_listener_by_push_loses_nothing() {
    ends_in_order("push");
}

#[test]
fn an_interrupted_listener_by_multipush_loses_nothing() {
    ends_in_order("multipush");
}

#[test]
fn an_interrupted_listener_by_polling_loses_nothing() {
    ends_in_order("poll");
}

#[test]
fn an_interrupted_listener_by_websocket_loses_nothing() {
    ends_in_order("websocket");
}

#[test]
fn an_interrupted_listener_by_pushpull_loses_nothing() {
    ends_in_order("pushpull");
}
