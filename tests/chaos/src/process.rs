//! A simulated process: its clock, and its tasks on one thread in an order that the seed decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use setgate_clock::{BoxFuture, Clock, Tasks, Uptime};

use crate::dice::Dice;

/// The wall clock at the beginning of every history, in milliseconds.
const BEGINNING: u64 = 1_800_000_000_000;

/// The clocks of a history, which move only when the history moves them.
#[derive(Debug)]
pub(crate) struct Time {
    /// Microseconds since the beginning.
    now: AtomicU64,
    /// Milliseconds by which the wall clock leapt.
    leapt: AtomicI64,
    /// True where the machine tells its uptime.
    tells_uptime: bool,
    timers: Mutex<BTreeMap<(u64, u64), Waker>>,
    next: AtomicU64,
}

impl Time {
    pub(crate) fn new(tells_uptime: bool) -> Arc<Self> {
        let (now, leapt, timers, next) = Default::default();
        Arc::new(Self { now, leapt, tells_uptime, timers, next })
    }

    pub(crate) fn micros(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    pub(crate) fn millis(&self) -> u64 {
        self.micros() / 1000
    }

    pub(crate) fn leap(&self, millis: i64) {
        self.leapt.fetch_add(millis, Ordering::SeqCst);
    }

    pub(crate) fn leapt(&self) -> i64 {
        self.leapt.load(Ordering::SeqCst)
    }

    pub(crate) fn wall_millis(&self) -> u64 {
        (BEGINNING + self.millis()).saturating_add_signed(self.leapt())
    }

    /// Makes time not pass this point at one go, in microseconds.
    pub(crate) fn stop_at(&self, until: u64) {
        let key = (until, self.next.fetch_add(1, Ordering::SeqCst));
        self.timers.lock().insert(key, Waker::noop().clone());
    }

    /// Moves to the first timer that is due by `until`, or to `until`. Returns whether there was one.
    pub(crate) fn forward(&self, until: u64) -> bool {
        let mut timers = self.timers.lock();
        let Some((due, _)) = timers.first_key_value().map(|(key, _)| *key).filter(|(due, _)| *due <= until) else {
            self.now.fetch_max(until, Ordering::SeqCst);
            return false;
        };
        self.now.fetch_max(due, Ordering::SeqCst);
        let later = timers.split_off(&(due + 1, 0));
        let over = std::mem::replace(&mut *timers, later);
        drop(timers);
        over.into_values().for_each(Waker::wake);
        true
    }
}

/// The clock that the parts of a process are given.
#[derive(Clone, Debug)]
pub(crate) struct Timed(pub(crate) Arc<Time>);

impl Timed {
    pub(crate) fn wait(&self, how_long: Duration) -> Sleep {
        // A wait never ends too early.
        let micros = u64::try_from(how_long.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        Sleep { time: self.0.clone(), until: self.0.micros().saturating_add(micros), key: None }
    }
}

impl Clock for Timed {
    fn wall_millis(&self) -> u64 {
        self.0.wall_millis()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.0.micros())
    }

    fn uptime(&self) -> Option<Uptime> {
        self.0.tells_uptime.then(|| Uptime { boot: 1, since: self.monotonic() })
    }

    fn sleep(&self, how_long: Duration) -> BoxFuture<()> {
        Box::pin(self.wait(how_long))
    }
}

/// A wait for a time.
pub(crate) struct Sleep {
    time: Arc<Time>,
    until: u64,
    key: Option<(u64, u64)>,
}

impl Sleep {
    fn forget(&mut self) {
        if let Some(key) = self.key.take() {
            self.time.timers.lock().remove(&key);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.forget();
        if self.time.micros() >= self.until {
            return Poll::Ready(());
        }
        let key = (self.until, self.time.next.fetch_add(1, Ordering::SeqCst));
        self.time.timers.lock().insert(key, cx.waker().clone());
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.forget();
    }
}

/// What tasks and their wakers share.
#[derive(Default)]
pub(crate) struct Queue {
    ready: Mutex<BTreeSet<u64>>,
    fresh: Mutex<Vec<(u64, BoxFuture<()>)>>,
    next: AtomicU64,
}

impl Tasks for Queue {
    fn spawn(&self, _: &'static str, work: BoxFuture<()>) {
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        self.fresh.lock().push((id, work));
    }
}

struct TaskWaker(u64, Arc<Queue>);

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.1.ready.lock().insert(self.0);
    }
}

/// The tasks of one process. Dropping it is a kill.
pub(crate) struct Process {
    pub(crate) queue: Arc<Queue>,
    tasks: BTreeMap<u64, BoxFuture<()>>,
}

impl Process {
    pub(crate) fn new() -> Self {
        Self { queue: Arc::default(), tasks: BTreeMap::new() }
    }

    /// Returns whether a task can go on.
    pub(crate) fn has_ready(&self) -> bool {
        !self.queue.fresh.lock().is_empty() || !self.queue.ready.lock().is_empty()
    }

    /// Lets one task go on. Which of those that can is the dice's choice, and not that of who woke it first.
    pub(crate) fn step(&mut self, dice: &Dice) -> bool {
        let fresh = std::mem::take(&mut *self.queue.fresh.lock());
        for (id, task) in fresh {
            self.tasks.insert(id, task);
            self.queue.ready.lock().insert(id);
        }
        let id = {
            let mut ready = self.queue.ready.lock();
            let Some(id) = ready.iter().nth(dice.index(ready.len())).copied() else { return false };
            ready.remove(&id);
            id
        };
        let Some(task) = self.tasks.get_mut(&id) else { return true };
        let waker = Waker::from(Arc::new(TaskWaker(id, self.queue.clone())));
        if task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            self.tasks.remove(&id);
        }
        true
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A task that is dropped may start another one, which never runs.
        self.tasks.clear();
        self.queue.fresh.lock().clear();
    }
}
