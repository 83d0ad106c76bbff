//! The state of one connection: its requests, the end of its time, and how it is ended.

use std::{
    any::Any,
    error::Error as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::Context,
    time::Duration,
};

use futures_util::task::AtomicWaker;
use setgate_clock::Clock;
use tokio::sync::Notify;

use crate::{
    Limits,
    observe::{Limit, OfListener},
};

/// The time that a connection has to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);

/// The rules for all connections of a listener.
pub(crate) struct Rules {
    pub(crate) limits: Limits,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) observed: OfListener,
}

impl Rules {
    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
    }
}

/// An open connection.
pub(crate) struct Connection {
    rules: Arc<Rules>,
    life: Mutex<Life>,
    /// The [`End`] that was decided, or 0.
    ending: AtomicU8,
    end_asked: Notify,
    /// Whether another protocol has the connection, which can then be ended only where its bytes pass.
    taken_over: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

/// The activity of a connection.
struct Life {
    kept: Vec<Box<dyn Any + Send + Sync>>,
    closed: bool,
    /// Whether a request has arrived yet.
    asked: bool,
    /// The number of requests that are not answered to the last byte.
    requests: usize,
    /// The time since which the peer has to act, while there is no request.
    since: Duration,
    /// The answers with data ready that the peer has to read, each with the time since which that is so.
    handed: Vec<(u64, Duration)>,
    last: u64,
    /// The time since which nothing can be written.
    stalled: Option<Duration>,
    /// The time at which the connection was asked to end.
    asked_to_end: Option<Duration>,
}

/// The way in which a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// Graceful: its requests are answered first.
    Soon = 1,
    /// Immediate.
    Cut = 2,
}

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Read,
    Write,
}

impl Connection {
    pub(crate) fn new(rules: Arc<Rules>) -> Arc<Self> {
        let life = Life {
            kept: Vec::new(),
            closed: false,
            asked: false,
            requests: 0,
            since: rules.now(),
            handed: Vec::new(),
            last: 0,
            stalled: None,
            asked_to_end: None,
        };
        Arc::new(Self {
            rules,
            life: Mutex::new(life),
            ending: AtomicU8::new(0),
            end_asked: Notify::new(),
            taken_over: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
        })
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps `what` until the connection is closed, even after another protocol has taken it over.
    pub(crate) fn keep(&self, what: impl Any + Send + Sync) {
        let mut life = self.life();
        if !life.closed {
            life.kept.push(Box::new(what));
        }
    }

    /// Records that the handshake is over, so that the peer has to send a request.
    pub(crate) fn greeted(&self) {
        let now = self.rules.now();
        self.life().since = now;
    }

    /// Records a request, which lasts as long as the returned value.
    pub(crate) fn ask(self: &Arc<Self>) -> Asking {
        let mut life = self.life();
        life.asked = true;
        life.requests += 1;
        life.last += 1;
        Asking { connection: self.clone(), number: life.last, handed: false }
    }

    /// Records that another protocol takes over the connection; its own rules decide when it is idle.
    pub(crate) fn take_over(&self) {
        self.taken_over.store(true, Ordering::Release);
    }

    /// Waits until the connection has to end and returns how.
    pub(crate) async fn ending(&self) -> End {
        self.end_asked.notified().await;
        if self.is_cut() { End::Cut } else { End::Soon }
    }

    /// Ends the connection because of `limit`.
    pub(crate) fn end(&self, end: End, limit: Limit) {
        let before = self.ending.fetch_max(end as u8, Ordering::AcqRel);
        if before >= end as u8 {
            return;
        }
        if before == 0 {
            self.rules.observed.closed(limit);
            tracing::debug!(limit = limit.option(), "a connection is ended");
        }
        let now = self.rules.now();
        self.life().asked_to_end = Some(now);
        self.end_asked.notify_one();
        self.reader.wake();
        self.writer.wake();
    }

    /// Records that the connection broke, and counts it where a limit of the HTTP library was the cause.
    pub(crate) fn broke(&self, error: &(dyn std::error::Error + 'static)) {
        let Some(fault) = error.downcast_ref::<hyper::Error>().filter(|fault| fault.is_timeout()) else { return };
        if self.ending.load(Ordering::Acquire) == 0 {
            // The other cause beside a missing head is an unanswered HTTP/2 ping, whose error has a source.
            let limit = if fault.source().is_none() { Limit::Header } else { Limit::Ping };
            self.rules.observed.closed(limit);
        }
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.ending.load(Ordering::Acquire) == End::Cut as u8
    }

    /// Returns how the connection has to end now, and because of which limit.
    pub(crate) fn due(&self, now: Duration) -> Option<(End, Limit)> {
        let limits = &self.rules.limits;
        let life = self.life();
        let stalls = life.handed.iter().map(|(_, since)| *since).chain(life.stalled);
        if stalls.min().is_some_and(|since| now >= since + limits.write_timeout) {
            return Some((End::Cut, Limit::WriteStall));
        }
        if self.taken_over.load(Ordering::Acquire) || life.requests > 0 {
            return None;
        }
        if !life.asked {
            let over = now >= life.since + limits.handshake_timeout;
            return over.then_some((End::Cut, Limit::Handshake));
        }
        match life.asked_to_end {
            Some(at) => (now >= at.max(life.since) + GRACE).then_some((End::Cut, Limit::Idle)),
            None => (now >= life.since + limits.idle_timeout).then_some((End::Soon, Limit::Idle)),
        }
    }

    /// Returns whether a connection that was taken over must end; the reader or writer is woken when it must.
    pub(crate) fn must_end(&self, cx: &mut Context<'_>, side: Side) -> bool {
        if !self.taken_over.load(Ordering::Acquire) {
            return false;
        }
        match side {
            Side::Read => self.reader.register(cx.waker()),
            Side::Write => self.writer.register(cx.waker()),
        }
        self.is_cut()
    }

    /// Records that nothing can be written from now on, or that writing goes on.
    pub(crate) fn stalls(&self, so: bool) {
        let now = self.rules.now();
        self.life().stalled = so.then_some(now);
    }

    /// Marks the connection as closed and returns what was kept.
    pub(crate) fn close(&self) -> Vec<Box<dyn Any + Send + Sync>> {
        let mut life = self.life();
        life.closed = true;
        std::mem::take(&mut life.kept)
    }
}

/// A request that is not answered to the last byte.
pub(crate) struct Asking {
    connection: Arc<Connection>,
    number: u64,
    handed: bool,
}

impl Asking {
    /// Records that there is data for the peer to read.
    pub(crate) fn handed(&mut self) {
        let now = self.connection.rules.now();
        let mut life = self.connection.life();
        match life.handed.iter_mut().find(|(number, _)| *number == self.number) {
            Some((_, since)) => *since = now,
            None => life.handed.push((self.number, now)),
        }
        self.handed = true;
    }

    /// Records that the peer has read everything and the answer has yet to produce more.
    pub(crate) fn taken(&mut self) {
        if std::mem::take(&mut self.handed) {
            self.connection.life().handed.retain(|(number, _)| *number != self.number);
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let now = self.connection.rules.now();
        let mut life = self.connection.life();
        life.requests = life.requests.saturating_sub(1);
        life.since = now;
        life.handed.retain(|(number, _)| *number != self.number);
    }
}
