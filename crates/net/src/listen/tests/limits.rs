//! Peers that hold a connection and do nothing with it.

use axum::body::{Body, Bytes};
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn closed_for(limit: &str) -> String {
    format!(r#"setgate_connections_closed_total{{listener="public",limit="{limit}"}}"#)
}

/// Advances the clock by a second at a time until the condition is true.
async fn passes(open: &Open, so: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if so() {
            return;
        }
        open.mock.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
    }
    panic!("a day has passed, and the connection is still open");
}

/// Opens an HTTP/2 connection that answers pings; returns it with the task that ends when it ends.
async fn http2_peer(
    open: &Open,
    window: u32,
) -> (http2::SendRequest<Empty<Bytes>>, tokio::task::JoinHandle<hyper::Result<()>>) {
    let io = TokioIo::new(connect(open).await);
    let mut client = http2::Builder::new(TokioExecutor::new());
    client.initial_stream_window_size(window);
    let (asks, connection) = client.handshake(io).await.unwrap();
    (asks, tokio::spawn(connection))
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://a{path}")).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn an_http2_peer_that_asks_nothing_more_is_closed() {
    let open = open(Limits::default(), None, hello()).await;
    let (mut asks, connection) = http2_peer(&open, 65_535).await;
    for _ in 0..3 {
        // A connection with a request in time stays open.
        let answer = asks.send_request(get("/")).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
        open.mock.advance(Duration::from_secs(59));
        tokio::task::yield_now().await;
    }
    open.mock.advance(Duration::from_secs(1));
    connection.await.unwrap().unwrap();
    assert_eq!(counted(&open, &closed_for("idle_timeout")), 1);
}

#[tokio::test]
async fn an_http2_peer_that_does_not_hear_that_it_is_over_is_cut() {
    // Preface, empty SETTINGS, and HEADERS of `GET /`; nothing afterwards, not even an answer to the ping with GOAWAY.
    let mut says = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    says.extend(b"\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01a");
    let open = open(Limits::default(), None, hello()).await;
    let mut tcp = connect(&open).await;
    tcp.write_all(&says).await.unwrap();
    let open_streams = r#"setgate_connections_open{listener="public",kind="unauthenticated"}"#;
    let mut read = Vec::new();
    // The answer's body is the only frame of DATA.
    while !read.windows(9).any(|head| head[3] == 0 && head[5..9] == [0, 0, 0, 1]) {
        tcp.read_buf(&mut read).await.unwrap();
    }
    assert_eq!(counted(&open, open_streams), 1);
    open.mock.advance(Duration::from_secs(60));
    while !read.windows(9).any(|head| head[3] == 7 && head[4..9] == [0, 0, 0, 0, 0]) {
        assert_ne!(tcp.read_buf(&mut read).await.unwrap(), 0, "closed without GOAWAY");
    }
    open.mock.advance(Duration::from_secs(5));
    closed(&mut tcp).await;
    passes(&open, || counted(&open, open_streams) == 0).await;
}

#[tokio::test]
async fn an_http2_peer_with_a_shut_window_is_cut() {
    let open = open(Limits::default(), None, hello()).await;
    let (mut asks, connection) = http2_peer(&open, 0).await;
    let answer = asks.send_request(get("/")).await.unwrap();
    assert_eq!(answer.status(), 200);
    open.mock.advance(Duration::from_secs(30));
    let _ = connection.await.unwrap();
    assert_eq!(counted(&open, &closed_for("write_timeout")), 1);
}

/// A value that sets its flag when it is dropped.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn who_does_not_read_the_answer_is_cut() {
    let gone = Arc::new(AtomicBool::new(false));
    let app = {
        let gone = gone.clone();
        Router::new().fallback(move || async move {
            let gone = Gone(gone.clone());
            Body::from_stream(stream::repeat(Bytes::from_static(&[0; 1 << 20])).map(move |piece| {
                let _ = &gone;
                Ok::<_, Infallible>(piece)
            }))
        })
    };
    let open = open(Limits::default(), None, app).await;
    let mut tcp = connect(&open).await;
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    tcp.readable().await.unwrap();
    passes(&open, || gone.load(Ordering::SeqCst)).await;
    assert_eq!(counted(&open, &closed_for("write_timeout")), 1);
}

#[tokio::test]
async fn a_long_answer_that_is_read_is_no_stall_and_waiting_for_one_is_not_either() {
    let (go, waits) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let app = {
        let (go, waits) = (go.clone(), waits.clone());
        Router::new().fallback(move || {
            let (go, waits) = (go.clone(), waits.clone());
            async move {
                // Each piece waits for a notification.
                Body::from_stream(stream::unfold(0, move |piece| {
                    let (go, waits) = (go.clone(), waits.clone());
                    async move {
                        waits.notify_one();
                        go.notified().await;
                        (piece < 5).then(|| (Ok::<_, Infallible>(Bytes::from_static(b"x")), piece + 1))
                    }
                }))
            }
        })
    };
    let open = open(Limits::default(), None, app).await;
    let (mut asks, _connection) = http2_peer(&open, 65_535).await;
    let mut body = asks.send_request(get("/")).await.unwrap().into_body();
    for _ in 0..5 {
        waits.notified().await;
        open.mock.advance(Duration::from_secs(300));
        tokio::task::yield_now().await;
        go.notify_one();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
    }
}

#[tokio::test]
async fn a_socket_that_does_not_read_is_cut() {
    let gone = Arc::new(AtomicBool::new(false));
    let app = {
        let gone = gone.clone();
        Router::new().fallback(move |request: Request<Body>| async move {
            let upgrade = hyper::upgrade::on(request);
            tokio::spawn(async move {
                let _gone = Gone(gone.clone());
                let mut io = TokioIo::new(upgrade.await.unwrap());
                while io.write_all(&[0; 1 << 16]).await.is_ok() {}
            });
            let answer = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
            answer.body(Body::empty()).unwrap()
        })
    };
    let open = open(Limits::default(), None, app).await;
    let mut tcp = connect(&open).await;
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n").await.unwrap();
    tcp.readable().await.unwrap();
    passes(&open, || gone.load(Ordering::SeqCst)).await;
    assert_eq!(counted(&open, &closed_for("write_timeout")), 1);
}

#[tokio::test]
async fn who_asks_nothing_after_the_handshake_is_closed() {
    let own = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let (chain, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    let certificate = ServerCertificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    let open = open(Limits::default(), Some(&certificate), hello()).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "a.example".try_into().unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let mut tls = connector.connect(name, connect(&open).await).await.unwrap();
    passes(&open, || counted(&open, &closed_for("handshake_timeout")) == 1).await;
    let mut rest = Vec::new();
    let _ = tls.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}
