//! The part of the router that the intake endpoint uses.

use futures_util::future::BoxFuture;
use setgate_router::{Accepted, Closed};
use setgate_set::Event;
use setgate_store::ProducerNo;

/// A place where the events of one issuer are accepted.
///
/// The router implements it; tests put a stand-in behind the listener.
pub trait Accept: Send + Sync + 'static {
    /// Checks whether events can be accepted now, so that overload is answered before a body is read.
    ///
    /// # Errors
    /// [`Closed`] states the reason and the time after which to try again.
    fn gate(&self) -> Result<(), Closed>;

    /// Accepts events in one commit, and answers each of them, in order, after the commit.
    fn accept(&self, producer: ProducerNo, events: Vec<Event>) -> BoxFuture<'static, Vec<Accepted>>;
}
