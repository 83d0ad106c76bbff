//! The state that all subscriptions of a router share, and the commands that they send to it from any thread.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use setgate_clock::Runtime;
use setgate_delivery::Outcome;
use setgate_set::Jti;
use setgate_store::{Named, Settlement, Store, StreamNo};
use tokio::sync::mpsc;

use crate::{
    Config, Observed,
    endpoint::Endpoint,
    seal::{Pool, SealCache},
    settle::Settler,
    slot::Slot,
    subscription::Subscription,
    timers::Timers,
};

/// The state that all subscriptions share.
pub(crate) struct Shared {
    pub(crate) runtime: Runtime,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) config: Config,
    pub(crate) pool: Pool,
    pub(crate) settler: Arc<Settler>,
    pub(crate) cache: SealCache,
    pub(crate) timers: Timers,
    pub(crate) observed: Observed,
    /// True while the store accepts no settlements: nothing is fetched until it does.
    pub(crate) halted: AtomicBool,
    /// True while the store is open as a copy: nothing is fetched until it is adopted.
    pub(crate) held: AtomicBool,
    /// The number of SETs that stand in the lanes of all streams.
    pub(crate) ready: AtomicUsize,
    /// The endpoints that channels share, by name, each for as long as it serves a stream.
    endpoints: Mutex<HashMap<Arc<str>, Weak<Endpoint>>>,
    commands: mpsc::UnboundedSender<Command>,
}

/// A command that a subscription sends to the router from any thread.
pub(crate) enum Command {
    /// Run the channel of a sender.
    Run(Arc<Subscription>),
    /// Read on in the store for owed SETs.
    Scan(Arc<Subscription>),
    /// Write durably that a SET is parked or dropped, then let its lane go on.
    End(Arc<Subscription>, Slot, Settlement),
    /// Pause a stream that is itself at fault.
    Pause(StreamNo, String),
    /// Pause a stream whose receiver does not come.
    Abandoned(StreamNo),
    /// Settle acknowledgements and refusals of SETs that are not fetched.
    Late(Arc<Subscription>, Vec<(Named, Jti, Outcome)>),
    /// Wake these subscriptions: what they waited for is healthy.
    Wake(Vec<Weak<Subscription>>),
    /// Wake all subscriptions: what they waited for is healthy.
    WakeAll,
}

impl Shared {
    pub(crate) fn new(
        runtime: Runtime,
        store: Arc<dyn Store>,
        config: Config,
        observed: Observed,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Command>) {
        let (commands, inbox) = mpsc::unbounded_channel();
        let threads = match config.signing_threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        };
        let held = store.health().held;
        let shared = Self {
            runtime,
            store,
            pool: Pool::new(threads),
            settler: Settler::new(),
            cache: SealCache::default(),
            timers: Timers::shown_by(observed.timers.clone()),
            observed,
            halted: AtomicBool::new(false),
            held: AtomicBool::new(held),
            ready: AtomicUsize::new(0),
            endpoints: Mutex::default(),
            commands,
            config,
        };
        (Arc::new(shared), inbox)
    }

    pub(crate) fn is_halted(&self) -> bool {
        self.halted.load(Ordering::Acquire) || self.held.load(Ordering::Acquire)
    }

    /// Returns the endpoint with this name, which is made when no channel uses it yet.
    pub(crate) fn endpoint(self: &Arc<Self>, name: &Arc<str>) -> Arc<Endpoint> {
        let mut all = self.endpoints.lock();
        if let Some(known) = all.get(name).and_then(Weak::upgrade) {
            return known;
        }
        all.retain(|_, endpoint| endpoint.strong_count() > 0);
        let endpoint = Endpoint::new(name.clone(), self);
        all.insert(name.clone(), Arc::downgrade(&endpoint));
        endpoint
    }

    pub(crate) fn tell(&self, command: Command) {
        // The router outlives its subscriptions; when it is gone, so is the process.
        let _ = self.commands.send(command);
    }
}
