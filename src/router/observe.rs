//! What the router reports: names and labels are decided here once.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

type Labels = [(&'static str, &'static str); 1];
type Counters = Family<Labels, Counter>;

/// Counters of the router. Clones count together.
#[derive(Clone, Debug)]
pub struct Observed {
    pub(crate) accepted: Counter,
    pub(crate) repeated: Counter,
    pub(crate) owed: Counter,
    pub(crate) sealed: Counter,
    pub(crate) acknowledged: Counters,
    pub(crate) failed: Counters,
    pub(crate) parked: Counters,
    pub(crate) dropped: Counters,
    pub(crate) paused_by_fault: Counter,
    pub(crate) delivered_after: Histogram,
    pub(crate) waiting: Gauge,
    pub(crate) streams: Family<Labels, Gauge>,
}

impl Observed {
    /// Registers the metrics.
    pub fn register(registry: &mut Registry) -> Self {
        let observed = Self {
            accepted: Counter::default(),
            repeated: Counter::default(),
            owed: Counter::default(),
            sealed: Counter::default(),
            acknowledged: Family::default(),
            failed: Family::default(),
            parked: Family::default(),
            dropped: Family::default(),
            paused_by_fault: Counter::default(),
            delivered_after: Histogram::new([0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0, 3600.0]),
            waiting: Gauge::default(),
            streams: Family::default(),
        };
        registry.register("events_accepted", "Events accepted, durable and answered", observed.accepted.clone());
        registry.register(
            "events_repeated",
            "Events that were accepted before with the same id",
            observed.repeated.clone(),
        );
        registry.register(
            "deliveries_owed",
            "Deliveries owed: an event counts once for each stream that wants it",
            observed.owed.clone(),
        );
        registry.register(
            "sets_sealed",
            "SETs sealed; a repeat from the cache does not count",
            observed.sealed.clone(),
        );
        registry.register(
            "deliveries_acknowledged",
            "Deliveries acknowledged, by who answered",
            observed.acknowledged.clone(),
        );
        registry.register("attempts_failed", "Attempts that failed, by cause", observed.failed.clone());
        registry.register("deliveries_parked", "Deliveries parked, by code", observed.parked.clone());
        registry.register("deliveries_dropped", "Deliveries dropped by rule", observed.dropped.clone());
        registry.register(
            "streams_paused_by_fault",
            "Streams paused because of their own faults",
            observed.paused_by_fault.clone(),
        );
        registry.register(
            "delivered_after_seconds",
            "Time from acceptance to acknowledgement",
            observed.delivered_after.clone(),
        );
        registry.register("deliveries_waiting", "Deliveries owed and not settled", observed.waiting.clone());
        registry.register("streams", "Streams by status", observed.streams.clone());
        observed
    }
}
