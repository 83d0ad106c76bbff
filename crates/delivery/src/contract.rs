//! Method and line: what a transport implements.

use std::{any::Any, future::Future, sync::Arc, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value as Json;
use setgate_clock::Runtime;

use crate::{Arrival, Cause, Closed, Fault, Feed, Ingest, Places, Tap, Window, spi::AnyLine};

/// How a method is called and named: the key of the registry and of `delivery_methods_supported`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The folder's name, and the section `[methods.<name>]`.
    pub name: &'static str,
    /// The method's URI (SSF 1.0 §6.1).
    pub uri: &'static str,
    /// Older spellings that a request may use.
    pub aliases: &'static [&'static str],
}

/// Options that are read from JSON: strict serde, with pointers to what is secret.
pub trait Options: DeserializeOwned + PartialEq + Send + Sync + 'static {
    /// JSON pointers of values that are encrypted at rest and never shown.
    const SECRETS: &'static [&'static str] = &[];
}

/// No options at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoOptions {}
impl Options for NoOptions {}

/// Which stream a line serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The stream's id.
    pub stream: Arc<str>,
    /// The issuer's URL.
    pub issuer: Arc<str>,
    /// Whether the operator declared it; a receiver's own stream is held to stricter rules (https, global addresses).
    pub operator_owned: bool,
}

/// One per process and enabled method. Producers, connections, pools are its fields: that is how lines share them.
pub trait Method: Sized + Send + Sync + 'static {
    /// Its name and URI.
    const ENTRY: Entry;
    /// The operator's `[methods.<name>]`: clusters, connections, credentials.
    type Section: Options;
    /// The operator's word on one client or stream: prefixes, networks, ceilings.
    type Grant: Options;
    /// What a receiver may write in `delivery` beside `method`.
    type Terms: Options;
    /// One stream on it.
    type Line: Line;

    /// Starts the method.
    fn start(section: Self::Section, env: Env) -> impl Future<Output = Result<Self, Fault>> + Send;

    /// Checks terms and grant without I/O; called at create, update, start and `check`. Cheap.
    ///
    /// # Errors
    /// [`Fault::Terms`] names the member that is not acceptable.
    fn line(self: &Arc<Self>, about: &About, terms: Self::Terms, grant: Self::Grant) -> Result<Self::Line, Fault>;

    /// `delivery` as the API shows it: without secrets; `at` is our own endpoint URL for responders.
    fn publish(&self, terms: &Self::Terms, at: &str) -> Json;

    /// A responder's routes: handlers take a [`Visit`] extension; authentication, ownership and 401/403/404 have happened before.
    fn routes(self: &Arc<Self>) -> Option<axum::Router> {
        None
    }

    /// The other end where the peer speaks first: handlers take an [`Arrival`] extension.
    fn receive_routes(self: &Arc<Self>) -> Option<axum::Router> {
        None
    }

    /// The other end where we speak first: takes SETs or events from a peer until `stop`.
    fn collect(
        self: &Arc<Self>,
        _from: Json,
        _into: Arc<dyn Ingest>,
        _stop: Stop,
    ) -> impl Future<Output = Result<(), Fault>> + Send {
        async { Err(Fault::Unsupported("this method does not collect")) }
    }

    /// Checks what [`Method::collect`] would be asked to collect, without I/O; called at start and by `check`.
    ///
    /// # Errors
    /// [`Fault::Terms`] names the member that is not acceptable.
    fn source(&self, _from: Json) -> Result<(), Fault> {
        Err(Fault::Unsupported("this method does not collect"))
    }

    /// What a source touches that [`Method::source`] took: the gateway keeps its sources apart by it.
    fn places(&self, _from: &Json) -> Places {
        Places::default()
    }

    /// Whether streams may ask for it: a method without anything to deliver to is not published in metadata.
    fn is_offered(&self) -> bool {
        true
    }

    /// `setgate check --connect`: what the operator's section names, looked at from here.
    fn probe(&self) -> impl Future<Output = Vec<Finding>> + Send {
        async { Vec::new() }
    }

    /// `setgate check --connect`: the place that a source collects from.
    fn probe_source(&self, _from: Json) -> impl Future<Output = Vec<Finding>> + Send {
        async { Vec::new() }
    }

    /// What a changed section means.
    ///
    /// # Errors
    /// [`Fault::Start`] when the new section is not acceptable; the old one stays.
    fn reload(&self, _new: Self::Section) -> Result<Reload, Fault> {
        Ok(Reload::Replace)
    }

    /// After all lines have ended: flushes and hangs up within `within`.
    fn close(&self, _within: Duration) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// One stream on one method.
pub trait Line: Send + Sync + 'static {
    /// What this line is and can.
    fn profile(&self) -> Profile;

    /// Senders: started when something is due, returns what ended the tap. Responders keep the default and serve visits.
    fn run(&self, _feed: Feed, _tap: Tap) -> impl Future<Output = Closed> + Send {
        async { Closed::Idle }
    }

    /// What its peer does that works and is not as the method has it: shown with the stream. Cheap.
    fn remark(&self) -> Option<String> {
        None
    }

    /// `setgate check --connect`: the place that this line delivers to. Nothing is delivered.
    fn probe(&self) -> impl Future<Output = Vec<Finding>> + Send {
        async { Vec::new() }
    }
}

/// Declared per line, since terms choose; `testkit` tests each claim.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Who speaks first.
    pub voice: Voice,
    /// How a hand-over can fail, hence who may be in flight together.
    pub order: Order,
    /// Who acknowledges.
    pub receipt: setgate_set::Receipt,
    /// What is handed over.
    pub form: Form,
    /// When a handed-over, unsettled SET falls due again.
    pub redelivery: Redelivery,
    /// Sizes.
    pub limits: Limits,
    /// What an operator owns and many lines share (a cluster, a connection). Failures of [`Scope::Endpoint`](crate::Scope)
    /// are its own, and hold all its lines; how much it can bear is told by windows that they share, not tried out.
    pub endpoint: Option<Arc<str>>,
    /// Taken by the feed when SETs are due, before they are claimed; given back when they are settled.
    pub windows: Vec<Window>,
}

/// Who speaks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// The gateway does.
    Sender,
    /// The receiver does.
    Responder,
}

/// A subject's next SET leaves when its earlier unsettled ones are …
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// … none.
    PerSet,
    /// … in the same batch, which arrives whole or not at all.
    PerBatch,
    /// … held by the same tap, whose peer has always seen a prefix of what was handed over.
    PerTap,
}

/// What is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A signed token.
    Token,
    /// The bare claims as JSON, never signed.
    Claims,
}

/// When a handed-over, unsettled SET is due again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redelivery {
    /// When its tap is gone.
    WhenConsumerEnds,
    /// When so much time has passed since the hand-over; survives the tap.
    After(Duration),
}

/// Sizes of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// SETs.
    pub sets: usize,
    /// Bytes of all.
    pub bytes: usize,
    /// Bytes that the wire adds to each.
    pub overhead: usize,
    /// Bytes of one; a larger one is parked by the router as `too_large`.
    pub set_bytes: usize,
}

/// What a changed section means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// It is in force already.
    Applied,
    /// Drain the lines, `close`, `start` anew, in that order.
    Replace,
}

/// One line of `check --connect`.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// Whether it is well.
    pub good: bool,
    /// What to do.
    pub remedy: String,
}

/// What the gateway lends a method: guarded network, clock, randomness, tasks, a place to report to.
#[derive(Clone)]
pub struct Env {
    /// Guarded HTTP clients, one per pool key.
    pub http: setgate_net::Outbound,
    /// Clock, randomness, tasks.
    pub runtime: Runtime,
    /// Where brokers report.
    pub report: Arc<dyn Fn(BrokerEvent) + Send + Sync>,
}

/// What becomes of something many lines share.
#[derive(Clone, Debug)]
pub enum BrokerEvent {
    /// It is there.
    Up {
        /// Its name.
        broker: Arc<str>,
    },
    /// It is not.
    Down {
        /// Its name.
        broker: Arc<str>,
        /// Why.
        cause: Cause,
    },
    /// What it tells of itself now and then; each figure replaces the one of that name before.
    Figures {
        /// Its name.
        broker: Arc<str>,
        /// Names of `snake_case`, with their unit, and values.
        figures: Vec<(&'static str, f64)>,
    },
}

/// Turns true when everything must end.
pub type Stop = tokio::sync::watch::Receiver<bool>;

/// Ends when the signal is true. A signal that nobody can raise any more never comes.
pub async fn raised(stop: &mut Stop) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A request or connection that was let in: for which stream, until when.
#[derive(Clone)]
pub struct Visit {
    /// The stream as the method sees it.
    pub feed: Feed,
    /// The stream's line.
    pub line: Arc<dyn AnyLine>,
    /// Where SETs of the peer go, when it may send any (hardening H25).
    pub ingest: Option<Arc<dyn Ingest>>,
    /// Who visits, as the guard knows it: for logs and for the ingest.
    pub peer: Arc<str>,
    /// Turns true when the credential of the visit is over: expired, or taken away. Deletion, disabling and drain are told
    /// by the tap.
    pub ends: Stop,
}

impl Visit {
    /// The line as the method made it; `None` for another method's.
    #[must_use]
    pub fn line<L: Line>(&self) -> Option<&L> {
        (self.line.as_any() as &dyn Any).downcast_ref()
    }
}

/// Keeps the names together: a receiving handler's extension is an [`Arrival`].
const _: fn(Arrival) = |_| {};
