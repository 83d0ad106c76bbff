//! What the intake endpoint asks of the router.

use futures_util::future::BoxFuture;
use setgate_router::{Accepted, Closed};
use setgate_set::Event;
use setgate_store::ProducerNo;

/// Takes events under one issuer.
///
/// The router does; a test puts something else behind the listener.
pub trait Accept: Send + Sync + 'static {
    /// Overload is answered at the listener, before a body is read.
    ///
    /// # Errors
    /// [`Closed`] says for how long.
    fn gate(&self) -> Result<(), Closed>;

    /// Takes events in one commit, and answers each, in order, after it.
    fn accept(&self, producer: ProducerNo, events: Vec<Event>) -> BoxFuture<'static, Vec<Accepted>>;
}
