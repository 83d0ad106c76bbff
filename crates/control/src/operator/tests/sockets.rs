//! The admin listener over real sockets.

use setgate_net::Listener;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
};

use super::*;

#[tokio::test]
async fn no_spelling_of_the_request_line_gets_past_the_names() {
    let fixture = fixture();
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.address();
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(listener.serve(fixture.app.clone(), stopped, runtime(ManualClock::at(1), 1)));
    let bearer = fixture.bearer();
    for (line, host, status) in [
        ("GET /admin/v1/streams HTTP/1.1", "Host: localhost\r\n", 200),
        ("GET http://localhost/admin/v1/streams HTTP/1.1", "Host: localhost\r\n", 200),
        ("GET http://evil.example/admin/v1/streams HTTP/1.1", "Host: localhost\r\n", 400),
        ("GET http://evil.example/admin/v1/streams HTTP/1.1", "Host: evil.example\r\n", 421),
        ("GET /admin/v1/streams HTTP/1.1", "Host: evil.example\r\n", 421),
        ("GET /admin/v1/streams HTTP/1.1", "Host: localhost\r\nHost: evil.example\r\n", 400),
        ("GET /admin/v1/streams HTTP/1.1", "", 400),
        ("GET /admin/v1/streams HTTP/1.0", "", 400),
        ("GET //admin/v1/streams HTTP/1.1", "Host: localhost\r\n", 404),
        ("GET /admin%2Fv1/streams HTTP/1.1", "Host: localhost\r\n", 404),
        ("GET /healthz/../admin/v1/streams HTTP/1.1", "Host: 10.0.0.7\r\n", 421),
        (
            "POST /admin/v1/streams/crm/pause HTTP/1.1",
            "Host: localhost\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n",
            415,
        ),
        ("POST /admin/v1/streams/crm/pause HTTP/1.1", "Host: localhost\r\nTransfer-Encoding: chunked\r\n", 415),
    ] {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = format!("{line}\r\n{host}Authorization: {bearer}\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 12];
        socket.read_exact(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.ends_with(&format!(" {status}")), "{line} {host}: {answer}");
    }
    assert_eq!(fixture.asked().len(), 0, "nothing was done");
}
