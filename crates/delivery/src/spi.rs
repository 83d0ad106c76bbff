//! The interfaces that the router and the testkit implement; a transport never sees them.

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
    About, Attempt, Batch, Cause, Channel, Closed, Consumer, DeliveryMode, Entry, Env, Fault, Finding, Ingest, Method,
    Options, Outcome, Places, Profile, Stop, Subscription, Want,
};

/// The router's side of a [`Subscription`].
pub trait SubscriptionCore: Send + Sync {
    /// Opens a consumer; `mode` is its delivery mode where that differs from the channel's.
    fn consumer(&self, mode: Option<DeliveryMode>) -> Box<dyn ConsumerCore>;
    /// Takes outcomes and returns the number of SETs in flight that they ended.
    fn settle(&self, all: Vec<(Jti, Option<Attempt>, Outcome)>) -> usize;
    /// Notes that the peer has these SETs and that their outcomes come later.
    fn reached(&self, _sets: &[(Jti, Attempt)]) {}
    /// Returns the number of SETs that are handed over and unsettled, and of those that are owed and not handed over.
    fn counts(&self) -> (usize, usize);
    /// Notes the reason why nothing leaves although SETs wait; `None` clears it.
    fn stalled(&self, why: Option<Cause>);
    /// Returns whether a consumer that asked now would get something, as far as this is known without asking.
    fn has_due(&self) -> bool {
        self.counts().1 > 0
    }
    /// Returns whether the stream is paused.
    fn is_paused(&self) -> bool {
        false
    }
}

/// The router's side of a [`Consumer`]. The state of its work lives here, not in futures.
pub trait ConsumerCore: Send {
    /// Polls for the next batch, and advances the work towards it.
    fn poll_next_batch(&mut self, want: &Want, cx: &mut Context<'_>) -> Poll<Result<Batch, Closed>>;
    /// Becomes ready when nothing that this consumer handed over is unsettled, or when the drain deadline has passed.
    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    /// Returns whether SETs are leased and being prepared; a caller whose wait is over still waits for these.
    fn is_preparing(&self) -> bool {
        false
    }
}

/// The lease of a batch, held until the hand-over. Dropping it gives back all of its SETs.
pub trait Lease: Send {
    /// Begins the hand-over.
    fn handed_over(self: Box<Self>);
}

/// The state behind a [`crate::Window`]: counts the room that is taken, and wakes waiters, first come, first served.
#[derive(Debug)]
pub struct WindowCore(Mutex<WindowState>);

struct WindowState {
    limit: [usize; 3],
    taken: [usize; 3],
    /// Waiters in the order in which they came.
    waiting: BTreeMap<u64, Arc<dyn Fn() + Send + Sync>>,
    waiters: u64,
}

impl WindowState {
    /// Returns whether a batch of this size fits. A batch larger than the whole window passes alone, since nothing else
    /// could ever let it through.
    fn fits(&self, sets: usize, bytes: usize) -> bool {
        let more = [sets, 1, bytes];
        let mut all = self.taken.iter().zip(more).zip(self.limit);
        all.all(|((taken, more), limit)| taken + more <= limit || (*taken == 0 && limit > 0))
    }

    fn queue(&mut self, wake: Arc<dyn Fn() + Send + Sync>) -> u64 {
        self.waiters += 1;
        self.waiting.insert(self.waiters, wake);
        self.waiters
    }

    fn room(&self) -> usize {
        let [sets, batches, bytes] = self.limit;
        let [s, b, y] = self.taken;
        if b >= batches || y >= bytes { 0 } else { sets.saturating_sub(s) }
    }

    /// Removes and returns the longest waiter, if there is room.
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
    /// Makes a window with these limits.
    #[must_use]
    pub fn new(sets: usize, batches: usize, bytes: usize) -> Self {
        Self(Mutex::new(WindowState {
            limit: [sets, batches, bytes],
            taken: [0; 3],
            waiting: BTreeMap::new(),
            waiters: 0,
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

    /// Returns the number of SETs that there is room for now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.0.lock().room()
    }

    /// Takes room for a whole batch or none at all; returns whether the batch fitted.
    #[must_use]
    pub fn reserve(&self, sets: usize, bytes: usize) -> bool {
        let mut state = self.0.lock();
        if !state.fits(sets, bytes) {
            return false;
        }
        let [s, b, y] = state.taken;
        state.taken = [s + sets, b + 1, y + bytes];
        true
    }

    /// Queues `wake` to be called once room was given back, and returns its ticket; returns `None` when a batch of this
    /// size fits by now.
    pub fn when_it_fits(&self, sets: usize, bytes: usize, wake: Arc<dyn Fn() + Send + Sync>) -> Option<u64> {
        let mut state = self.0.lock();
        (!state.fits(sets, bytes)).then(|| state.queue(wake))
    }

    /// Gives room back; `batches` is 1 with the last SET of a batch.
    ///
    /// If there is room now, the longest waiter is woken. A waiter that takes less than all of it, or nothing, wakes
    /// the next one with [`WindowCore::pass_on`].
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

    /// Queues `wake` to be called once there may be room, and returns its ticket.
    ///
    /// The caller then tries again. If it takes nothing, it wakes the next one with [`WindowCore::pass_on`].
    pub fn when_room(&self, wake: Arc<dyn Fn() + Send + Sync>) -> u64 {
        self.0.lock().queue(wake)
    }

    /// Withdraws a waiter; returns whether it was still waiting.
    pub fn withdraw(&self, waiter: u64) -> bool {
        self.0.lock().waiting.remove(&waiter).is_some()
    }

    /// Wakes the longest waiter, if there is room.
    pub fn pass_on(&self) {
        let next = self.0.lock().next();
        if let Some(wake) = next {
            wake();
        }
    }
}

/// A method behind a trait object.
pub trait AnyMethod: Send + Sync {
    /// Returns the name and the URI.
    fn entry(&self) -> Entry;
    /// Checks terms and grant, given as JSON, and makes the channel.
    ///
    /// # Errors
    /// [`Fault::Terms`] names the member that is not acceptable.
    fn channel(&self, about: &About, terms: Json, grant: Json) -> Result<Arc<dyn AnyChannel>, Fault>;
    /// Returns `delivery` as the API shows it.
    ///
    /// # Errors
    /// [`Fault::Terms`] when the terms are not the method's own.
    fn publish(&self, terms: Json, at: &str) -> Result<Json, Fault>;
    /// Returns the JSON pointers of the secret terms.
    fn secret_terms(&self) -> &'static [&'static str] {
        &[]
    }
    /// Returns the JSON pointers of the secret members of the grant.
    fn secret_grant(&self) -> &'static [&'static str] {
        &[]
    }
    /// Returns a responder's routes.
    fn routes(&self) -> Option<axum::Router> {
        None
    }
    /// Returns the routes of the receiving end.
    fn receive_routes(&self) -> Option<axum::Router> {
        None
    }
    /// Takes SETs or events from a peer until `stop` is raised.
    fn collect(&self, _from: Json, _into: Arc<dyn Ingest>, _stop: Stop) -> BoxFuture<'static, Result<(), Fault>> {
        Box::pin(async { Err(Fault::Unsupported("this method does not collect")) })
    }
    /// Checks the source that would be collected from, without I/O.
    ///
    /// # Errors
    /// [`Fault::Terms`] names the member that is not acceptable.
    fn source(&self, _from: Json) -> Result<(), Fault> {
        Err(Fault::Unsupported("this method does not collect"))
    }
    /// Returns the places that a source reads from and writes to.
    fn places(&self, _from: &Json) -> Places {
        Places::default()
    }
    /// Returns whether streams may ask for the method.
    fn is_offered(&self) -> bool {
        true
    }
    /// Probes what the section names, for `setgate check --connect`.
    fn probe(&self) -> BoxFuture<'_, Vec<Finding>> {
        Box::pin(async { Vec::new() })
    }
    /// Probes the place of a source, for `setgate check --connect`.
    fn probe_source(&self, _from: Json) -> BoxFuture<'_, Vec<Finding>> {
        Box::pin(async { Vec::new() })
    }
    /// Flushes and closes all connections within `within`.
    fn close(&self, _within: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// A channel behind a trait object.
pub trait AnyChannel: Send + Sync {
    /// Returns the properties of the channel.
    fn profile(&self) -> Profile;
    /// Returns a remark on a peer that works but deviates from the method.
    fn remark(&self) -> Option<String> {
        None
    }
    /// Runs a sender's channel.
    fn run(self: Arc<Self>, subscription: Subscription, consumer: Consumer) -> BoxFuture<'static, Closed>;
    /// Probes the place that the channel delivers to, for `setgate check --connect`.
    fn probe(&self) -> BoxFuture<'_, Vec<Finding>>;
    /// Returns the channel itself, for the method that made it.
    fn as_any(&self) -> &(dyn Any + Send + Sync);
}

impl<C: Channel> AnyChannel for C {
    fn profile(&self) -> Profile {
        Channel::profile(self)
    }

    fn remark(&self) -> Option<String> {
        Channel::remark(self)
    }

    fn run(self: Arc<Self>, subscription: Subscription, consumer: Consumer) -> BoxFuture<'static, Closed> {
        Box::pin(async move { Channel::run(&*self, subscription, consumer).await })
    }

    fn probe(&self) -> BoxFuture<'_, Vec<Finding>> {
        Box::pin(Channel::probe(self))
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

    fn channel(&self, about: &About, terms: Json, grant: Json) -> Result<Arc<dyn AnyChannel>, Fault> {
        Ok(Arc::new(self.0.channel(about, read(terms, "")?, read(grant, "/grant")?)?))
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

/// Reads options; a fault names the member that is wrong.
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
