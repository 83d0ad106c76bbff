//! The other end against gateways that refuse, close and misbehave.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value as Json, json};
use setgate_delivery::{Answer, BoxFuture, Fault, Incoming, Ingest, Method, testkit::clock};
use setgate_websocket::Section;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
    },
};

use crate::method;

/// An ingest that gives the answers it was set up with, accepts the rest, and remembers names.
#[derive(Default)]
struct Desk {
    answers: Mutex<Vec<Answer>>,
    seen: Mutex<Vec<String>>,
}

impl Ingest for Desk {
    fn accept<'a>(&'a self, _: &'a str, what: Vec<Incoming>) -> BoxFuture<'a, Vec<Answer>> {
        let answer = |incoming| {
            let Incoming::Set { named: Some(named), .. } = incoming else { panic!("{incoming:?}") };
            self.seen.lock().unwrap().push(named.into());
            let mut answers = self.answers.lock().unwrap();
            if answers.is_empty() { Answer::Taken } else { answers.remove(0) }
        };
        let all = what.into_iter().map(answer).collect();
        Box::pin(std::future::ready(all))
    }
}

/// A collection from a gateway that the test plays.
struct Played {
    tcp: TcpListener,
    desk: Arc<Desk>,
    stop: watch::Sender<bool>,
    end: tokio::task::JoinHandle<Result<(), Fault>>,
}

async fn play(more: Json) -> Played {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = tcp.local_addr().unwrap();
    let method = method(&setgate_delivery::testkit::with_fast_clock(clock::system()), Section::default()).await;
    let (stop, stopped) = watch::channel(false);
    let desk = Arc::new(Desk::default());
    let mut from =
        json!({ "endpoint_url": format!("ws://{address}/websocket/orders"), "authorization_header": "Bearer canary" });
    from.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let ingest = desk.clone();
    let end = tokio::spawn(async move { method.collect(from, ingest, stopped).await });
    Played { tcp, desk, stop, end }
}

impl Played {
    /// Accepts the next handshake with this subprotocol; returns the socket and the head of the request.
    async fn accept(&self, protocol: &'static str) -> (WebSocketStream<TcpStream>, Request) {
        let (tcp, _) = self.tcp.accept().await.unwrap();
        let mut head = None;
        #[expect(clippy::result_large_err, reason = "the library's callback is so")]
        let socket = tokio_tungstenite::accept_hdr_async(tcp, |request: &Request, mut response: Response| {
            head = Some(request.clone());
            response.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
            Ok(response)
        });
        let socket = socket.await.unwrap();
        (socket, head.unwrap())
    }

    /// Gives the next request this answer; returns the request.
    async fn answer(&self, answer: &str) -> String {
        let (mut tcp, _) = self.tcp.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            tcp.read_buf(&mut request).await.unwrap();
        }
        let text = String::from_utf8(request.clone()).unwrap().to_lowercase();
        let length: usize =
            text.split("content-length: ").nth(1).map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
        let head = text.find("\r\n\r\n").unwrap() + 4;
        while request.len() < head + length {
            tcp.read_buf(&mut request).await.unwrap();
        }
        tcp.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    }

    async fn answer_json(&self, object: Json) -> Json {
        let body = object.to_string();
        let request = self
            .answer(&format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
            .await;
        assert!(request.starts_with("POST /websocket/orders "), "{request}");
        serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

async fn object(socket: &mut WebSocketStream<TcpStream>) -> Json {
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn hand(socket: &mut WebSocketStream<TcpStream>, names: &[&str]) {
    let sets: serde_json::Map<_, _> = names.iter().map(|name| ((*name).to_owned(), json!("a.b.c"))).collect();
    socket.send(Message::text(json!({ "sets": sets }).to_string())).await.unwrap();
}

#[tokio::test]
async fn it_offers_both_grants_credit_and_settles_by_name() {
    let played = play(json!({ "credit": 8 })).await;
    let (mut socket, head) = played.accept("setgate.v1").await;
    assert_eq!(head.headers()["sec-websocket-protocol"], "setgate.v1, pushpull");
    assert_eq!(head.headers()["authorization"], "Bearer canary");
    assert_eq!(head.uri().path(), "/websocket/orders");
    assert!(!head.headers().contains_key("origin"));
    assert_eq!(object(&mut socket).await, json!({ "maxEvents": 8 }));
    let refusal = setgate_delivery::Refusal {
        code: setgate_delivery::ErrorCode::InvalidKey,
        description: Some("no such key".into()),
        language: None,
    };
    played.desk.answers.lock().unwrap().extend([Answer::Taken, Answer::Refused(refusal)]);
    hand(&mut socket, &["a", "b", "c"]).await;
    let settled = object(&mut socket).await;
    assert_eq!(settled["ack"], json!(["a", "c"]));
    assert_eq!(settled["setErrs"], json!({ "b": { "err": "invalid_key", "description": "no such key" } }));
    assert_eq!(settled["maxEvents"], 3);
}

#[tokio::test]
async fn a_set_that_the_ingest_is_too_busy_for_is_tried_again_before_its_successors() {
    let played = play(json!({})).await;
    let (mut socket, _) = played.accept("pushpull").await;
    played.desk.answers.lock().unwrap().extend([Answer::Busy { after: Duration::from_secs(1) }]);
    hand(&mut socket, &["a"]).await;
    while played.desk.seen.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    hand(&mut socket, &["b"]).await;
    let mut acks = Vec::new();
    while acks.len() < 2 {
        let settled = object(&mut socket).await;
        assert!(settled.get("maxEvents").is_none(), "push-pull knows no credit");
        acks.extend(settled["ack"].as_array().unwrap().clone());
    }
    assert_eq!(acks, ["a", "b"]);
    assert_eq!(*played.desk.seen.lock().unwrap(), ["a", "a", "b"]);
}

#[tokio::test]
async fn it_connects_again_after_any_end_and_grants_anew() {
    let played = play(json!({ "credit": 3 })).await;
    let (mut socket, _) = played.accept("setgate.v1").await;
    object(&mut socket).await;
    socket.close(None).await.unwrap();
    // A connection that is cut in the middle.
    let (socket, _) = played.accept("setgate.v1").await;
    drop(socket);
    // A connection that is never answered.
    drop(played.tcp.accept().await.unwrap());
    let (mut socket, _) = played.accept("setgate.v1").await;
    assert_eq!(object(&mut socket).await, json!({ "maxEvents": 3 }));
}

#[tokio::test]
async fn a_refusal_for_good_ends_it_and_names_the_member() {
    for (status, pointer) in [
        ("401 Unauthorized", "/authorization_header"),
        ("403 Forbidden", "/authorization_header"),
        ("404 Not Found", "/endpoint_url"),
    ] {
        for transport in ["websocket", "http"] {
            let played = play(json!({ "transport": transport })).await;
            played.answer(&format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")).await;
            match played.end.await.unwrap() {
                Err(Fault::Terms { pointer: at, cause }) => {
                    assert_eq!(at, pointer);
                    assert!(!cause.to_string().contains("canary"));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_gateway_that_is_busy_is_asked_again_by_the_same_means() {
    let played = play(json!({})).await;
    for status in ["503 Service Unavailable", "429 Too Many Requests"] {
        let request = played
            .answer(&format!("HTTP/1.1 {status}\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
            .await;
        assert!(request.starts_with("GET "));
    }
    played.accept("setgate.v1").await;
}

#[tokio::test]
async fn where_no_websocket_passes_it_asks_over_http() {
    for answer in [
        "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi",
    ] {
        let played = play(json!({ "credit": 5 })).await;
        assert!(played.answer(answer).await.starts_with("GET "));
        let first = played.answer_json(json!({ "sets": { "a": "x", "b": "y" } })).await;
        assert_eq!(first, json!({ "ack": [], "maxResponseEvents": 5 }));
        // Accepted SETs are acknowledged at once.
        let second = played.answer_json(json!({ "sets": {} })).await;
        assert_eq!(second["ack"], json!(["a", "b"]));
        let third = played.answer_json(json!({})).await;
        assert_eq!(third["ack"], json!([]));
    }
}

#[tokio::test]
async fn over_http_nothing_is_forgotten_when_a_request_fails() {
    let played = play(json!({ "transport": "http" })).await;
    played.answer_json(json!({ "sets": { "a": "x" } })).await;
    // This answer is lost, so that the acknowledgement may not have arrived. To forget it would be safe, since the SET
    // would be due again in the end; to repeat it is cheaper.
    played.answer("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    let again = played.answer_json(json!({})).await;
    assert_eq!(again["ack"], json!(["a"]));
}

#[tokio::test]
async fn told_to_stop_it_says_goodbye() {
    let played = play(json!({})).await;
    let (mut socket, _) = played.accept("setgate.v1").await;
    object(&mut socket).await;
    played.stop.send_replace(true);
    match socket.next().await.unwrap().unwrap() {
        Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1001),
        other => panic!("{other:?}"),
    }
    while let Some(Ok(_)) = socket.next().await {}
    assert!(played.end.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_gateway_that_sends_more_than_was_granted_is_hung_up_on() {
    let played = play(json!({ "credit": 2 })).await;
    let (mut socket, _) = played.accept("setgate.v1").await;
    object(&mut socket).await;
    hand(&mut socket, &["a", "b", "c"]).await;
    match socket.next().await.unwrap().unwrap() {
        Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1008),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_cannot_be_understood_is_a_fault_at_once() {
    let method = method(&clock::system(), Section::default()).await;
    for from in [
        json!({}),
        json!({ "endpoint_url": "nonsense" }),
        json!({ "endpoint_url": "https://192.0.2.1/", "surprise": 1 }),
        json!({ "endpoint_url": "http://10.0.0.1/x" }),
        json!({ "endpoint_url": "http://127.0.0.1:1/x", "authorization_header": "a\r\nb" }),
        json!({ "endpoint_url": "http://127.0.0.1:1/x", "subprotocol": "mqtt" }),
    ] {
        let (_stop, stopped) = watch::channel(false);
        let end = method.collect(from.clone(), Arc::new(Desk::default()), stopped).await;
        assert!(matches!(end, Err(Fault::Terms { .. })), "{from} {end:?}");
    }
}
