//! The `[router]` section.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The options of retries, shared limits and regular checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The longest time until acknowledgements are written to the store.
    #[serde(with = "setgate_clock::duration")]
    pub flush: Duration,
    /// The most SETs of one stream that stand in lanes; each of the others costs a bit.
    pub ready_sets: usize,
    /// The most SETs of one stream that are in flight: leased and not settled.
    pub in_flight_sets: usize,
    /// The most bytes of one stream that are in flight.
    pub in_flight_bytes: usize,
    /// The first back-off; it doubles with each failure.
    #[serde(with = "setgate_clock::duration")]
    pub backoff_initial: Duration,
    /// The longest back-off.
    #[serde(with = "setgate_clock::duration")]
    pub backoff_max: Duration,
    /// The longest `Retry-After` that is honoured (hardening H50).
    #[serde(with = "setgate_clock::duration")]
    pub retry_after_max: Duration,
    /// The number of the stream's faults in a row after which the stream is paused and its SETs wait.
    pub pause_after_faults: u32,
    /// The time that these faults must span at least before the stream is paused.
    #[serde(with = "setgate_clock::duration")]
    pub pause_after: Duration,
    /// The number of SETs parked in a row without one success after which the stream is paused.
    pub pause_after_parked: u32,
    /// The number of failures after which a SET is parked as `poison`, while others of its stream passed.
    pub poison_after: u32,
    /// Threads that sign with RSA; 0 stands for one thread for each core.
    pub signing_threads: usize,
    /// Bytes of events that may wait for their commit before intake answers 503.
    pub intake_bytes: usize,
    /// The interval at which streams are checked against what they may keep.
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
