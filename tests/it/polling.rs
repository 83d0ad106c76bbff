//! Receivers that poll (RFC 8936), against the program: across restarts, pauses and the redelivery timeout, and with
//! `curl`.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::boxed::{Gateway, Plan, binary, event};
use crate::http::{self, Answer, request};

/// Returns a receiver's token and its hash.
fn token() -> (String, String) {
    let words = ["receivers", "new", "x", "--issuer", "http://127.0.0.1:1", "--all-streams", "--json"];
    let made = binary().args(words).output().unwrap();
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("token"), text("hash"))
}

/// A gateway with one polled stream, and the credential of its receiver.
struct Polled {
    gateway: Gateway,
    bearer: String,
}

impl Polled {
    fn start(options: &str) -> Self {
        let plan = Plan::new().options(options).stream_by("crm", "{ method = \"poll\" }");
        let mut gateway = plan.prepare();
        let (token, hash) = token();
        let section = format!(
            "\n[[receivers]]\nname = \"crm\"\ntoken_hashes = [\"{hash}\"]\nissuers = [\"{}\"]\nstreams = \"all\"\n",
            gateway.issuer("")
        );
        std::fs::File::options().append(true).open(gateway.config()).unwrap().write_all(section.as_bytes()).unwrap();
        gateway.start();
        Self { gateway, bearer: format!("Bearer {token}") }
    }

    /// Sends a poll without waiting for its answer.
    fn begin(&self, ask: &Value) -> TcpStream {
        let fields = [("authorization", &*self.bearer), ("content-type", "application/json")];
        let mut stream = http::connect(self.gateway.world).unwrap();
        stream.write_all(&request("POST", "/poll/crm", &fields, ask.to_string().as_bytes())).unwrap();
        stream
    }

    /// Polls once and returns the answer.
    fn ask(&self, ask: &Value) -> Value {
        let answer = http::answer(&mut self.begin(ask)).unwrap_or_else(|| panic!("no answer:\n{}", self.gateway.log()));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Begins a long poll, and waits until it is held.
    fn wait(&mut self) -> TcpStream {
        let stream = self.begin(&json!({}));
        let metrics = request("GET", "/metrics", &[], b"");
        let line = "setgate_sessions_open{method=\"poll\"} 1\n";
        self.gateway.until("a poll waits", |gateway| http::send(gateway.operator, &metrics).text().contains(line));
        stream
    }

    fn acknowledged(&mut self, count: u64) {
        self.gateway.until_stream("crm", "acknowledged", |view| view["acknowledged"] == count);
    }

    /// Polls and acknowledges until `count` events have arrived; returns their ids by number.
    fn take(&self, count: usize) -> BTreeMap<u64, String> {
        let mut taken = BTreeMap::new();
        let mut ack: Vec<String> = Vec::new();
        while taken.len() < count {
            let sets = sets(&self.ask(&json!({ "ack": ack })));
            ack = sets.keys().cloned().collect();
            for (jti, token) in sets {
                if let Some(number) = number(&token) {
                    assert_eq!(taken.insert(number, jti), None, "{number} came twice though it was acknowledged");
                }
            }
        }
        self.ask(&json!({ "ack": ack, "maxEvents": 0 }));
        taken
    }
}

fn sets(answer: &Value) -> BTreeMap<String, String> {
    let sets = answer["sets"].as_object().expect("an answer has `sets`");
    sets.iter().map(|(jti, token)| (jti.clone(), token.as_str().unwrap().to_owned())).collect()
}

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&decode(payload)).unwrap()
}

/// Returns the number of a test's event; `None` for the gateway's own SETs.
fn number(token: &str) -> Option<u64> {
    claims(token)["events"][crate::boxed::TYPE]["number"].as_u64()
}

fn decode(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'-' => 62,
        _ => 63,
    };
    let mut bits = 0u32;
    let mut bytes = Vec::new();
    for (at, byte) in text.bytes().enumerate() {
        bits = bits << 6 | u32::from(value(byte));
        if at % 4 != 0 {
            bytes.push(u8::try_from(bits >> (6 - 2 * (at % 4)) & 0xff).unwrap());
        }
    }
    bytes
}

fn answered(mut stream: TcpStream) -> Answer {
    http::answer(&mut stream).expect("an answer")
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a real process is timed, in real time")]
fn a_long_poll_is_woken_by_an_event() {
    let mut polled = Polled::start("");
    let waiting = polled.wait();
    let began = Instant::now();
    polled.gateway.accept(&event(7, "jane"));
    let answer = answered(waiting);
    assert!(began.elapsed() < Duration::from_secs(15), "the hold had to end first");
    let sets = sets(&answer.json());
    assert_eq!(sets.values().map(|token| number(token)).collect::<Vec<_>>(), [Some(7)]);
    for (jti, token) in &sets {
        assert_eq!(claims(token)["jti"], **jti);
    }
    // The SETs are acknowledged in the same request as the next poll.
    let waits = polled.ask(&json!({ "ack": sets.keys().collect::<Vec<_>>(), "returnImmediately": true }));
    assert_eq!(waits, json!({ "sets": {} }));
    polled.acknowledged(1);
}

#[test]
fn an_acknowledgement_after_a_crash_counts_and_the_rest_comes_again() {
    let mut polled = Polled::start("");
    polled.gateway.accept_all((0..5).map(|number| event(number, "jane")));
    let mut before = BTreeMap::new();
    while before.len() < 5 {
        before.extend(sets(&polled.ask(&json!({}))));
    }
    polled.gateway.kill();
    polled.gateway.start();
    let jtis: Vec<&String> = before.keys().collect();
    polled.ask(&json!({ "ack": jtis[..3], "maxEvents": 0 }));
    polled.acknowledged(3);
    let mut after = BTreeMap::new();
    while after.len() < 2 {
        after.extend(sets(&polled.ask(&json!({}))));
    }
    assert_eq!(after.keys().collect::<Vec<_>>(), jtis[3..], "not what was left");
    for (jti, token) in &after {
        assert_eq!(claims(token), claims(&before[jti]), "one jti, two payloads");
    }
    polled.ask(&json!({ "ack": after.keys().collect::<Vec<_>>(), "maxEvents": 0 }));
    polled.acknowledged(5);
    assert_eq!(polled.ask(&json!({ "returnImmediately": true })), json!({ "sets": {} }));
}

#[test]
fn what_is_not_acknowledged_comes_again_byte_for_byte() {
    let polled = Polled::start("[methods.poll]\nredelivery_timeout = \"5s\"");
    polled.gateway.accept_all((0..10).map(|number| event(number, &format!("key-{}", number % 3))));
    let mut first = BTreeMap::new();
    while first.len() < 10 {
        let more = sets(&polled.ask(&json!({})));
        assert!(more.keys().all(|jti| !first.contains_key(jti)), "handed out twice at a time");
        first.extend(more);
    }
    // ES256 is randomized: a token that was signed again would differ.
    let mut again = BTreeMap::new();
    while again.len() < 10 {
        again.extend(sets(&polled.ask(&json!({}))));
    }
    assert_eq!(again, first);
}

#[test]
fn a_pause_holds_what_a_poll_waits_for_and_resuming_wakes_it() {
    let mut polled = Polled::start("");
    let waiting = polled.wait();
    polled.gateway.command(&["streams", "pause", "crm", "--reason", "a test"]);
    // The one SET that is still delivered says that the stream is paused (SSF 1.0 §8.1.5).
    let told = sets(&answered(waiting).json());
    assert!(told.len() == 1 && told.values().all(|token| number(token).is_none()), "{told:?}");
    polled.ask(&json!({ "ack": told.keys().collect::<Vec<_>>(), "maxEvents": 0 }));
    polled.gateway.accept(&event(1, "jane"));
    assert_eq!(polled.ask(&json!({ "returnImmediately": true })), json!({ "sets": {} }));
    let waiting = polled.wait();
    polled.gateway.command(&["streams", "resume", "crm"]);
    let mut came: Vec<Option<u64>> = sets(&answered(waiting).json()).values().map(|token| number(token)).collect();
    while !came.contains(&Some(1)) {
        came.extend(sets(&polled.ask(&json!({}))).values().map(|token| number(token)));
    }
    assert_eq!(came.iter().flatten().count(), 1);
}

#[test]
fn a_stop_answers_who_waits() {
    let mut polled = Polled::start("");
    let waiting = polled.wait();
    let status = polled.gateway.stop();
    assert!(status.success(), "{status}: {}", polled.gateway.log());
    let answer = answered(waiting);
    assert_eq!((answer.status, answer.text()), (200, "{\"sets\":{}}".to_owned()));
}

#[test]
fn a_backlog_comes_once_and_in_order() {
    let mut polled = Polled::start("");
    polled.gateway.accept_all((0..600).map(|number| event(number, &format!("key-{}", number % 7))));
    assert_eq!(polled.take(600).into_keys().collect::<Vec<_>>(), (0..600).collect::<Vec<_>>());
    polled.acknowledged(600);
}

#[test]
fn curl_polls_and_acknowledges() {
    assert!(Command::new("curl").arg("--version").output().is_ok(), "this test needs curl: apt-get install curl");
    let mut polled = Polled::start("");
    polled.gateway.accept(&event(1, "jane"));
    let url = format!("{}/poll/crm", polled.gateway.issuer(""));
    let authorization = format!("Authorization: {}", polled.bearer);
    let curl = |body: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--noproxy", "*", "-w", "\n%{http_code} %{content_type}", "-X", "POST"]);
        curl.args(["-H", &authorization, "-H", "Content-Type: application/json", "-d", body, &url]);
        let output = curl.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, rest) = text.rsplit_once('\n').unwrap();
        (rest.to_owned(), serde_json::from_str::<Value>(body).unwrap())
    };
    let (status, answer) = curl("{}");
    assert_eq!(status, "200 application/json");
    let sets = sets(&answer);
    assert_eq!(sets.len(), 1);
    let ack = json!({ "ack": sets.keys().collect::<Vec<_>>(), "maxEvents": 0, "returnImmediately": true });
    assert_eq!(curl(&ack.to_string()), ("200 application/json".to_owned(), json!({ "sets": {} })));
    polled.acknowledged(1);
    let (status, answer) = curl("[]");
    assert_eq!((&*status, &answer["err"]), ("400 application/json", &"invalid_request".into()));
}
