//! What listeners report: names and labels are decided here once.

use setgate_telemetry::{
    Registry,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

/// The listener, and one more label; names and values are fixed.
type Labels = [(&'static str, &'static str); 2];

/// Connections of listeners. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    open: Family<Labels, Gauge>,
    accepted: Family<[(&'static str, &'static str); 1], Counter>,
    refused: Family<Labels, Counter>,
    closed: Family<Labels, Counter>,
}

impl Observed {
    /// Counters that are shown under `/metrics`.
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

    /// What one listener counts.
    pub(crate) const fn of(self, listener: &'static str) -> OfListener {
        OfListener { all: self, listener }
    }
}

/// Connections of one listener.
#[derive(Clone, Debug)]
pub(crate) struct OfListener {
    all: Observed,
    listener: &'static str,
}

impl OfListener {
    pub(crate) const fn name(&self) -> &'static str {
        self.listener
    }

    /// A connection counts as something else from now on, or no more.
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

/// The limit that ended a connection, or did not let it in.
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
    /// No option: the system's.
    Descriptors,
}

impl Limit {
    /// The option that sets it, where there is one.
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
