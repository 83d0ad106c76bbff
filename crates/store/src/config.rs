//! The section `[store]` of the configuration.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

const MIB: u64 = 1024 * 1024;

/// The configuration of the store: its folder and its share of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The folder of the store, on a local file system.
    pub path: PathBuf,
    /// The bytes that the store may use on the disk. 0: half of the size of the file system at `setgate init`.
    pub budget_bytes: u64,
    /// The bytes kept free on the file system for settling, trimming and parking; once only they are left, intake is
    /// closed. 0: an eighth of the file system, but 192 MiB to 512 MiB, and never more than half of it.
    pub reserve_bytes: u64,
    /// The time for which an event's `id` is remembered.
    #[serde(with = "setgate_clock::duration")]
    pub idempotency_window: Duration,
    /// The most `id`s of one producer that are remembered; beyond it the window of that producer is shorter.
    pub idempotency_keys_per_producer: u64,
    /// The time for which records are kept after every stream has settled them. 0s: no longer than needed.
    #[serde(with = "setgate_clock::duration")]
    pub keep_settled: Duration,
    /// The time for which a parked SET is kept.
    #[serde(with = "setgate_clock::duration")]
    pub parked_age: Duration,
    /// The most parked SETs of one stream that are kept; the oldest are dropped.
    pub parked_count: u64,
    /// The most bytes of parked SETs of one stream that are kept; the oldest are dropped.
    pub parked_bytes: u64,
    /// The time for which a wall clock that jumped by more than an hour must run steadily before it is believed.
    #[serde(with = "setgate_clock::duration")]
    pub clock_steady: Duration,
    /// The longest time that an acknowledgement waits before it is made durable.
    #[serde(with = "setgate_clock::duration")]
    pub flush: Duration,
    /// The most acknowledgements that wait before they are made durable.
    pub flush_count: usize,
    /// The bytes of the newest records that are kept in memory.
    pub recent_bytes: usize,
    /// The positions of one segment of the ledger.
    pub segment_records: u64,
    /// The bytes of one segment of the ledger.
    pub segment_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            path: PathBuf::from("store"),
            budget_bytes: 0,
            reserve_bytes: 0,
            idempotency_window: Duration::from_secs(24 * 60 * 60),
            idempotency_keys_per_producer: 5_000_000,
            keep_settled: Duration::ZERO,
            parked_age: Duration::from_secs(30 * 24 * 60 * 60),
            parked_count: 10_000,
            parked_bytes: 1024 * MIB,
            clock_steady: Duration::from_secs(60 * 60),
            flush: Duration::from_millis(50),
            flush_count: 1000,
            recent_bytes: 16 * 1024 * 1024,
            segment_records: 65_536,
            segment_bytes: 64 * MIB,
        }
    }
}

impl Options {
    /// Returns the bytes kept free on a file system of this size.
    ///
    /// The operations that continue when only the reserve is left need space for two journals of the engine and for the
    /// tables that it writes meanwhile.
    #[must_use]
    pub fn reserve(&self, whole: u64) -> u64 {
        match self.reserve_bytes {
            0 => (whole / 8).clamp(192 * MIB, 512 * MIB).min(whole / 2),
            set => set,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_that_is_not_set_fits_the_disk() {
        let options = Options::default();
        let gib = 1024 * MIB;
        for (whole, reserve) in
            [(64 * gib, 512 * MIB), (3 * gib, 384 * MIB), (gib, 192 * MIB), (256 * MIB, 128 * MIB), (0, 0)]
        {
            assert_eq!(options.reserve(whole), reserve, "{whole}");
        }
        assert_eq!(Options { reserve_bytes: 7, ..options }.reserve(gib), 7);
    }

    #[test]
    fn refuses_an_unknown_option() {
        assert!(serde_json::from_str::<Options>(r#"{"path":"x","colour":"red"}"#).is_err());
        assert_eq!(serde_json::from_str::<Options>(r#"{"path":"store"}"#).unwrap(), Options::default());
    }
}
