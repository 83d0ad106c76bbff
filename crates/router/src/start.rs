//! The assembled router: its parts, its start and its end.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::{Mutex, RwLock};
use setgate_clock::Runtime;
use setgate_delivery::{Closed, spi::AnyMethod};
use setgate_jose::{Kek, Keyring};
use setgate_store::{IssuerNo, Store, StoreError, StreamNo, Version};
use setgate_telemetry::chain;
use tokio::sync::watch;

use crate::{
    Config, Index, Method, Observed, VaultError, commands,
    hash::Map,
    intake, retain,
    shared::{Command, Shared},
    streams::StreamTable,
    subscription::Subscription,
    tail,
    timers::Timers,
    upkeep,
};

/// An issuer of this gateway.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// The issuer's URL, byte for byte as configured: `iss` of every SET (SSF 1.0 §4.1.6).
    pub url: Arc<str>,
    /// The issuer's number.
    pub no: IssuerNo,
    /// The issuer's keys.
    pub keyring: Arc<Keyring>,
    /// The algorithm of streams that name none.
    pub algorithm: setgate_jose::Algorithm,
}

/// The parts that a router is made of.
pub struct Parts {
    /// Clock, randomness, tasks.
    pub runtime: Runtime,
    /// The durable store.
    pub store: Arc<dyn Store>,
    /// The key-encryption key that seals receivers' secrets at rest (hardening H36).
    pub kek: Arc<Kek>,
    /// The issuers.
    pub issuers: Vec<Issuer>,
    /// The started methods.
    pub methods: Vec<Arc<dyn AnyMethod>>,
    /// The `[router]` section.
    pub config: Config,
    /// The metrics.
    pub observed: Observed,
}

/// The reason why a router does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The store cannot be read.
    #[error("cannot read the streams: {0}")]
    Store(#[from] StoreError),
    /// A record cannot be read.
    #[error("the record of stream number {no} cannot be read: {source}; `setgate store check` looks closer")]
    Record {
        /// The number of the stream.
        no: String,
        /// The reason.
        source: VaultError,
    },
}

/// The running router, as a handle that is cheap to clone.
#[derive(Clone)]
pub struct Router(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) kek: Arc<Kek>,
    pub(crate) issuers: Vec<Issuer>,
    pub(crate) methods: Vec<Arc<dyn AnyMethod>>,
    pub(crate) index: ArcSwap<Index>,
    pub(crate) streams_by_id: ArcSwap<HashMap<String, StreamNo>>,
    pub(crate) published: watch::Sender<Version>,
    pub(crate) subscriptions: RwLock<Map<StreamNo, Arc<Subscription>>>,
    /// All streams; a change of any of them holds this lock.
    pub(crate) kept: tokio::sync::Mutex<StreamTable>,
    pub(crate) intake_closed: ArcSwapOption<intake::Closed>,
    pub(crate) held_bytes: AtomicUsize,
    /// The SETs that limits dropped since the start, by stream.
    pub(crate) limited: Mutex<HashMap<StreamNo, retain::Limited>>,
    pub(crate) ended: watch::Sender<bool>,
}

impl Inner {
    pub(crate) fn subscription(&self, no: StreamNo) -> Option<Arc<Subscription>> {
        self.subscriptions.read().get(&no).cloned()
    }

    pub(crate) fn subscriptions(&self) -> Vec<Arc<Subscription>> {
        self.subscriptions.read().values().cloned().collect()
    }

    pub(crate) fn issuer(&self, url: &str) -> Option<&Issuer> {
        self.issuers.iter().find(|issuer| &*issuer.url == url)
    }
}

impl Router {
    /// Starts the router: loads the streams, finds what they are owed, and follows the ledger.
    ///
    /// # Errors
    /// [`StartError`] when the store cannot be read. A stream whose method is missing does not stop the start: it
    /// waits, and its view gives the reason.
    pub async fn start(parts: Parts) -> Result<Self, StartError> {
        let Parts { runtime, store, kek, issuers, methods, config, observed } = parts;
        let last = store.bounds().last;
        store.watch(Arc::new(observed.counts.clone()));
        let (shared, inbox) = Shared::new(runtime, store, config, observed);
        let inner = Arc::new(Inner {
            shared,
            kek,
            issuers,
            methods,
            index: ArcSwap::from_pointee(Index::build(&[], Version::default())),
            streams_by_id: ArcSwap::default(),
            published: watch::channel(Version::default()).0,
            subscriptions: RwLock::default(),
            kept: tokio::sync::Mutex::default(),
            intake_closed: ArcSwapOption::empty(),
            held_bytes: AtomicUsize::new(0),
            limited: Mutex::default(),
            ended: watch::channel(false).0,
        });
        inner.load_streams(last).await?;
        let runtime = inner.shared.runtime.clone();
        let settler = inner.shared.settler.clone();
        let (store, clock, shared) = (inner.shared.store.clone(), runtime.clock.clone(), inner.shared.clone());
        runtime.spawn(
            "settle",
            settler.run(store, clock, inner.shared.config.flush, move |error| match error {
                Some(error) => {
                    shared.halted.store(true, std::sync::atomic::Ordering::Release);
                    tracing::error!(
                        error = chain(error),
                        "cannot write what was settled; nothing is handed over until it can"
                    );
                }
                None => {
                    shared.halted.store(false, std::sync::atomic::Ordering::Release);
                    // All are woken, however short the trouble was: a subscription that was woken meanwhile fetched
                    // nothing, and nothing else wakes it again.
                    shared.tell(Command::WakeAll);
                    tracing::info!("what was settled is written again");
                }
            }),
        );
        runtime.spawn("tail", tail::follow(inner.clone(), last));
        runtime.spawn("timers", Timers::run(inner.shared.clone()));
        runtime.spawn("commands", commands::obey(inner.clone(), inbox));
        runtime.spawn("gate", upkeep::watch_gate(inner.clone()));
        runtime.spawn("retain", retain::watch(inner.clone()));
        inner.subscriptions().iter().for_each(|subscription| _ = subscription.tick());
        Ok(Self(inner))
    }

    /// Returns the issuers.
    #[must_use]
    pub fn issuers(&self) -> &[Issuer] {
        &self.0.issuers
    }

    /// Returns the issuer with this URL.
    #[must_use]
    pub fn issuer(&self, url: &str) -> Option<&Issuer> {
        self.0.issuer(url)
    }

    /// Returns the delivery methods that streams may ask for: `delivery_methods_supported` (SSF 1.0 §7.1).
    #[must_use]
    pub fn methods(&self) -> Vec<Method> {
        self.0.methods.iter().filter(|method| method.is_offered()).map(|method| method.entry()).collect()
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.shared.store
    }

    /// Returns the index in force, for questions about decisions.
    #[must_use]
    pub fn index(&self) -> Arc<Index> {
        self.0.index.load_full()
    }

    /// Ends the router within `within`: senders finish what they handed over, outcomes are written to the store, and
    /// methods close their connections. The writing has at least one second, also when `within` is over by then.
    pub async fn drain(&self, within: Duration) {
        let inner = &self.0;
        inner.ended.send_replace(true);
        let clock = &inner.shared.runtime.clock;
        let by = clock.monotonic() + within;
        let subscriptions = inner.subscriptions();
        subscriptions.iter().for_each(|subscription| subscription.end(Closed::Draining));
        while subscriptions.iter().any(|subscription| subscription.is_busy()) && clock.monotonic() < by {
            clock.sleep(Duration::from_millis(20)).await;
        }
        let left = by.saturating_sub(clock.monotonic());
        let flushed = inner.shared.settler.flush();
        tokio::select! {
            biased;
            () = flushed => {}
            () = clock.sleep(left.max(Duration::from_secs(1))) => tracing::warn!("not all acknowledgements were written; they will be handed over again"),
        }
        for method in &inner.methods {
            method.close(by.saturating_sub(clock.monotonic())).await;
        }
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Router({} streams)", self.0.subscriptions.read().len())
    }
}
