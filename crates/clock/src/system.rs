//! The system's clock and randomness, and tokio's tasks.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{BoxFuture, Clock, Random, Runtime, Tasks, Uptime};

/// The clock of the machine. Monotonic time is tokio's, so that tests can pause it.
#[derive(Debug)]
pub struct SystemClock {
    start: tokio::time::Instant,
    boot: Option<u128>,
}

impl SystemClock {
    /// Creates a clock whose monotonic time starts now.
    #[must_use]
    pub fn new() -> Self {
        Self { start: tokio::time::Instant::now(), boot: boot() }
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

    fn uptime(&self) -> Option<Uptime> {
        Some(Uptime { boot: self.boot?, since: since_boot() })
    }

    fn sleep(&self, how_long: Duration) -> BoxFuture<()> {
        Box::pin(tokio::time::sleep(how_long))
    }
}

/// Returns the kernel's id of this start of the machine, or `None` where it cannot be read.
#[cfg(target_os = "linux")]
fn boot() -> Option<u128> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    u128::from_str_radix(&text.trim().replace('-', ""), 16).ok()
}

/// Returns the time since the start of the machine. `CLOCK_BOOTTIME` continues while the machine sleeps, unlike
/// `CLOCK_MONOTONIC`.
#[cfg(target_os = "linux")]
fn since_boot() -> Duration {
    let at = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(at.tv_sec), u32::try_from(at.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

#[cfg(not(target_os = "linux"))]
fn boot() -> Option<u128> {
    None
}

#[cfg(not(target_os = "linux"))]
fn since_boot() -> Duration {
    Duration::ZERO
}

/// The randomness of the operating system.
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

/// An executor that starts tasks on the current tokio runtime.
#[derive(Debug, Default)]
pub struct TokioTasks;

impl Tasks for TokioTasks {
    fn spawn(&self, _name: &'static str, work: BoxFuture<()>) {
        drop(tokio::spawn(work));
    }
}

/// Returns the runtime of the system. Call it inside a tokio runtime.
#[must_use]
pub fn system() -> Runtime {
    Runtime { clock: Arc::new(SystemClock::new()), random: Arc::new(SystemRandom), tasks: Arc::new(TokioTasks) }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_uptime_of_one_start_of_the_machine_is_told_by_every_clock_alike() {
        let (one, other) = (SystemClock::new().uptime().unwrap(), SystemClock::new().uptime().unwrap());
        assert_eq!(one.boot, other.boot);
        assert!(one.boot != 0 && one.since <= other.since && one.since > Duration::ZERO);
    }
}
