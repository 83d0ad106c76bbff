//! Tests of the receiving half with callers that keep to the protocol and with callers that do not.

use std::sync::atomic::{AtomicUsize, Ordering};

use setgate_delivery::{Answer, ErrorCode, Incoming, Refusal};

use super::{server::Caller, *};

/// An ingest that gives the same answer to every SET and counts them.
struct Always {
    answer: Answer,
    asked: AtomicUsize,
}

impl Ingest for Always {
    fn accept<'a>(&'a self, _: &'a str, what: Vec<Incoming>) -> BoxFuture<'a, Vec<Answer>> {
        self.asked.fetch_add(what.len(), Ordering::SeqCst);
        Box::pin(std::future::ready(what.iter().map(|_| self.answer.clone()).collect()))
    }
}

struct Open {
    address: SocketAddr,
    ingest: Arc<Always>,
    _stop: watch::Sender<bool>,
}

async fn open(answer: Answer) -> Open {
    let runtime = clock::system();
    let push = method(&runtime, &no_roots(), &OwnAddresses::new(), Answers::new(&[])).await;
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.address();
    let ingest = Arc::new(Always { answer, asked: AtomicUsize::new(0) });
    let (stop, stopped) = watch::channel(false);
    let arrival = Arrival { ingest: ingest.clone(), peer: "test".into(), ends: stopped.clone() };
    let app = push.receive_routes().unwrap().layer(Extension(arrival));
    runtime.spawn("receiver", listener.serve(app, stopped, runtime.clone()));
    Open { address, ingest, _stop: stop }
}

/// Sends raw bytes and reads until the server closes.
async fn ask(endpoint: &Open, request: &[u8]) -> String {
    let mut caller = Caller::to(endpoint.address).await;
    caller.try_write(request).await;
    caller.read_all().await.to_ascii_lowercase()
}

fn post(fields: &str, body: &str) -> Vec<u8> {
    format!("POST /any/path HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n{body}").into_bytes()
}

const SET: &str = "Content-Type: application/secevent+jwt\r\nContent-Length: 5\r\n";

#[tokio::test]
async fn an_accepted_set_is_answered_202_and_empty() {
    let endpoint = open(Answer::Taken).await;
    let answer = ask(&endpoint, &post(SET, "a.b.c")).await;
    assert!(answer.starts_with("http/1.1 202 "), "{answer}");
    assert!(answer.contains("\r\ncontent-length: 0\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert_eq!(endpoint.ingest.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_refusal_is_answered_400_with_its_code_and_language() {
    let refusal = Refusal {
        code: ErrorCode::InvalidAudience,
        description: Some("not \"us\"".into()),
        language: Some("en-US".into()),
    };
    let answer = ask(&open(Answer::Refused(refusal)).await, &post(SET, "a.b.c")).await;
    assert!(answer.starts_with("http/1.1 400 "), "{answer}");
    assert!(answer.contains("\r\ncontent-type: application/json\r\n"), "{answer}");
    assert!(answer.contains("\r\ncontent-language: en-us\r\n"), "{answer}");
    assert!(answer.ends_with(r#"{"err":"invalid_audience","description":"not \"us\""}"#), "{answer}");
}

#[tokio::test]
async fn a_busy_ingest_is_answered_503_and_a_told_status_as_told() {
    let busy = open(Answer::Busy { after: Duration::from_millis(1500) }).await;
    let answer = ask(&busy, &post(SET, "a.b.c")).await;
    assert!(answer.starts_with("http/1.1 503 ") && answer.contains("\r\nretry-after: 2\r\n"), "{answer}");
    let told = ask(&open(Answer::Status(418)).await, &post(SET, "a.b.c")).await;
    assert!(told.starts_with("http/1.1 418 "), "{told}");
}

#[tokio::test]
async fn what_is_no_push_never_reaches_the_ingest() {
    let endpoint = open(Answer::Taken).await;
    let length = setgate_push::wire::LARGEST + 1;
    for (request, status) in [
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec(), "405"),
        (post("Content-Type: application/json\r\nContent-Length: 2\r\n", "{}"), "415"),
        (post("Content-Type: application/jwt\r\nContent-Length: 5\r\n", "a.b.c"), "415"),
        (post("Content-Length: 5\r\n", "a.b.c"), "415"),
        (post(&format!("{SET}Content-Encoding: gzip\r\n"), "a.b.c"), "415"),
        (post(&format!("Content-Type: application/secevent+jwt\r\nContent-Length: {length}\r\n"), ""), "413"),
        (post("Content-Type: application/secevent+jwt\r\nContent-Length: 0\r\n", ""), "400"),
    ] {
        let answer = ask(&endpoint, &request).await;
        assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{}\n{answer}", String::from_utf8_lossy(&request));
    }
    assert_eq!(endpoint.ingest.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_body_without_a_length_is_cut_off_at_the_limit() {
    let endpoint = open(Answer::Taken).await;
    let mut caller = Caller::to(endpoint.address).await;
    caller.write(&post("Content-Type: application/secevent+jwt\r\nTransfer-Encoding: chunked\r\n", "")).await;
    let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
    // The server answers while the body is being sent, and closes.
    for _ in 0..32 {
        if !caller.try_write(&chunk).await {
            break;
        }
    }
    assert_eq!(endpoint.ingest.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_body_is_asked_for_only_when_it_is_wanted() {
    let endpoint = open(Answer::Taken).await;
    let mut caller = Caller::to(endpoint.address).await;
    caller.write(&post(&format!("{SET}Expect: 100-continue\r\n"), "")).await;
    let first = String::from_utf8(caller.read_some().await).unwrap();
    assert!(first.starts_with("HTTP/1.1 100 Continue\r\n"), "{first}");
    caller.write(b"a.b.c").await;
    assert!(caller.read_all().await.starts_with("HTTP/1.1 202 "));

    let unwanted = "Content-Type: text/plain\r\nContent-Length: 5\r\nExpect: 100-continue\r\n";
    let answer = ask(&endpoint, &post(unwanted, "")).await;
    assert!(answer.starts_with("http/1.1 415 "), "{answer}");
}
