//! The system's clock and randomness, and tokio's tasks.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{BoxFuture, Clock, House, Random, Tasks};

/// The clock of the machine. Monotonic time is tokio's, so that tests can pause it.
#[derive(Debug)]
pub struct SystemClock {
    start: tokio::time::Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    pub fn new() -> Self {
        Self { start: tokio::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the system")]
    fn wall_millis(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, how_long: Duration) -> BoxFuture<()> {
        Box::pin(tokio::time::sleep(how_long))
    }
}

/// The randomness of the machine.
#[derive(Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    #[expect(
        clippy::expect_used,
        reason = "without randomness nothing is safe: ending the process is the right answer"
    )]
    fn fill(&self, buffer: &mut [u8]) {
        aws_lc_rs::rand::fill(buffer).expect("the system gives randomness");
    }
}

/// Tasks on the current tokio runtime.
#[derive(Debug, Default)]
pub struct TokioTasks;

impl Tasks for TokioTasks {
    fn spawn(&self, _name: &'static str, work: BoxFuture<()>) {
        drop(tokio::spawn(work));
    }
}

/// The real house. Call it inside a tokio runtime.
#[must_use]
pub fn system() -> House {
    House { clock: Arc::new(SystemClock::new()), random: Arc::new(SystemRandom), tasks: Arc::new(TokioTasks) }
}
