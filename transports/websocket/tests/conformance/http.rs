//! Push-pull over HTTP.

use std::time::Duration;

use serde_json::{Value as Json, json};
use setgate_delivery::{Closed, DeliveryMode, Order, Receipt, Redelivery, testkit::clock};
use setgate_websocket::Section;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    Served, plain, serve,
    subscription::{Ledger, jti},
};

/// Sends a request; returns status, head and body of the answer.
async fn send(served: &Served, head: &str, body: &str) -> (u16, String, String) {
    let mut tcp = TcpStream::connect(served.host.address()).await.unwrap();
    let request = format!("{head}Host: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), head.to_lowercase(), body.to_owned())
}

async fn post(served: &Served, object: Json) -> Json {
    let head = "POST / HTTP/1.1\r\nContent-Type: application/json\r\n";
    let (status, head, body) = send(served, head, &object.to_string()).await;
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("content-type: application/json") && head.contains("content-length: "), "{head}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn a_request_settles_first_and_gets_what_is_there() {
    let ledger = Ledger::owing(5, 100);
    let served = plain(&ledger).await;
    let first = post(&served, json!({ "maxResponseEvents": 2 })).await;
    assert_eq!(first["sets"].as_object().unwrap().len(), 2);
    let error = json!({ "err": "invalid_key", "description": "no" });
    let told = json!({ "ack": [jti(0).as_str()], "setErrs": { jti(1).as_str(): error } });
    let second = post(&served, told).await;
    assert_eq!(second["sets"].as_object().unwrap().len(), 3);
    assert_eq!(ledger.end(0), Some(Ok(Receipt::Receiver)));
    assert!(ledger.end(1).unwrap().is_err());
    // No SETs are left, and the answer says so at once.
    assert_eq!(post(&served, json!({})).await, json!({ "sets": {} }));
    // SETs that left in an answer stay handed over after it.
    assert_eq!(ledger.handed(), 3);
    let mode = DeliveryMode { order: Order::PerBatch, redelivery: Redelivery::After(Duration::from_secs(60)) };
    assert!(ledger.modes().iter().all(|one| *one == Some(mode)));
}

#[tokio::test]
async fn zero_events_only_settles() {
    let ledger = Ledger::owing(1, 100);
    let served = plain(&ledger).await;
    assert_eq!(post(&served, json!({ "maxResponseEvents": 0 })).await, json!({ "sets": {} }));
    assert_eq!(ledger.handed(), 0);
}

#[tokio::test]
async fn sets_of_a_peer_that_may_not_send_are_refused() {
    let ledger = Ledger::owing(1, 100);
    let served = plain(&ledger).await;
    let answer = post(&served, json!({ "sets": { "theirs": "a.b.c" } })).await;
    assert_eq!(answer["setErrs"]["theirs"]["err"], "access_denied");
    assert_eq!(answer["sets"].as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_told_why_in_json() {
    let ledger = Ledger::owing(1, 100);
    let served = plain(&ledger).await;
    let json = "POST / HTTP/1.1\r\nContent-Type: application/json\r\n";
    for (head, body, status) in [
        (json, "nonsense", 400),
        (json, "[]", 400),
        (json, &*" ".repeat((1 << 20) + 1), 413),
        ("POST / HTTP/1.1\r\nContent-Type: text/plain\r\n", "{}", 415),
        ("POST / HTTP/1.1\r\n", "{}", 415),
    ] {
        let (answered, head, body) = send(&served, head, body).await;
        assert_eq!(answered, status, "{body}");
        let said: Json = serde_json::from_str(&body).unwrap();
        assert_eq!(said["err"], "invalid_request");
        assert!(said["description"].is_string() && head.contains("content-language: en"), "{head}");
    }
    assert_eq!(ledger.handed(), 0);
}

#[tokio::test]
async fn other_methods_and_requests_that_upgrade_nothing_are_told_what_this_is() {
    let ledger = Ledger::owing(1, 100);
    let served = plain(&ledger).await;
    let (status, head, _) = send(&served, "PUT / HTTP/1.1\r\n", "").await;
    assert_eq!(status, 405);
    assert!(head.contains("allow: get, post"), "{head}");
    let (status, head, body) = send(&served, "GET / HTTP/1.1\r\n", "").await;
    assert_eq!(status, 426);
    assert!(head.contains("upgrade: websocket") && body.contains("WebSocket"), "{head}");
}

#[tokio::test]
async fn a_stream_that_ended_is_answered_as_a_poll_would_be() {
    for (why, status) in [(Closed::Deleted, 404), (Closed::Disabled, 200), (Closed::Draining, 200)] {
        let ledger = Ledger::owing(1, 100);
        let served = plain(&ledger).await;
        ledger.close(why);
        let head = "POST / HTTP/1.1\r\nContent-Type: application/json\r\n";
        let (answered, _, body) = send(&served, head, "{}").await;
        assert_eq!(answered, status);
        assert!(status == 404 || body == r#"{"sets":{}}"#, "{body}");
    }
}

#[tokio::test]
async fn a_request_of_another_origin_is_turned_away() {
    let ledger = Ledger::owing(1, 100);
    let grant = json!({ "origins": ["https://app.example"] });
    let served = serve(&ledger, &clock::system(), Section::default(), grant, None).await;
    let head = |origin: &str| format!("POST / HTTP/1.1\r\nContent-Type: application/json\r\nOrigin: {origin}\r\n");
    assert_eq!(send(&served, &head("https://evil.example"), "{}").await.0, 403);
    assert_eq!(ledger.handed(), 0);
    assert_eq!(send(&served, &head("https://app.example"), "{}").await.0, 200);
}
