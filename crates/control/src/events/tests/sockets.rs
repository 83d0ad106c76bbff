//! Behaviour that only shows on raw sockets: `100 Continue`, broken connections, and callers that do not read.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream as Socket},
};

use setgate_net::Listener;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
};

use super::*;

/// Serves the listener on a loopback port until the sender is dropped.
async fn serve(fixture: &Fixture) -> (SocketAddr, watch::Sender<bool>) {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.address();
    let (stop, stopped) = watch::channel(false);
    let runtime = runtime(ManualClock::at(1), 1);
    tokio::spawn(listener.serve(fixture.app.clone(), stopped, runtime));
    (address, stop)
}

fn head(fixture: &Fixture, kind: &str, more: &str) -> String {
    let token = fixture.token.token.expose();
    format!(
        "POST /a/events HTTP/1.1\r\nHost: gateway.example\r\nAuthorization: Bearer {token}\r\nContent-Type: {kind}\r\n{more}\r\n"
    )
}

/// Reads until the text contains `mark`, or the connection ends.
async fn until(socket: &mut TcpStream, mark: &str) -> String {
    let mut text = Vec::new();
    let mut some = [0u8; 4096];
    loop {
        let read = socket.read(&mut some).await.unwrap();
        text.extend_from_slice(&some[..read]);
        let so_far = String::from_utf8_lossy(&text);
        if read == 0 || so_far.contains(mark) {
            return so_far.into_owned();
        }
    }
}

#[tokio::test]
async fn continue_is_sent_only_to_those_who_may_come_in() {
    let fixture = fixture();
    let (address, _stop) = serve(&fixture).await;
    let body = event("a").to_string();
    let expect = format!("Content-Length: {}\r\nExpect: 100-continue\r\n", body.len());

    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(head(&fixture, "application/json", &expect).as_bytes()).await.unwrap();
    let text = until(&mut socket, "\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 100 Continue"), "{text}");
    socket.write_all(body.as_bytes()).await.unwrap();
    let text = until(&mut socket, "}").await;
    assert!(text.starts_with("HTTP/1.1 202"), "{text}");

    let good = head(&fixture, "application/json", &expect);
    for (request, status) in [
        (good.replace("Bearer sgp_", "Bearer sgp_x"), 401),
        (good.replace("/a/events", "/b/events"), 403),
        (good.replace("application/json", "text/plain"), 415),
        (good.replace("Content-Length: ", "Content-Length: 99999999"), 413),
    ] {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let text = until(&mut socket, "\r\n\r\n").await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
    }
    *fixture.fake.closed.lock().unwrap() = Some(full());
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(good.as_bytes()).await.unwrap();
    let text = until(&mut socket, "\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 503") && text.contains("retry-after: 7"), "{text}");
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_what_was_committed() {
    let fixture = fixture();
    let (address, _stop) = serve(&fixture).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    let length = "Content-Length: 100000\r\n";
    socket.write_all(head(&fixture, "application/x-ndjson", length).as_bytes()).await.unwrap();
    socket.write_all(format!("{}\n{{\"half", event("a")).as_bytes()).await.unwrap();
    let text = until(&mut socket, "txn-0").await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    // The caller closes in the middle of the second event.
    socket.shutdown().await.unwrap();
    let text = until(&mut socket, "\r\n0\r\n\r\n").await;
    assert!(text.contains("inside an event"), "{text:?}");
    assert_eq!(fixture.fake.ids(), ["a"]);
}

#[tokio::test]
async fn the_answers_come_while_the_body_is_sent() {
    let fixture = fixture();
    let (address, _stop) = serve(&fixture).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    let chunked = "Transfer-Encoding: chunked\r\n";
    socket.write_all(head(&fixture, "application/x-ndjson", chunked).as_bytes()).await.unwrap();
    for n in 0..3 {
        let line = format!("{}\n", event(n));
        socket.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await.unwrap();
        let text = until(&mut socket, &format!("txn-{n}")).await;
        assert!(text.contains("\"status\":202"), "{text}");
    }
    socket.write_all(b"0\r\n\r\n").await.unwrap();
    let text = until(&mut socket, "0\r\n\r\n").await;
    assert!(text.ends_with("0\r\n\r\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_caller_does_not_read_nothing_more_is_read_of_it() {
    let big = usize::MAX >> 1;
    let config = IntakeConfig { items: big, refused_items: big, body_bytes: u64::MAX, ..IntakeConfig::default() };
    let fixture = fixture_with(config);
    let (address, _stop) = serve(&fixture).await;
    let head = head(&fixture, "application/x-ndjson", "Transfer-Encoding: chunked\r\n");
    let chunk: Vec<u8> = b"{}\n".iter().copied().cycle().take(30_000).collect();
    let (written, stuck) = tokio::task::spawn_blocking(move || {
        let mut socket = Socket::connect(address).unwrap();
        socket.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        socket.write_all(head.as_bytes()).unwrap();
        let mut written = 0usize;
        // Each refused event of 3 bytes is answered with about 100 bytes: without a limit the answers would pile up in
        // memory.
        while written < 200 << 20 {
            let mut framed = format!("{:x}\r\n", chunk.len()).into_bytes();
            framed.extend_from_slice(&chunk);
            framed.extend_from_slice(b"\r\n");
            if socket.write_all(&framed).is_err() {
                let mut some = [0u8; 16];
                return (written, socket.read(&mut some).is_ok_and(|read| read > 0));
            }
            written += chunk.len();
        }
        (written, false)
    })
    .await
    .unwrap();
    assert!(stuck, "the server read {written} bytes, and no end of it");
    assert!(written < 32 << 20, "{written} bytes were read of a caller who does not read");
}
