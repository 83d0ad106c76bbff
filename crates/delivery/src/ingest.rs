//! The incoming half: where things go that a method receives.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{BrokerEvent, Refusal, Stop};

/// The place for what a method receives. It answers when everything is durable, never sooner.
pub trait Ingest: Send + Sync {
    /// Takes what `peer` sent and returns one answer each, in order.
    fn accept<'a>(&'a self, peer: &'a str, what: Vec<Incoming>) -> BoxFuture<'a, Vec<Answer>>;

    /// Keeps what is no acceptable event for people to look at, where the peer has no place for it; returns whether it
    /// is durable.
    ///
    /// An ingest that keeps nothing returns false, and the method must not go past such a record.
    fn park(&self, _what: Vec<Rejected>) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }

    /// Takes news of the collecting; the broker that the method names is replaced by the ingest's own name.
    fn report(&self, _event: BrokerEvent) {}
}

/// The places of a source at its peer, by names that are equal wherever the same place is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Places that the source takes from.
    pub reads: Vec<String>,
    /// Places that the source puts into.
    pub writes: Vec<String>,
    /// The group that shares the work; its members know nothing of what another source has taken.
    pub joins: Option<String>,
}

/// A record that came in and is no acceptable event.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// The place of the record at the peer, as words joined by `/`: equal when it comes again, and unlike every other.
    pub at: String,
    /// The key under which the peer filed it.
    pub key: Option<Bytes>,
    /// The bytes as they came.
    pub body: Bytes,
    /// The reason.
    pub refusal: Refusal,
}

/// A SET or an event that came in.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// A SET.
    Set {
        /// The `jti` under which the peer listed it, where the wire has one. A foreign `jti` need not have the form of
        /// ours.
        named: Option<Box<str>>,
        /// The compact token.
        token: Bytes,
    },
    /// An event of intake.
    Event {
        /// The identity by which it is known when it comes again.
        id: Identity,
        /// The intake JSON.
        body: Bytes,
    },
}

/// The identity by which an event is known when it comes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// This text, whatever the event says of itself.
    Given(String),
    /// The event's own `id`; this text where it has none.
    ///
    /// The part before the first colon of the text is reserved: an event whose own `id` begins with it is refused, so
    /// that nobody can take the name of another's event before it comes.
    OrElse(String),
}

/// The answer to one SET or event.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The thing is durable.
    Taken,
    /// The thing is not acceptable.
    Refused(Refusal),
    /// The thing cannot be taken now.
    Busy {
        /// The time after which to try again.
        after: Duration,
    },
    /// Only this HTTP status is to be answered, as `setgate listen --fail` makes receivers do. Methods without HTTP
    /// treat it as busy.
    Status(u16),
}

/// An incoming request or connection of a receiving method.
#[derive(Clone)]
pub struct Arrival {
    /// The place for its SETs.
    pub ingest: Arc<dyn Ingest>,
    /// The sender, as far as the listener knows.
    pub peer: Arc<str>,
    /// A signal that turns true when it must end.
    pub ends: Stop,
}
