//! The `[router]` section.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How the router retries, shares and keeps watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Acknowledgements are written down at the latest after so long.
    #[serde(with = "setgate_clock::duration")]
    pub flush: Duration,
    /// SETs of one stream that stand in lanes; the others cost a bit each.
    pub ready_sets: usize,
    /// SETs of one stream that are in flight at most: handed out and not settled.
    pub in_flight_sets: usize,
    /// Bytes of one stream that are in flight at most.
    pub in_flight_bytes: usize,
    /// The first back-off; it doubles with each failure.
    #[serde(with = "setgate_clock::duration")]
    pub backoff_initial: Duration,
    /// The longest back-off.
    #[serde(with = "setgate_clock::duration")]
    pub backoff_max: Duration,
    /// A `Retry-After` is honoured up to this (hardening H50).
    #[serde(with = "setgate_clock::duration")]
    pub retry_after_max: Duration,
    /// After so many faults of the stream in a row …
    pub pause_after_faults: u32,
    /// … over at least so long, the stream is paused and its SETs wait.
    #[serde(with = "setgate_clock::duration")]
    pub pause_after: Duration,
    /// After so many SETs parked in a row without one success the stream is paused.
    pub pause_after_parked: u32,
    /// A SET that failed so often while others of its stream passed is parked as `poison`.
    pub poison_after: u32,
    /// Threads that sign with RSA; 0 takes one for each core.
    pub signing_threads: usize,
    /// Bytes of events that may wait for their commit before intake answers 503.
    pub intake_bytes: usize,
    /// How often it is looked at what streams may keep.
    #[serde(with = "setgate_clock::duration")]
    pub retention_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            flush: Duration::from_millis(20),
            ready_sets: 1000,
            in_flight_sets: 1000,
            in_flight_bytes: 16 << 20,
            backoff_initial: Duration::from_secs(1),
            backoff_max: Duration::from_secs(300),
            retry_after_max: Duration::from_secs(3600),
            pause_after_faults: 5,
            pause_after: Duration::from_secs(600),
            pause_after_parked: 10,
            poison_after: 8,
            signing_threads: 0,
            intake_bytes: 32 << 20,
            retention_interval: Duration::from_secs(60),
        }
    }
}
