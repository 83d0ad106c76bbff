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

/// Connections end this long after their pool was made, so that changed names and certificates are seen.
const POOL_AGE: Duration = Duration::from_secs(300);
/// An idle connection is closed after this long.
const IDLE: Duration = Duration::from_secs(60);
/// Idle connections kept to one origin.
const IDLE_CONNECTIONS: usize = 128;
/// After so long without a byte on an HTTP/2 connection with requests under way, the peer is asked for a sign of life (RFC 9113 §6.7).
const PING: Duration = Duration::from_secs(10);
/// After so long without one the connection is ended. A connection that died unheard would otherwise take every request until its pool is old.
const PONG: Duration = Duration::from_secs(10);
/// Bytes of an answer's head.
const HEAD: usize = 64 * 1024;
/// Header fields of an answer.
const HEADERS: usize = 256;
/// Bytes beyond `keep_body` that are read and forgotten, so that the connection can be used again.
const FORGET: usize = 16 * 1024;

type Pool = legacy::Client<Connector, Full<Bytes>>;

/// The way out: makes guarded clients, one per policy.
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
    /// The way out under these options. `own` are the gateway's listeners, which are never targets; more may be added later.
    ///
    /// # Errors
    /// [`NetError::Tls`] when a configured certificate authority cannot be read.
    pub fn new(config: &OutboundConfig, runtime: setgate_clock::Runtime, own: OwnAddresses) -> Result<Self, NetError> {
        Self::with_resolver(config, runtime, own, Arc::new(SystemResolver))
    }

    /// The same with a resolver of one's own.
    ///
    /// # Errors
    /// [`NetError::Tls`] when a configured certificate authority cannot be read.
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
        // Whether TLS can be configured at all is known now, not at the first request.
        tls::client_config(&roots, &TlsPolicy::default())?;
        Ok(Self(Arc::new(Shared {
            config: config.clone(),
            own,
            roots,
            way: Way { resolver: Resolver::new(resolver), runtime, egress, timeout: config.timeout },
            clients: Mutex::default(),
        })))
    }

    /// The proxy that everything leaves through, if there is one.
    #[must_use]
    pub fn egress(&self) -> Option<&Egress> {
        self.0.way.egress.as_ref()
    }

    /// The client of a policy. Equal policies share connections; different ones never do.
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

/// One request.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// The method.
    pub method: Method,
    /// The target, checked by the guard.
    pub url: Url,
    /// Header fields; `Host` and `Content-Length` are added.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Bytes of the answer's body that are kept; what is longer is cut and marked as truncated.
    pub keep_body: usize,
    /// From resolving the name to the end of the answer; `None`: as `[net]` says.
    pub timeout: Option<Duration>,
}

/// One answer. Redirects are answers like any other: they are never followed.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// The status.
    pub status: StatusCode,
    /// Header fields.
    pub headers: HeaderMap,
    /// The body, or its beginning.
    pub body: Bytes,
    /// Whether the body is not whole: it was longer than allowed, broke off, or was not there in time.
    pub truncated: bool,
}

impl HttpClient {
    /// Checks a target without any I/O: a name passes, since its addresses are checked when it is resolved.
    ///
    /// # Errors
    /// [`HttpFault::Guard`], with a text that names the option that would allow the target.
    pub fn check(&self, url: &Url) -> Result<(), HttpError> {
        self.0.guard.url(url).map_err(|why| HttpError::new(HttpFault::Guard, why.0))
    }

    /// Sends a request and reads its answer.
    ///
    /// One deadline spans resolving, connecting, TLS, sending and the answer. Once the answer's head is there, it is the
    /// result whatever becomes of its body: a status that was received is never lost to a body that drips or breaks off.
    ///
    /// # Errors
    /// [`HttpError`] when there is no head of an answer.
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
    /// Opens a connection of its own to where `url` points, checked like any request; over TLS it speaks HTTP/1.1 only.
    ///
    /// For protocols that begin as HTTP and go on as another (RFC 9110 §7.8). The caller sends the request itself. One
    /// deadline spans resolving, connecting and TLS.
    ///
    /// # Errors
    /// [`HttpError`] when there is no connection.
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

    /// The pool of the day. An old one is let go: its idle connections close, those in use when they become idle.
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
        // Whoever came first has made the pool that all use.
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

/// Reads until the body's end, keeping `keep` bytes; tells whether it kept all.
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

/// Connections run as tasks of the runtime.
#[derive(Clone)]
struct Spawn(setgate_clock::Runtime);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawn {
    fn execute(&self, work: F) {
        self.0.spawn("http connection", work);
    }
}

/// Finds the failure in the chain of causes.
fn classify(error: &legacy::Error) -> HttpError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut fault = if error.is_connect() { HttpFault::Connect } else { HttpFault::Closed };
    let mut text = "the connection broke".to_owned();
    while let Some(error) = cause {
        if let Some(own) = error.downcast_ref::<HttpError>() {
            return own.clone();
        }
        // An alert of the peer may come after the handshake. HTTP/2 keeps of it only the text and the kind, which no
        // other error of a socket has.
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
