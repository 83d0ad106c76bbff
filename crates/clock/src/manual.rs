//! A runtime for tests, with a wall clock that is set by hand and seeded randomness.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{BoxFuture, Clock, Random, Runtime, SystemClock, TokioTasks};

/// A clock whose wall time is set by hand. Monotonic time is tokio's, which tests can pause and advance.
#[derive(Debug)]
pub struct ManualClock {
    wall: AtomicU64,
    inner: SystemClock,
}

impl ManualClock {
    /// Creates a clock that shows `wall_millis`.
    #[must_use]
    pub fn at(wall_millis: u64) -> Arc<Self> {
        Arc::new(Self { wall: AtomicU64::new(wall_millis), inner: SystemClock::new() })
    }

    /// Sets the wall clock to `wall_millis`.
    pub fn set(&self, wall_millis: u64) {
        self.wall.store(wall_millis, Ordering::SeqCst);
    }

    /// Moves the wall clock forward.
    pub fn advance(&self, by: Duration) {
        self.wall.fetch_add(u64::try_from(by.as_millis()).unwrap_or_default(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall_millis(&self) -> u64 {
        self.wall.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        self.inner.monotonic()
    }

    fn sleep(&self, how_long: Duration) -> BoxFuture<()> {
        self.inner.sleep(how_long)
    }
}

/// A pseudorandom generator (SplitMix64) that gives the same numbers for the same seed. For tests only.
#[derive(Debug)]
pub struct SeededRandom(AtomicU64);

impl SeededRandom {
    /// Creates a generator that starts from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(seed)))
    }
}

impl Random for SeededRandom {
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst).wrapping_add(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            chunk.iter_mut().zip(z.to_le_bytes()).for_each(|(to, from)| *to = from);
        }
    }
}

/// Creates a runtime for a test from this clock, this seed and tokio's tasks.
#[must_use]
pub fn runtime(clock: Arc<ManualClock>, seed: u64) -> Runtime {
    Runtime { clock, random: SeededRandom::new(seed), tasks: Arc::new(TokioTasks) }
}
