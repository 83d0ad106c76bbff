//! The options of the listeners: `[intake]` and `[admin]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use setgate_set::{EventLimits, JsonLimits};

/// `[intake]`: what one request may bring (hardening H28). Each limit names itself when it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IntakeConfig {
    /// Bytes of a request's body, after decompression.
    pub body_bytes: u64,
    /// Bytes of one event: a line, an element of an array, or a body with a single event.
    pub item_bytes: usize,
    /// Events of one request.
    pub items: usize,
    /// After so many refused events of one request the rest is not read.
    pub refused_items: usize,
    /// Nesting of arrays and objects in one event.
    pub depth: usize,
    /// Members of one object.
    pub members: usize,
    /// A compressed body may grow to so many times its size.
    pub ratio: u64,
    /// Logarithm of the largest zstd window: 23 means 8 MiB.
    pub zstd_window_log: u32,
    /// Events that are committed together at most.
    pub commit_items: usize,
    /// Bytes of events that are committed together at most; one larger event is committed alone.
    pub commit_bytes: usize,
    /// How long a body may bring no byte.
    #[serde(with = "setgate_clock::duration")]
    pub idle_timeout: Duration,
    /// Bytes a second that a body must bring on average …
    pub minimum_bytes_per_second: u64,
    /// … after so long a wait for it.
    #[serde(with = "setgate_clock::duration")]
    pub grace_period: Duration,
    /// Requests at once; further ones are answered 503.
    pub requests: usize,
    /// Compressed requests at once: each may take a decompression window.
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

/// `[admin]`: who may look in at the admin listener (hardening H6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OperatorConfig {
    /// Names by which the admin listener may be called in `Host`, beside `localhost` and the loopback addresses.
    pub hosts: Vec<String>,
    /// Whether `/metrics` is served to callers without a token.
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
