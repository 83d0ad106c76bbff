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

/// A boxed future, as the traits of this crate hand them out.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How long the machine is up, sleep included.
///
/// It goes on over restarts of the process, and while the machine sleeps, where [`Clock::monotonic`] may stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uptime {
    /// Tells this start of the machine from every other.
    pub boot: u128,
    /// Time since that start. It never goes back.
    pub since: Duration,
}

/// Tells the time and wakes up later.
pub trait Clock: Send + Sync {
    /// Wall-clock time, in milliseconds since 1970-01-01T00:00:00Z. It may jump.
    fn wall_millis(&self) -> u64;
    /// Time since some fixed point of this process. It never goes back.
    fn monotonic(&self) -> Duration;
    /// How long the machine is up; nothing where the system does not tell. A clock tells always or never.
    fn uptime(&self) -> Option<Uptime> {
        None
    }
    /// Ends after `how_long` of monotonic time.
    fn sleep(&self, how_long: Duration) -> BoxFuture<()>;
}

/// Gives unpredictable bytes.
pub trait Random: Send + Sync {
    /// Fills `buffer`.
    fn fill(&self, buffer: &mut [u8]);

    /// A number below `bound`, or zero where `bound` is zero.
    fn below(&self, bound: u64) -> u64 {
        let mut bytes = [0u8; 16];
        self.fill(&mut bytes);
        let wide = u128::from_be_bytes(bytes) % u128::from(bound.max(1));
        u64::try_from(wide).unwrap_or_default()
    }
}

/// Starts tasks.
pub trait Tasks: Send + Sync {
    /// Runs `work` beside the caller; `name` is for people who look.
    fn spawn(&self, name: &'static str, work: BoxFuture<()>);
}

/// What every moving part is given instead of asking the system: time, randomness, tasks.
#[derive(Clone)]
pub struct Runtime {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// Tasks.
    pub tasks: Arc<dyn Tasks>,
}

impl Runtime {
    /// Starts a task.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(name, Box::pin(work));
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Runtime")
    }
}
