//! The contract suite on each implementation of this room.

use std::sync::Arc;

use clock::{House, manual::ManualClock};
use futures_util::future::BoxFuture;

use crate::{FjallStore, MemoryStore, Observed, Options, Place, Store, testkit::Bench};

pub(crate) const SECRET: [u8; 32] = [7; 32];

pub(crate) fn house() -> (House, Arc<ManualClock>) {
    let clock = ManualClock::at(1_700_000_000_000);
    let tasks = Arc::new(clock::TokioTasks);
    (House { clock: clock.clone(), random: Arc::new(clock::SystemRandom), tasks }, clock)
}

struct Memory;

impl Bench for Memory {
    fn open(&mut self) -> BoxFuture<'_, Arc<dyn Store>> {
        let house = clock::manual::house(ManualClock::at(1_700_000_000_000), 5);
        Box::pin(async move { MemoryStore::new(house, &SECRET) as Arc<dyn Store> })
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
    pub(crate) house: House,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) opened: Option<Arc<FjallStore>>,
}

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (house, clock) = house();
        let options =
            Options { path: folder.path().join("store"), reserve_bytes: 0, segment_records: 8, ..Options::default() };
        let made = Self { folder, options, house, clock, opened: None };
        FjallStore::init(&made.place(), &made.options, &SECRET, &made.house).unwrap();
        made
    }

    pub(crate) fn place(&self) -> Place {
        Place { store: self.options.path.clone(), owner: self.folder.path().join("owner.json") }
    }

    pub(crate) fn try_open(&mut self) -> Result<crate::Opened, crate::OpenError> {
        FjallStore::open(&self.place(), &self.options, &SECRET, &self.house, Observed::default())
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

mod memory {
    crate::contract_suite!(super::Memory);
}

mod embedded {
    crate::contract_suite!(super::Folder::new());
}
