//! The metrics of the router; their names and labels are decided here alone.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::counts::Counts;

type Label = [(&'static str, &'static str); 1];
/// A metric by the name of a shared endpoint, which the operator chose.
type ByEndpoint<M> = Family<[(&'static str, String); 1], M>;
/// A counter by method and one more label.
type ByMethod = Family<[(&'static str, &'static str); 2], Counter>;

/// The metrics of the router. Clones share them.
#[derive(Clone, Debug)]
pub struct Observed {
    pub(crate) accepted: Counter,
    pub(crate) repeated: Counter,
    /// Counts of what becomes of deliveries.
    pub(crate) counts: Counts,
    pub(crate) sealed: Counter,
    pub(crate) failed: ByMethod,
    pub(crate) paused_by_fault: Counter,
    pub(crate) delivered_after: Histogram,
    pub(crate) sealing: Histogram,
    pub(crate) streams: Family<Label, Gauge>,
    pub(crate) timers: Gauge,
    pub(crate) endpoint_held: ByEndpoint<Gauge>,
    pub(crate) endpoint_holds: ByEndpoint<Counter>,
    pub(crate) intake_closed: Family<Label, Gauge>,
    pub(crate) intake_closings: Family<Label, Counter>,
}

impl Observed {
    /// Registers the metrics.
    pub fn register(registry: &mut Registry) -> Self {
        let observed = Self {
            accepted: Counter::default(),
            repeated: Counter::default(),
            counts: Counts::default(),
            sealed: Counter::default(),
            failed: Family::default(),
            paused_by_fault: Counter::default(),
            delivered_after: Histogram::new([0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0, 3600.0]),
            sealing: Histogram::new([0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5]),
            streams: Family::default(),
            timers: Gauge::default(),
            endpoint_held: Family::default(),
            endpoint_holds: Family::default(),
            intake_closed: Family::default(),
            intake_closings: Family::default(),
        };
        registry.register(
            "events_accepted",
            "Events that were accepted: durable, and answered",
            observed.accepted.clone(),
        );
        registry.register(
            "events_repeated",
            "Events that were accepted before with the same id",
            observed.repeated.clone(),
        );
        registry.register_collector(Box::new(observed.counts.clone()));
        registry.register(
            "sets_sealed",
            "SETs that were sealed; a repeat from the cache does not count",
            observed.sealed.clone(),
        );
        registry.register(
            "delivery_attempts_failed",
            "Attempts at delivery that failed, by method and cause",
            observed.failed.clone(),
        );
        registry.register(
            "streams_paused_by_fault",
            "Streams that were paused because of their own faults",
            observed.paused_by_fault.clone(),
        );
        registry.register(
            "delivery_duration_seconds",
            "Time from the acceptance of an event to the acknowledgement of a SET of it",
            observed.delivered_after.clone(),
        );
        registry.register(
            "sealing_duration_seconds",
            "Time to read and seal one batch, waiting for the signing pool included",
            observed.sealing.clone(),
        );
        registry.register("streams", "Streams, by status", observed.streams.clone());
        registry.register(
            "timers",
            "Times at which a stream or an endpoint is looked at again: one for each at most",
            observed.timers.clone(),
        );
        registry.register(
            "endpoint_held",
            "Whether an endpoint that many streams share fails, so that they wait: 1 or 0",
            observed.endpoint_held.clone(),
        );
        registry.register(
            "intake_closed",
            "Whether intake is closed, by the limit or the state that closes it: 1 or 0",
            observed.intake_closed.clone(),
        );
        registry.register("intake_closings", "Times that intake closed, by reason", observed.intake_closings.clone());
        registry.register("endpoint_holds", "Times that an endpoint began to be held", observed.endpoint_holds.clone());
        observed
    }
}
