//! The number of sessions at once, and their metrics.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::http::StatusCode;
use setgate_oauth::Receiver;
use setgate_telemetry::{
    Registry,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

/// A set of one label; names and values are fixed.
type Label = [(&'static str, &'static str); 1];

/// The metrics of admission. Clones share their counters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    open: Family<Label, Gauge>,
    refused: Family<Label, Counter>,
    tickets: Counter,
    tickets_refused: Family<Label, Counter>,
}

impl Observed {
    /// Creates the metrics and registers them under `/metrics`.
    pub(crate) fn register(registry: &Registry) -> Self {
        let all = Self::default();
        registry.register(
            "sessions_open",
            "Polls that are held and sockets that are open, by method",
            all.open.clone(),
        );
        registry.register(
            "sessions_refused",
            "Requests of receivers that were not let in, by reason",
            all.refused.clone(),
        );
        registry.register("tickets_issued", "Tickets that receivers were given for browsers", all.tickets.clone());
        registry.register("tickets_refused", "Tickets that opened no socket, by reason", all.tickets_refused.clone());
        all
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }

    pub(super) fn ticket_issued(&self) {
        self.tickets.inc();
    }

    pub(super) fn ticket_refused(&self, reason: &'static str) {
        self.tickets_refused.get_or_create(&[("reason", reason)]).inc();
    }
}

/// The reason why an admitted receiver has to come later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The gateway is shutting down.
    Closing,
    /// The places of sessions are used up.
    Sessions,
    /// The receiver has all the places that one may have.
    Receiver,
    /// The tickets are used up.
    Tickets,
    /// The receiver has all the tickets that one may have.
    ReceiverTickets,
}

impl Full {
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Closing | Self::Sessions | Self::Tickets => StatusCode::SERVICE_UNAVAILABLE,
            Self::Receiver | Self::ReceiverTickets => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Closing => "closing",
            Self::Sessions => "connections",
            Self::Receiver => "per_receiver",
            Self::Tickets => "tickets",
            Self::ReceiverTickets => "tickets_per_receiver",
        }
    }

    pub(super) const fn detail(self) -> &'static str {
        match self {
            Self::Closing => "the gateway is shutting down; try again",
            Self::Sessions => "too many polls and sockets at once",
            Self::Receiver => "too many polls and sockets of this receiver at once",
            Self::Tickets => "too many tickets are out",
            Self::ReceiverTickets => "too many tickets of this receiver are out",
        }
    }

    pub(super) const fn retry_after(self) -> Duration {
        Duration::from_secs(match self {
            Self::Closing | Self::Sessions | Self::Receiver => 5,
            Self::Tickets | Self::ReceiverTickets => 30,
        })
    }
}

/// The places of sessions, limited in total and per receiver.
pub(super) struct Budget {
    most: usize,
    most_of_one: usize,
    taken: Mutex<Taken>,
    observed: Observed,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_receiver: HashMap<usize, usize>,
}

impl Budget {
    pub(super) fn new(most: usize, most_of_one: usize, observed: Observed) -> Arc<Self> {
        Arc::new(Self { most, most_of_one, taken: Mutex::default(), observed })
    }

    /// Takes a place, which is free again when the value is dropped.
    ///
    /// # Errors
    /// Returns [`Full::Sessions`] or [`Full::Receiver`], depending on the limit that is reached.
    pub(super) fn enter(self: &Arc<Self>, receiver: &Arc<Receiver>, method: &'static str) -> Result<Taking, Full> {
        let who = number(receiver);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= self.most {
            return Err(Full::Sessions);
        }
        let of_one = taken.by_receiver.entry(who).or_default();
        if *of_one >= self.most_of_one {
            return Err(Full::Receiver);
        }
        *of_one += 1;
        taken.all += 1;
        drop(taken);
        self.observed.open.get_or_create(&[("method", method)]).inc();
        Ok(Taking { budget: self.clone(), who, method })
    }
}

/// Returns a number that tells receivers apart for as long as the guard lives.
pub(super) fn number(receiver: &Arc<Receiver>) -> usize {
    Arc::as_ptr(receiver).addr()
}

/// A place of a session.
pub(super) struct Taking {
    budget: Arc<Budget>,
    who: usize,
    method: &'static str,
}

impl Drop for Taking {
    fn drop(&mut self) {
        {
            let mut taken = self.budget.taken.lock().unwrap_or_else(PoisonError::into_inner);
            taken.all = taken.all.saturating_sub(1);
            if let Some(of_one) = taken.by_receiver.get_mut(&self.who) {
                *of_one = of_one.saturating_sub(1);
            }
        }
        self.budget.observed.open.get_or_create(&[("method", self.method)]).dec();
    }
}
