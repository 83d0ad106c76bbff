//! What the intake door asks of the router.

use std::time::Duration;

use futures_util::future::BoxFuture;
use set::Event;
use store::{Position, ProducerNo};

/// Takes events under one issuer.
///
/// The router does; a test puts something else behind the door.
pub trait Accept: Send + Sync + 'static {
    /// Overload is answered at the door, before a body is read.
    ///
    /// # Errors
    /// [`Closed`] says for how long.
    fn gate(&self) -> Result<(), Closed>;

    /// Takes events in one commit, and answers each, in order, after it.
    fn accept(&self, producer: ProducerNo, events: Vec<Event>) -> BoxFuture<'static, Vec<Accepted>>;
}

/// What became of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is durable.
    New {
        /// Where it stands.
        at: Position,
        /// What all SETs of it share.
        txn: Box<str>,
    },
    /// It was accepted before.
    Repeat {
        /// The `txn` of the first answer.
        txn: Box<str>,
    },
    /// Another event was accepted with its `id`.
    Conflict,
    /// Its subject names a stream of this gateway (hardening H3).
    NamesStream,
    /// The store cannot take it now.
    Unavailable(Closed),
}

/// Why nothing is taken now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// For the caller; it tells nothing of the inside.
    pub why: String,
    /// When to try again.
    pub retry_after: Duration,
    /// 429 or 503.
    pub status: u16,
}
