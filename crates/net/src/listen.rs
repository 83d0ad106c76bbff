//! Listeners, plain or TLS, that serve an axum router over HTTP/1.1 and HTTP/2 within limits.

use std::{convert::Infallible, future::Future, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::Router;
use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use setgate_telemetry::chain;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tower::Service;

use crate::{
    Limits, ListenConfig, NetError, Observed,
    connection::End,
    limiter::ConnectionLimiter,
    observe::OfListener,
    permit::{ConnectionPermit, HeldPermit},
    permitted::{Answering, PermittedIo},
    tls,
};

/// A signal that becomes true when everything must end.
pub type Stop = watch::Receiver<bool>;

/// The address at the other end of the connection, set as an extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// A listener's certificate with its key, which can be replaced while connections are open.
#[derive(Clone)]
pub struct ServerCertificate(Arc<Reloadable>);

struct Reloadable {
    files: Option<(PathBuf, PathBuf)>,
    current: ArcSwap<CertifiedKey>,
}

impl ServerCertificate {
    /// Reads the chain and the key from PEM texts.
    ///
    /// # Errors
    /// [`NetError::Tls`] when either is not PEM or the key does not belong to the certificate.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, NetError> {
        let current = tls::certified_key("server certificate", chain, key)?;
        Ok(Self(Arc::new(Reloadable { files: None, current: ArcSwap::from_pointee(current) })))
    }

    /// Reads the chain and the key from PEM files.
    ///
    /// # Errors
    /// [`NetError::Tls`] when a file cannot be read or used.
    pub fn from_files(chain: PathBuf, key: PathBuf) -> Result<Self, NetError> {
        let current = tls::certified_key("server certificate", &tls::read(&chain)?, &tls::read(&key)?)?;
        Ok(Self(Arc::new(Reloadable { files: Some((chain, key)), current: ArcSwap::from_pointee(current) })))
    }

    /// Reads the files again; new handshakes present what they hold now.
    ///
    /// # Errors
    /// [`NetError::Tls`] when a file cannot be read or used; the old certificate stays in force.
    pub fn reload(&self) -> Result<(), NetError> {
        if let Some((chain, key)) = &self.0.files {
            let fresh = tls::certified_key("server certificate", &tls::read(chain)?, &tls::read(key)?)?;
            self.0.current.store(Arc::new(fresh));
        }
        Ok(())
    }
}

impl std::fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerCertificate")
    }
}

impl std::fmt::Debug for Reloadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reloadable")
    }
}

impl ResolvesServerCert for Reloadable {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// An open listener.
pub struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    certificate: Option<ServerCertificate>,
    limits: Limits,
    quiet: watch::Sender<bool>,
    observed: OfListener,
}

impl Listener {
    /// Opens a plain listener with default limits; port 0 picks a free port.
    ///
    /// # Errors
    /// [`NetError::Listen`] when the address is in use or does not belong to this machine.
    pub async fn bind(address: SocketAddr) -> Result<Self, NetError> {
        Self::open(address, &ListenConfig::default()).await
    }

    /// Opens a listener as its section of the configuration says.
    ///
    /// # Errors
    /// [`NetError::Listen`] when the address is in use or does not belong to this machine; [`NetError::Tls`] and
    /// [`NetError::Option`] when the certificate cannot be used.
    pub async fn open(address: SocketAddr, config: &ListenConfig) -> Result<Self, NetError> {
        let certificate = config.certificate()?;
        let fault = |source| NetError::Listen { address, source };
        let tcp = TcpListener::bind(address).await.map_err(fault)?;
        let address = tcp.local_addr().map_err(fault)?;
        let (limits, quiet) = (config.limits.clone(), watch::channel(false).0);
        let observed = Observed::default().of("");
        let plain = Self { tcp, address, tls: None, certificate: None, limits, quiet, observed };
        match certificate {
            Some(certificate) => plain.with_tls(&certificate),
            None => Ok(plain),
        }
    }

    /// Makes the listener speak TLS 1.2 and 1.3 with this certificate.
    ///
    /// # Errors
    /// [`NetError::Tls`] when the crypto provider lacks a protocol version.
    pub fn with_tls(mut self, certificate: &ServerCertificate) -> Result<Self, NetError> {
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| NetError::tls("TLS", error))?
            .with_no_client_auth()
            .with_cert_resolver(certificate.0.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        self.certificate = Some(certificate.clone());
        self.tls = Some(TlsAcceptor::from(Arc::new(config)));
        Ok(self)
    }

    /// Makes the listener count its connections in `observed`, under `name`.
    #[must_use]
    pub fn observed(mut self, observed: Observed, name: &'static str) -> Self {
        self.observed = observed.of(name);
        self
    }

    /// Returns the address that the listener is bound to, with the port that the system assigned.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the listener's certificate, to be reloaded; `None` when the listener speaks plain HTTP.
    #[must_use]
    pub const fn certificate(&self) -> Option<&ServerCertificate> {
        self.certificate.as_ref()
    }

    /// Returns a signal that becomes true when the listener was stopped and every connection has ended, except those
    /// that [left](crate::ConnectionPermit::leave) their places.
    #[must_use]
    pub fn quiet(&self) -> Stop {
        self.quiet.subscribe()
    }

    /// Serves until `stop` is true, lets open requests finish within the drain timeout, then cuts the remaining
    /// connections.
    pub async fn serve(self, app: Router, stop: Stop, runtime: setgate_clock::Runtime) {
        let limiter = ConnectionLimiter::new(&self.limits, runtime.clock.clone(), self.observed.clone());
        tokio::select! {
            biased;
            () = limiter.watch() => {}
            () = self.accept_all(&limiter, app, stop, runtime) => {}
        }
    }

    async fn accept_all(
        self,
        limiter: &Arc<ConnectionLimiter>,
        app: Router,
        mut stop: Stop,
        runtime: setgate_clock::Runtime,
    ) {
        // Nothing is ever sent through this channel: it ends when every connection has dropped its sender.
        let (alive, mut living) = mpsc::channel(1);
        let drain = self.limits.drain_timeout;
        let state = Arc::new(ServeState {
            app,
            tls: self.tls,
            limits: self.limits,
            runtime: runtime.clone(),
            stop: stop.clone(),
        });
        loop {
            let caller = async {
                // While there is no room, callers wait in the system's queue.
                limiter.vacancy().await;
                let (tcp, peer) = self.tcp.accept().await?;
                let held = HeldPermit::admit(limiter, peer.ip(), &alive).await;
                Ok::<_, io::Error>((tcp, peer, held))
            };
            let caller = tokio::select! {
                biased;
                () = raised(&mut stop) => break,
                caller = caller => caller,
            };
            let (tcp, peer, held) = match caller {
                Ok(caller) => caller,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "a connection cannot be accepted");
                    limiter.make_room();
                    runtime.clock.sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if let Ok(held) = held {
                let state = state.clone();
                runtime.spawn("connection", async move { state.connection(tcp, peer, held).await });
            }
        }
        drop((self.tcp, alive));
        let drained = async {
            limiter.empty().await;
            self.quiet.send_replace(true);
            living.recv().await
        };
        tokio::select! {
            biased;
            _ = drained => return,
            () = runtime.clock.sleep(drain) => {}
        }
        limiter.cut();
        living.recv().await;
        self.quiet.send_replace(true);
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listener({})", self.address)
    }
}

/// Returns whether an error of `accept` concerns one connection and not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

/// Waits until the signal is true or its sender is gone.
async fn raised(stop: &mut Stop) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The state that all connections of a listener are served with.
struct ServeState {
    app: Router,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    runtime: setgate_clock::Runtime,
    stop: Stop,
}

impl ServeState {
    async fn connection(&self, tcp: TcpStream, peer: SocketAddr, held: HeldPermit) {
        if tcp.set_nodelay(true).is_err() {
            return;
        }
        let permit = held.permit().clone();
        let tcp = PermittedIo::new(tcp, held);
        // Each stage is boxed by itself, so that a connection that waits for hours does not keep what only the
        // handshake needs.
        let Some(acceptor) = &self.tls else {
            return Box::pin(self.http(tcp, permit, peer)).await;
        };
        if let Some(tls) = Box::pin(self.handshake(acceptor, tcp, &permit)).await {
            permit.connection().greeted();
            Box::pin(self.http(tls, permit, peer)).await;
        }
    }

    async fn handshake(
        &self,
        acceptor: &TlsAcceptor,
        tcp: PermittedIo<TcpStream>,
        permit: &ConnectionPermit,
    ) -> Option<Box<TlsStream<PermittedIo<TcpStream>>>> {
        let mut stop = self.stop.clone();
        let accepted = tokio::select! {
            biased;
            _ = permit.connection().ending() => return None,
            () = raised(&mut stop) => return None,
            accepted = acceptor.accept(tcp) => accepted,
        };
        accepted.map(Box::new).inspect_err(|error| tracing::debug!(error = chain(error), "a TLS handshake failed")).ok()
    }

    async fn http(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        permit: ConnectionPermit,
        peer: SocketAddr,
    ) {
        let service = {
            let permit = permit.clone();
            service_fn(move |mut request: Request<Incoming>| {
                let asking = permit.connection().ask();
                request.extensions_mut().insert(Peer(peer));
                request.extensions_mut().insert(permit.clone());
                let answering = self.app.clone().call(request);
                let permit = permit.clone();
                async move {
                    let answer = answer(answering.await)?;
                    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                        permit.connection().take_over();
                    }
                    Ok::<_, Infallible>(answer.map(|body| Answering::new(body, asking)))
                }
            })
        };
        let server = self.server();
        let mut connection = Box::pin(server.serve_connection_with_upgrades(TokioIo::new(io), service));
        let mut stop = self.stop.clone();
        let mut stopping = false;
        loop {
            tokio::select! {
                biased;
                end = connection.as_mut() => {
                    if let Err(error) = end {
                        tracing::debug!(error = chain(&*error), "a connection broke");
                        permit.connection().broke(&*error);
                    }
                    return;
                }
                end = permit.connection().ending() => match end {
                    End::Cut => return,
                    End::Soon if stopping => {}
                    End::Soon => {
                        stopping = true;
                        connection.as_mut().graceful_shutdown();
                    }
                },
                () = raised(&mut stop), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }

    fn server(&self) -> auto::Builder<Spawn> {
        let mut server = auto::Builder::new(Spawn(self.runtime.clone()));
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_buf_size(self.limits.header_bytes.max(8 * 1024));
        // Setting what is hyper's default anyway would cost an allocation per request.
        if self.limits.headers != 100 {
            server.http1().max_headers(self.limits.headers);
        }
        server
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(self.limits.header_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(self.limits.http2_streams)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10));
        server
    }
}

/// Returns the answer unchanged: a router always answers, and the function only states the type.
fn answer(answer: Result<Response<axum::body::Body>, Infallible>) -> Result<Response<axum::body::Body>, Infallible> {
    answer
}

/// An executor that runs hyper's tasks as tasks of the runtime.
#[derive(Clone)]
struct Spawn(setgate_clock::Runtime);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawn {
    fn execute(&self, work: F) {
        self.0.spawn("http stream", work);
    }
}

#[cfg(test)]
mod tests;
