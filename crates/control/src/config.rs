//! The options of the listeners: `[intake]` and `[admin]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use setgate_set::{EventLimits, JsonLimits};

/// The limits of one request to the intake endpoint, `[intake]` (hardening H28).
///
/// A refusal names the option whose limit was reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IntakeConfig {
    /// The most bytes of a request's body, after decompression.
    pub body_bytes: u64,
    /// The most bytes of one event: a line, an element of an array, or a body with a single event.
    pub item_bytes: usize,
    /// The most events of one request.
    pub items: usize,
    /// The number of refused events of one request after which the rest is not read.
    pub refused_items: usize,
    /// The deepest nesting of arrays and objects in one event.
    pub depth: usize,
    /// The most members of one object.
    pub members: usize,
    /// The factor by which a compressed body may grow.
    pub ratio: u64,
    /// The logarithm of the largest zstd window: 23 means 8 MiB.
    pub zstd_window_log: u32,
    /// The most events that are committed together.
    pub commit_items: usize,
    /// The bytes of events after which a batch takes no further event and is committed.
    pub commit_bytes: usize,
    /// The longest time in which a body may bring no byte.
    #[serde(with = "setgate_clock::duration")]
    pub idle_timeout: Duration,
    /// The bytes a second that a body must bring on average, once `grace_period` is used up.
    pub minimum_bytes_per_second: u64,
    /// The time that the gateway waits for a body before `minimum_bytes_per_second` is required.
    #[serde(with = "setgate_clock::duration")]
    pub grace_period: Duration,
    /// The most requests at once; further ones are answered 503.
    pub requests: usize,
    /// The most compressed requests at once, since each may take a decompression window; further ones are answered 503.
    pub compressed_requests: usize,
}

impl Default for IntakeConfig {
    fn default() -> Self {
        Self {
            body_bytes: 64 << 20,
            item_bytes: 1 << 20,
            items: 50_000,
            refused_items: 100,
            depth: 32,
            members: 1000,
            ratio: 100,
            zstd_window_log: 23,
            commit_items: 128,
            commit_bytes: 256 << 10,
            idle_timeout: Duration::from_secs(30),
            minimum_bytes_per_second: 256,
            grace_period: Duration::from_secs(10),
            requests: 1024,
            compressed_requests: 32,
        }
    }
}

impl IntakeConfig {
    pub(crate) fn json(&self) -> JsonLimits {
        JsonLimits { depth: self.depth, members: self.members }
    }

    pub(crate) fn event(&self) -> EventLimits {
        EventLimits::default()
    }
}

/// The access to the admin listener, `[admin]` (hardening H6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OperatorConfig {
    /// The names that `Host` may have at the admin listener, beside `localhost` and the loopback addresses.
    pub hosts: Vec<String>,
    /// Whether `/metrics` is served; it needs no token.
    pub metrics: bool,
}

impl Default for OperatorConfig {
    fn default() -> Self {
        Self { hosts: Vec::new(), metrics: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_written_has_its_default() {
        let intake: IntakeConfig = toml::from_str("item_bytes = 4096").unwrap();
        assert_eq!(intake, IntakeConfig { item_bytes: 4096, ..IntakeConfig::default() });
        assert_eq!(toml::from_str::<OperatorConfig>("").unwrap(), OperatorConfig::default());
    }

    #[test]
    fn an_unknown_option_is_named() {
        let error = toml::from_str::<IntakeConfig>("line_bytes = 1").unwrap_err().to_string();
        assert!(error.contains("line_bytes"), "{error}");
        assert!(toml::from_str::<OperatorConfig>("cors = true").is_err());
    }
}
