#![doc = include_str!("../README.md")]

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

mod backoff;
pub mod duration;
pub mod manual;
mod mock;
mod system;

pub use backoff::{Backoff, Jitter};
pub use mock::MockClock;
pub use system::{SystemClock, SystemRandom, TokioTasks, system};

/// A boxed future, the return type of the traits of this crate.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The time since the machine started, sleep included.
///
/// The uptime continues over restarts of the process and while the machine sleeps, where [`Clock::monotonic`] may stand
/// still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uptime {
    /// The id of this start of the machine, different from that of every other start.
    pub boot: u128,
    /// The time since that start. It never goes back.
    pub since: Duration,
}

/// A source of time and of timers.
pub trait Clock: Send + Sync {
    /// Returns the wall-clock time, in milliseconds since 1970-01-01T00:00:00Z. It may jump.
    fn wall_millis(&self) -> u64;
    /// Returns the time since some fixed point of this process. It never goes back.
    fn monotonic(&self) -> Duration;
    /// Returns the uptime of the machine, or `None` where the system does not report it. A clock reports it always or
    /// never.
    fn uptime(&self) -> Option<Uptime> {
        None
    }
    /// Waits for `how_long` of monotonic time.
    fn sleep(&self, how_long: Duration) -> BoxFuture<()>;
}

/// A source of unpredictable bytes.
pub trait Random: Send + Sync {
    /// Fills `buffer` with random bytes.
    fn fill(&self, buffer: &mut [u8]);

    /// Returns a number below `bound`, or zero where `bound` is zero.
    fn below(&self, bound: u64) -> u64 {
        let mut bytes = [0u8; 16];
        self.fill(&mut bytes);
        let wide = u128::from_be_bytes(bytes) % u128::from(bound.max(1));
        u64::try_from(wide).unwrap_or_default()
    }
}

/// An executor that starts tasks.
pub trait Tasks: Send + Sync {
    /// Runs `work` concurrently with the caller; `name` is for diagnostics.
    fn spawn(&self, name: &'static str, work: BoxFuture<()>);
}

/// The handles to time, randomness and tasks that components use instead of asking the system.
#[derive(Clone)]
pub struct Runtime {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The source of randomness.
    pub random: Arc<dyn Random>,
    /// The executor of tasks.
    pub tasks: Arc<dyn Tasks>,
}

impl Runtime {
    /// Starts a task. `name` is for diagnostics.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(name, Box::pin(work));
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Runtime")
    }
}
