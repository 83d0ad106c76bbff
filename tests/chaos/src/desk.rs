//! The shipped store in lock-step: a call waits at the desk until the simulation lets it through.
//!
//! The store has threads of its own. While one call is let through, nothing else runs, so that the order of everything
//! is the simulation's. Commits go through in the order in which they were queued, several as one group at times;
//! housekeeping goes step by step, with commits and reads in between.

use std::{
    collections::VecDeque,
    future::Future,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, select};
use parking_lot::{Condvar, Mutex};
use setgate_set::Timestamp;
use setgate_store::{
    Attempted, Bounds, Confirmed, Cursor, Done, Durability, Entry, Fence, FjallStore, Head, Health, Heaviest, Key,
    Names, Parked, ParkedFilter, Position, Record, Store, StoreError, StreamNo, Unit, Version, Witness,
};
use tokio::sync::{Notify, oneshot};

use crate::{dice::Dice, process::Timed};

type Answer<T> = BoxFuture<'static, Result<T, StoreError>>;

/// The longest rest of housekeeping between two of its steps, in milliseconds: the disk is slow, and others go on meanwhile.
const REST: u64 = 8_000;

/// The real time after which a call of the store counts as one that never ends.
const NEVER: Duration = Duration::from_secs(60);

/// A thread's means to wait until something in another thread is done.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    came: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock() = true;
        self.came.notify_one();
    }
}

impl Bell {
    fn wait(&self) {
        let mut rung = self.rung.lock();
        while !*rung {
            assert!(!self.came.wait_for(&mut rung, NEVER).timed_out(), "a call of the store never ends");
        }
        *rung = false;
    }
}

/// Waits for what other threads do.
pub(crate) fn wait_for<T>(work: impl Future<Output = T>) -> T {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    let mut work = std::pin::pin!(work);
    loop {
        match work.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => bell.wait(),
        }
    }
}

/// A call of `commit`.
pub(crate) struct Commit {
    pub(crate) units: Vec<Unit>,
    pub(crate) how: Durability,
    answer: oneshot::Sender<Result<Vec<Done>, StoreError>>,
}

impl Commit {
    pub(crate) fn answer(self, answer: Result<Vec<Done>, StoreError>) {
        let _ = self.answer.send(answer);
    }
}

/// What a call does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reads,
    /// It writes by other ways than commits.
    Writes,
    /// It is housekeeping, which goes step by step; only one round at a time is under way.
    Tidies,
}

struct Call {
    work: BoxFuture<'static, ()>,
    kind: Kind,
    begun: bool,
    /// The time before which it does not go on, in microseconds.
    rests: u64,
}

#[derive(Default)]
struct Waiting {
    commits: VecDeque<Commit>,
    calls: Vec<Call>,
    /// The rest of the next round of housekeeping behind its first step, in milliseconds.
    rest: Option<u64>,
}

/// What was let through.
pub(crate) enum Through {
    /// Commits, as one group, with the store's answers. Nobody has them yet.
    Group(Vec<(Commit, Result<Vec<Done>, StoreError>)>),
    /// A read.
    Read,
    /// A call that writes by other ways than commits.
    Wrote,
    /// A step of housekeeping.
    Tidied,
}

/// The store as the router sees it.
pub(crate) struct Desk {
    inner: Arc<FjallStore>,
    time: Timed,
    waiting: Mutex<Waiting>,
    /// Whoever reads the tail is told that there is more.
    more: Arc<Notify>,
}

impl Desk {
    pub(crate) fn new(inner: Arc<FjallStore>, time: Timed) -> Arc<Self> {
        Arc::new(Self { inner, time, waiting: Mutex::default(), more: Arc::default() })
    }

    pub(crate) fn inner(&self) -> &Arc<FjallStore> {
        &self.inner
    }

    pub(crate) fn has_waiting(&self) -> bool {
        let (waiting, now) = (self.waiting.lock(), self.time.0.micros());
        !waiting.commits.is_empty() || waiting.calls.iter().any(|call| call.rests <= now)
    }

    /// Lets the next round of housekeeping rest behind its first step, for so many milliseconds.
    pub(crate) fn rest_next(&self, millis: u64) {
        self.waiting.lock().rest = Some(millis);
    }

    /// Returns whether housekeeping is between two of its steps.
    pub(crate) fn is_tidying(&self) -> bool {
        self.waiting.lock().calls.iter().any(|call| call.kind == Kind::Tidies && call.begun)
    }

    /// Tells whoever reads the tail that there is more.
    pub(crate) fn tell(&self) {
        self.more.notify_waiters();
    }

    /// Lets one call through, or several commits as one group.
    pub(crate) fn let_through(&self, dice: &Dice) -> Option<Through> {
        let mut waiting = self.waiting.lock();
        let under_way = waiting.calls.iter().any(|call| call.kind == Kind::Tidies && call.begun);
        let now = self.time.0.micros();
        let may_go = |call: &Call| call.rests <= now && (call.begun || call.kind != Kind::Tidies || !under_way);
        let may: Vec<usize> =
            waiting.calls.iter().enumerate().filter(|(_, call)| may_go(call)).map(|(at, _)| at).collect();
        let commits = waiting.commits.len();
        if may.is_empty() && commits == 0 {
            return None;
        }
        let pick = dice.index(may.len() + commits.min(2));
        let Some(at) = may.get(pick).copied() else {
            let many = if commits > 1 && dice.once_in(2) { 1 + dice.index(commits) } else { 1 };
            let group: Vec<Commit> = waiting.commits.drain(..many).collect();
            drop(waiting);
            return Some(Through::Group(self.group(group)));
        };
        let mut call = waiting.calls.remove(at);
        drop(waiting);
        match call.kind {
            Kind::Reads => {
                wait_for(call.work);
                return Some(Through::Read);
            }
            Kind::Writes => {
                wait_for(call.work);
                return Some(Through::Wrote);
            }
            Kind::Tidies => {}
        }
        let first = !std::mem::replace(&mut call.begun, true);
        if !self.step(&mut call) {
            let mut waiting = self.waiting.lock();
            let asked = if first { waiting.rest.take() } else { None };
            if let Some(rest) = asked.or_else(|| dice.once_in(3).then(|| 1 + dice.under(REST))) {
                call.rests = now + 1000 * rest;
                self.time.0.stop_at(call.rests);
            }
            waiting.calls.push(call);
        }
        Some(Through::Tidied)
    }

    /// Lets housekeeping go on to its next work for the writer, which is done then. Returns whether it has ended.
    ///
    /// The writer is held meanwhile, so that it cannot be quick at one time and slow at another.
    fn step(&self, call: &mut Call) -> bool {
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        let whole = self.inner.health().obstacle.is_some_and(|obstacle| obstacle.stops_delivery());
        let held = (!whole).then(|| self.inner.hold_writer());
        let before = FjallStore::housekeeping_queued();
        loop {
            if call.work.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                return true;
            }
            if !whole && FjallStore::housekeeping_queued() > before {
                drop(held);
                return false;
            }
            bell.wait();
        }
    }

    fn group(&self, group: Vec<Commit>) -> Vec<(Commit, Result<Vec<Done>, StoreError>)> {
        let held = (group.len() > 1).then(|| self.inner.hold_writer());
        let answers: Vec<_> = group.iter().map(|commit| self.inner.commit(commit.units.clone(), commit.how)).collect();
        drop(held);
        group.into_iter().zip(answers).map(|(commit, answer)| (commit, wait_for(answer))).collect()
    }

    fn call<T: Send + 'static>(
        &self,
        kind: Kind,
        work: impl FnOnce(Arc<FjallStore>) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let (answer, done) = oneshot::channel();
        let inner = self.inner.clone();
        let work = Box::pin(async move {
            let _ = answer.send(work(inner).await);
        });
        self.waiting.lock().calls.push(Call { work, kind, begun: false, rests: 0 });
        Box::pin(async move { done.await.unwrap_or_else(|_| Err(StoreError::Unavailable("it is gone".into()))) })
    }

    fn read<T: Send + 'static>(&self, work: impl FnOnce(Arc<FjallStore>) -> Answer<T> + Send + 'static) -> Answer<T> {
        self.call(Kind::Reads, work)
    }
}

/// A handle of the desk that can be a `Store`: reads of the tail need to share it.
pub(crate) struct Counter(pub(crate) Arc<Desk>);

impl Store for Counter {
    fn commit(&self, units: Vec<Unit>, how: Durability) -> Answer<Vec<Done>> {
        let (answer, done) = oneshot::channel();
        self.0.waiting.lock().commits.push_back(Commit { units, how, answer });
        Box::pin(async move { done.await.unwrap_or_else(|_| Err(StoreError::Unavailable("it is gone".into()))) })
    }

    fn tail(&self, after: Position, most: usize, wait: Duration) -> Answer<Vec<Entry>> {
        let desk = self.0.clone();
        Box::pin(async move {
            let mut sleep = std::pin::pin!(desk.time.wait(wait));
            loop {
                let mut more = std::pin::pin!(desk.more.notified());
                more.as_mut().enable();
                let read = desk.read(move |store| store.tail(after, most, Duration::ZERO));
                let found = read.await?;
                if !found.is_empty() {
                    return Ok(found);
                }
                if let Either::Right(_) = select(more, sleep.as_mut()).await {
                    return Ok(Vec::new());
                }
            }
        })
    }

    fn bodies(&self, at: Vec<Position>) -> Answer<Vec<Option<Bytes>>> {
        self.0.read(move |store| store.bodies(at))
    }

    fn heads(&self, at: Vec<Position>) -> Answer<Vec<Option<Head>>> {
        self.0.read(move |store| store.heads(at))
    }

    fn owed(&self, stream: StreamNo, after: Position, max: usize) -> Answer<Vec<Head>> {
        self.0.read(move |store| store.owed(stream, after, max))
    }

    fn owed_control(&self, stream: StreamNo) -> Answer<Vec<Head>> {
        self.0.read(move |store| store.owed_control(stream))
    }

    fn is_owed(&self, stream: StreamNo, at: Position) -> bool {
        self.0.inner.is_owed(stream, at)
    }

    fn waiting(&self, stream: StreamNo) -> u64 {
        self.0.inner.waiting(stream)
    }

    fn attempts(&self, stream: StreamNo) -> Vec<(Position, Attempted)> {
        self.0.inner.attempts(stream)
    }

    fn cursor(&self, stream: StreamNo) -> Answer<Cursor> {
        self.0.read(move |store| store.cursor(stream))
    }

    fn nth_newest(&self, stream: StreamNo, n: u64) -> Option<Position> {
        self.0.inner.nth_newest(stream, n)
    }

    fn heaviest(&self, excess: u64) -> Answer<Option<Heaviest>> {
        self.0.read(move |store| store.heaviest(excess))
    }

    fn first_accepted_at(&self, when: Timestamp) -> Answer<Position> {
        self.0.read(move |store| store.first_accepted_at(when))
    }

    fn parked(&self, which: ParkedFilter) -> Answer<Vec<Parked>> {
        self.0.read(move |store| store.parked(which))
    }

    fn get(&self, keys: Vec<Key>) -> Answer<Vec<Option<Record>>> {
        self.0.read(move |store| store.get(keys))
    }

    fn range(&self, prefix: Key) -> Answer<Vec<Record>> {
        self.0.read(move |store| store.range(prefix))
    }

    fn version(&self) -> Version {
        self.0.inner.version()
    }

    fn bounds(&self) -> Bounds {
        self.0.inner.bounds()
    }

    fn fence(&self) -> Fence {
        self.0.inner.fence()
    }

    fn names(&self) -> &Names {
        self.0.inner.names()
    }

    fn health(&self) -> Health {
        self.0.inner.health()
    }

    fn watch(&self, witness: Arc<dyn Witness>) {
        self.0.inner.watch(witness);
    }

    fn time(&self) -> setgate_store::Time {
        self.0.inner.time()
    }

    fn confirm_clock(&self) -> Answer<Confirmed> {
        self.0.call(Kind::Writes, move |store| store.confirm_clock())
    }

    fn housekeep(&self) -> Answer<()> {
        self.0.call(Kind::Tidies, move |store| store.housekeep())
    }

    fn close(&self) -> Answer<()> {
        self.0.call(Kind::Writes, move |store| store.close())
    }
}
