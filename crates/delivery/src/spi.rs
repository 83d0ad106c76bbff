//! What the router and the testkit implement; a transport never sees it.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value as Json;
use setgate_set::Jti;

use crate::{
    About, Attempt, Batch, Cause, Closed, Entry, Env, Fault, Feed, Finding, Ingest, Line, Manner, Method, Options,
    Outcome, Places, Profile, Stop, Tap, Want,
};

/// Behind a [`Feed`].
pub trait FeedCore: Send + Sync {
    /// A new drawer; `manner` where it hands over in another way than its line declares.
    fn tap(&self, manner: Option<Manner>) -> Box<dyn TapCore>;
    /// Outcomes; tells how many SETs that are handed over found their end.
    fn settle(&self, all: Vec<(Jti, Option<Attempt>, Outcome)>) -> usize;
    /// The peer has these; their outcomes come later.
    fn reached(&self, _sets: &[(Jti, Attempt)]) {}
    /// (handed over and unsettled, owed and not handed over).
    fn counts(&self) -> (usize, usize);
    /// Why nothing is drawn.
    fn stalled(&self, why: Option<Cause>);
    /// Whether a tap that asked now would get something, as far as that is known without asking.
    fn has_due(&self) -> bool {
        self.counts().1 > 0
    }
    /// Whether the stream is paused.
    fn is_paused(&self) -> bool {
        false
    }
}

/// Behind a [`Tap`]. The state of drawing lives here, not in futures.
pub trait TapCore: Send {
    /// Works towards the next batch.
    fn poll_next(&mut self, want: &Want, cx: &mut Context<'_>) -> Poll<Result<Batch, Closed>>;
    /// Ready when nothing this tap handed over is unsettled, or the drain deadline has passed.
    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    /// Whether SETs are claimed and being made ready: who waited long enough waits for these still.
    fn is_drawing(&self) -> bool {
        false
    }
}

/// What a batch holds until it is handed over. Dropping it hands everything back.
pub trait Claim: Send {
    /// The hand-over begins.
    fn handed_over(self: Box<Self>);
}

/// Behind a [`crate::Window`]: counts what is taken, wakes who waits, first come first served.
#[derive(Debug)]
pub struct WindowCore(Mutex<WindowState>);

struct WindowState {
    limit: [usize; 3],
    taken: [usize; 3],
    /// In the order in which they came.
    waiting: BTreeMap<u64, Arc<dyn Fn() + Send + Sync>>,
    tickets: u64,
}

impl WindowState {
    /// A batch larger than the whole window passes alone: nothing else could ever let it through.
    fn fits(&self, sets: usize, bytes: usize) -> bool {
        let more = [sets, 1, bytes];
        let mut all = self.taken.iter().zip(more).zip(self.limit);
        all.all(|((taken, more), limit)| taken + more <= limit || (*taken == 0 && limit > 0))
    }

    fn queue(&mut self, wake: Arc<dyn Fn() + Send + Sync>) -> u64 {
        self.tickets += 1;
        self.waiting.insert(self.tickets, wake);
        self.tickets
    }

    fn room(&self) -> usize {
        let [sets, batches, bytes] = self.limit;
        let [s, b, y] = self.taken;
        if b >= batches || y >= bytes { 0 } else { sets.saturating_sub(s) }
    }

    /// The next who waits, if there is room.
    fn next(&mut self) -> Option<Arc<dyn Fn() + Send + Sync>> {
        if self.room() == 0 { None } else { self.waiting.pop_first().map(|(_, wake)| wake) }
    }
}

impl std::fmt::Debug for WindowState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} of {:?}", self.taken, self.limit)
    }
}

impl WindowCore {
    /// A window with these limits.
    #[must_use]
    pub fn new(sets: usize, batches: usize, bytes: usize) -> Self {
        Self(Mutex::new(WindowState {
            limit: [sets, batches, bytes],
            taken: [0; 3],
            waiting: BTreeMap::new(),
            tickets: 0,
        }))
    }

    /// Changes the limits.
    pub fn limit(&self, sets: usize, batches: usize, bytes: usize) {
        let wake = {
            let mut state = self.0.lock();
            state.limit = [sets, batches, bytes];
            std::mem::take(&mut state.waiting)
        };
        wake.values().for_each(|wake| wake());
    }

    /// Room for SETs now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.0.lock().room()
    }

    /// Takes room for a batch, whole or not at all.
    #[must_use]
    pub fn take(&self, sets: usize, bytes: usize) -> bool {
        let mut state = self.0.lock();
        if !state.fits(sets, bytes) {
            return false;
        }
        let [s, b, y] = state.taken;
        state.taken = [s + sets, b + 1, y + bytes];
        true
    }

    /// Calls `wake` once when something was given back; nothing, when a batch of this size fits by now.
    pub fn when_it_fits(&self, sets: usize, bytes: usize, wake: Arc<dyn Fn() + Send + Sync>) -> Option<u64> {
        let mut state = self.0.lock();
        (!state.fits(sets, bytes)).then(|| state.queue(wake))
    }

    /// Gives back; `batches` is 1 with the last SET of a batch. Where there is room now, the next who waits is woken; who takes
    /// less than there is, or nothing, passes the chance on with [`WindowCore::pass_on`].
    pub fn give(&self, sets: usize, batches: usize, bytes: usize) {
        let wake = {
            let mut state = self.0.lock();
            let [s, b, y] = state.taken;
            state.taken = [s.saturating_sub(sets), b.saturating_sub(batches), y.saturating_sub(bytes)];
            state.next()
        };
        if let Some(wake) = wake {
            wake();
        }
    }

    /// Calls `wake` once when room may be there; the caller then tries again and, if it does not take, passes the chance on
    /// with [`WindowCore::pass_on`].
    pub fn when_room(&self, wake: Arc<dyn Fn() + Send + Sync>) -> u64 {
        self.0.lock().queue(wake)
    }

    /// Withdraws a waiter; tells whether it was still waiting.
    pub fn withdraw(&self, ticket: u64) -> bool {
        self.0.lock().waiting.remove(&ticket).is_some()
    }

    /// Wakes the next who waits, if there is room.
    pub fn pass_on(&self) {
        let next = self.0.lock().next();
        if let Some(wake) = next {
            wake();
        }
    }
}

/// A method whose types are forgotten.
pub trait AnyMethod: Send + Sync {
    /// Its name and URI.
    fn entry(&self) -> Entry;
    /// Checks terms and grant, given as JSON, and makes the line.
    ///
    /// # Errors
    /// [`Fault::Terms`] names the member that is not acceptable.
    fn line(&self, about: &About, terms: Json, grant: Json) -> Result<Arc<dyn AnyLine>, Fault>;
    /// `delivery` as the API shows it.
    ///
    /// # Errors
    /// [`Fault::Terms`] when the terms are not its own.
    fn publish(&self, terms: Json, at: &str) -> Result<Json, Fault>;
    /// JSON pointers of secret terms.
    fn secret_terms(&self) -> &'static [&'static str];
    /// JSON pointers of secret members of the grant.
    fn secret_grant(&self) -> &'static [&'static str] {
        &[]
    }
    /// A responder's routes.
    fn routes(&self) -> Option<axum::Router>;
    /// A receiver's routes.
    fn receive_routes(&self) -> Option<axum::Router>;
    /// Takes SETs or events from a peer.
    fn collect(&self, from: Json, into: Arc<dyn Ingest>, stop: Stop) -> BoxFuture<'static, Result<(), Fault>>;
    /// Checks what would be collected.
    ///
    /// # Errors
    /// [`Fault::Terms`] names the member that is not acceptable.
    fn source(&self, _from: Json) -> Result<(), Fault> {
        Err(Fault::Unsupported("this method does not collect"))
    }
    /// What a source touches.
    fn places(&self, _from: &Json) -> Places {
        Places::default()
    }
    /// Whether streams may ask for it.
    fn is_offered(&self) -> bool {
        true
    }
    /// `check --connect`.
    fn probe(&self) -> BoxFuture<'_, Vec<Finding>>;
    /// `check --connect`, of a source.
    fn probe_source(&self, _from: Json) -> BoxFuture<'_, Vec<Finding>> {
        Box::pin(async { Vec::new() })
    }
    /// Flushes and hangs up.
    fn close(&self, within: Duration) -> BoxFuture<'_, ()>;
}

/// A line whose type is forgotten.
pub trait AnyLine: Send + Sync {
    /// What it is and can.
    fn profile(&self) -> Profile;
    /// What its peer does that works and is not as the method has it.
    fn remark(&self) -> Option<String> {
        None
    }
    /// Runs a sender.
    fn run(self: Arc<Self>, feed: Feed, tap: Tap) -> BoxFuture<'static, Closed>;
    /// `check --connect`.
    fn probe(&self) -> BoxFuture<'_, Vec<Finding>>;
    /// Itself, for the method that made it.
    fn as_any(&self) -> &(dyn Any + Send + Sync);
}

impl<L: Line> AnyLine for L {
    fn profile(&self) -> Profile {
        Line::profile(self)
    }

    fn remark(&self) -> Option<String> {
        Line::remark(self)
    }

    fn run(self: Arc<Self>, feed: Feed, tap: Tap) -> BoxFuture<'static, Closed> {
        Box::pin(async move { Line::run(&*self, feed, tap).await })
    }

    fn probe(&self) -> BoxFuture<'_, Vec<Finding>> {
        Box::pin(Line::probe(self))
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}

struct Erased<M>(Arc<M>);

impl<M: Method> AnyMethod for Erased<M> {
    fn entry(&self) -> Entry {
        M::ENTRY
    }

    fn line(&self, about: &About, terms: Json, grant: Json) -> Result<Arc<dyn AnyLine>, Fault> {
        Ok(Arc::new(self.0.line(about, read(terms, "")?, read(grant, "/grant")?)?))
    }

    fn publish(&self, terms: Json, at: &str) -> Result<Json, Fault> {
        Ok(self.0.publish(&read(terms, "")?, at))
    }

    fn secret_terms(&self) -> &'static [&'static str] {
        M::Terms::SECRETS
    }

    fn secret_grant(&self) -> &'static [&'static str] {
        M::Grant::SECRETS
    }

    fn routes(&self) -> Option<axum::Router> {
        self.0.routes()
    }

    fn receive_routes(&self) -> Option<axum::Router> {
        self.0.receive_routes()
    }

    fn collect(&self, from: Json, into: Arc<dyn Ingest>, stop: Stop) -> BoxFuture<'static, Result<(), Fault>> {
        let method = self.0.clone();
        Box::pin(async move { method.collect(from, into, stop).await })
    }

    fn source(&self, from: Json) -> Result<(), Fault> {
        self.0.source(from)
    }

    fn places(&self, from: &Json) -> Places {
        self.0.places(from)
    }

    fn is_offered(&self) -> bool {
        self.0.is_offered()
    }

    fn probe(&self) -> BoxFuture<'_, Vec<Finding>> {
        Box::pin(self.0.probe())
    }

    fn probe_source(&self, from: Json) -> BoxFuture<'_, Vec<Finding>> {
        Box::pin(self.0.probe_source(from))
    }

    fn close(&self, within: Duration) -> BoxFuture<'_, ()> {
        Box::pin(self.0.close(within))
    }
}

/// Reads options; the fault says which member is wrong.
fn read<T: Options>(options: Json, under: &str) -> Result<T, Fault> {
    serde_json::from_value(options).map_err(|error| Fault::Terms {
        pointer: under.to_owned(),
        cause: Cause::configuration("invalid", error.to_string()),
    })
}

/// Starts a method from its section, given as JSON.
///
/// # Errors
/// [`Fault::Start`] when the section is not acceptable or the method cannot start.
pub async fn start<M: Method>(section: Json, env: Env) -> Result<Arc<dyn AnyMethod>, Fault> {
    let section = serde_json::from_value(section).map_err(|error| {
        Fault::Start(Cause::configuration("configuration", format!("[methods.{}]: {error}", M::ENTRY.name)))
    })?;
    Ok(Arc::new(Erased(Arc::new(M::start(section, env).await?))))
}

#[cfg(test)]
mod tests;
