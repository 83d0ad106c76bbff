//! A server on raw sockets that follows no protocol: each test says what it reads and writes.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

pub(crate) struct Server(TcpListener);

impl Server {
    pub(crate) async fn new() -> Self {
        Self::at(([127, 0, 0, 1], 0)).await
    }

    pub(crate) async fn at(address: ([u8; 4], u16)) -> Self {
        Self(TcpListener::bind(SocketAddr::from(address)).await.unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(crate) async fn accept(&mut self) -> Caller {
        let (tcp, _) = self.0.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        Caller(tcp)
    }

    /// Returns whether a connection waits to be accepted. Connecting ends before a request does, so none can appear
    /// later.
    pub(crate) fn has_a_caller(&mut self) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        self.0.poll_accept(&mut context).is_ready()
    }
}

pub(crate) struct Caller(TcpStream);

impl Caller {
    /// Reads head and body of one request.
    pub(crate) async fn read_request(&mut self) -> String {
        let mut request = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&request).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                    return text;
                }
            }
            assert!(self.0.read_buf(&mut request).await.unwrap() > 0, "the request broke off: {text}");
        }
    }

    /// Reads the bytes that come first.
    pub(crate) async fn read_some(&mut self) -> Vec<u8> {
        let mut some = Vec::new();
        assert!(self.0.read_buf(&mut some).await.unwrap() > 0);
        some
    }

    /// Reads until the other side closes.
    pub(crate) async fn read_all(&mut self) -> String {
        let mut all = Vec::new();
        self.0.read_to_end(&mut all).await.unwrap();
        String::from_utf8(all).unwrap()
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Writes, and returns whether the other side still accepts it.
    pub(crate) async fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok()
    }

    pub(crate) async fn to(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }
}
