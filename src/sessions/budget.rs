//! How many sessions there are at once, and what is counted.

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

/// One label; names and values are fixed.
type Label = [(&'static str, &'static str); 1];

/// What the admission of receivers reports. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    open: Family<Label, Gauge>,
    refused: Family<Label, Counter>,
    tickets: Counter,
    tickets_refused: Family<Label, Counter>,
}

impl Observed {
    /// Counters that are shown under `/metrics`.
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

/// Why somebody who may come in has to come later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The gateway shuts down.
    Closing,
    /// All places are taken.
    Sessions,
    /// The receiver has its share.
    Receiver,
    /// All tickets are out.
    Tickets,
    /// The receiver has its share of them.
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

/// The places of sessions: so many in all, and so many for one receiver.
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

    /// Takes a place until the value is dropped.
    ///
    /// # Errors
    /// [`Full`] says whose share is used up.
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

/// Tells receivers apart; they live as long as the guard.
pub(super) fn number(receiver: &Arc<Receiver>) -> usize {
    Arc::as_ptr(receiver).addr()
}

/// A place that is taken.
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
