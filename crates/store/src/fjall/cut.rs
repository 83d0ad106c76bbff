//! A test's means to end a store as a killed process does, before or after any step that reaches the disk.

#[cfg(test)]
use std::path::Path;
use std::{
    cell::Cell,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::{
    FjallStore, StoreError,
    fjall::{
        batch::Failure,
        housekeep::run_on_writer,
        writer::{Job, Writer},
    },
};
#[cfg(test)]
use crate::{
    Why,
    fjall::{
        engine::Engine,
        housekeep::{Trim, aside, plan_trim},
        watermark::Watermark,
    },
};

/// A counter of the places at which a process can be cut off, which cuts at one of them.
#[derive(Debug)]
pub(crate) struct Cut {
    passed: AtomicU64,
    at: AtomicU64,
    /// True when segments are given up as in older versions: whether or not their end is folded.
    pub(crate) old_way: AtomicBool,
    /// True when the writer does what is due only when it is told to.
    by_hand: AtomicBool,
    /// True when an engine whose flush failed is let go, as the end of the process lets it go.
    lets_go: AtomicBool,
    /// The bytes that count as free on the disk; [`u64::MAX`] stands for those that are.
    free: AtomicU64,
}

impl Default for Cut {
    fn default() -> Self {
        let (old_way, by_hand, lets_go) = Default::default();
        Self {
            passed: AtomicU64::new(0),
            at: AtomicU64::new(u64::MAX),
            old_way,
            by_hand,
            lets_go,
            free: AtomicU64::new(u64::MAX),
        }
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

    /// Returns whether the writer does what is due only when it is told to.
    pub(crate) fn is_by_hand(&self) -> bool {
        self.by_hand.load(Ordering::SeqCst)
    }

    /// Returns whether an engine whose flush failed is let go, as the end of the process lets it go.
    pub(crate) fn lets_go(&self) -> bool {
        self.lets_go.load(Ordering::SeqCst)
    }

    /// Returns the bytes that count as free on the disk, unless those that are count.
    pub(crate) fn free(&self) -> Option<u64> {
        Some(self.free.load(Ordering::SeqCst)).filter(|free| *free < u64::MAX)
    }

    /// Passes one place. A process that was cut off stays so.
    pub(crate) fn pass(&self) -> Result<(), Failure> {
        let passed = self.passed.fetch_add(1, Ordering::SeqCst);
        if passed >= self.at.load(Ordering::SeqCst) { Err(Failure::Cut) } else { Ok(()) }
    }
}

thread_local! {
    /// The work of housekeeping that this thread has queued for a writer.
    static QUEUED: Cell<u64> = const { Cell::new(0) };
}

/// Notes that this thread queued work of housekeeping for a writer.
pub(crate) fn note_queued() {
    QUEUED.set(QUEUED.get() + 1);
}

/// The means of a simulation. Nothing changes before one of them is called.
impl FjallStore {
    /// Ends the process at the `after`-th place from now on where that makes a difference on the disk.
    pub fn cut_after(&self, after: u64) {
        self.shared.cut.set(after);
    }

    /// Returns the number of such places that were passed.
    #[must_use]
    pub fn places_passed(&self) -> u64 {
        self.shared.cut.passed()
    }

    /// Returns whether the store is closed: in order, abandoned, or cut off.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Makes the engine refuse the next write, for want of room where `full`.
    pub fn refuse_write(&self, full: bool) {
        let why = "the simulation said so".into();
        let error = if full { StoreError::Full(why) } else { StoreError::Poisoned(why) };
        self.fail([Failure::Write(error)]);
    }

    /// Makes the disk not confirm the next write. The process that ends of it goes on in a simulation, so the engine is
    /// let go.
    pub fn fail_flush(&self) {
        self.shared.cut.lets_go.store(true, Ordering::SeqCst);
        self.fail([Failure::Sync(StoreError::Poisoned("the simulation said so".into()))]);
    }

    /// Makes this many bytes count as free on the disk; [`u64::MAX`] stands for those that are.
    pub fn set_free(&self, bytes: u64) {
        self.shared.cut.free.store(bytes, Ordering::SeqCst);
    }

    /// Makes the writer do what is due at a time only in [`FjallStore::tick`], so that nothing depends on the clock of
    /// the machine.
    pub fn run_by_hand(&self) {
        self.shared.cut.by_hand.store(true, Ordering::SeqCst);
    }

    /// Lets the writer do one thing that is due: write down what waits, flush the mark, beat.
    ///
    /// # Errors
    /// Returns [`StoreError`], for example while the engine is being opened again.
    pub async fn tick(&self) -> Result<(), StoreError> {
        run_on_writer(&self.queue, |writer| writer.tick().map(drop)).await
    }

    /// Waits until the writer has done everything that was queued before.
    ///
    /// # Errors
    /// Returns [`StoreError`] where there is no writer any more, and while the engine is being opened again.
    pub async fn barrier(&self) -> Result<(), StoreError> {
        run_on_writer(&self.queue, |_| Ok(())).await
    }

    /// Returns the number of times that this thread queued work of housekeeping, of any store, for its writer: where a
    /// round that this thread polls comes to wait for others.
    #[must_use]
    pub fn housekeeping_queued() -> u64 {
        QUEUED.get()
    }

    /// Blocks the writer until the sender is dropped.
    #[must_use]
    pub fn hold_writer(&self) -> std::sync::mpsc::Sender<()> {
        let (release, held) = std::sync::mpsc::channel();
        let wait = move |_: &mut Writer| {
            let _ = held.recv();
            Ok(())
        };
        let _ = self.queue.send(Job::Task(Box::new(wait)));
        release
    }

    /// Makes segments be given up as in older versions, whether or not their end is folded.
    pub fn give_up_the_old_way(&self) {
        self.shared.cut.old_way.store(true, Ordering::SeqCst);
    }
}

/// The steps of one round of housekeeping, for tests that order them otherwise.
#[cfg(test)]
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
        aside(&self.shared, |_, engine| engine.clear_away(&engine.spare_segments)).await
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

    /// Measures the space.
    pub(crate) async fn measure(&self) {
        run_on_writer(&self.queue, Writer::measure_now).await.ok();
    }

    /// Makes the flush of the name of each new keyspace fail.
    pub(crate) fn lose_names(&self) {
        if let Some(engine) = &*self.shared.engine.read() {
            engine.loses_names.store(true, Ordering::SeqCst);
        }
    }

    /// Returns whether the engine was left open with nobody to use it: its lock is held, in this process.
    pub(crate) fn has_left_its_engine(&self) -> bool {
        self.shared.engine.read().is_none() && Engine::open(&self.shared.place.engine()).is_err()
    }

    /// Makes the watermark's file accept no write.
    pub(crate) async fn freeze_watermark(&self) {
        let replace = |writer: &mut Writer| {
            writer.watermark = Watermark::unwritable(&writer.shared.place.watermark())
                .map_err(|error| Failure::Write(StoreError::Unavailable(Why::of(error))))?;
            Ok(())
        };
        run_on_writer(&self.queue, replace).await.ok();
    }
}
