//! What all feeds of a router share.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use setgate_clock::House;
use setgate_delivery::Outcome;
use setgate_set::Jti;
use setgate_store::{Named, Settlement, Store, StreamNo};
use tokio::sync::{Notify, mpsc};

use crate::{Config, Observed, endpoint::Endpoint, feed::Feed, hash::Map, seal::Pool, settle::Settler, slot::Slot};

/// What all feeds share.
pub(crate) struct Shared {
    pub(crate) house: House,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) config: Config,
    pub(crate) pool: Pool,
    pub(crate) settler: Arc<Settler>,
    pub(crate) cache: SealCache,
    pub(crate) timers: Timers,
    pub(crate) observed: Observed,
    /// The store takes no settlements: nothing is drawn until it does.
    pub(crate) halted: AtomicBool,
    /// The store was opened as a copy: nothing is drawn until it is adopted.
    pub(crate) held: AtomicBool,
    /// SETs that stand in the lanes of all streams.
    pub(crate) ready: AtomicUsize,
    /// What lines share, by name, as long as a stream is served by it.
    endpoints: Mutex<HashMap<Arc<str>, Weak<Endpoint>>>,
    commands: mpsc::UnboundedSender<Command>,
}

/// What a feed asks of the router from any thread.
pub(crate) enum Command {
    /// Run the line of a sender.
    Run(Arc<Feed>),
    /// Read on in the store.
    Scan(Arc<Feed>),
    /// Write down that a SET is parked or dropped, durably, then let its lane go on.
    End(Arc<Feed>, Slot, Settlement),
    /// Pause a stream whose fault it is.
    Pause(StreamNo, String),
    /// Pause a stream whose receiver does not come.
    Abandoned(StreamNo),
    /// Acknowledgements and refusals of SETs that are not drawn.
    Late(Arc<Feed>, Vec<(Named, Jti, Outcome)>),
    /// What these waited for is well.
    Wake(Vec<Weak<Feed>>),
    /// What all waited for is well.
    WakeAll,
}

impl Shared {
    pub(crate) fn new(
        house: House,
        store: Arc<dyn Store>,
        config: Config,
        observed: Observed,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Command>) {
        let (commands, inbox) = mpsc::unbounded_channel();
        let threads = match config.seal_threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        };
        let held = store.health().held;
        let shared = Self {
            house,
            store,
            pool: Pool::new(threads),
            settler: Settler::new(),
            cache: SealCache::default(),
            timers: Timers::default(),
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

    /// What the lines share that name it so.
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
        // The router outlives its feeds; when it is gone, so is the process.
        let _ = self.commands.send(command);
    }
}

/// Wakes feeds when a time has come: one task for all.
#[derive(Default)]
pub(crate) struct Timers {
    due: Mutex<Due>,
    sooner: Notify,
    #[cfg(test)]
    rung: AtomicUsize,
}

#[derive(Default)]
struct Due {
    /// One wish of each feed, the soonest.
    feeds: Map<StreamNo, (Duration, Weak<Feed>)>,
    /// The same, in the order of time.
    in_order: BTreeSet<(Duration, StreamNo)>,
    /// There are few.
    endpoints: Vec<(Duration, Weak<Endpoint>)>,
}

impl Timers {
    /// Wakes the feed at the latest then; an earlier wish stays.
    pub(crate) fn at(&self, when: Duration, feed: &Arc<Feed>) {
        let mut due = self.due.lock();
        let Due { feeds, in_order, .. } = &mut *due;
        if let Some((at, _)) = feeds.get(&feed.no) {
            if *at <= when {
                return;
            }
            in_order.remove(&(*at, feed.no));
        }
        feeds.insert(feed.no, (when, Arc::downgrade(feed)));
        in_order.insert((when, feed.no));
        if in_order.first() == Some(&(when, feed.no)) {
            self.sooner.notify_one();
        }
    }

    /// The feed is gone.
    pub(crate) fn forget(&self, no: StreamNo) {
        let Due { feeds, in_order, .. } = &mut *self.due.lock();
        if let Some((at, _)) = feeds.remove(&no) {
            in_order.remove(&(at, no));
        }
    }

    /// Wakes the endpoint at the latest then; an earlier wish stays.
    pub(crate) fn at_endpoint(&self, when: Duration, endpoint: &Arc<Endpoint>) {
        let mut due = self.due.lock();
        let wish = due.endpoints.iter_mut().find(|(_, other)| std::ptr::eq(other.as_ptr(), Arc::as_ptr(endpoint)));
        match wish {
            Some((at, _)) if *at <= when => return,
            Some((at, _)) => *at = when,
            None => {
                due.endpoints.retain(|(_, other)| other.strong_count() > 0);
                due.endpoints.push((when, Arc::downgrade(endpoint)));
            }
        }
        self.sooner.notify_one();
    }

    pub(crate) async fn run(shared: Arc<Shared>) {
        let clock = shared.house.clock.clone();
        loop {
            // Whoever wishes something sooner from now on is heard below.
            let now = clock.monotonic();
            let (ripe, next) = shared.timers.ripe(now);
            #[cfg(test)]
            shared.timers.rung.fetch_add(ripe.len(), Ordering::Relaxed);
            for feed in ripe {
                feed.tick();
            }
            let (ripe, endpoint) = shared.timers.ripe_endpoints(now);
            for endpoint in ripe {
                endpoint.tick(now);
            }
            let next = [next, endpoint].into_iter().flatten().min();
            let sooner = shared.timers.sooner.notified();
            match next {
                Some(at) => tokio::select! {
                    () = clock.sleep(at.saturating_sub(clock.monotonic())) => {}
                    () = sooner => {}
                },
                None => sooner.await,
            }
        }
    }

    fn ripe_endpoints(&self, now: Duration) -> (Vec<Arc<Endpoint>>, Option<Duration>) {
        let mut due = self.due.lock();
        let ripe = due.endpoints.extract_if(.., |(at, _)| *at <= now).filter_map(|(_, one)| one.upgrade()).collect();
        (ripe, due.endpoints.iter().map(|(at, _)| *at).min())
    }

    fn ripe(&self, now: Duration) -> (Vec<Arc<Feed>>, Option<Duration>) {
        let Due { feeds, in_order, .. } = &mut *self.due.lock();
        let mut ripe = Vec::new();
        while let Some((at, no)) = in_order.first().copied() {
            if at > now {
                return (ripe, Some(at));
            }
            in_order.pop_first();
            ripe.extend(feeds.remove(&no).and_then(|(_, feed)| feed.upgrade()));
        }
        (ripe, None)
    }

    /// When a feed is woken at the latest.
    #[cfg(test)]
    pub(crate) fn wish(&self, no: StreamNo) -> Option<Duration> {
        self.due.lock().feeds.get(&no).map(|(at, _)| *at)
    }

    /// How often a feed was woken.
    #[cfg(test)]
    pub(crate) fn rung(&self) -> usize {
        self.rung.load(Ordering::Relaxed)
    }

    /// How much is kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        let due = self.due.lock();
        due.feeds.len().max(due.in_order.len())
    }
}

/// Sealed tokens of SETs that failed: a repeat is not signed again. Bounded in bytes; a miss signs again, the payload is the same.
#[derive(Default)]
pub(crate) struct SealCache(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    tokens: HashMap<Jti, (u64, Bytes)>,
    oldest: VecDeque<Jti>,
    bytes: usize,
}

impl SealCache {
    const MOST: usize = 64 << 20;

    /// Keeps a token that was sealed while the keyring had this generation.
    pub(crate) fn keep(&self, jti: Jti, generation: u64, token: Bytes) {
        let mut kept = self.0.lock();
        kept.bytes += token.len();
        match kept.tokens.insert(jti, (generation, token)) {
            Some((_, before)) => kept.bytes -= before.len(),
            None => kept.oldest.push_back(jti),
        }
        while kept.bytes > Self::MOST {
            let Some(oldest) = kept.oldest.pop_front() else { break };
            if let Some((_, token)) = kept.tokens.remove(&oldest) {
                kept.bytes -= token.len();
            }
        }
    }

    /// The token, unless a key has come or gone since: a revoked key must not live on here.
    pub(crate) fn find(&self, jti: &Jti, generation: u64) -> Option<Bytes> {
        let kept = self.0.lock();
        kept.tokens.get(jti).filter(|(then, _)| *then == generation).map(|(_, token)| token.clone())
    }
}
