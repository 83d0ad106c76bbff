//! Method and channel: what a transport implements.

use std::{any::Any, future::Future, sync::Arc, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value as Json;
use setgate_clock::Runtime;

use crate::{Arrival, Cause, Closed, Consumer, Fault, Ingest, Places, Subscription, Window, spi::AnyChannel};

/// The name and the URI of a method: its key in the registry and in `delivery_methods_supported` (SSF 1.0 §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name: the transport's folder, and the section `[methods.<name>]`.
    pub name: &'static str,
    /// The URI (SSF 1.0 §6.1).
    pub uri: &'static str,
    /// Older spellings that a request may use.
    pub aliases: &'static [&'static str],
}

/// Options read from JSON by a strict serde type, with pointers to the secret ones.
pub trait Options: DeserializeOwned + PartialEq + Send + Sync + 'static {
    /// JSON pointers of the values that are encrypted at rest and never shown.
    const SECRETS: &'static [&'static str] = &[];
}

/// An empty set of options: any member is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoOptions {}
impl Options for NoOptions {}

/// The stream that a channel is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The stream's id.
    pub stream: Arc<str>,
    /// The issuer's URL.
    pub issuer: Arc<str>,
    /// True when the operator declared the stream. A receiver's own stream is held to stricter rules: https, global
    /// addresses.
    pub operator_owned: bool,
}

/// A delivery method: one object for each process in which it is enabled.
///
/// Producers, connections and pools are its fields, and that is how channels share them.
pub trait Method: Sized + Send + Sync + 'static {
    /// The name and the URI of the method.
    const ENTRY: Entry;
    /// The operator's section `[methods.<name>]`: clusters, connections, credentials.
    type Section: Options;
    /// The options that the operator grants to one stream: prefixes, networks, ceilings.
    type Grant: Options;
    /// The members that a receiver may write in `delivery` beside `method`.
    type Terms: Options;
    /// The channel: one stream on this method.
    type Channel: Channel;

    /// Starts the method from its section. An unacceptable section is a [`Fault::Start`].
    fn start(section: Self::Section, env: Env) -> impl Future<Output = Result<Self, Fault>> + Send;

    /// Makes the channel of a stream after checking terms and grant without I/O.
    ///
    /// The router calls it when a stream is created or changed, at each start, and for `setgate check`, so it must be
    /// cheap.
    ///
    /// # Errors
    /// [`Fault::Terms`] names the member that is not acceptable.
    fn channel(self: &Arc<Self>, about: &About, terms: Self::Terms, grant: Self::Grant)
    -> Result<Self::Channel, Fault>;

    /// Returns `delivery` as the API shows it, without secrets. `at` is the gateway's own URL of the stream, for
    /// responders.
    fn publish(&self, terms: &Self::Terms, at: &str) -> Json;

    /// Returns a responder's routes, relative to the URL of one stream.
    ///
    /// Handlers take a [`Session`] extension. Authentication and ownership are checked before a handler is called, and
    /// the answers 401, 403 and 404 are given there.
    fn routes(self: &Arc<Self>) -> Option<axum::Router> {
        None
    }

    /// Returns the routes of the receiving end, where the peer speaks first. Handlers take an [`Arrival`] extension.
    fn receive_routes(self: &Arc<Self>) -> Option<axum::Router> {
        None
    }

    /// Runs the receiving end where this side speaks first: takes SETs or events from a peer until `stop` is raised.
    ///
    /// `from` says what to collect, as [`Method::source`] checked it.
    fn collect(
        self: &Arc<Self>,
        _from: Json,
        _into: Arc<dyn Ingest>,
        _stop: Stop,
    ) -> impl Future<Output = Result<(), Fault>> + Send {
        async { Err(Fault::Unsupported("this method does not collect")) }
    }

    /// Checks what [`Method::collect`] would be asked to collect, without I/O; called at start and by `setgate check`.
    ///
    /// # Errors
    /// [`Fault::Terms`] names the member that is not acceptable.
    fn source(&self, _from: Json) -> Result<(), Fault> {
        Err(Fault::Unsupported("this method does not collect"))
    }

    /// Returns the places that a source reads from and writes to, by which the gateway keeps its sources apart; called
    /// after [`Method::source`] accepted the source.
    fn places(&self, _from: &Json) -> Places {
        Places::default()
    }

    /// Returns whether streams may ask for the method. A method that has nothing to deliver to is not published in the
    /// metadata.
    fn is_offered(&self) -> bool {
        true
    }

    /// Probes what the operator's section names, for `setgate check --connect`.
    fn probe(&self) -> impl Future<Output = Vec<Finding>> + Send {
        async { Vec::new() }
    }

    /// Probes the place that a source collects from, for `setgate check --connect`.
    fn probe_source(&self, _from: Json) -> impl Future<Output = Vec<Finding>> + Send {
        async { Vec::new() }
    }

    /// Flushes and closes all connections within `within`; called after all channels have ended.
    fn close(&self, _within: Duration) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// A channel: one stream on one method.
pub trait Channel: Send + Sync + 'static {
    /// Returns the properties of this channel. The test kit tests each of them.
    fn profile(&self) -> Profile;

    /// Runs a sender's channel and returns the reason for which its consumer ended. The router starts it when something
    /// is due.
    ///
    /// Responders keep the default and serve sessions.
    fn run(&self, _subscription: Subscription, _consumer: Consumer) -> impl Future<Output = Closed> + Send {
        async { Closed::Idle }
    }

    /// Returns a remark on a peer that works but deviates from the method; it is shown with the stream. The call must
    /// be cheap.
    fn remark(&self) -> Option<String> {
        None
    }

    /// Probes the place that this channel delivers to, for `setgate check --connect`. Nothing is delivered.
    fn probe(&self) -> impl Future<Output = Vec<Finding>> + Send {
        async { Vec::new() }
    }
}

/// The properties of a channel. They belong to the channel and not to the method, since terms choose them; the test kit
/// tests each of them.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The side that speaks first.
    pub initiator: Initiator,
    /// The unit in which a hand-over can fail, which decides which SETs may be in flight together.
    pub order: Order,
    /// The side that acknowledges.
    pub receipt: setgate_set::Receipt,
    /// The form in which a SET is handed over.
    pub form: Form,
    /// The time at which a SET that was handed over and is not settled falls due again.
    pub redelivery: Redelivery,
    /// The sizes of a batch and of a SET.
    pub limits: Limits,
    /// The name of what an operator owns and many channels share, such as a cluster or a connection.
    ///
    /// Failures of [`Scope::Endpoint`](crate::Scope) are the endpoint's own and hold all its channels. The windows that
    /// these share state its capacity; the router does not probe for it.
    pub endpoint: Option<Arc<str>>,
    /// The windows that the router takes room from before it leases SETs; the room is given back when they are settled.
    pub windows: Vec<Window>,
}

/// The side that speaks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiator {
    /// The gateway: it connects and sends SETs when they are due. Its channel is a sender's.
    Gateway,
    /// The receiver: it connects or asks, and the gateway responds.
    Receiver,
}

/// The condition under which a SET may leave while earlier SETs of its order key are unsettled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The order key has no earlier unsettled SET.
    PerSet,
    /// The earlier ones are in the same batch, which arrives whole or not at all.
    PerBatch,
    /// The earlier ones are held by the same consumer, whose peer has always seen a prefix of what was handed over.
    PerConsumer,
}

/// The form in which a SET is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A signed token.
    Token,
    /// The bare claims as JSON, without a signature.
    Claims,
}

/// The time at which a SET that was handed over and is not settled is due again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redelivery {
    /// The end of the consumer that handed it over.
    WhenConsumerEnds,
    /// This long after the hand-over, whether or not the consumer is still there: the redelivery timeout.
    After(Duration),
}

/// The largest sizes of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Number of SETs.
    pub sets: usize,
    /// Bytes of all SETs together.
    pub bytes: usize,
    /// Bytes that the wire adds to each SET.
    pub overhead: usize,
    /// Bytes of one SET; the router parks a larger one as `too_large`.
    pub set_bytes: usize,
}

/// One finding of `setgate check --connect`.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The subject of the check.
    pub what: String,
    /// True when the check found no fault.
    pub good: bool,
    /// The advice to the operator when it found one.
    pub remedy: String,
}

/// The parts of the gateway that a method may use: guarded network, clock, randomness, tasks and a place to report to.
#[derive(Clone)]
pub struct Env {
    /// Guarded HTTP clients, one for each pool key.
    pub http: setgate_net::Outbound,
    /// Clock, randomness, tasks.
    pub runtime: Runtime,
    /// The function to which the state of brokers is reported.
    pub report: Arc<dyn Fn(BrokerEvent) + Send + Sync>,
}

/// A report about a broker, which many channels share.
#[derive(Clone, Debug)]
pub enum BrokerEvent {
    /// The broker is reachable.
    Up {
        /// The name of the broker.
        broker: Arc<str>,
    },
    /// The broker is not reachable.
    Down {
        /// The name of the broker.
        broker: Arc<str>,
        /// The reason.
        cause: Cause,
    },
    /// Figures that the broker reports from time to time; each replaces the earlier one of the same name.
    Figures {
        /// The name of the broker.
        broker: Arc<str>,
        /// Names in `snake_case` that end with their unit, and values.
        figures: Vec<(&'static str, f64)>,
    },
}

/// A signal that turns true when everything must end.
pub type Stop = tokio::sync::watch::Receiver<bool>;

/// Waits until the signal is true. A signal whose sender is gone is never raised.
pub async fn raised(stop: &mut Stop) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A session: a request or connection that was let in, for one stream, until its credential ends.
#[derive(Clone)]
pub struct Session {
    /// The subscription: the stream as the method sees it.
    pub subscription: Subscription,
    /// The stream's channel.
    pub channel: Arc<dyn AnyChannel>,
    /// The ingest for SETs of the peer, when it may send any (hardening H25).
    pub ingest: Option<Arc<dyn Ingest>>,
    /// The name of the receiver, as the guard knows it: for logs and for the ingest.
    pub peer: Arc<str>,
    /// A signal that turns true when the credential of the session has expired or was revoked.
    ///
    /// Deletion, disabling and drain are reported by the consumer instead.
    pub ends: Stop,
}

impl Session {
    /// Returns the channel as the method made it; `None` for another method's.
    #[must_use]
    pub fn channel<C: Channel>(&self) -> Option<&C> {
        (self.channel.as_any() as &dyn Any).downcast_ref()
    }
}

/// Uses the import that the documentation links to: a receiving handler's extension is an [`Arrival`].
const _: fn(Arrival) = |_| {};
