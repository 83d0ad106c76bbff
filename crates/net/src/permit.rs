//! A connection's place: held, left for a while, vouched for.

use std::{
    any::Any,
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::mpsc;

use crate::{connection::Connection, limiter::ConnectionLimiter, observe::Limit};

/// A connection's place among those that its listener allows, set as an extension of every request.
///
/// A handler that lets a request wait long [leaves](ConnectionPermit::leave) the place to others and counts the request
/// in a budget of its own. A connection that was taken over by another protocol keeps its place, or what was
/// [kept](ConnectionPermit::keep) with it, until it is closed. A connection that has shown a credential is [vouched
/// for](ConnectionPermit::vouch), so that others do not get its place.
#[derive(Clone)]
pub struct ConnectionPermit(Arc<Inner>);

struct Inner {
    limiter: Arc<ConnectionLimiter>,
    number: u64,
    vouched: AtomicBool,
    connection: Arc<Connection>,
}

impl ConnectionPermit {
    /// Gives the connection's place to others for as long as the returned value lives.
    ///
    /// If no place is free when it is dropped, the connection ends after its answers.
    #[must_use]
    pub fn leave(&self) -> Away {
        self.0.limiter.leave(self.0.number);
        Away(self.clone())
    }

    /// Keeps `what` until the connection is closed, even after another protocol has taken it over.
    pub fn keep(&self, what: impl Any + Send + Sync) {
        self.0.connection.keep(what);
    }

    /// Records that the connection has shown an accepted credential of `client`: nobody gets its place while it is
    /// open, unless the client has more than its share of connections. Only the first call has an effect.
    pub fn vouch(&self, client: &str) {
        if !self.0.vouched.swap(true, Ordering::Relaxed) {
            self.0.limiter.vouch(self.0.number, client);
        }
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.0.connection
    }
}

impl std::fmt::Debug for ConnectionPermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConnectionPermit")
    }
}

/// A place that was left for a while.
#[derive(Debug)]
pub struct Away(ConnectionPermit);

impl Drop for Away {
    fn drop(&mut self) {
        self.0.0.limiter.come_back(self.0.0.number);
    }
}

/// The owner of a connection's permit: dropping it frees the place and what was kept with it.
pub(crate) struct HeldPermit {
    permit: ConnectionPermit,
    _alive: mpsc::Sender<Infallible>,
}

impl HeldPermit {
    /// Admits an accepted connection as soon as there is a place, which it has until the value is dropped.
    ///
    /// # Errors
    /// The limit that keeps the connection out.
    pub(crate) async fn admit(
        limiter: &Arc<ConnectionLimiter>,
        ip: IpAddr,
        alive: &mpsc::Sender<Infallible>,
    ) -> Result<Self, Limit> {
        let (number, connection) = limiter.admit(ip).await?;
        Ok(Self::new(limiter.clone(), number, connection, alive.clone()))
    }

    pub(crate) fn new(
        limiter: Arc<ConnectionLimiter>,
        number: u64,
        connection: Arc<Connection>,
        alive: mpsc::Sender<Infallible>,
    ) -> Self {
        let inner = Inner { limiter, number, vouched: AtomicBool::new(false), connection };
        Self { permit: ConnectionPermit(Arc::new(inner)), _alive: alive }
    }

    pub(crate) const fn permit(&self) -> &ConnectionPermit {
        &self.permit
    }
}

impl Drop for HeldPermit {
    fn drop(&mut self) {
        let kept = self.permit.0.connection.close();
        self.permit.0.limiter.close(self.permit.0.number);
        drop(kept);
    }
}
