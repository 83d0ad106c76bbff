//! A connection's place, what it waits for, and how it is ended.

use std::{
    any::Any,
    convert::Infallible,
    error::Error as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::Context,
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::sync::{Notify, mpsc};

use crate::{limiter::ConnectionLimiter, observe::Limit};

/// How long a connection that was told to end has for it.
const GRACE: Duration = Duration::from_secs(5);

/// A connection's place among those that its listener allows: an extension of every request.
///
/// Whoever lets a request wait long [leaves](ConnectionPermit::leave) the place to others and counts the request in a budget of its own. A connection
/// that was taken over by another protocol keeps its place, or what was [kept](ConnectionPermit::keep) with it, until it is closed. One that has shown a
/// credential is [vouched for](ConnectionPermit::vouch): others do not get its place.
#[derive(Clone)]
pub struct ConnectionPermit(Arc<Inner>);

struct Inner {
    limiter: Arc<ConnectionLimiter>,
    number: u64,
    vouched: AtomicBool,
    life: Mutex<Life>,
    /// How it has to end.
    ending: AtomicU8,
    told: Notify,
    /// Another protocol has the connection: it can be ended only where its bytes pass.
    taken_over: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

/// What the connection does.
struct Life {
    kept: Vec<Box<dyn Any + Send + Sync>>,
    closed: bool,
    /// Whether a request has come yet.
    asked: bool,
    /// Requests that are not answered to the last byte.
    requests: usize,
    /// Since when the peer has to do something, while there is no request.
    since: Duration,
    /// Answers of which the peer has to take what is there, and since when.
    handed: Vec<(u64, Duration)>,
    last: u64,
    /// Since when nothing can be written.
    stalled: Option<Duration>,
    /// When it was told to end.
    told: Option<Duration>,
}

/// How a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// When its requests are answered.
    Soon = 1,
    /// At once.
    Cut = 2,
}

impl ConnectionPermit {
    pub(crate) fn new(limiter: Arc<ConnectionLimiter>, number: u64) -> Self {
        let life = Life {
            kept: Vec::new(),
            closed: false,
            asked: false,
            requests: 0,
            since: limiter.now(),
            handed: Vec::new(),
            last: 0,
            stalled: None,
            told: None,
        };
        Self(Arc::new(Inner {
            limiter,
            number,
            vouched: AtomicBool::new(false),
            life: Mutex::new(life),
            ending: AtomicU8::new(0),
            told: Notify::new(),
            taken_over: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
        }))
    }

    /// Gives the connection's place to others for as long as the value lives.
    ///
    /// When it comes back and there is no place any more, the connection ends after its answers.
    #[must_use]
    pub fn leave(&self) -> Away {
        self.0.limiter.leave(self.0.number);
        Away(self.clone())
    }

    /// Keeps something until the connection is closed, also when another protocol has taken it over.
    pub fn keep(&self, what: impl Any + Send + Sync) {
        let mut life = self.0.life();
        if !life.closed {
            life.kept.push(Box::new(what));
        }
    }

    /// The connection has shown a credential that was accepted, of this client: nobody gets its place while it is open, unless the client
    /// has more than its share of them.
    pub fn vouch(&self, client: &str) {
        if !self.0.vouched.swap(true, Ordering::Relaxed) {
            self.0.limiter.vouch(self.0.number, client);
        }
    }

    /// The handshake is over: the peer has to ask for something.
    pub(crate) fn greeted(&self) {
        let now = self.0.limiter.now();
        self.0.life().since = now;
    }

    /// A request has come; it lasts as long as the value.
    pub(crate) fn ask(&self) -> Asking {
        let mut life = self.0.life();
        life.asked = true;
        life.requests += 1;
        life.last += 1;
        Asking { permit: self.clone(), number: life.last, handed: false }
    }

    /// Another protocol takes the connection over, whose rules tell when it is idle.
    pub(crate) fn take_over(&self) {
        self.0.taken_over.store(true, Ordering::Release);
    }

    /// Tells when the connection has to end, and how.
    pub(crate) async fn told(&self) -> End {
        self.0.told.notified().await;
        if self.is_cut() { End::Cut } else { End::Soon }
    }

    /// Ends it, for this limit.
    pub(crate) fn end(&self, end: End, limit: Limit) {
        let before = self.0.ending.fetch_max(end as u8, Ordering::AcqRel);
        if before >= end as u8 {
            return;
        }
        if before == 0 {
            self.0.limiter.observed().closed(limit);
            tracing::debug!(limit = limit.option(), "a connection is ended");
        }
        let now = self.0.limiter.now();
        self.0.life().told = Some(now);
        self.0.told.notify_one();
        self.0.reader.wake();
        self.0.writer.wake();
    }

    /// It broke; where that was for a limit of the protocol's own, this is counted.
    pub(crate) fn broke(&self, error: &(dyn std::error::Error + 'static)) {
        let Some(fault) = error.downcast_ref::<hyper::Error>().filter(|fault| fault.is_timeout()) else { return };
        if self.0.ending.load(Ordering::Acquire) == 0 {
            // Beside a head that does not come there is an unanswered ping of HTTP/2, which names its cause.
            let limit = if fault.source().is_none() { Limit::Header } else { Limit::Ping };
            self.0.limiter.observed().closed(limit);
        }
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.0.ending.load(Ordering::Acquire) == End::Cut as u8
    }

    /// What has to become of it now, and for which limit.
    pub(crate) fn due(&self, now: Duration) -> Option<(End, Limit)> {
        let limits = self.0.limiter.limits();
        let life = self.0.life();
        let stalls = life.handed.iter().map(|(_, since)| *since).chain(life.stalled);
        if stalls.min().is_some_and(|since| now >= since + limits.write_timeout) {
            return Some((End::Cut, Limit::WriteStall));
        }
        if self.0.taken_over.load(Ordering::Acquire) || life.requests > 0 {
            return None;
        }
        if !life.asked {
            let over = now >= life.since + limits.handshake_timeout;
            return over.then_some((End::Cut, Limit::Handshake));
        }
        match life.told {
            Some(told) => (now >= told.max(life.since) + GRACE).then_some((End::Cut, Limit::Idle)),
            None => (now >= life.since + limits.idle_timeout).then_some((End::Soon, Limit::Idle)),
        }
    }

    /// Whether a connection that was taken over must end; wakes the reader or the writer when it must.
    pub(crate) fn must_end(&self, cx: &mut Context<'_>, side: Side) -> bool {
        if !self.0.taken_over.load(Ordering::Acquire) {
            return false;
        }
        match side {
            Side::Read => self.0.reader.register(cx.waker()),
            Side::Write => self.0.writer.register(cx.waker()),
        }
        self.is_cut()
    }

    /// From now on nothing can be written, or something again.
    pub(crate) fn stalls(&self, so: bool) {
        let now = self.0.limiter.now();
        self.0.life().stalled = so.then_some(now);
    }
}

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Read,
    Write,
}

impl std::fmt::Debug for ConnectionPermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConnectionPermit")
    }
}

impl Inner {
    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
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

/// A request that is not answered to the last byte.
pub(crate) struct Asking {
    permit: ConnectionPermit,
    number: u64,
    handed: bool,
}

impl Asking {
    /// There is something to take: it is the peer's turn.
    pub(crate) fn handed(&mut self) {
        let now = self.permit.0.limiter.now();
        let mut life = self.permit.0.life();
        match life.handed.iter_mut().find(|(number, _)| *number == self.number) {
            Some((_, since)) => *since = now,
            None => life.handed.push((self.number, now)),
        }
        self.handed = true;
    }

    /// All is taken, and there is more to come: it is our turn.
    pub(crate) fn taken(&mut self) {
        if std::mem::take(&mut self.handed) {
            self.permit.0.life().handed.retain(|(number, _)| *number != self.number);
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let now = self.permit.0.limiter.now();
        let mut life = self.permit.0.life();
        life.requests = life.requests.saturating_sub(1);
        life.since = now;
        life.handed.retain(|(number, _)| *number != self.number);
    }
}

/// A connection's permit, held: dropped, its place and what was kept with it are free.
pub(crate) struct HeldPermit {
    permit: ConnectionPermit,
    _alive: mpsc::Sender<Infallible>,
}

impl HeldPermit {
    pub(crate) const fn new(permit: ConnectionPermit, alive: mpsc::Sender<Infallible>) -> Self {
        Self { permit, _alive: alive }
    }

    pub(crate) const fn permit(&self) -> &ConnectionPermit {
        &self.permit
    }
}

impl Drop for HeldPermit {
    fn drop(&mut self) {
        let kept = {
            let mut life = self.permit.0.life();
            life.closed = true;
            std::mem::take(&mut life.kept)
        };
        self.permit.0.limiter.close(self.permit.0.number);
        drop(kept);
    }
}
