//! The connection of a receiver, with HTTP/1.1 written by hand: ten thousand of them must cost the measuring process
//! little.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    BenchError,
    frame::{self, Frame},
};

/// The most bytes of a request's or an answer's head.
const HEAD: usize = 16 << 10;

/// The place at which a receiver asks: an address, a path, and the token that it shows.
#[derive(Clone, Debug)]
pub(crate) struct Asks {
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    /// The bearer token.
    pub(crate) token: String,
}

/// A connection.
pub(crate) struct Link {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// The number of bytes of the buffer that were read already.
    used: usize,
}

impl Link {
    /// Opens a connection.
    ///
    /// # Errors
    /// Fails if nothing listens at the address.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, BenchError> {
        let stream = TcpStream::connect(address).await.map_err(BenchError::failed("no connection"))?;
        stream.set_nodelay(true).map_err(BenchError::failed("no connection"))?;
        Ok(Self { stream, buffer: Vec::new(), used: 0 })
    }

    /// Opens a connection and upgrades it to a WebSocket (RFC 6455 §4.1).
    ///
    /// # Errors
    /// Fails if the handshake is refused.
    pub(crate) async fn socket(asks: &Asks) -> Result<Self, BenchError> {
        let mut link = Self::open(asks.address).await?;
        let Asks { address, path, token } = asks;
        // The key is the specification's example, since the answer to it is not what is measured.
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: setgate.v1\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        link.send(request.as_bytes()).await?;
        let end = link.head().await?;
        let status = status(link.unread().get(..end).unwrap_or_default());
        if status != Some(101) {
            let said = String::from_utf8_lossy(link.unread()).chars().take(300).collect::<String>();
            return Err(BenchError::Failed(format!("{path} gives no WebSocket: {said}")));
        }
        link.took(end);
        Ok(link)
    }

    /// Returns the bytes of a POST request with JSON.
    pub(crate) fn post(asks: &Asks, body: &[u8]) -> Vec<u8> {
        let Asks { address, path, token } = asks;
        let length = body.len();
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nAccept: application/json\r\n\
             Authorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
        )
        .into_bytes();
        request.extend_from_slice(body);
        request
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// Fails if the connection is gone.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), BenchError> {
        self.stream.write_all(bytes).await.map_err(BenchError::failed("nothing can be sent"))
    }

    /// Reads the next answer to a request, and passes its status and body to `look`.
    ///
    /// # Errors
    /// Fails if the connection ends, or what comes is no answer.
    pub(crate) async fn answer<T>(&mut self, look: impl FnOnce(u16, &[u8]) -> T) -> Result<T, BenchError> {
        let strange = || BenchError::Failed("an answer is no HTTP".to_owned());
        let end = self.head().await?;
        let head = self.unread().get(..end).unwrap_or_default();
        let status = status(head).ok_or_else(strange)?;
        let length = field(head, b"content-length").and_then(|text| text.parse::<usize>().ok());
        let chunked = field(head, b"transfer-encoding").is_some_and(|text| text.eq_ignore_ascii_case("chunked"));
        self.took(end);
        let (body, length) = match length {
            Some(length) => {
                self.fill(length).await?;
                (None, length)
            }
            None if chunked => (Some(self.chunks().await?), 0),
            None => return Err(strange()),
        };
        let looked = look(status, body.as_deref().unwrap_or_else(|| self.unread().get(..length).unwrap_or_default()));
        self.took(length);
        Ok(looked)
    }

    /// Reads the next text message and passes it to `look`; pings before it are answered.
    ///
    /// # Errors
    /// Fails if the connection ends, or what comes is no frame.
    pub(crate) async fn message<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Result<T, BenchError> {
        loop {
            let (length, pong) = match frame::read(self.unread()).map_err(BenchError::Failed)? {
                Some((Frame::Text(text), length)) => {
                    let looked = look(text);
                    self.took(length);
                    return Ok(looked);
                }
                Some((Frame::Ping(payload), length)) => (length, Some(frame::pong(payload))),
                Some((Frame::Pong, length)) => (length, None),
                Some((Frame::Close(code), _)) => {
                    return Err(BenchError::Failed(format!("the server closes the WebSocket: {code:?}")));
                }
                None => {
                    self.more().await?;
                    continue;
                }
            };
            self.took(length);
            if let Some(pong) = pong {
                self.send(&pong).await?;
            }
        }
    }

    fn unread(&self) -> &[u8] {
        self.buffer.get(self.used..).unwrap_or_default()
    }

    fn took(&mut self, bytes: usize) {
        self.used += bytes;
        if self.used >= self.buffer.len() {
            self.buffer.clear();
            self.used = 0;
        }
    }

    async fn more(&mut self) -> Result<(), BenchError> {
        if self.used > 0 {
            self.buffer.drain(..self.used);
            self.used = 0;
        }
        // The buffer doubles: a large answer takes few reads, an idle connection little memory.
        self.buffer.reserve(self.buffer.len().clamp(1 << 10, 256 << 10));
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(BenchError::Failed("the connection ended".to_owned())),
            Ok(_) => Ok(()),
            Err(error) => Err(BenchError::Failed(format!("nothing can be read: {error}"))),
        }
    }

    async fn fill(&mut self, length: usize) -> Result<(), BenchError> {
        while self.unread().len() < length {
            self.more().await?;
        }
        Ok(())
    }

    /// Waits for a head, and returns where it ends.
    async fn head(&mut self) -> Result<usize, BenchError> {
        loop {
            if let Some(at) = memchr::memmem::find(self.unread(), b"\r\n\r\n") {
                return Ok(at + 4);
            }
            if self.unread().len() > HEAD {
                return Err(BenchError::Failed("a head without an end".to_owned()));
            }
            self.more().await?;
        }
    }

    /// Reads a body in chunks (RFC 9112 §7.1).
    async fn chunks(&mut self) -> Result<Vec<u8>, BenchError> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                match memchr::memmem::find(self.unread(), b"\r\n") {
                    Some(at) => break at,
                    None => self.more().await?,
                }
            };
            let size = self.unread().get(..line).and_then(|text| std::str::from_utf8(text).ok());
            let size = size.and_then(|text| usize::from_str_radix(text.trim(), 16).ok());
            let size = size.ok_or_else(|| BenchError::Failed("a chunk without a size".to_owned()))?;
            self.took(line + 2);
            self.fill(size + 2).await?;
            body.extend_from_slice(self.unread().get(..size).unwrap_or_default());
            self.took(size + 2);
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

fn status(head: &[u8]) -> Option<u16> {
    std::str::from_utf8(head.get(9..12)?).ok()?.parse().ok()
}

/// Returns the value of a header field.
fn field<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a str> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (given, value) = (line.get(..name.len())?, line.get(name.len()..)?.strip_prefix(b":")?);
        if !given.eq_ignore_ascii_case(name) {
            return None;
        }
        std::str::from_utf8(value).ok().map(str::trim)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a link to a server that sends this text, `at_a_time` bytes at a time.
    async fn told(text: &'static [u8], at_a_time: usize) -> Link {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let link = Link::open(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            for part in text.chunks(at_a_time) {
                server.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            // The server sends no more, and reads until the other end closes.
            server.shutdown().await.unwrap();
            let _ = tokio::io::copy(&mut server, &mut tokio::io::sink()).await;
        });
        link
    }

    #[tokio::test]
    async fn answers_are_read_with_a_length_and_in_chunks() {
        let both = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirstHTTP/1.1 202 Accepted\r\ntransfer-encoding: chunked\r\n\r\n\
            3\r\nsec\r\n3\r\nond\r\n0\r\n\r\nHTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n";
        for at_a_time in [1, 7, 1000] {
            let mut link = told(both, at_a_time).await;
            for expected in [(200, &b"first"[..]), (202, b"second"), (204, b"")] {
                let read = link.answer(|status, body| (status, body.to_vec())).await.unwrap();
                assert_eq!((read.0, &*read.1), expected);
            }
            assert!(link.answer(|_, _| ()).await.is_err(), "the connection ended");
        }
    }

    #[tokio::test]
    async fn messages_are_read_and_the_end_is_told() {
        let mut link = told(b"\x81\x02ab\x89\x00\x81\x01c\x88\x02\x03\xf0", 3).await;
        assert_eq!(link.message(<[u8]>::to_vec).await.unwrap(), b"ab");
        assert_eq!(link.message(<[u8]>::to_vec).await.unwrap(), b"c");
        assert!(link.message(|_| ()).await.unwrap_err().to_string().contains("1008"));
    }
}
