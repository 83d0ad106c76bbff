//! The outgoing HTTP client: guarded, bounded, pooled by policy.

use std::{
    collections::HashMap,
    error::Error,
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{client::legacy, rt::TokioTimer};
use rustls::RootCertStore;
use url::Url;

use crate::{
    Egress, HttpError, HttpFault, NetError, OutboundConfig, OwnAddresses, Resolve, SystemResolver, TlsPolicy,
    connect::{Connector, Dialed, Way},
    guard::AddressGuard,
    proxy,
    resolve::Resolver,
    ticks::Ticks,
    tls,
};

/// The age at which a pool is replaced, so that changed names and certificates take effect.
const POOL_AGE: Duration = Duration::from_secs(300);
/// The time after which an idle connection is closed.
const IDLE: Duration = Duration::from_secs(60);
/// The most idle connections that are kept to one origin.
const IDLE_CONNECTIONS: usize = 128;
/// The time without a byte on an HTTP/2 connection with open requests after which the peer is pinged (RFC 9113 §6.7).
const PING: Duration = Duration::from_secs(10);
/// The time without an answer to that ping after which the connection is ended. A connection that died unnoticed would
/// otherwise take every request until its pool is replaced.
const PONG: Duration = Duration::from_secs(10);
/// The most bytes of an answer's head.
const HEAD: usize = 64 * 1024;
/// The most header fields of an answer.
const HEADERS: usize = 256;
/// The most bytes beyond `keep_body` that are read and discarded, so that the connection can be reused.
const FORGET: usize = 16 * 1024;

type Pool = legacy::Client<Connector, Full<Bytes>>;

/// The factory of guarded clients, one per policy, for everything that the gateway sends.
#[derive(Clone)]
pub struct Outbound(Arc<Shared>);

struct Shared {
    config: OutboundConfig,
    own: OwnAddresses,
    roots: RootCertStore,
    way: Way,
    clients: Mutex<HashMap<TlsPolicy, Weak<ClientInner>>>,
}

impl Outbound {
    /// Creates the factory with these options. `own` are the gateway's listeners, which are never targets; more may be
    /// added later.
    ///
    /// # Errors
    /// [`NetError::Tls`] when a configured certificate authority cannot be read or TLS cannot be configured;
    /// [`NetError::Option`] and [`NetError::Secret`] when the timeout is zero or the options of the egress proxy cannot
    /// be used.
    pub fn new(config: &OutboundConfig, runtime: setgate_clock::Runtime, own: OwnAddresses) -> Result<Self, NetError> {
        Self::with_resolver(config, runtime, own, Arc::new(SystemResolver))
    }

    /// Creates the factory as [`Outbound::new`] does, with the given resolver.
    ///
    /// # Errors
    /// The same as those of [`Outbound::new`].
    pub fn with_resolver(
        config: &OutboundConfig,
        runtime: setgate_clock::Runtime,
        own: OwnAddresses,
        resolver: Arc<dyn Resolve>,
    ) -> Result<Self, NetError> {
        if config.timeout.is_zero() {
            return Err(NetError::Option { option: "net.timeout", why: "write more than 0s".to_owned() });
        }
        let egress = Egress::of(config)?;
        if let Some(egress) = &egress {
            if egress.resolves() {
                tracing::warn!(
                    proxy = %egress,
                    "the egress proxy resolves names: its rules are the only guard against inside addresses"
                );
            } else {
                tracing::info!(proxy = %egress, "everything leaves through the egress proxy");
            }
        }
        let roots = tls::base_roots(config)?;
        // An impossible TLS configuration fails here and not at the first request.
        tls::client_config(&roots, &TlsPolicy::default())?;
        Ok(Self(Arc::new(Shared {
            config: config.clone(),
            own,
            roots,
            way: Way { resolver: Resolver::new(resolver), runtime, egress, timeout: config.timeout },
            clients: Mutex::default(),
        })))
    }

    /// Returns the proxy that all requests leave through, if there is one.
    #[must_use]
    pub fn egress(&self) -> Option<&Egress> {
        self.0.way.egress.as_ref()
    }

    /// Returns the client of a policy. Equal policies share connections; different policies never do.
    #[must_use]
    pub fn client(&self, policy: &TlsPolicy) -> HttpClient {
        let mut clients = self.0.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(policy).and_then(Weak::upgrade) {
            return HttpClient(client);
        }
        clients.retain(|_, client| client.strong_count() > 0);
        let client = Arc::new(ClientInner::new(&self.0, policy));
        clients.insert(policy.clone(), Arc::downgrade(&client));
        HttpClient(client)
    }
}

impl std::fmt::Debug for Outbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outbound")
    }
}

/// A guarded client with the connections of one policy.
#[derive(Clone)]
pub struct HttpClient(Arc<ClientInner>);

struct ClientInner {
    guard: AddressGuard,
    connector: Result<Connector, HttpError>,
    runtime: setgate_clock::Runtime,
    egress: Option<Egress>,
    timeout: Duration,
    pool: ArcSwap<Option<Aged>>,
}

struct Aged {
    born: Duration,
    pool: Pool,
}

/// An outgoing request.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// The method.
    pub method: Method,
    /// The target, which the guard checks.
    pub url: Url,
    /// The header fields; `Host` and `Content-Length` are added.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The most bytes of the answer's body that are kept; a longer body is cut and marked as truncated.
    pub keep_body: usize,
    /// The time limit from resolving the name to the end of the answer; `None` stands for the `timeout` of `[net]`.
    pub timeout: Option<Duration>,
}

/// An answer. Redirects are answers like any other and are never followed.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body, or its beginning.
    pub body: Bytes,
    /// Whether the body is incomplete: it was longer than allowed, broke off, or was not complete by the deadline.
    pub truncated: bool,
}

impl HttpClient {
    /// Checks a target without any I/O. A name passes, since its addresses are checked when it is resolved.
    ///
    /// # Errors
    /// [`HttpFault::Guard`], with a text that names the option that would allow the target.
    pub fn check(&self, url: &Url) -> Result<(), HttpError> {
        self.0.guard.url(url).map_err(|why| HttpError::new(HttpFault::Guard, why.0))
    }

    /// Sends a request and reads its answer.
    ///
    /// One deadline spans resolving, connecting, TLS, sending and the answer. Once the answer's head has arrived, it is
    /// the result whatever becomes of its body: a received status is never lost to a body that is slow or breaks off.
    ///
    /// # Errors
    /// [`HttpError`] when no head of an answer arrives.
    pub async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.check(&request.url)?;
        let uri = Uri::try_from(request.url.as_str())
            .map_err(|_| HttpError::new(HttpFault::Protocol, "the URL cannot be expressed in HTTP"))?;
        let timeout = request.timeout.unwrap_or(self.0.timeout);
        let keep = request.keep_body;
        let forwarded = self.0.egress.as_ref().filter(|egress| egress.resolves() && request.url.scheme() == "http");
        let mut message = Request::new(Full::new(request.body));
        *message.method_mut() = request.method;
        *message.uri_mut() = uri;
        *message.headers_mut() = request.headers;
        if let Some(authorization) = forwarded.and_then(Egress::authorization) {
            message.headers_mut().insert(http::header::PROXY_AUTHORIZATION, authorization);
        }
        let answer = self.0.pool()?;
        let answer = answer.request(message);

        let mut deadline = self.0.runtime.clock.sleep(timeout);
        let head = tokio::select! {
            biased;
            head = answer => head.map_err(|error| classify(&error))?,
            () = &mut deadline => {
                return Err(HttpError::new(HttpFault::Timeout, format!("no answer within {} s", timeout.as_secs_f32())));
            }
        };
        if forwarded.is_some() && head.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            return Err(proxy::refusal(head.status().as_u16()).error);
        }
        let (head, mut body) = head.into_parts();
        let mut kept = BytesMut::new();
        let whole = tokio::select! {
            biased;
            whole = read(&mut body, &mut kept, keep) => whole,
            () = &mut deadline => false,
        };
        Ok(HttpResponse { status: head.status, headers: head.headers, body: kept.freeze(), truncated: !whole })
    }
}

impl HttpClient {
    /// Opens a connection outside of every pool to the target of `url`, which is checked like that of any request; over
    /// TLS it speaks HTTP/1.1 only.
    ///
    /// It serves protocols that begin as HTTP and switch to another (RFC 9110 §7.8). The caller sends the request
    /// itself. One deadline spans resolving, connecting and TLS.
    ///
    /// # Errors
    /// [`HttpError`] when no connection can be established.
    pub async fn dial(&self, url: &Url) -> Result<Dialed, HttpError> {
        self.check(url)?;
        let uri = Uri::try_from(url.as_str())
            .map_err(|_| HttpError::new(HttpFault::Protocol, "the URL cannot be expressed in HTTP"))?;
        let connector = self.0.connector.clone()?;
        let timeout = self.0.timeout;
        tokio::select! {
            biased;
            dialed = connector.dial(&uri) => dialed,
            () = self.0.runtime.clock.sleep(timeout) => {
                Err(HttpError::new(HttpFault::Timeout, format!("no connection within {} s", timeout.as_secs_f32())))
            }
        }
    }
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HttpClient")
    }
}

impl ClientInner {
    fn new(shared: &Shared, policy: &TlsPolicy) -> Self {
        let guard = AddressGuard::new(&shared.config, &policy.guard, shared.own.clone());
        let connector = tls::client_config(&shared.roots, policy)
            .map(|tls| Connector::new(guard.clone(), tls, shared.way.clone()))
            .map_err(|error| HttpError::new(HttpFault::Tls, error.to_string()));
        Self {
            guard,
            connector,
            runtime: shared.way.runtime.clone(),
            egress: shared.way.egress.clone(),
            timeout: shared.config.timeout,
            pool: ArcSwap::from_pointee(None),
        }
    }

    /// Returns the current pool. A pool past its age is released: its idle connections close, those in use when they
    /// become idle.
    fn pool(&self) -> Result<Pool, HttpError> {
        let now = self.runtime.clock.monotonic();
        let current = self.pool.load();
        if let Some(aged) = current.as_ref()
            && now.saturating_sub(aged.born) < POOL_AGE
        {
            return Ok(aged.pool.clone());
        }
        let pool = self.connector.clone().map(|connector| self.build(connector))?;
        let fresh = Arc::new(Some(Aged { born: now, pool: pool.clone() }));
        let before = self.pool.compare_and_swap(&current, fresh);
        // The first caller to replace the pool has made the one that all use.
        if !Arc::ptr_eq(&before, &current)
            && let Some(aged) = before.as_ref()
        {
            return Ok(aged.pool.clone());
        }
        Ok(pool)
    }

    fn build(&self, connector: Connector) -> Pool {
        legacy::Client::builder(Spawn(self.runtime.clone()))
            .timer(Ticks::new(self.runtime.clock.clone()))
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PONG)
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http1_max_buf_size(HEAD)
            .http1_max_headers(HEADERS)
            .http2_max_header_list_size(u32::try_from(HEAD).unwrap_or(u32::MAX))
            .http2_adaptive_window(false)
            .build(connector)
    }
}

/// Reads to the end of the body and keeps `keep` bytes of it; returns whether it kept the whole body.
async fn read(body: &mut Incoming, kept: &mut BytesMut, keep: usize) -> bool {
    let mut left = FORGET;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        let Ok(data) = frame.into_data() else { continue };
        let room = keep.saturating_sub(kept.len());
        if data.len() <= room {
            kept.extend_from_slice(&data);
            continue;
        }
        let (fits, rest) = data.split_at(room);
        kept.extend_from_slice(fits);
        let Some(rest) = left.checked_sub(rest.len()) else { return false };
        left = rest;
    }
    left == FORGET
}

/// An executor that runs connections as tasks of the runtime.
#[derive(Clone)]
struct Spawn(setgate_clock::Runtime);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawn {
    fn execute(&self, work: F) {
        self.0.spawn("http connection", work);
    }
}

/// Finds the fault in the chain of causes.
fn classify(error: &legacy::Error) -> HttpError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut fault = if error.is_connect() { HttpFault::Connect } else { HttpFault::Closed };
    let mut text = "the connection broke".to_owned();
    while let Some(error) = cause {
        if let Some(own) = error.downcast_ref::<HttpError>() {
            return own.clone();
        }
        // An alert of the peer may come after the handshake. HTTP/2 keeps only its text and its kind, which no other
        // error of a socket has.
        let io = error.downcast_ref::<io::Error>();
        let is_tls = io.is_some_and(|io| io.kind() == io::ErrorKind::InvalidData);
        if is_tls || error.downcast_ref::<rustls::Error>().is_some() {
            return HttpError::new(HttpFault::Tls, format!("TLS failed: {error}"));
        }
        if let Some(hyper) = error.downcast_ref::<hyper::Error>() {
            if hyper.is_parse_too_large() {
                return HttpError::new(HttpFault::TooLarge, "the answer's head is too large");
            }
            if hyper.is_parse() || hyper.is_user() {
                fault = HttpFault::Protocol;
            }
            text = hyper.to_string();
        }
        let inner = io.and_then(io::Error::get_ref);
        cause = inner.map(|inner| inner as _).or_else(|| error.source());
    }
    HttpError::new(fault, text)
}

#[cfg(test)]
pub(crate) mod tests;
