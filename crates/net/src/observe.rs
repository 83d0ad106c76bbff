//! The metrics of listeners, with all their names and labels.

use setgate_telemetry::{
    Registry,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

/// The label for the listener, and one more; names and values are fixed.
type Labels = [(&'static str, &'static str); 2];

/// The metrics of all listeners' connections. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    open: Family<Labels, Gauge>,
    accepted: Family<[(&'static str, &'static str); 1], Counter>,
    refused: Family<Labels, Counter>,
    closed: Family<Labels, Counter>,
}

impl Observed {
    /// Creates the metrics and registers them with `registry`, which shows them under `/metrics`.
    pub fn register(registry: &Registry) -> Self {
        let all = Self::default();
        registry.register(
            "connections_open",
            "Connections that are open, by listener and by what they count as",
            all.open.clone(),
        );
        registry.register("connections_accepted", "Connections that were let in, by listener", all.accepted.clone());
        registry.register(
            "connections_refused",
            "Connections that were not let in, by listener and limit",
            all.refused.clone(),
        );
        registry.register(
            "connections_closed",
            "Connections that a limit ended, by listener and limit",
            all.closed.clone(),
        );
        all
    }

    /// Returns the metrics of one listener.
    pub(crate) const fn of(self, listener: &'static str) -> OfListener {
        OfListener { all: self, listener }
    }
}

/// The metrics of one listener's connections.
#[derive(Clone, Debug)]
pub(crate) struct OfListener {
    all: Observed,
    listener: &'static str,
}

impl OfListener {
    pub(crate) const fn name(&self) -> &'static str {
        self.listener
    }

    /// Counts a connection as another kind from now on; `None` counts it as no kind.
    pub(crate) fn stands(&self, before: Option<&'static str>, now: Option<&'static str>) {
        let kind = |kind| self.all.open.get_or_create(&[("listener", self.listener), ("kind", kind)]);
        if let Some(before) = before {
            kind(before).dec();
        }
        if let Some(now) = now {
            kind(now).inc();
        }
    }

    pub(crate) fn accepted(&self) {
        self.all.accepted.get_or_create(&[("listener", self.listener)]).inc();
    }

    pub(crate) fn refused(&self, limit: Limit) {
        self.all.refused.get_or_create(&[("listener", self.listener), ("limit", limit.option())]).inc();
    }

    pub(crate) fn closed(&self, limit: Limit) {
        self.all.closed.get_or_create(&[("listener", self.listener), ("limit", limit.option())]).inc();
    }
}

/// The limit that ended a connection or kept it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Limit {
    Connections,
    Unauthenticated,
    PerAddress,
    Handshake,
    Header,
    Ping,
    Idle,
    WriteStall,
    Drain,
    /// The system's limit of file descriptors, which no option sets.
    Descriptors,
}

impl Limit {
    /// Returns the limit's label: the name of the option that sets it, or a name of its own.
    pub(crate) const fn option(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Unauthenticated => "unauthenticated_connections",
            Self::PerAddress => "connections_per_address",
            Self::Handshake => "handshake_timeout",
            Self::Header => "header_timeout",
            Self::Ping => "http2_ping",
            Self::Idle => "idle_timeout",
            Self::WriteStall => "write_timeout",
            Self::Drain => "drain_timeout",
            Self::Descriptors => "descriptors",
        }
    }
}
