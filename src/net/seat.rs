//! Places: how many connections a listener has at once, and those that wait elsewhere meanwhile.

use std::{
    any::Any,
    collections::HashMap,
    convert::Infallible,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
};

/// A connection's place among those that its listener allows: an extension of every request.
///
/// Whoever lets a request wait long [leaves](Seat::leave) the place to others and counts the request in a budget of its own. A connection
/// that was taken over by another protocol keeps its place, or what was [kept](Seat::keep) with it, until it is closed.
#[derive(Clone)]
pub struct Seat(Arc<Inner>);

struct Inner {
    floor: Arc<Floor>,
    ip: IpAddr,
    state: Mutex<State>,
    /// The place was left and is gone: the connection ends when its requests are answered.
    gone: Notify,
    /// Set once another protocol has taken the connection over.
    taken_over: OnceLock<AtomicWaker>,
}

#[derive(Default)]
struct State {
    place: Option<Place>,
    away: usize,
    kept: Vec<Box<dyn Any + Send + Sync>>,
    closed: bool,
}

impl Seat {
    /// Gives the connection's place to others for as long as the value lives.
    ///
    /// When it comes back and there is no place any more, the connection ends after its answers.
    #[must_use]
    pub fn leave(&self) -> Away {
        let place = {
            let mut state = self.0.state();
            state.away += 1;
            state.place.take()
        };
        drop(place);
        Away(self.clone())
    }

    /// Keeps something until the connection is closed, also when another protocol has taken it over.
    pub fn keep(&self, what: impl Any + Send + Sync) {
        let mut state = self.0.state();
        if !state.closed {
            state.kept.push(Box::new(what));
        }
    }

    /// Ends when the connection has lost its place.
    pub(crate) async fn lost(&self) {
        self.0.gone.notified().await;
    }

    /// Another protocol takes the connection over: from now on the listener can cut it only here.
    pub(crate) fn take_over(&self) {
        if self.0.taken_over.set(AtomicWaker::new()).is_ok() && !self.0.state().closed {
            self.0.floor.sockets().insert(self.number(), self.clone());
        }
    }

    fn number(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Whether a connection that was taken over must end; wakes the caller when it must.
    fn is_cut(&self, cx: &mut Context<'_>) -> bool {
        let Some(waker) = self.0.taken_over.get() else { return false };
        waker.register(cx.waker());
        self.0.floor.cut.load(Ordering::Acquire)
    }
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seat")
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that was left for a while.
#[derive(Debug)]
pub struct Away(Seat);

impl Drop for Away {
    fn drop(&mut self) {
        let inner = &*self.0.0;
        let mut state = inner.state();
        state.away -= 1;
        if state.away > 0 || state.closed {
            return;
        }
        state.place = inner.floor.enter(inner.ip);
        if state.place.is_none() {
            inner.gone.notify_one();
        }
    }
}

/// What all connections of a listener share.
pub(crate) struct Floor {
    room: Arc<Semaphore>,
    per_address: usize,
    callers: Mutex<HashMap<IpAddr, usize>>,
    sockets: Mutex<HashMap<usize, Seat>>,
    cut: AtomicBool,
}

impl Floor {
    /// So many places, and so many of them for one address.
    pub(crate) fn new(connections: usize, per_address: usize) -> Arc<Self> {
        Arc::new(Self {
            room: Arc::new(Semaphore::new(connections)),
            per_address,
            callers: Mutex::default(),
            sockets: Mutex::default(),
            cut: AtomicBool::new(false),
        })
    }

    /// The places that are free.
    pub(crate) const fn room(&self) -> &Arc<Semaphore> {
        &self.room
    }

    /// Seats a connection that was accepted, unless its address has its share; it sits until the value is dropped.
    pub(crate) fn seat(
        self: &Arc<Self>,
        permit: OwnedSemaphorePermit,
        ip: IpAddr,
        alive: mpsc::Sender<Infallible>,
    ) -> Option<Sitting> {
        let place = Place { caller: self.caller(ip)?, _permit: permit };
        let state = Mutex::new(State { place: Some(place), ..State::default() });
        let inner = Inner { floor: self.clone(), ip, state, gone: Notify::new(), taken_over: OnceLock::new() };
        Some(Sitting { seat: Seat(Arc::new(inner)), _alive: alive })
    }

    /// A place, if there is one now.
    fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let permit = self.room.clone().try_acquire_owned().ok()?;
        Some(Place { caller: self.caller(ip)?, _permit: permit })
    }

    fn caller(self: &Arc<Self>, ip: IpAddr) -> Option<Caller> {
        let mut all = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(ip).or_default();
        if *count >= self.per_address {
            return None;
        }
        *count += 1;
        Some(Caller { floor: self.clone(), ip })
    }

    fn sockets(&self) -> MutexGuard<'_, HashMap<usize, Seat>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every connection that was taken over.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        for seat in self.sockets().values() {
            if let Some(waker) = seat.0.taken_over.get() {
                waker.wake();
            }
        }
    }
}

/// One of the listener's places, taken.
struct Place {
    #[expect(dead_code, reason = "its drop counts")]
    caller: Caller,
    _permit: OwnedSemaphorePermit,
}

/// Counts one connection of an address.
struct Caller {
    floor: Arc<Floor>,
    ip: IpAddr,
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut all = self.floor.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.ip);
            }
        }
    }
}

/// A connection that sits: dropped, its place and what was kept with it are free.
pub(crate) struct Sitting {
    seat: Seat,
    _alive: mpsc::Sender<Infallible>,
}

impl Sitting {
    pub(crate) const fn seat(&self) -> &Seat {
        &self.seat
    }
}

impl Drop for Sitting {
    fn drop(&mut self) {
        let left = {
            let mut state = self.seat.0.state();
            state.closed = true;
            (state.place.take(), std::mem::take(&mut state.kept))
        };
        drop(left);
        if self.seat.0.taken_over.get().is_some() {
            self.seat.0.floor.sockets().remove(&self.seat.number());
        }
    }
}

/// The bytes of a connection, with its place: whoever holds the one holds the other.
pub(crate) struct Seated<Io> {
    io: Io,
    sitting: Sitting,
}

impl<Io> Seated<Io> {
    pub(crate) const fn new(io: Io, sitting: Sitting) -> Self {
        Self { io, sitting }
    }

    fn check(&self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.sitting.seat.is_cut(cx) { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Seated<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Seated<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
