//! A receiver that speaks raw HTTP/1.1, independent of this crate.

use std::net::SocketAddr;

use serde_json::Value as Json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

pub(crate) struct Caller(TcpStream);

impl Caller {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        Self(tcp)
    }

    /// Connects with a socket that has a small receive buffer.
    pub(crate) async fn slow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self(socket.connect(address).await.unwrap())
    }

    pub(crate) async fn ask(&mut self, body: &Json) {
        self.ask_with("", body).await;
    }

    pub(crate) async fn ask_with(&mut self, fields: &str, body: &Json) {
        let body = body.to_string();
        let head = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{fields}Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.write(format!("{head}{body}").as_bytes()).await;
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn read_some(&mut self) {
        let mut some = [0; 64];
        assert!(self.0.read(&mut some).await.unwrap() > 0);
    }

    /// Returns whether no byte has arrived.
    pub(crate) fn is_silent(&self) -> bool {
        let mut some = [0; 1];
        matches!(self.0.try_read(&mut some), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Reads one answer; `None` if the connection ended first.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let mut bytes = Vec::new();
        let head = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            if self.0.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        };
        let mut body = bytes.split_off(head + 4);
        let text = String::from_utf8(bytes).unwrap();
        let mut lines = text.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let fields: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let length = fields.iter().find(|(name, _)| name == "content-length").unwrap().1.parse().unwrap();
        while body.len() < length {
            if self.0.read_buf(&mut body).await.ok()? == 0 {
                return None;
            }
        }
        Some(Answer { status, fields, body })
    }
}
