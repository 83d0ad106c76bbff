use axum::{Extension, routing};
use setgate_clock::{MockClock, Runtime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, oneshot},
};

use super::*;

mod limits;
mod permits;

/// An open listener with a clock that stands still.
struct Open {
    address: SocketAddr,
    mock: Arc<MockClock>,
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<()>,
    quiet: Stop,
    registry: setgate_telemetry::Registry,
}

async fn open(limits: Limits, certificate: Option<&ServerCertificate>, app: Router) -> Open {
    let mock = MockClock::at(0);
    let runtime = Runtime { clock: mock.clone(), ..setgate_clock::system() };
    let config = ListenConfig { limits, ..ListenConfig::default() };
    let registry = setgate_telemetry::Registry::new();
    let listener = Listener::open(SocketAddr::from(([127, 0, 0, 1], 0)), &config).await.unwrap();
    let mut listener = listener.observed(Observed::register(&registry), "public");
    if let Some(certificate) = certificate {
        listener = listener.with_tls(certificate).unwrap();
    }
    let (address, quiet) = (listener.address(), listener.quiet());
    let (stop, stopped) = watch::channel(false);
    let (end, ended) = oneshot::channel();
    let tasks = runtime.clone();
    runtime.spawn("listener", async move {
        listener.serve(app, stopped, tasks).await;
        let _ = end.send(());
    });
    Open { address, mock, stop, ended, quiet, registry }
}

/// A router that answers with the caller's address. A request with `X-Known` has shown a credential.
fn hello() -> Router {
    Router::new().fallback(
        |Extension(Peer(peer)): Extension<Peer>,
         Extension(permit): Extension<ConnectionPermit>,
         request: Request<axum::body::Body>| async move {
            if let Some(client) = request.headers().get("x-known") {
                permit.vouch(client.to_str().unwrap());
            }
            peer.to_string()
        },
    )
}

/// Returns the value of the metric that `line` begins with, or 0.
fn counted(open: &Open, line: &str) -> usize {
    let text = open.registry.text();
    let found = text.lines().find_map(|counted| counted.strip_prefix(line));
    found.map_or(0, |rest| rest.trim().parse().unwrap())
}

async fn connect(open: &Open) -> TcpStream {
    TcpStream::connect(open.address).await.unwrap()
}

/// Sends a request that keeps the connection, and reads the answer.
async fn ask(tcp: &mut TcpStream, fields: &str) -> String {
    tcp.write_all(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        if tcp.read_buf(&mut answer).await.unwrap_or_default() == 0 {
            return text;
        }
    }
}

/// Reads until the other side has closed.
async fn closed(tcp: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset counts as an end as well.
    let _ = tcp.read_to_end(&mut rest).await;
    rest
}

fn certificate(name: &str) -> (ServerCertificate, String, String) {
    let own = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let (chain, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    (ServerCertificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap(), chain, key)
}

#[tokio::test]
async fn a_handler_knows_its_peer() {
    let open = open(Limits::default(), None, hello()).await;
    let mut tcp = connect(&open).await;
    let answer = ask(&mut tcp, "").await;
    assert!(answer.contains(&tcp.local_addr().unwrap().to_string()), "{answer}");
}

#[tokio::test]
async fn a_caller_who_never_asks_is_closed() {
    let (certificate, ..) = certificate("a.example");
    // No bytes; the beginning of HTTP/1.1 or HTTP/2; a head that does not end; half a TLS handshake.
    for (begins, tls) in
        [("", false), ("P", false), ("PRI * HT", false), ("GET / HTTP/1.1\r\nX: ", false), ("\u{16}", true)]
    {
        let open = open(Limits::default(), tls.then_some(&certificate), hello()).await;
        let mut tcp = connect(&open).await;
        tcp.write_all(begins.as_bytes()).await.unwrap();
        // A later caller that is answered shows that the first was admitted before.
        if !tls {
            ask(&mut connect(&open).await, "").await;
            open.mock.advance(Duration::from_secs(10));
        } else {
            let mut other = connect(&open).await;
            other.write_all(b"no handshake").await.unwrap();
            closed(&mut other).await;
            open.mock.advance(Duration::from_secs(10));
        }
        closed(&mut tcp).await;
    }
}

#[tokio::test]
async fn a_caller_who_asked_in_time_stays() {
    let open = open(Limits::default(), None, hello()).await;
    let mut tcp = connect(&open).await;
    assert!(ask(&mut tcp, "").await.starts_with("HTTP/1.1 200 "));
    open.mock.advance(Duration::from_secs(11));
    assert!(ask(&mut tcp, "").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let open = open(Limits::default(), None, hello()).await;
    let large = format!("X: {}\r\n", "x".repeat(40 * 1024));
    let many = "X: x\r\n".repeat(101);
    for fields in [large, many] {
        let answer = ask(&mut connect(&open).await, &fields).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    let answer = ask(&mut connect(&open).await, &"X: x\r\n".repeat(99)).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn one_address_has_no_more_than_its_share_of_connections() {
    let open = open(Limits { connections_per_address: 2, ..Limits::default() }, None, hello()).await;
    let (mut first, mut second) = (connect(&open).await, connect(&open).await);
    ask(&mut first, "X-Known: a\r\n").await;
    ask(&mut second, "X-Known: b\r\n").await;
    assert!(closed(&mut connect(&open).await).await.is_empty());
    let refused = r#"setgate_connections_refused_total{listener="public",limit="connections_per_address"}"#;
    assert_eq!(counted(&open, refused), 1);
    // A place that is given back is free again.
    ask(&mut first, "Connection: close\r\n").await;
    closed(&mut first).await;
    drop(second);
    let mut again = connect(&open).await;
    while !ask(&mut again, "").await.starts_with("HTTP/1.1 200 ") {
        again = connect(&open).await;
    }
}

#[tokio::test]
async fn callers_beyond_the_limit_wait_for_a_place() {
    let open = open(Limits { connections: 1, ..Limits::default() }, None, hello()).await;
    let mut first = connect(&open).await;
    ask(&mut first, "X-Known: a\r\n").await;
    let mut second = connect(&open).await;
    let waiting = ask(&mut second, "");
    tokio::pin!(waiting);
    assert!(futures_util::poll!(&mut waiting).is_pending());
    drop(first);
    assert!(waiting.await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn who_has_shown_no_credential_makes_room_and_who_has_does_not() {
    for limits in [
        Limits { connections: 2, ..Limits::default() },
        Limits { unauthenticated_connections: 1, ..Limits::default() },
        Limits { connections_per_address: 2, ..Limits::default() },
    ] {
        let open = open(limits, None, hello()).await;
        let mut known = connect(&open).await;
        ask(&mut known, "X-Known: a\r\n").await;
        let mut stranger = connect(&open).await;
        ask(&mut stranger, "").await;
        for _ in 0..3 {
            let mut next = connect(&open).await;
            assert!(ask(&mut next, "").await.starts_with("HTTP/1.1 200 "));
            assert!(closed(&mut stranger).await.is_empty());
            stranger = next;
        }
        assert!(ask(&mut known, "").await.starts_with("HTTP/1.1 200 "));
        assert_eq!(counted(&open, r#"setgate_connections_open{listener="public",kind="authenticated"}"#), 1);
        assert_eq!(counted(&open, r#"setgate_connections_open{listener="public",kind="unauthenticated"}"#), 1);
        assert_eq!(counted(&open, r#"setgate_connections_accepted_total{listener="public"}"#), 5);
    }
}

#[tokio::test]
async fn stopping_finishes_what_was_asked_and_takes_nothing_new() {
    let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let app = {
        let (asked, go) = (asked.clone(), go.clone());
        Router::new().route(
            "/",
            routing::get(move || async move {
                asked.notify_one();
                go.notified().await;
                "done"
            }),
        )
    };
    let mut open = open(Limits::default(), None, app).await;
    let mut tcp = connect(&open).await;
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    asked.notified().await;
    open.stop.send_replace(true);
    // The listener has closed when it accepts no more connections, while the open request lives on.
    while TcpStream::connect(open.address).await.is_ok() {}
    assert!(open.ended.try_recv().is_err(), "it ended before the answer was given");
    go.notify_one();
    let answer = String::from_utf8(closed(&mut tcp).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("done"), "{answer}");
    open.ended.await.unwrap();
}

#[tokio::test]
async fn what_does_not_finish_within_the_drain_is_cut() {
    let asked = Arc::new(Notify::new());
    let app = {
        let asked = asked.clone();
        Router::new().route(
            "/",
            routing::get(move || async move {
                asked.notify_one();
                std::future::pending::<()>().await;
            }),
        )
    };
    let open = open(Limits::default(), None, app).await;
    let mut tcp = connect(&open).await;
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    asked.notified().await;
    open.stop.send_replace(true);
    while TcpStream::connect(open.address).await.is_ok() {}
    open.mock.advance(Duration::from_secs(30));
    assert!(closed(&mut tcp).await.is_empty());
    open.ended.await.unwrap();
}

#[tokio::test]
async fn a_reloaded_certificate_is_shown_to_new_callers() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
    let write = |name| {
        let (_, pem, secret) = certificate(name);
        std::fs::write(&chain, &pem).unwrap();
        std::fs::write(&key, secret).unwrap();
        crate::Roots::from_pem(pem.as_bytes()).unwrap()
    };
    let old = write("a.example");
    let certificate = ServerCertificate::from_files(chain.clone(), key.clone()).unwrap();
    let open = open(Limits::default(), Some(&certificate), hello()).await;
    let port = open.address.port();
    let asks = async |roots: &crate::Roots| {
        let out = crate::client::tests::outbound(&setgate_clock::system());
        let policy = crate::client::tests::local(Some(roots.clone()), None);
        let answer = out.client(&policy).send(crate::client::tests::get(&format!("https://a.example:{port}/"))).await;
        answer.map(|answer| answer.status.as_u16()).map_err(|error| error.code())
    };
    assert_eq!(asks(&old).await, Ok(200));
    let new = write("a.example");
    certificate.reload().unwrap();
    assert_eq!((asks(&old).await, asks(&new).await), (Err("tls"), Ok(200)));
    // A certificate that cannot be used leaves the old one in force.
    std::fs::write(&chain, "no certificate").unwrap();
    assert!(certificate.reload().is_err());
    assert_eq!(asks(&new).await, Ok(200));
}

#[tokio::test]
async fn a_certificate_needs_its_own_key() {
    let ((_, chain, _), (_, _, other)) = (certificate("a.example"), certificate("b.example"));
    assert!(ServerCertificate::from_pem(chain.as_bytes(), other.as_bytes()).is_err());
    let config = ListenConfig { certificate: Some("chain.pem".into()), ..ListenConfig::default() };
    assert!(Listener::open(SocketAddr::from(([127, 0, 0, 1], 0)), &config).await.is_err());
}
