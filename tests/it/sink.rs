//! Receivers for the tests: plain sockets that record requests and answer as a test says.

use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http;

/// The time that a test waits for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A request as it was received.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    pub(crate) line: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    number: Option<u64>,
}

impl Arrived {
    fn new(line: String, fields: Vec<(String, String)>, body: Vec<u8>) -> Self {
        let number = setgate_jose::Token::parse(&body).ok().and_then(|token| {
            let claims: Value = serde_json::from_slice(token.unverified_payload()).ok()?;
            claims["events"].as_object()?.values().next()?["number"].as_u64()
        });
        Self { line, fields, body, number }
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// Returns the claims of the SET, without verifying them.
    pub(crate) fn claims(&self) -> Value {
        let token = setgate_jose::Token::parse(&self.body).unwrap_or_else(|error| panic!("no SET: {error}: {self:?}"));
        serde_json::from_slice(token.unverified_payload()).unwrap()
    }

    pub(crate) fn kid(&self) -> String {
        setgate_jose::Token::parse(&self.body).unwrap().header().kid.clone().unwrap()
    }

    /// Returns the number in an event of [`crate::boxed::event`].
    pub(crate) fn number(&self) -> u64 {
        self.number.unwrap_or_else(|| panic!("no number in {self:?}"))
    }

    pub(crate) fn jti(&self) -> String {
        self.claims()["jti"].as_str().unwrap().to_owned()
    }
}

/// The answer of a receiver to a request.
#[derive(Clone)]
pub(crate) enum Reply {
    /// A whole answer, as bytes.
    Bytes(Vec<u8>),
    /// No answer, on a connection that stays open.
    Never,
    /// An answer of one byte per second.
    Drip(Vec<u8>),
    /// A connection that is closed without an answer.
    Close,
    /// An answer whose head promises a body of so many bytes, with the body.
    Huge(usize),
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self::Bytes(format!("HTTP/1.1 {status} Text\r\ncontent-length: 0\r\n\r\n").into_bytes())
    }

    pub(crate) fn with(status: u16, fields: &str, body: &str) -> Self {
        Self::Bytes(
            format!("HTTP/1.1 {status} Text\r\n{fields}content-length: {}\r\n\r\n{body}", body.len()).into_bytes(),
        )
    }
}

type Behaviour = dyn Fn(&Arrived, usize) -> Reply + Send + Sync;

#[derive(Default)]
struct Seen {
    requests: Vec<Arrived>,
    ended: bool,
    /// Whether answers wait.
    held: bool,
}

struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Shared {
    /// Locks the state, even after a test has failed while it held the lock.
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A receiver on a port of its own. It ends when the value is dropped.
pub(crate) struct Sink {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

impl Sink {
    /// Starts a receiver that answers 202.
    pub(crate) fn good() -> Self {
        Self::new(|_, _| Reply::status(202))
    }

    /// Starts a receiver that answers as `behaviour` says; the second argument counts requests from 0.
    pub(crate) fn new(behaviour: impl Fn(&Arrived, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::on(listener, None, behaviour)
    }

    /// Starts a receiver that speaks TLS with this configuration.
    pub(crate) fn tls(
        server: Arc<rustls::ServerConfig>,
        behaviour: impl Fn(&Arrived, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::on(listener, Some(server), behaviour)
    }

    pub(crate) fn on(
        listener: TcpListener,
        server: Option<Arc<rustls::ServerConfig>>,
        behaviour: impl Fn(&Arrived, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared { seen: Mutex::default(), changed: Condvar::new() });
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        let own = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if own.seen().ended {
                    return;
                }
                let (shared, behaviour, server) = (own.clone(), behaviour.clone(), server.clone());
                thread::spawn(move || match server {
                    None => converse(stream, &shared, &*behaviour),
                    Some(config) => {
                        let Ok(connection) = rustls::ServerConnection::new(config) else { return };
                        converse(rustls::StreamOwned::new(connection, stream), &shared, &*behaviour);
                    }
                });
            }
        });
        Self { port, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Returns the requests so far.
    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        self.shared.seen().requests.clone()
    }

    /// Waits until `enough` holds for the requests so far, and returns them.
    #[expect(clippy::disallowed_methods, reason = "a real process is waited for, in real time")]
    pub(crate) fn until(&self, what: &str, enough: impl Fn(&[Arrived]) -> bool) -> Vec<Arrived> {
        let end = Instant::now() + PATIENCE;
        let mut seen = self.shared.seen();
        while !enough(&seen.requests) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not in time: {what}; {} requests came", seen.requests.len());
            seen = self.shared.changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        seen.requests.clone()
    }

    /// Returns the requests with events of [`crate::boxed::event`], without the gateway's own SETs about the stream.
    pub(crate) fn events(&self) -> Vec<Arrived> {
        self.arrived().into_iter().filter(|one| one.number.is_some()).collect()
    }

    /// Waits until every one of these numbers has arrived, and returns the requests as [`Sink::events`] does.
    pub(crate) fn until_numbers(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<Arrived> {
        let wanted: Vec<u64> = numbers.into_iter().collect();
        self.until("all numbers", |all| {
            let came: std::collections::BTreeSet<u64> = all.iter().filter_map(|one| one.number).collect();
            wanted.iter().all(|number| came.contains(number))
        });
        self.events()
    }

    /// Lets answers wait until [`Sink::release`].
    pub(crate) fn hold(&self) {
        self.shared.seen().held = true;
    }

    pub(crate) fn release(&self) {
        self.shared.seen().held = false;
        self.shared.changed.notify_all();
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.seen().ended = true;
        self.shared.changed.notify_all();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn converse(stream: impl Read + Write, shared: &Shared, behaviour: &Behaviour) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if std::io::BufRead::read_line(&mut stream, &mut line).is_ok_and(|length| length == 0) || line.is_empty() {
            return;
        }
        let Some(fields) = http::fields(&mut stream) else { return };
        let body = http::body(&mut stream, &fields);
        let arrived = Arrived::new(line.trim_end().to_owned(), fields, body);
        let number = {
            let mut seen = shared.seen();
            if seen.ended {
                return;
            }
            seen.requests.push(arrived.clone());
            shared.changed.notify_all();
            let number = seen.requests.len() - 1;
            let seen = shared
                .changed
                .wait_while(seen, |seen| seen.held && !seen.ended)
                .unwrap_or_else(PoisonError::into_inner);
            if seen.ended {
                return;
            }
            number
        };
        let out = stream.get_mut();
        let sent = match behaviour(&arrived, number) {
            Reply::Bytes(bytes) => out.write_all(&bytes).and_then(|()| out.flush()).is_ok(),
            Reply::Close => false,
            Reply::Never => {
                drop(shared.changed.wait_while(shared.seen(), |seen| !seen.ended));
                false
            }
            Reply::Drip(bytes) => bytes.iter().all(|byte| {
                let seen = shared.seen();
                let pace = Duration::from_secs(1);
                let (seen, _) = shared
                    .changed
                    .wait_timeout_while(seen, pace, |seen| !seen.ended)
                    .unwrap_or_else(PoisonError::into_inner);
                let ended = seen.ended;
                drop(seen);
                !ended && out.write_all(&[*byte]).and_then(|()| out.flush()).is_ok()
            }),
            Reply::Huge(length) => {
                let head = format!("HTTP/1.1 202 Accepted\r\ncontent-length: {length}\r\n\r\n");
                out.write_all(head.as_bytes()).is_ok()
                    && (0..length / 65_536).all(|_| out.write_all(&[b'x'; 65_536]).is_ok())
                    && out.flush().is_ok()
            }
        };
        if !sent {
            return;
        }
    }
}
