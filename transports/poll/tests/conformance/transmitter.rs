//! A transmitter on raw sockets, independent of this crate, to which each test says what it answers.

use std::net::SocketAddr;

use serde_json::Value as Json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

pub(crate) struct Transmitter {
    listener: TcpListener,
    caller: Option<TcpStream>,
}

/// A request as it was received.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) head: String,
    pub(crate) body: Json,
}

impl Transmitter {
    pub(crate) async fn new() -> Self {
        Self { listener: TcpListener::bind(("127.0.0.1", 0)).await.unwrap(), caller: None }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Returns the next request, on the connection of the one before or on a new one.
    pub(crate) async fn asked(&mut self) -> Asked {
        loop {
            if let Some(asked) = self.read().await {
                return asked;
            }
            self.caller = Some(self.listener.accept().await.unwrap().0);
        }
    }

    async fn read(&mut self) -> Option<Asked> {
        let caller = self.caller.as_mut()?;
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                if body.len() >= length.parse().unwrap() {
                    return Some(Asked { head: head.to_owned(), body: serde_json::from_str(body).unwrap() });
                }
            }
            if caller.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        }
    }

    pub(crate) async fn answer(&mut self, status: &str, fields: &str, body: &Json) {
        let body = body.to_string();
        let head = format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
        self.caller.as_mut().unwrap().write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    }

    pub(crate) fn hang_up(&mut self) {
        self.caller = None;
    }
}
