//! The metrics of the store. This module defines all their names.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// The store's metrics. [`Observed::default`] counts without a page; [`Observed::register`] shows the metrics on one.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The seconds from the queue to the answer of a commit that had to be durable.
    pub commit: Histogram,
    /// The seconds of one flush to the disk.
    pub sync: Histogram,
    /// The units that share one flush.
    pub group: Histogram,
    /// The records appended.
    pub appended: Counter,
    /// The bytes of bodies appended.
    pub appended_bytes: Counter,
    /// The deliveries settled.
    pub settled: Counter,
    /// The openings of the engine inside the process after a failure.
    pub reopened: Counter,
    /// The parked SETs removed by a limit.
    pub parked_forgotten: Counter,
    /// The idempotency keys removed before their time because a producer has too many.
    pub keys_forgotten: Counter,
    /// The deliveries owed.
    pub waiting: Gauge,
    /// The bytes on the disk: those used, the budget, those free on the file system, and the reserve of them.
    pub disk: Family<[(&'static str, &'static str); 1], Gauge>,
    /// The metrics of the wall clock.
    pub clock: ClockObserved,
}

/// The metrics of the wall clock.
#[derive(Clone, Debug, Default)]
pub struct ClockObserved {
    /// 1 while the wall clock is suspect, else 0.
    pub suspect: Gauge,
    /// The seconds by which the wall clock is ahead of the believed time.
    pub offset: Gauge,
    /// The seconds by which times of acceptance are ahead of the wall clock; they stand still until it has caught up.
    pub accepted_ahead: Gauge,
    /// The jumps by more than an hour.
    pub leaps: Counter,
}

impl Default for Observed {
    fn default() -> Self {
        let times = || Histogram::new([0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0]);
        Self {
            commit: times(),
            sync: times(),
            group: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]),
            appended: Counter::default(),
            appended_bytes: Counter::default(),
            settled: Counter::default(),
            reopened: Counter::default(),
            parked_forgotten: Counter::default(),
            keys_forgotten: Counter::default(),
            waiting: Gauge::default(),
            disk: Family::default(),
            clock: ClockObserved::default(),
        }
    }
}

impl Observed {
    /// Sets the metrics of the disk.
    pub(crate) fn measured(&self, figures: [(&'static str, u64); 4]) {
        for (what, bytes) in figures {
            self.disk.get_or_create(&[("kind", what)]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// Creates metrics that are shown on the page of this registry.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let seen = Self::default();
        let page = registry.sub_registry_with_prefix("store");
        page.register_with_unit(
            "commit_duration",
            "Time from the queue to the answer of a durable commit",
            Unit::Seconds,
            seen.commit.clone(),
        );
        page.register_with_unit("sync_duration", "Time of one flush to the disk", Unit::Seconds, seen.sync.clone());
        page.register("sync_commits", "Commits that shared one flush to the disk", seen.group.clone());
        page.register("records_appended", "Records that were appended to the ledger", seen.appended.clone());
        page.register_with_unit(
            "records_appended",
            "Bytes of the bodies of records that were appended",
            Unit::Bytes,
            seen.appended_bytes.clone(),
        );
        page.register("deliveries_settled", "Deliveries that were settled", seen.settled.clone());
        page.register("reopenings", "Openings of the engine after a failure", seen.reopened.clone());
        page.register("parked_forgotten", "Parked SETs that a limit made forgotten", seen.parked_forgotten.clone());
        page.register(
            "idempotency_keys_forgotten",
            "Idempotency keys that were forgotten before their time",
            seen.keys_forgotten.clone(),
        );
        page.register("deliveries_waiting", "Deliveries that are owed and not settled", seen.waiting.clone());
        page.register_with_unit(
            "disk",
            "Bytes on the disk, by kind: used by the store, its budget, free on the file system, and the reserve of that",
            Unit::Bytes,
            seen.disk.clone(),
        );
        let clock = &seen.clock;
        page.register("clock_suspect", "Whether the wall clock is not believed: 1 or 0", clock.suspect.clone());
        page.register_with_unit(
            "clock_offset",
            "How far the wall clock is ahead of the believed time",
            Unit::Seconds,
            clock.offset.clone(),
        );
        page.register_with_unit(
            "clock_accepted_ahead",
            "How far times of acceptance are ahead of the wall clock and stand still",
            Unit::Seconds,
            clock.accepted_ahead.clone(),
        );
        page.register("clock_jumps", "Jumps of the wall clock by more than an hour", clock.leaps.clone());
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_begin_with_the_room_and_end_with_the_unit() {
        let mut registry = Registry::with_prefix("setgate");
        let seen = Observed::register(&mut registry);
        seen.appended_bytes.inc_by(3);
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        for name in [
            "setgate_store_commit_duration_seconds_count",
            "setgate_store_sync_duration_seconds_count",
            "setgate_store_records_appended_bytes_total 3",
        ] {
            assert!(page.contains(name), "{name}: {page}");
        }
    }
}
