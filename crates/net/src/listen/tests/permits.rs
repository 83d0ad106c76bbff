//! Places that are left, kept and lost.

use axum::{body::Body, extract::Request as Asked};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;

const ASK: &[u8] = b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n";
const UPGRADE: &[u8] = b"GET /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";

/// A router in which `/wait` leaves its place until it is notified, `/up` switches to another protocol, and `/` answers
/// at once.
fn app() -> (Router, UnboundedReceiver<()>, Arc<Notify>) {
    let (waits, waiting) = unbounded_channel();
    let go = Arc::new(Notify::new());
    let left = {
        let (waits, go) = (waits.clone(), go.clone());
        move |Extension(permit): Extension<ConnectionPermit>| async move {
            let away = permit.leave();
            waits.send(()).unwrap();
            go.notified().await;
            drop(away);
            "done"
        }
    };
    let up = move |Extension(permit): Extension<ConnectionPermit>, request: Asked| async move {
        let away = permit.leave();
        permit.keep(away);
        let upgrade = hyper::upgrade::on(request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let mut bytes = [0; 4];
            while io.read_exact(&mut bytes).await.is_ok() {
                io.write_all(&bytes).await.unwrap();
            }
            waits.send(()).unwrap();
        });
        let answer = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
        answer.body(Body::empty()).unwrap()
    };
    let app = Router::new()
        .route("/wait", routing::get(left))
        .route("/up", routing::get(up))
        .route("/", routing::get(|| async { "now" }));
    (app, waiting, go)
}

fn one_place() -> Limits {
    Limits { connections: 1, connections_per_address: 1, ..Limits::default() }
}

/// Reads up to the end of the answer's head.
async fn head(tcp: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if tcp.read(&mut byte).await.unwrap_or_default() == 0 {
            break;
        }
        text.extend(byte);
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn who_waits_long_leaves_the_place_to_others() {
    let (app, mut waiting, go) = app();
    let open = open(one_place(), None, app).await;
    let mut first = connect(&open).await;
    first.write_all(ASK).await.unwrap();
    waiting.recv().await.unwrap();
    // The only place of the listener, and of the address, is free.
    let mut second = connect(&open).await;
    assert!(ask(&mut second, "Connection: close\r\n").await.starts_with("HTTP/1.1 200 "));
    closed(&mut second).await;
    go.notify_one();
    assert!(head(&mut first).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn who_comes_back_to_no_place_is_answered_and_closed() {
    let (app, mut waiting, go) = app();
    let open = open(one_place(), None, app).await;
    let mut first = connect(&open).await;
    first.write_all(ASK).await.unwrap();
    waiting.recv().await.unwrap();
    let mut second = connect(&open).await;
    ask(&mut second, "").await;
    go.notify_one();
    let answer = String::from_utf8(closed(&mut first).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("done"), "{answer}");
    // The connection that has the place keeps it.
    assert!(ask(&mut second, "").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_connection_that_was_taken_over_is_drained_and_cut_like_any_other() {
    let (app, mut ended, _) = app();
    let mut open = open(Limits::default(), None, app).await;
    let mut tcp = connect(&open).await;
    tcp.write_all(UPGRADE).await.unwrap();
    assert!(head(&mut tcp).await.starts_with("HTTP/1.1 101 "));
    tcp.write_all(b"ping").await.unwrap();
    let mut bytes = [0; 4];
    tcp.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"ping");
    open.stop.send_replace(true);
    while TcpStream::connect(open.address).await.is_ok() {}
    // The other connections have ended; this one is still open.
    open.quiet.wait_for(|quiet| *quiet).await.unwrap();
    tcp.write_all(b"pong").await.unwrap();
    tcp.read_exact(&mut bytes).await.unwrap();
    assert!(open.ended.try_recv().is_err(), "it ended while a connection was open");
    open.mock.advance(Duration::from_secs(30));
    ended.recv().await.unwrap();
    assert!(closed(&mut tcp).await.is_empty());
    open.ended.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_was_taken_over_gives_its_place_back_when_it_is_closed() {
    let (app, mut ended, _) = app();
    // The handler keeps the place that it left; had it kept nothing, the connection would keep its own.
    let up = app.layer(axum::middleware::from_fn(|mut request: Asked, next: axum::middleware::Next| async {
        // The permit of another connection has no effect: the connection keeps its place.
        request.extensions().get::<ConnectionPermit>().unwrap().vouch("a");
        let limiter = ConnectionLimiter::new(&Limits::default(), MockClock::at(0), Observed::default().of("other"));
        let other = HeldPermit::admit(&limiter, [127, 0, 0, 1].into(), &mpsc::channel(1).0).await.unwrap();
        request.extensions_mut().insert(other.permit().clone());
        next.run(request).await
    }));
    let open = open(one_place(), None, up).await;
    let mut tcp = connect(&open).await;
    tcp.write_all(UPGRADE).await.unwrap();
    assert!(head(&mut tcp).await.starts_with("HTTP/1.1 101 "));
    let mut second = connect(&open).await;
    let waiting = ask(&mut second, "");
    tokio::pin!(waiting);
    assert!(futures_util::poll!(&mut waiting).is_pending());
    drop(tcp);
    ended.recv().await.unwrap();
    assert!(waiting.await.starts_with("HTTP/1.1 200 "));
}
