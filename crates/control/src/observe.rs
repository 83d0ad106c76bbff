//! The metrics of the intake endpoint.

use setgate_telemetry::{
    Registry,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

/// The labels of a metric. Their names are fixed; their values come from the configuration or from this file.
type Labels = Vec<(&'static str, String)>;

/// The outcome of an event at the listener.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    Accepted,
    Repeated,
    Conflict,
    Invalid,
    Forbidden,
    Unavailable,
    /// The request had no token that is valid here.
    Denied,
}

/// The counters of the intake endpoint. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    accepted: Counter,
    repeated: Counter,
    conflict: Counter,
    invalid: Counter,
    forbidden: Counter,
    unavailable: Counter,
    denied: Counter,
    refused: Family<Labels, Counter>,
    bytes: Counter,
    open: Gauge,
}

impl Observed {
    /// Creates counters that are shown under `/metrics`.
    #[must_use]
    pub fn register(registry: &Registry) -> Self {
        let all = Self::default();
        for (name, help, counter) in [
            ("intake_events_accepted", "Events accepted at the public listener", &all.accepted),
            ("intake_events_repeated", "Events that had been accepted before under the same id", &all.repeated),
            ("intake_events_conflicting", "Events whose id had been used for another event", &all.conflict),
            ("intake_invalid", "Events and requests that are malformed or beyond a limit", &all.invalid),
            ("intake_events_forbidden", "Events that their producer may not put in", &all.forbidden),
            ("intake_unavailable", "Events and requests that were answered 503", &all.unavailable),
            ("intake_requests_unauthorized", "Requests without a valid token", &all.denied),
            ("intake_body_bytes", "Bytes of request bodies that were read, after decompression", &all.bytes),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "intake_events_refused",
            "Events that a rule of their producer refused, by producer and rule",
            all.refused.clone(),
        );
        registry.register("intake_requests_open", "Intake requests that are being served", all.open.clone());
        all
    }

    pub(crate) fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Accepted => &self.accepted,
            Outcome::Repeated => &self.repeated,
            Outcome::Conflict => &self.conflict,
            Outcome::Invalid => &self.invalid,
            Outcome::Forbidden => &self.forbidden,
            Outcome::Unavailable => &self.unavailable,
            Outcome::Denied => &self.denied,
        };
        counter.inc();
    }

    pub(crate) fn refused_by(&self, producer: &str, rule: &'static str) {
        let labels = vec![("producer", producer.to_owned()), ("rule", rule.to_owned())];
        self.refused.get_or_create(&labels).inc();
    }

    pub(crate) fn read(&self, bytes: usize) {
        self.bytes.inc_by(u64::try_from(bytes).unwrap_or_default());
    }

    /// Counts a request as open for as long as the guard lives.
    pub(crate) fn enter(&self) -> Open {
        self.open.inc();
        Open(self.open.clone())
    }
}

/// A request that is being served.
#[derive(Debug)]
pub(crate) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
