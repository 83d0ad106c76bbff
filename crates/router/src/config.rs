//! The `[router]` section.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How the router retries, shares and keeps watch. Times are in milliseconds or seconds, as their names say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Acknowledgements are written down at the latest after so many milliseconds.
    pub flush_ms: u64,
    /// SETs of one stream that stand in lanes; the others cost a bit each.
    pub ready_set: usize,
    /// SETs of one stream that are handed out and unsettled at most.
    pub handed_out_sets: usize,
    /// Bytes of one stream that are handed out and unsettled at most.
    pub handed_out_bytes: usize,
    /// The first back-off in milliseconds; it doubles with each failure.
    pub backoff_first_ms: u64,
    /// The longest back-off in seconds.
    pub backoff_most_s: u64,
    /// A `Retry-After` is honoured up to so many seconds (hardening H50).
    pub retry_after_most_s: u64,
    /// After so many faults of the stream in a row …
    pub pause_after_faults: u32,
    /// … over at least so many seconds, the stream is paused and its SETs wait.
    pub pause_after_s: u64,
    /// After so many SETs parked in a row without one success the stream is paused.
    pub pause_after_parked: u32,
    /// A SET that failed so often while others of its stream passed is parked as `poison`.
    pub poison_after: u32,
    /// Threads that sign with RSA; 0 takes one for each core.
    pub seal_threads: usize,
    /// Bytes of events that may wait for their commit before intake answers 503.
    pub intake_bytes: usize,
    /// Seconds between two looks at what streams may keep.
    pub retention_every_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            flush_ms: 20,
            ready_set: 1000,
            handed_out_sets: 1000,
            handed_out_bytes: 16 << 20,
            backoff_first_ms: 1000,
            backoff_most_s: 300,
            retry_after_most_s: 3600,
            pause_after_faults: 5,
            pause_after_s: 600,
            pause_after_parked: 10,
            poison_after: 8,
            seal_threads: 0,
            intake_bytes: 32 << 20,
            retention_every_s: 60,
        }
    }
}

impl Config {
    pub(crate) fn flush(&self) -> Duration {
        Duration::from_millis(self.flush_ms)
    }

    pub(crate) fn retry_after_most(&self) -> Duration {
        Duration::from_secs(self.retry_after_most_s)
    }

    pub(crate) fn pause_after(&self) -> Duration {
        Duration::from_secs(self.pause_after_s)
    }
}
