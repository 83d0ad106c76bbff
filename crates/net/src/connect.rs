//! The opening of connections: resolving, checking, connecting to the checked address, TLS.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::Service;

use crate::{Egress, HttpError, HttpFault, guard::AddressGuard, resolve::Resolver};

/// The time that one address may stay silent before the next is tried beside it (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);

/// The most addresses of one name that are tried.
const ADDRESSES: usize = 8;

#[derive(Clone)]
pub(crate) struct Connector(Arc<Inner>);

struct Inner {
    guard: AddressGuard,
    tls: Arc<ClientConfig>,
    /// The TLS configuration of equal trust and identity for connections that begin as HTTP/1.1 and switch protocols.
    upgrading: Arc<ClientConfig>,
    way: Way,
}

/// The settings that all outgoing connections of the gateway share.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) resolver: Resolver,
    pub(crate) runtime: setgate_clock::Runtime,
    pub(crate) egress: Option<Egress>,
    /// The time limit for establishing a connection, independent of whether a request still waits for it.
    pub(crate) timeout: Duration,
}

impl Connector {
    pub(crate) fn new(guard: AddressGuard, tls: ClientConfig, way: Way) -> Self {
        let mut upgrading = tls.clone();
        upgrading.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self(Arc::new(Inner { guard, tls: Arc::new(tls), upgrading: Arc::new(upgrading), way }))
    }

    /// Opens a connection outside of every pool.
    pub(crate) async fn dial(&self, target: &Uri) -> Result<Dialed, HttpError> {
        self.0.open(target, &self.0.upgrading, true).await.map(Dialed)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = HttpError;
    type Future = BoxFuture<'static, Result<Self::Response, HttpError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let inner = self.0.clone();
        Box::pin(async move {
            let opening = inner.open(&target, &inner.tls, false);
            // A pool goes on connecting after the request that asked for it is over; a silent peer must not hold that
            // forever.
            let late = inner.way.runtime.clock.sleep(inner.way.timeout);
            tokio::select! {
                biased;
                wire = opening => wire.map(TokioIo::new),
                () = late => Err(HttpError::new(
                    HttpFault::Timeout,
                    format!("no connection within {} s", inner.way.timeout.as_secs_f32()),
                )),
            }
        })
    }
}

impl Inner {
    /// Opens a connection. `own` means that it does not carry requests of a pool, so that no proxy may read its
    /// traffic.
    async fn open(&self, target: &Uri, tls: &Arc<ClientConfig>, own: bool) -> Result<Wire, HttpError> {
        let secure = target.scheme_str() == Some("https");
        let host = target.host().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = target.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tcp = match &self.way.egress {
            None => {
                let addresses = self.addresses(secure, host, port).await?;
                self.connect(&addresses)
                    .await
                    .map_err(|why| HttpError::new(HttpFault::Connect, format!("no connection: {why}")))?
            }
            // A proxy gets the URL of each request (RFC 9112 §3.2.2).
            Some(egress) if egress.resolves() && !secure && !own => {
                self.check_literal(secure, host, port)?;
                return self.to_proxy(egress).await.map(Wire::Forward);
            }
            Some(egress) => self.through(egress, secure, host, port).await?,
        };
        if !secure {
            return Ok(Wire::Plain(tcp));
        }
        let name = ServerName::try_from(host.trim_end_matches('.').to_owned())
            .map_err(|_| HttpError::new(HttpFault::Tls, "the host's name cannot be in a certificate"))?;
        match TlsConnector::from(tls.clone()).connect(name, tcp).await {
            Ok(tls) => Ok(Wire::Tls(Box::new(tls))),
            Err(error) => Err(HttpError::new(HttpFault::Tls, format!("TLS failed: {error}"))),
        }
    }

    /// Opens a connection to the target through the proxy: to a checked address, or to the name where the proxy
    /// resolves.
    async fn through(&self, egress: &Egress, secure: bool, host: &str, port: u16) -> Result<TcpStream, HttpError> {
        let targets: Vec<String> = if egress.resolves() {
            self.check_literal(secure, host, port)?;
            vec![host.to_owned()]
        } else {
            self.addresses(secure, host, port).await?.iter().map(|address| address.ip().to_string()).collect()
        };
        let mut last = None;
        for target in &targets {
            let mut tcp = self.to_proxy(egress).await?;
            match egress.tunnel(&mut tcp, target, port).await {
                Ok(()) => return Ok(tcp),
                Err(refusal) if refusal.of_target => last = Some(refusal.error),
                Err(refusal) => return Err(refusal.error),
            }
        }
        Err(last.unwrap_or_else(|| HttpError::new(HttpFault::Resolve, "the name has no address")))
    }

    fn check_literal(&self, secure: bool, host: &str, port: u16) -> Result<(), HttpError> {
        let Ok(ip) = host.parse::<IpAddr>() else { return Ok(()) };
        self.guard.address(secure, ip, port).map_err(|why| HttpError::new(HttpFault::Guard, why.0))
    }

    /// Connects to the proxy. The guard does not check its address, since the operator chose it and it usually is
    /// internal; a listener of the gateway itself is refused.
    async fn to_proxy(&self, egress: &Egress) -> Result<TcpStream, HttpError> {
        let gone = |why: String| HttpError::new(HttpFault::Proxy, format!("the egress proxy cannot be reached: {why}"));
        let found: Arc<[IpAddr]> = match egress.host().parse::<IpAddr>() {
            Ok(ip) => Arc::from([ip]),
            Err(_) => self.way.resolver.resolve(egress.host()).await.map_err(gone)?,
        };
        let all: Vec<_> = found.iter().take(ADDRESSES).map(|ip| SocketAddr::new(*ip, egress.port())).collect();
        if all.iter().any(|address| self.guard.is_own(*address)) {
            return Err(gone("it is a listener of this gateway".to_owned()));
        }
        self.connect(&all).await.map_err(|why| gone(why.to_string()))
    }

    /// Returns the addresses of `host` that the guard allows.
    async fn addresses(&self, secure: bool, host: &str, port: u16) -> Result<Vec<SocketAddr>, HttpError> {
        let found: Arc<[IpAddr]> =
            match host.parse::<IpAddr>() {
                Ok(ip) => Arc::from([ip]),
                Err(_) => self.way.resolver.resolve(host).await.map_err(|text| {
                    HttpError::new(HttpFault::Resolve, format!("the name cannot be resolved: {text}"))
                })?,
            };
        let mut refused = None;
        let mut checked = Vec::with_capacity(found.len().min(ADDRESSES));
        for ip in found.iter().take(ADDRESSES) {
            match self.guard.address(secure, *ip, port) {
                Ok(()) => checked.push(SocketAddr::new(*ip, port)),
                Err(why) => refused = Some(why),
            }
        }
        match (checked.is_empty(), refused) {
            (false, _) => Ok(checked),
            (true, Some(why)) => Err(HttpError::new(HttpFault::Guard, why.0)),
            (true, None) => Err(HttpError::new(HttpFault::Resolve, "the name has no address")),
        }
    }

    /// Returns the first connection that is established; the next address is tried when one fails or stays silent.
    async fn connect(&self, addresses: &[SocketAddr]) -> io::Result<TcpStream> {
        let mut left = addresses.iter();
        let mut trying = FuturesUnordered::new();
        let mut last = None;
        loop {
            if let Some(address) = left.next() {
                trying.push(TcpStream::connect(*address));
            } else if trying.is_empty() {
                return Err(last.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable)));
            }
            tokio::select! {
                Some(end) = trying.next() => match end {
                    Ok(tcp) => {
                        tcp.set_nodelay(true)?;
                        return Ok(tcp);
                    }
                    Err(error) => last = Some(error),
                },
                () = self.way.runtime.clock.sleep(STAGGER), if !left.as_slice().is_empty() => {}
            }
        }
    }
}

/// A connection that was opened under the guard, for a protocol that begins as HTTP/1.1 and switches to another.
pub struct Dialed(Wire);

impl std::fmt::Debug for Dialed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dialed")
    }
}

impl AsyncRead for Dialed {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Dialed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

/// A connection, plain or TLS.
pub(crate) enum Wire {
    Plain(TcpStream),
    /// A plain connection to a proxy that reads the requests and forwards them.
    Forward(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        match self {
            Self::Tls(tls) if tls.get_ref().1.alpn_protocol() == Some(b"h2") => Connected::new().negotiated_h2(),
            Self::Forward(_) => Connected::new().proxy(true),
            Self::Plain(_) | Self::Tls(_) => Connected::new(),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) | Self::Forward(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) | Self::Forward(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) | Self::Forward(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) | Self::Forward(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) | Self::Forward(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) | Self::Forward(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
