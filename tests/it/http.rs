//! HTTP/1.1 over a plain socket: a client that also sends what no client should.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Returns the lines of an answer for several events.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let lines = self.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }
}

/// Returns the bytes of a request.
pub(crate) fn request(method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n").into_bytes();
    for (name, value) in fields {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    if !fields
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding"))
    {
        bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// Sends a request and reads the answer; `None` if the connection is refused or broken.
pub(crate) fn try_send(port: u16, bytes: &[u8]) -> Option<Answer> {
    let mut stream = connect(port)?;
    stream.write_all(bytes).ok()?;
    answer(&mut stream)
}

/// Sends as [`try_send`] does; a broken connection fails the test.
pub(crate) fn send(port: u16, bytes: &[u8]) -> Answer {
    try_send(port, bytes).unwrap_or_else(|| panic!("no answer from port {port}"))
}

pub(crate) fn connect(port: u16) -> Option<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    stream.set_nodelay(true).ok()?;
    Some(stream)
}

/// Reads one final answer, after any interim ones.
pub(crate) fn answer(stream: &mut TcpStream) -> Option<Answer> {
    let mut reader = BufReader::new(stream);
    loop {
        let (status, fields) = head(&mut reader)?;
        if status < 200 {
            continue;
        }
        let body = body(&mut reader, &fields);
        return Some(Answer { status, fields, body });
    }
}

fn head(reader: &mut impl BufRead) -> Option<(u16, Vec<(String, String)>)> {
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let status = first.split(' ').nth(1)?.parse().ok()?;
    Some((status, fields(reader)?))
}

/// Reads the header fields up to the empty line, with names in lower case.
pub(crate) fn fields(reader: &mut impl BufRead) -> Option<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end().split_once(':') {
            Some((name, value)) => fields.push((name.to_ascii_lowercase(), value.trim().to_owned())),
            None => return Some(fields),
        }
    }
}

/// Reads a body by its length, by its chunks, or up to the end of the connection; an incomplete one is returned as far
/// as it was read.
pub(crate) fn body(reader: &mut impl BufRead, fields: &[(String, String)]) -> Vec<u8> {
    let value = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    let mut body = Vec::new();
    if value("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            let _ = reader.read_line(&mut line);
            let Ok(size) = u64::from_str_radix(line.trim(), 16) else { return body };
            if size == 0 {
                return body;
            }
            let _ = reader.by_ref().take(size).read_to_end(&mut body);
            let _ = reader.read_line(&mut String::new());
        }
    }
    let length = value("content-length").and_then(|length| length.parse().ok()).unwrap_or(u64::MAX);
    let _ = reader.take(length).read_to_end(&mut body);
    body
}
