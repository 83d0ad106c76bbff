//! Tests of the collector against a transmitter that is independent of this crate.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use setgate_delivery::{Answer, ErrorCode, Fault, Incoming, Ingest, Method, Refusal, Stop, testkit::clock};
use tokio::sync::watch;

use super::{Arc, BoxFuture, Runtime, json, method, transmitter::Transmitter};

/// An ingest that answers by a script, and accepts every SET after its end.
struct Scripted(Mutex<VecDeque<Answer>>);

impl Ingest for Scripted {
    fn accept<'a>(&'a self, _: &'a str, what: Vec<Incoming>) -> BoxFuture<'a, Vec<Answer>> {
        let mut script = self.0.lock().unwrap();
        let answers = what.iter().map(|_| script.pop_front().unwrap_or(Answer::Taken)).collect();
        Box::pin(std::future::ready(answers))
    }
}

struct Collecting {
    transmitter: Transmitter,
    stop: watch::Sender<bool>,
    work: tokio::task::JoinHandle<Result<(), Fault>>,
}

async fn collecting(script: Vec<Answer>, runtime: Runtime) -> Collecting {
    let transmitter = Transmitter::new().await;
    let poll = method(json!({}), &runtime).await;
    let from = json!({
        "endpoint_url": format!("http://{}/poll", transmitter.address()), "authorization_header": "Bearer x",
        "max_events": 10, "allow_networks": ["127.0.0.0/8"], "allow_http": true,
    });
    let (stop, stopped): (_, Stop) = watch::channel(false);
    let ingest: Arc<dyn Ingest> = Arc::new(Scripted(Mutex::new(script.into())));
    let work = tokio::spawn(async move { poll.collect(from, ingest, stopped).await });
    Collecting { transmitter, stop, work }
}

fn quick() -> Runtime {
    setgate_delivery::testkit::with_fast_clock(clock::system())
}

#[tokio::test]
async fn the_next_poll_acknowledges_and_reports_in_a_language() {
    let refusal = Refusal { code: ErrorCode::InvalidIssuer, description: Some("no".into()), language: None };
    let script = vec![Answer::Taken, Answer::Refused(refusal)];
    let mut one = collecting(script, quick()).await;
    let first = one.transmitter.asked().await;
    assert_eq!(first.body, json!({ "maxEvents": 10 }));
    assert!(first.head.contains("authorization: Bearer x") && first.head.contains("content-type: application/json"));
    assert!(!first.head.contains("content-language"));
    one.transmitter
        .answer("200 OK", "", &json!({ "sets": { "a": "x.y.z", "b": "1.2.3" }, "moreAvailable": true }))
        .await;
    let second = one.transmitter.asked().await;
    assert_eq!(
        second.body,
        json!({ "ack": ["a"], "setErrs": { "b": { "err": "invalid_issuer", "description": "no" } }, "maxEvents": 10 })
    );
    assert!(second.head.contains("content-language: en"));
    // The outcome is confirmed, so it is not sent again.
    one.transmitter.answer("200 OK", "", &json!({ "sets": {} })).await;
    assert_eq!(one.transmitter.asked().await.body, json!({ "maxEvents": 10 }));
    one.stop.send_replace(true);
    one.work.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_was_said_into_a_broken_connection_is_said_again_and_before_the_end() {
    let mut one = collecting(Vec::new(), quick()).await;
    one.transmitter.asked().await;
    one.transmitter.answer("200 OK", "", &json!({ "sets": { "a": "x.y.z" } })).await;
    for _ in 0..3 {
        assert_eq!(one.transmitter.asked().await.body["ack"], json!(["a"]));
        one.transmitter.hang_up();
    }
    assert_eq!(one.transmitter.asked().await.body["ack"], json!(["a"]));
    one.stop.send_replace(true);
    // The poll that was under way is dropped; whether the transmitter received it is not known.
    let last = one.transmitter.asked().await;
    assert_eq!(last.body, json!({ "ack": ["a"], "maxEvents": 0, "returnImmediately": true }));
    one.transmitter.answer("200 OK", "", &json!({ "sets": {} })).await;
    one.work.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_end_is_not_put_off_by_a_transmitter_that_hears_nothing() {
    let mut one = collecting(Vec::new(), quick()).await;
    one.transmitter.asked().await;
    one.transmitter.answer("200 OK", "", &json!({ "sets": { "a": "x.y.z" } })).await;
    one.transmitter.asked().await;
    one.stop.send_replace(true);
    one.work.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_busy_is_neither_acknowledged_nor_refused() {
    let script = vec![Answer::Busy { after: Duration::from_secs(2) }, Answer::Taken, Answer::Status(503)];
    let mut one = collecting(script, quick()).await;
    one.transmitter.asked().await;
    one.transmitter.answer("200 OK", "", &json!({ "sets": { "a": "x", "b": "y", "c": "z" } })).await;
    let only = one.transmitter.asked().await.body;
    assert_eq!(only, json!({ "ack": ["b"], "maxEvents": 0, "returnImmediately": true }));
    one.transmitter.answer("200 OK", "", &json!({ "sets": {} })).await;
    assert_eq!(one.transmitter.asked().await.body, json!({ "maxEvents": 10 }));
    one.work.abort();
}

#[tokio::test]
async fn it_ends_where_waiting_fixes_nothing_and_waits_elsewhere() {
    for status in ["401 Unauthorized", "403 Forbidden", "404 Not Found"] {
        let mut one = collecting(Vec::new(), quick()).await;
        one.transmitter.asked().await;
        one.transmitter.answer(status, "", &json!({})).await;
        assert!(one.work.await.unwrap().unwrap_err().to_string().contains(&status[..3]), "{status}");
    }
    let mut one = collecting(Vec::new(), quick()).await;
    for (status, body) in [
        ("500 Oh", json!({})),
        ("503 Later", json!({})),
        ("302 There", json!({})),
        ("400 Bad Request", json!({})),
        ("200 OK", json!([])),
        ("200 OK", json!({ "sets": 1 })),
    ] {
        assert_eq!(one.transmitter.asked().await.body, json!({ "maxEvents": 10 }), "before {status}");
        one.transmitter.answer(status, "Location: http://127.0.0.1:1/\r\n", &body).await;
    }
    one.transmitter.asked().await;
    one.stop.send_replace(true);
    one.work.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_wish_to_be_left_alone_is_honoured_up_to_an_hour() {
    let mock = clock::MockClock::at(1_700_000_000_000);
    let mut one = collecting(Vec::new(), Runtime { clock: mock.clone(), ..clock::system() }).await;
    for (asked, honoured) in [("120", 120), ("99999999", 3600)] {
        one.transmitter.asked().await;
        one.transmitter.answer("429 Too Many Requests", &format!("Retry-After: {asked}\r\n"), &json!({})).await;
        // The answer is read once nothing else happens; then the pause begins.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        mock.advance(Duration::from_secs(honoured - 1));
        let early = futures_util::FutureExt::now_or_never(one.transmitter.asked());
        assert!(early.is_none(), "asked again before {honoured} s");
        mock.advance(Duration::from_secs(2));
    }
    one.transmitter.asked().await;
    one.stop.send_replace(true);
    one.work.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_source_that_is_not_acceptable_is_told() {
    let poll = method(json!({}), &clock::system()).await;
    for from in [
        json!({}),
        json!({ "endpoint_url": "nowhere" }),
        json!({ "endpoint_url": "http://127.0.0.1/" }),
        json!({ "endpoint_url": "https://a.example", "authorization_header": "a\r\nb" }),
        json!({ "endpoint_url": "https://a.example", "max_events": 0 }),
        json!({ "endpoint_url": "https://a.example", "other": 0 }),
    ] {
        let (_stop, stopped) = watch::channel(false);
        let ingest: Arc<dyn Ingest> = Arc::new(Scripted(Mutex::new(VecDeque::new())));
        assert!(poll.collect(from.clone(), ingest, stopped).await.is_err(), "{from}");
    }
}
