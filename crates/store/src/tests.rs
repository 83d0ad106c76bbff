//! The contract suite, run on each implementation of this crate, and the tests of the embedded store.

mod damage;
mod during;
mod faults;
mod flush;
mod full;
mod identity;
mod model;
mod once;
mod orders;
mod place;
mod power;
mod repair;
mod rotten;
mod seal;
mod space;
pub(crate) mod spare;
mod time;
mod turnover;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use setgate_clock::{BoxFuture as Sleep, Clock, Runtime, manual::ManualClock};

use crate::{FjallStore, MemoryStore, Observed, OpenError, Opened, Options, Store, StorePlace, testkit::Bench};

pub(crate) const SECRET: [u8; 32] = [7; 32];

/// A clock whose wall and monotonic time run and can also be moved by hand, together or separately.
#[derive(Debug)]
pub(crate) struct Dial {
    start: tokio::time::Instant,
    wall: AtomicU64,
    monotonic: AtomicU64,
    /// The monotonic time at which the clock of the process stands still.
    held: parking_lot::Mutex<Option<Duration>>,
}

impl Dial {
    fn new() -> Arc<Self> {
        let wall = AtomicU64::new(1_700_000_000_000);
        Arc::new(Self {
            start: tokio::time::Instant::now(),
            wall,
            monotonic: AtomicU64::new(0),
            held: parking_lot::Mutex::default(),
        })
    }

    /// Stops the monotonic time of the process until [`Dial::release`]: what waits for a time keeps waiting.
    pub(crate) fn hold(&self) {
        let now = self.monotonic();
        *self.held.lock() = Some(now);
    }

    pub(crate) fn release(&self) {
        *self.held.lock() = None;
    }

    /// Moves both clocks forward.
    pub(crate) fn pass(&self, by: Duration) {
        self.leap(by);
        self.monotonic.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }

    /// Moves the wall clock alone forward.
    pub(crate) fn leap(&self, by: Duration) {
        self.wall.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }

    /// Moves the wall clock alone back.
    pub(crate) fn put_back(&self, by: Duration) {
        self.wall.fetch_sub(by.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for Dial {
    fn wall_millis(&self) -> u64 {
        self.wall.load(Ordering::SeqCst) + self.start.elapsed().as_millis() as u64
    }

    fn monotonic(&self) -> Duration {
        if let Some(held) = *self.held.lock() {
            return held;
        }
        self.start.elapsed() + Duration::from_millis(self.monotonic.load(Ordering::SeqCst))
    }

    fn sleep(&self, how_long: Duration) -> Sleep<()> {
        Box::pin(tokio::time::sleep(how_long))
    }
}

pub(crate) struct Memory;

impl Bench for Memory {
    fn open(&mut self) -> BoxFuture<'_, Arc<dyn Store>> {
        let runtime = setgate_clock::manual::runtime(ManualClock::at(1_700_000_000_000), 5);
        Box::pin(async move { MemoryStore::new(runtime, &SECRET) as Arc<dyn Store> })
    }

    fn cut<'a>(&'a mut self, _store: Arc<dyn Store>) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn survives(&self) -> bool {
        false
    }
}

/// An embedded store in a temporary folder.
pub(crate) struct Folder {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) options: Options,
    pub(crate) runtime: Runtime,
    pub(crate) dial: Arc<Dial>,
    opened: Option<Arc<FjallStore>>,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Options)) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), change)
    }

    pub(crate) fn in_folder(folder: tempfile::TempDir, change: impl FnOnce(&mut Options)) -> Self {
        let dial = Dial::new();
        let runtime = Runtime {
            clock: dial.clone(),
            random: Arc::new(setgate_clock::SystemRandom),
            tasks: Arc::new(setgate_clock::TokioTasks),
        };
        let mut options =
            Options { path: folder.path().join("store"), reserve_bytes: 1, segment_records: 16, ..Options::default() };
        change(&mut options);
        let made = Self { folder, options, runtime, dial, opened: None };
        FjallStore::init(&made.place(), &made.options, &SECRET, &made.runtime).unwrap();
        made
    }

    pub(crate) fn place(&self) -> StorePlace {
        StorePlace { store: self.options.path.clone(), owner: self.folder.path().join("owner.json") }
    }

    pub(crate) fn try_open(&self) -> Result<Opened, OpenError> {
        self.try_open_at(&self.place())
    }

    pub(crate) fn try_open_at(&self, place: &StorePlace) -> Result<Opened, OpenError> {
        FjallStore::open(place, &self.options, &SECRET, &self.runtime, Observed::default())
    }

    pub(crate) fn store(&mut self) -> Arc<FjallStore> {
        let store = self.try_open().unwrap().store;
        self.opened = Some(store.clone());
        store
    }
}

impl Bench for Folder {
    fn open(&mut self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async move { self.store() as Arc<dyn Store> })
    }

    fn cut<'a>(&'a mut self, store: Arc<dyn Store>) -> BoxFuture<'a, ()> {
        drop(store);
        let opened = self.opened.take().unwrap();
        Box::pin(async move { opened.abandon().await })
    }

    fn survives(&self) -> bool {
        true
    }
}

/// Copies a folder with its content.
pub(crate) fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

mod memory {
    crate::contract_suite!(super::Memory);
}

mod embedded {
    crate::contract_suite!(super::Folder::new());
}
