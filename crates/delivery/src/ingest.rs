//! The incoming half: the ingest, to which a method gives what it receives.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{BrokerEvent, Refusal, Stop};

/// The ingest, to which a method gives what it receives. It answers once everything is durable, never sooner.
pub trait Ingest: Send + Sync {
    /// Accepts what `peer` sent and returns one answer for each item, in their order.
    fn accept<'a>(&'a self, peer: &'a str, what: Vec<Incoming>) -> BoxFuture<'a, Vec<Answer>>;

    /// Keeps records that are not acceptable events for an operator to look at, where the peer has no place for them;
    /// returns whether they are durable.
    ///
    /// An ingest that keeps nothing returns false, and the method must not advance past such a record.
    fn park(&self, _what: Vec<Rejected>) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }

    /// Takes a report about the collecting; the broker's name in it is replaced by the ingest's own name.
    fn report(&self, _event: BrokerEvent) {}
}

/// The places of a source at its peer, by names that are equal wherever the same place is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Places that the source reads from.
    pub reads: Vec<String>,
    /// Places that the source writes to.
    pub writes: Vec<String>,
    /// The group whose members share the work; they know nothing of what another source has taken.
    pub joins: Option<String>,
}

/// A received record that is not an acceptable event.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// The place of the record at the peer, as words joined by `/`: the same whenever the record comes again, and
    /// different from that of every other record.
    pub at: String,
    /// The key under which the peer filed it.
    pub key: Option<Bytes>,
    /// The bytes as they came.
    pub body: Bytes,
    /// The reason.
    pub refusal: Refusal,
}

/// A received SET or event.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// A SET.
    Set {
        /// The `jti` under which the peer listed it, where the wire has one. A foreign `jti` need not have the form of
        /// the gateway's own.
        named: Option<Box<str>>,
        /// The compact token.
        token: Bytes,
    },
    /// An event for intake.
    Event {
        /// The identity by which the event is recognised when it comes again.
        id: Identity,
        /// The intake JSON.
        body: Bytes,
    },
}

/// The identity by which an event is recognised when it comes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// This text, whatever `id` the event has itself.
    Given(String),
    /// The event's own `id`, or this text where it has none.
    ///
    /// The part before the first colon of the text is reserved: an event whose own `id` begins with it is refused, so
    /// that no event can claim the name of another before that one arrives.
    OrElse(String),
}

/// The answer to one SET or event.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The SET or event is durable.
    Taken,
    /// The SET or event is not acceptable.
    Refused(Refusal),
    /// The SET or event cannot be accepted now.
    Busy {
        /// The time after which to try again.
        after: Duration,
    },
    /// Only this HTTP status is answered, as `setgate listen --fail` makes receivers do. Methods without HTTP treat it
    /// as busy.
    Status(u16),
}

/// An incoming request or connection of a receiving method.
#[derive(Clone)]
pub struct Arrival {
    /// The ingest for its SETs.
    pub ingest: Arc<dyn Ingest>,
    /// The sender, as far as the listener knows.
    pub peer: Arc<str>,
    /// A signal that turns true when the request or connection must end.
    pub ends: Stop,
}
