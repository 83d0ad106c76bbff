//! A test's means to end a store as a killed process does, before or after any step that reaches the disk.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::{
    FjallStore, StoreError, Why,
    fjall::{
        batch::Failure,
        housekeep::{Trim, aside, plan_trim, run_on_writer},
        watermark::Watermark,
        writer::{Job, Writer},
    },
};

/// A counter of the places at which a process can be cut off, which cuts at one of them.
#[derive(Debug)]
pub(crate) struct Cut {
    passed: AtomicU64,
    at: AtomicU64,
    /// True when segments are given up as in older versions: whether or not their end is folded.
    pub(crate) old_way: AtomicBool,
}

impl Default for Cut {
    fn default() -> Self {
        Self { passed: AtomicU64::new(0), at: AtomicU64::new(u64::MAX), old_way: AtomicBool::new(false) }
    }
}

impl Cut {
    /// Cuts at the `after`-th place from now on, counted from 0.
    pub(crate) fn set(&self, after: u64) {
        self.at.store(self.passed() + after, Ordering::SeqCst);
    }

    /// Returns the number of places that were passed.
    pub(crate) fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }

    /// Passes one place. A process that was cut off stays so.
    pub(crate) fn pass(&self) -> Result<(), Failure> {
        let passed = self.passed.fetch_add(1, Ordering::SeqCst);
        if passed >= self.at.load(Ordering::SeqCst) { Err(Failure::Cut) } else { Ok(()) }
    }
}

/// The steps of one round of housekeeping, for tests that order them otherwise.
impl FjallStore {
    pub(crate) async fn fold(&self) -> Result<(), StoreError> {
        run_on_writer(&self.queue, Writer::fold).await
    }

    pub(crate) async fn plan_trim(&self) -> Result<Trim, StoreError> {
        aside(&self.shared, plan_trim).await
    }

    pub(crate) async fn trim(&self, trim: Trim) -> Result<(), StoreError> {
        run_on_writer(&self.queue, move |writer| writer.trim(trim)).await
    }

    pub(crate) async fn clear_away(&self) -> Result<(), StoreError> {
        aside(&self.shared, |_, engine| engine.spare_segments.clear_away()).await
    }

    /// Ends the process at the `after`-th place from now on where that makes a difference on the disk.
    pub(crate) fn cut_after(&self, after: u64) {
        self.shared.cut.set(after);
    }

    /// Makes segments be given up as in older versions, whether or not their end is folded.
    pub(crate) fn give_up_the_old_way(&self) {
        self.shared.cut.old_way.store(true, Ordering::SeqCst);
    }

    /// Makes the watermark's file fail to confirm any flush.
    pub(crate) async fn break_watermark(&self) {
        let replace = |writer: &mut Writer| {
            let (file, _) = Watermark::open(Path::new("/dev/null"))
                .map_err(|error| Failure::Write(StoreError::Unavailable(Why::of(error))))?;
            writer.watermark = file;
            Ok(())
        };
        run_on_writer(&self.queue, replace).await.ok();
    }

    /// Blocks the writer until the sender is dropped.
    pub(crate) fn hold_writer(&self) -> std::sync::mpsc::Sender<()> {
        let (release, held) = std::sync::mpsc::channel();
        let wait = move |_: &mut Writer| {
            let _ = held.recv();
            Ok(())
        };
        let _ = self.queue.send(Job::Task(Box::new(wait)));
        release
    }

    /// Returns the number of such places that were passed.
    pub(crate) fn places_passed(&self) -> u64 {
        self.shared.cut.passed()
    }
}
