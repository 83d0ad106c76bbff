//! The incoming half: where things go that a method receives.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{BrokerEvent, Refusal, Stop};

/// Where incoming things go. Answers when they are durable; never sooner.
pub trait Ingest: Send + Sync {
    /// Takes what `peer` sent; one answer each, in order.
    fn take<'a>(&'a self, peer: &'a str, what: Vec<Incoming>) -> BoxFuture<'a, Vec<Answer>>;

    /// Keeps what is no acceptable event for people to look at, where the peer has no place for it. True when it is durable: an
    /// ingest that keeps nothing never says so, and the method must not go past it.
    fn park(&self, _what: Vec<Rejected>) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }

    /// What a collecting method tells of its collecting; the broker it names is replaced by the ingest's own.
    fn told(&self, _event: BrokerEvent) {}
}

/// What a source touches at its peer: names that are the same wherever the same place is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// What it takes from.
    pub reads: Vec<String>,
    /// What it puts into.
    pub writes: Vec<String>,
    /// What it shares work in: its members know nothing of what another source has taken.
    pub joins: Option<String>,
}

/// What came in and is no acceptable event.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// Where it stands at the peer, as words joined by `/`: the same when it comes again, and unlike every other.
    pub at: String,
    /// The key that the peer filed it under.
    pub key: Option<Bytes>,
    /// The bytes, as they came.
    pub body: Bytes,
    /// Why.
    pub refusal: Refusal,
}

/// One incoming thing.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// A SET.
    Set {
        /// The `jti` under which the peer listed it, where the wire has one; a foreign `jti` need not be one of ours.
        named: Option<Box<str>>,
        /// The compact token.
        token: Bytes,
    },
    /// An event of intake.
    Event {
        /// What makes it the same event when it comes again.
        id: Identity,
        /// The intake JSON.
        body: Bytes,
    },
}

/// By what an event is known when it comes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// By this, whatever the event says of itself.
    Given(String),
    /// By its own `id`; by this where it has none. What stands before its first colon is kept: an event whose own `id` begins so is
    /// refused, so that nobody can take the name of another's event before it comes.
    OrElse(String),
}

/// What became of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is durable.
    Taken,
    /// It is not acceptable.
    Refused(Refusal),
    /// Not now.
    Busy {
        /// Try again then.
        after: Duration,
    },
    /// Answer with this HTTP status and nothing else: what `listen --fail` makes receivers do. Methods without HTTP treat it as busy.
    Status(u16),
}

/// An incoming request or connection of a receiving method.
#[derive(Clone)]
pub struct Arrival {
    /// Where its SETs go.
    pub ingest: Arc<dyn Ingest>,
    /// Who sent them, as far as the listener knows.
    pub peer: Arc<str>,
    /// When it must end.
    pub ends: Stop,
}
