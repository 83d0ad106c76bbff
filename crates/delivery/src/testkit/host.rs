//! A host for the fixtures of responders: routes on loopback with sessions of a subscription, and a clock with short
//! sleeps.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Extension, Router};
use futures_util::future::BoxFuture;
use setgate_clock::{Clock, Runtime};
use setgate_net::Listener;
use tokio::sync::watch;

use super::{Cuts, Opened, Relay};
use crate::{Fault, Ingest, Session, Stop, Subscription, spi::AnyChannel};

/// The routes of a method on loopback, as the gateway mounts them: every request has a session of one subscription.
/// Dropping the host stops it and closes all connections.
///
/// Credentials are checked by the guard, so none are asked for here.
pub struct Host {
    relay: Relay,
    ends: watch::Sender<bool>,
    _stop: watch::Sender<bool>,
}

impl Host {
    /// Serves `routes` on a port of its own.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn open(
        routes: Router,
        channel: Arc<dyn AnyChannel>,
        subscription: Subscription,
        runtime: &Runtime,
    ) -> io::Result<Self> {
        Self::with(Cuts::default(), routes, channel, subscription, None, runtime).await
    }

    /// Serves `routes` behind a relay that can be cut through `cuts`, with an ingest for what the peer sends.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn with(
        cuts: Cuts,
        routes: Router,
        channel: Arc<dyn AnyChannel>,
        subscription: Subscription,
        ingest: Option<Arc<dyn Ingest>>,
        runtime: &Runtime,
    ) -> io::Result<Self> {
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.map_err(io::Error::other)?;
        let relay = Relay::with(cuts, listener.address(), runtime).await?;
        let (ends, ended) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let session = Session { subscription, channel, ingest, peer: "test".into(), ends: ended };
        runtime.spawn("host", listener.serve(routes.layer(Extension(session)), stopped, runtime.clone()));
        Ok(Self { relay, ends, _stop: stop })
    }

    /// Returns the address at which callers reach the host.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.relay.address()
    }

    /// Returns the stream's URL: `http://127.0.0.1:port/`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/", self.address())
    }

    /// Ends the credential of all sessions.
    pub fn end_sessions(&self) {
        self.ends.send_replace(true);
    }

    /// Cuts all connections that are open.
    pub fn cut(&self) {
        self.relay.cutter()();
    }
}

impl Opened {
    /// Makes a responder's channel with its sessions: `routes` are its method's, and `collect` runs the method's own
    /// other end against a URL until it ends.
    ///
    /// Each call of [`Opened::sessions`] starts a host and a collector of its own; [`Opened::cut`] reaches all of them.
    #[must_use]
    pub fn responder(
        channel: Arc<dyn AnyChannel>,
        routes: Router,
        runtime: Runtime,
        collect: impl Fn(String, Stop) -> BoxFuture<'static, Result<(), Fault>> + Send + Sync + 'static,
    ) -> Self {
        let (cuts, collect) = (Cuts::default(), Arc::new(collect));
        let (scissors, of) = (cuts.clone(), channel.clone());
        let sessions = move |subscription: Subscription| -> BoxFuture<'static, ()> {
            let (scissors, routes, channel) = (scissors.clone(), routes.clone(), of.clone());
            let (runtime, collect) = (runtime.clone(), collect.clone());
            Box::pin(async move {
                let host = match Host::with(scissors, routes, channel, subscription, None, &runtime).await {
                    Ok(host) => host,
                    Err(error) => return report(&error.to_string()),
                };
                let (_stop, stopped) = watch::channel(false);
                match collect(host.url(), stopped).await {
                    Ok(()) => report("it was not told to stop"),
                    Err(fault) => report(&fault.to_string()),
                }
            })
        };
        Self {
            channel,
            cut: cuts.cutter(),
            cut_after: Some(cuts.breaker()),
            parallel: false,
            most: None,
            sessions: Some(Arc::new(sessions)),
            keep: Box::new(()),
        }
    }
}

#[expect(clippy::print_stderr, reason = "whoever reads why a case failed wants to know, and the future says nothing")]
fn report(why: &str) {
    eprintln!("the collector ended: {why}");
}

/// Returns the runtime with a clock whose sleeps take a twentieth of their time, for methods whose collector waits
/// before it tries again.
#[must_use]
pub fn with_fast_clock(runtime: Runtime) -> Runtime {
    let clock = Arc::new(FastClock(runtime.clock.clone()));
    Runtime { clock, ..runtime }
}

struct FastClock(Arc<dyn Clock>);

impl Clock for FastClock {
    fn wall_millis(&self) -> u64 {
        self.0.wall_millis()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn sleep(&self, how_long: Duration) -> BoxFuture<'static, ()> {
        self.0.sleep(how_long / 20)
    }
}
