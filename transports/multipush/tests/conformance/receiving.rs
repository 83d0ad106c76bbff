//! Tests of the receiving half with callers that keep to the protocol and with callers that do not.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use setgate_delivery::{Answer, ErrorCode, Incoming, Refusal};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

/// An ingest that cycles through its answers, SET by SET, and records the SETs.
struct Turns {
    answers: Vec<Answer>,
    asked: AtomicUsize,
    came: Mutex<Vec<(String, String)>>,
}

impl Ingest for Turns {
    fn accept<'a>(&'a self, _: &'a str, what: Vec<Incoming>) -> BoxFuture<'a, Vec<Answer>> {
        let answers = what
            .into_iter()
            .map(|incoming| {
                let Incoming::Set { named: Some(named), token } = incoming else { panic!("{incoming:?}") };
                self.came.lock().unwrap().push((named.into(), String::from_utf8(token.to_vec()).unwrap()));
                self.answers[self.asked.fetch_add(1, Ordering::SeqCst) % self.answers.len()].clone()
            })
            .collect();
        Box::pin(std::future::ready(answers))
    }
}

struct Open {
    address: SocketAddr,
    ingest: Arc<Turns>,
    _stop: watch::Sender<bool>,
}

async fn open(answers: Vec<Answer>) -> Open {
    let runtime = clock::system();
    let method = method(&runtime, json!({ "receive_sets": 3, "receive_bytes": 4096 })).await;
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.address();
    let ingest = Arc::new(Turns { answers, asked: AtomicUsize::new(0), came: Mutex::default() });
    let (stop, stopped) = watch::channel(false);
    let arrival = Arrival { ingest: ingest.clone(), peer: "test".into(), ends: stopped.clone() };
    let app = method.receive_routes().unwrap().layer(Extension(arrival));
    runtime.spawn("receiver", listener.serve(app, stopped, runtime.clone()));
    Open { address, ingest, _stop: stop }
}

/// Sends raw bytes and reads until the server closes.
async fn ask(endpoint: &Open, request: &[u8]) -> String {
    let mut tcp = TcpStream::connect(endpoint.address).await.unwrap();
    tcp.write_all(request).await.unwrap();
    let mut all = Vec::new();
    tcp.read_to_end(&mut all).await.unwrap();
    String::from_utf8(all).unwrap().to_ascii_lowercase()
}

fn post(fields: &str, body: &str) -> Vec<u8> {
    format!("POST /any/path HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n{body}").into_bytes()
}

fn sets(body: &str) -> Vec<u8> {
    post(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()), body)
}

#[tokio::test]
async fn what_is_kept_is_acknowledged_and_what_is_refused_says_why() {
    let refusal = Refusal { code: ErrorCode::InvalidKey, description: Some("no \"key\"".into()), language: None };
    let later = Answer::Busy { after: Duration::from_secs(1) };
    let endpoint = open(vec![Answer::Taken, Answer::Refused(refusal), later]).await;
    let answer = ask(&endpoint, &sets(r#"{"sets":{"z":"a.b.c","a":"d.e.f","m":"g.h.i"}}"#)).await;
    assert!(answer.starts_with("http/1.1 202 "), "{answer}");
    assert!(answer.contains("\r\ncontent-type: application/json\r\n"), "{answer}");
    assert!(answer.contains("\r\ncontent-language: en\r\n"), "{answer}");
    assert!(
        answer.ends_with(r#"{"ack":["z"],"seterrs":{"a":{"err":"invalid_key","description":"no \"key\""}}}"#),
        "{answer}"
    );
    // The SETs arrive in the order of the request, each under its name.
    let came = endpoint.ingest.came.lock().unwrap().clone();
    let due = [("z", "a.b.c"), ("a", "d.e.f"), ("m", "g.h.i")];
    assert_eq!(came, due.map(|(name, token)| (name.to_owned(), token.to_owned())));
}

#[tokio::test]
async fn an_empty_request_is_answered_without_the_ingest() {
    let endpoint = open(vec![Answer::Status(500)]).await;
    for body in [r#"{"sets":{}}"#, "{}"] {
        let answer = ask(&endpoint, &sets(body)).await;
        assert!(answer.starts_with("http/1.1 202 ") && answer.ends_with(r#"{"ack":[]}"#), "{answer}");
    }
    assert_eq!(endpoint.ingest.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn when_all_are_busy_it_is_said_so_and_a_told_status_as_told() {
    let busy = open(vec![Answer::Busy { after: Duration::from_millis(1500) }]).await;
    let answer = ask(&busy, &sets(r#"{"sets":{"a":"x","b":"y"}}"#)).await;
    assert!(answer.starts_with("http/1.1 503 ") && answer.contains("\r\nretry-after: 2\r\n"), "{answer}");
    let told = ask(&open(vec![Answer::Taken, Answer::Status(418)]).await, &sets(r#"{"sets":{"a":"x","b":"y"}}"#)).await;
    assert!(told.starts_with("http/1.1 418 "), "{told}");
}

#[tokio::test]
async fn what_is_no_request_never_reaches_the_ingest() {
    let endpoint = open(vec![Answer::Taken]).await;
    let json = "Content-Type: application/json\r\n";
    let long = format!(r#"{{"sets":{{"a":"{}"}}}}"#, "x".repeat(4096));
    for (request, status, err) in [
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec(), "405", ""),
        (post("Content-Type: application/secevent+jwt\r\nContent-Length: 5\r\n", "a.b.c"), "415", ""),
        (post("Content-Length: 2\r\n", "{}"), "415", ""),
        (post(&format!("{json}Content-Encoding: gzip\r\n"), ""), "415", ""),
        (sets(""), "400", "invalid_request"),
        (sets("[]"), "400", "invalid_request"),
        (sets(r#"{"sets":{"a":"x","a":"y"}}"#), "400", "invalid_request"),
        (sets(r#"{"sets":{"a":"1","b":"2","c":"3","d":"4"}}"#), "413", "too_many_sets"),
        (post(&format!("{json}Content-Length: 99999\r\n"), ""), "413", "too_many_sets"),
        (
            post(&format!("{json}Transfer-Encoding: chunked\r\n"), &format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len())),
            "413",
            "too_many_sets",
        ),
    ] {
        let answer = ask(&endpoint, &request).await;
        let shown = String::from_utf8_lossy(&request);
        assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{shown:.200}\n{answer}");
        assert!(err.is_empty() || answer.contains(&format!(r#""err":"{err}""#)), "{shown:.200}\n{answer}");
        assert_eq!(!err.is_empty(), answer.contains("\r\ncontent-language: en\r\n"), "{answer}");
    }
    assert_eq!(endpoint.ingest.asked.load(Ordering::SeqCst), 0);
}
