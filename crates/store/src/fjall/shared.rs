//! The state that writer and readers share.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use setgate_clock::Runtime;
use tokio::sync::{Semaphore, watch};

use crate::{
    Boot, Fence, Names, Observed, Obstacle, Options, ProducerNo, StoreError, Witness,
    fjall::{
        engine::Engine,
        place::{StorePlace, space},
    },
    ring::Ring,
    sanity::Sanity,
    state::State,
};

/// The most reads that may be on the disk at once.
const READS: usize = 8;
/// The free space in bytes below which a failure counts as one of space.
pub(crate) const LITTLE: u64 = 64 * 1024 * 1024;

/// The counts of idempotency keys by bucket and producer.
pub(crate) type Keys = BTreeMap<u64, BTreeMap<ProducerNo, u64>>;

/// The state that writer and readers share.
pub(crate) struct Shared {
    pub(crate) runtime: Runtime,
    pub(crate) options: Options,
    pub(crate) place: StorePlace,
    pub(crate) names: Names,
    pub(crate) observed: Observed,
    pub(crate) fence: Fence,
    pub(crate) budget: u64,
    /// The bytes that are kept free on the file system.
    pub(crate) reserve: u64,
    /// The visible state. Only the writer changes it, after a commit.
    pub(crate) state: RwLock<State>,
    /// The witness, which is notified of what becomes visible while `state` is locked.
    pub(crate) witness: Mutex<Option<Arc<dyn Witness>>>,
    pub(crate) ring: RwLock<Ring>,
    /// The engine; `None` while it is closed or opened again.
    pub(crate) engine: RwLock<Option<Arc<Engine>>>,
    pub(crate) last: watch::Sender<u64>,
    pub(crate) sanity: Sanity,
    boot: AtomicU64,
    pub(crate) held: AtomicBool,
    pub(crate) trouble: Mutex<Option<StoreError>>,
    /// The failure that ends the process, since the store cannot recover from it.
    pub(crate) fatal: watch::Sender<Option<String>>,
    pub(crate) closed: AtomicBool,
    pub(crate) queued: AtomicUsize,
    pub(crate) queued_bytes: AtomicUsize,
    pub(crate) bytes: AtomicU64,
    pub(crate) free: AtomicU64,
    /// The reason why there is no space for events.
    pub(crate) shut: Mutex<Option<Obstacle>>,
    /// The first bucket of idempotency keys that is still searched for a producer, where it has too many keys for all
    /// of them.
    pub(crate) horizons: RwLock<BTreeMap<ProducerNo, u64>>,
    /// The number of idempotency keys that each producer has in each bucket.
    pub(crate) keys: Mutex<Keys>,
    /// The number of the first bucket that may still collect keys. Buckets below it collect no more, whatever the time,
    /// since some producer has filled its share.
    pub(crate) crowded: AtomicU64,
    /// The last number that this process gave to a bucket.
    pub(crate) given: AtomicU64,
    /// The time at which the age of parked SETs was last checked.
    pub(crate) parked_looked: Mutex<Option<Duration>>,
    /// The lock of the round of housekeeping that runs.
    pub(crate) housekeeping: tokio::sync::Mutex<()>,
    pub(crate) reads: Arc<Semaphore>,
    /// The failures that the next writes meet instead of the disk.
    #[cfg(any(test, feature = "testkit"))]
    pub(crate) faults: Mutex<std::collections::VecDeque<super::batch::Failure>>,
    #[cfg(any(test, feature = "testkit"))]
    pub(crate) cut: super::cut::Cut,
}

/// The arguments of [`Shared::new`].
pub(crate) struct Parts {
    pub(crate) runtime: Runtime,
    pub(crate) options: Options,
    pub(crate) place: StorePlace,
    pub(crate) names: Names,
    pub(crate) observed: Observed,
    pub(crate) fence: Fence,
    pub(crate) budget: u64,
    pub(crate) reserve: u64,
    pub(crate) state: State,
    pub(crate) engine: Arc<Engine>,
    pub(crate) sanity: Sanity,
    pub(crate) boot: Boot,
    pub(crate) held: bool,
    pub(crate) keys: Keys,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { runtime, options, place, names, observed, fence, budget, reserve, state, .. } = parts;
        let (engine, sanity, boot, held, keys) = (parts.engine, parts.sanity, parts.boot, parts.held, parts.keys);
        Self {
            ring: RwLock::new(Ring::new(options.recent_bytes)),
            last: watch::Sender::new(state.last),
            state: RwLock::new(state),
            witness: Mutex::default(),
            engine: RwLock::new(Some(engine)),
            boot: AtomicU64::new(boot.0),
            held: AtomicBool::new(held),
            trouble: Mutex::new(None),
            fatal: watch::Sender::new(None),
            closed: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            queued_bytes: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            free: AtomicU64::new(u64::MAX),
            shut: Mutex::new(None),
            horizons: RwLock::default(),
            keys: Mutex::new(keys),
            crowded: AtomicU64::new(0),
            given: AtomicU64::new(0),
            parked_looked: Mutex::new(None),
            housekeeping: tokio::sync::Mutex::default(),
            reads: Arc::new(Semaphore::new(READS)),
            #[cfg(any(test, feature = "testkit"))]
            faults: Mutex::default(),
            #[cfg(any(test, feature = "testkit"))]
            cut: super::cut::Cut::default(),
            runtime,
            options,
            place,
            names,
            observed,
            fence,
            budget,
            reserve,
            sanity,
        }
    }

    /// Returns the bytes that are free on the file system.
    pub(crate) fn free_space(&self) -> std::io::Result<u64> {
        #[cfg(any(test, feature = "testkit"))]
        if let Some(free) = self.cut.free() {
            return Ok(free);
        }
        space(&self.place.store).map(|(free, _)| free)
    }

    pub(crate) fn boot(&self) -> Boot {
        Boot(self.boot.load(Ordering::Acquire))
    }

    pub(crate) fn set_boot(&self, boot: Boot) {
        self.boot.store(boot.0, Ordering::Release);
    }

    /// Returns a new nonce of an opening.
    pub(crate) fn fresh_boot(runtime: &Runtime) -> Boot {
        Boot(runtime.random.below(1 << 40))
    }

    /// Returns the engine, for one read.
    pub(crate) fn engine(&self) -> Result<Arc<Engine>, StoreError> {
        if let Some(engine) = &*self.engine.read() {
            return Ok(engine.clone());
        }
        let closed = || StoreError::Unavailable("it is closed".into());
        Err(self.trouble.lock().clone().unwrap_or_else(closed))
    }

    /// Returns the reason why no event is accepted now.
    pub(crate) fn obstacle(&self) -> Option<Obstacle> {
        if let Some(why) = self.fatal.borrow().clone() {
            return Some(Obstacle::Failed { why });
        }
        if let Some(error) = &*self.trouble.lock() {
            let full = self.free.load(Ordering::Relaxed) < LITTLE;
            return Some(Obstacle::Reopening { why: error.to_string(), full });
        }
        if self.closed.load(Ordering::Acquire) {
            return Some(Obstacle::Closed);
        }
        if self.held.load(Ordering::Acquire) {
            return Some(Obstacle::Copy);
        }
        self.shut.lock().clone()
    }

    /// Returns the error for events while everything else is accepted.
    pub(crate) fn closed_to_events(&self) -> Option<StoreError> {
        let obstacle = if self.held.load(Ordering::Acquire) { Some(Obstacle::Copy) } else { self.shut.lock().clone() };
        obstacle.map(|obstacle| match obstacle {
            Obstacle::Copy => StoreError::Unavailable(obstacle.to_string().into()),
            _ => StoreError::Full(obstacle.to_string().into()),
        })
    }

    /// Checks whether there is space for events.
    ///
    /// The cause that closed intake must be undone by some margin before intake opens, or each record that is settled
    /// would let one event in and close it again. Where nothing waits nothing more can be freed, and the limit itself
    /// is enough.
    pub(crate) fn check_room(&self) {
        let (free, bytes) = (self.free.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        let waits = self.state.read().waiting > 0;
        let mut shut = self.shut.lock();
        let margin = |of: u64, part: u64| if waits { (of / part).min(LITTLE) } else { 0 };
        let reserve = match &*shut {
            Some(Obstacle::Reserve { .. }) => self.reserve.saturating_add(margin(self.reserve, 8)),
            _ => self.reserve,
        };
        let budget = match &*shut {
            Some(Obstacle::Budget { .. }) => self.budget - margin(self.budget, 20),
            _ => self.budget,
        };
        *shut = if free < reserve {
            Some(Obstacle::Reserve { free, reserve: self.reserve })
        } else {
            (bytes >= budget).then_some(Obstacle::Budget { bytes, budget: self.budget })
        };
        drop(shut);
        let figures = [("taken", bytes), ("budget", self.budget), ("free", free), ("reserve", self.reserve)];
        self.observed.measured(figures);
    }

    /// Returns whether little is left of what the store may use, so that it pays to free at once what can be freed.
    pub(crate) fn is_pressed(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.budget / 5 * 4 || self.shut.lock().is_some()
    }
}
