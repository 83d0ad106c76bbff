//! A store that behaves as its test demands when control-plane records are written.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use setgate_delivery::Bytes;
use setgate_set::Timestamp;
use setgate_store::{
    Attempted, Bounds, Cursor, Done, Durability, Entry, Fence, Head, Health, Key, MemoryStore, Names, Parked,
    ParkedFilter, Position, Record, Store, StoreError, StreamNo, Unit, Version,
};

use super::{Arc, Bench, Config, ManualClock, Value};

/// Makes a bench over a store with faults.
pub(super) async fn faulty(config: Config, streams: &[Value]) -> (Bench, Arc<Faulty>) {
    let clock = ManualClock::at(1_800_000_000_000);
    let runtime = setgate_clock::manual::runtime(clock.clone(), 7);
    let store = Faulty::over(MemoryStore::new(runtime.clone(), &[9; 32]));
    let bench = Bench::over(store.clone(), clock, runtime, config).await;
    bench.declare(streams).await;
    (bench, store)
}

type Answer<T> = BoxFuture<'static, Result<T, StoreError>>;

/// The fate of the next unit that changes control-plane records.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The unit is refused; nothing is written.
    Refuse,
    /// The unit is written; no answer comes.
    Silence,
}

/// A store in memory with faults.
pub(super) struct Faulty {
    inner: Arc<dyn Store>,
    pub(super) configure: Mutex<Option<Next>>,
    /// True when reads of parked SETs fail.
    pub(super) parked_fail: AtomicBool,
    /// Positions of the records whose bodies cannot be read.
    pub(super) rotten: Mutex<BTreeSet<u64>>,
    /// True when reads of heads fail.
    pub(super) heads_fail: AtomicBool,
    /// True when heads and parked SETs cannot be read once something is issued again.
    pub(super) fail_after_reissue: AtomicBool,
    /// True when settlements cannot be written.
    pub(super) settle_fail: AtomicBool,
    /// True when changes of control-plane records are refused.
    pub(super) refuse_configure: AtomicBool,
    /// The number of reads of what is owed.
    pub(super) scans: AtomicUsize,
    /// The bytes that the store uses now, and those that it uses once it has tidied up, both of a budget of 1000.
    pub(super) taken: Mutex<Option<(u64, u64)>>,
    /// True while reads of the ledger's tail wait.
    pub(super) tail_held: tokio::sync::watch::Sender<bool>,
}

impl Faulty {
    pub(super) fn over(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            configure: Mutex::default(),
            parked_fail: AtomicBool::default(),
            rotten: Mutex::default(),
            heads_fail: AtomicBool::default(),
            fail_after_reissue: AtomicBool::default(),
            settle_fail: AtomicBool::default(),
            refuse_configure: AtomicBool::default(),
            scans: AtomicUsize::default(),
            taken: Mutex::default(),
            tail_held: tokio::sync::watch::Sender::new(false),
        })
    }
}

fn fails<T: Send + 'static>() -> Answer<T> {
    Box::pin(std::future::ready(Err(StoreError::Unavailable("as scripted".into()))))
}

impl Store for Faulty {
    fn commit(&self, units: Vec<Unit>, how: Durability) -> Answer<Vec<Done>> {
        let settles = units.iter().any(|unit| matches!(unit, Unit::Settle { .. }));
        if settles && self.settle_fail.load(Ordering::Relaxed) {
            return fails();
        }
        let reissues = units.iter().any(|unit| matches!(unit, Unit::Reissue { .. }));
        if reissues && self.fail_after_reissue.load(Ordering::Relaxed) {
            self.heads_fail.store(true, Ordering::Relaxed);
            self.parked_fail.store(true, Ordering::Relaxed);
        }
        let configures = units.iter().any(|unit| matches!(unit, Unit::Configure { .. }));
        if configures && self.refuse_configure.load(Ordering::Relaxed) {
            return fails();
        }
        let next = if configures { self.configure.lock().take() } else { None };
        match next {
            None => self.inner.commit(units, how),
            Some(Next::Refuse) => fails(),
            Some(Next::Silence) => {
                drop(self.inner.commit(units, how));
                Box::pin(std::future::pending())
            }
        }
    }
    fn tail(&self, after: Position, most: usize, wait: Duration) -> Answer<Vec<Entry>> {
        let (inner, mut held) = (self.inner.clone(), self.tail_held.subscribe());
        Box::pin(async move {
            let _ = held.wait_for(|held| !held).await;
            inner.tail(after, most, wait).await
        })
    }
    fn bodies(&self, at: Vec<Position>) -> Answer<Vec<Option<Bytes>>> {
        if at.iter().any(|at| self.rotten.lock().contains(&at.seq)) {
            return Box::pin(std::future::ready(Err(StoreError::Corrupt("as scripted".into()))));
        }
        self.inner.bodies(at)
    }
    fn heads(&self, at: Vec<Position>) -> Answer<Vec<Option<Head>>> {
        if self.heads_fail.load(Ordering::Relaxed) { fails() } else { self.inner.heads(at) }
    }
    fn owed(&self, stream: StreamNo, after: Position, max: usize) -> Answer<Vec<Head>> {
        self.scans.fetch_add(1, Ordering::Relaxed);
        self.inner.owed(stream, after, max)
    }
    fn owed_control(&self, stream: StreamNo) -> Answer<Vec<Head>> {
        self.inner.owed_control(stream)
    }
    fn is_owed(&self, stream: StreamNo, at: Position) -> bool {
        self.inner.is_owed(stream, at)
    }
    fn waiting(&self, stream: StreamNo) -> u64 {
        self.inner.waiting(stream)
    }
    fn attempts(&self, stream: StreamNo) -> Vec<(Position, Attempted)> {
        self.inner.attempts(stream)
    }
    fn cursor(&self, stream: StreamNo) -> Answer<Cursor> {
        self.inner.cursor(stream)
    }
    fn nth_newest(&self, stream: StreamNo, n: u64) -> Option<Position> {
        self.inner.nth_newest(stream, n)
    }
    fn first_accepted_at(&self, when: Timestamp) -> Answer<Position> {
        self.inner.first_accepted_at(when)
    }
    fn parked(&self, which: ParkedFilter) -> Answer<Vec<Parked>> {
        if self.parked_fail.load(Ordering::Relaxed) { fails() } else { self.inner.parked(which) }
    }
    fn get(&self, keys: Vec<Key>) -> Answer<Vec<Option<Record>>> {
        self.inner.get(keys)
    }
    fn range(&self, prefix: Key) -> Answer<Vec<Record>> {
        self.inner.range(prefix)
    }
    fn version(&self) -> Version {
        self.inner.version()
    }
    fn bounds(&self) -> Bounds {
        self.inner.bounds()
    }
    fn fence(&self) -> Fence {
        self.inner.fence()
    }
    fn names(&self) -> &Names {
        self.inner.names()
    }
    fn time(&self) -> setgate_store::Time {
        self.inner.time()
    }

    fn confirm_clock(&self) -> Answer<setgate_store::Confirmed> {
        self.inner.confirm_clock()
    }

    fn health(&self) -> Health {
        let health = self.inner.health();
        match *self.taken.lock() {
            Some((bytes, _)) => Health { bytes, budget: 1000, ..health },
            None => health,
        }
    }
    fn watch(&self, witness: Arc<dyn setgate_store::Witness>) {
        self.inner.watch(witness);
    }
    fn housekeep(&self) -> Answer<()> {
        if let Some((bytes, after)) = &mut *self.taken.lock() {
            *bytes = *after;
        }
        self.inner.housekeep()
    }
    fn close(&self) -> Answer<()> {
        self.inner.close()
    }
}
