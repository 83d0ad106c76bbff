//! One history: the shipped router over the shipped store, driven through the actions of a seed, and checked.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::Value;
use setgate_clock::Runtime;
use setgate_delivery::spi::AnyMethod;
use setgate_jose::Algorithm;
use setgate_router::{Config, Issuer, Observed, Parts, Router};
use setgate_store::{Done, FjallStore, IssuerNo, Options, Store, StoreError, StorePlace, Unit};

use crate::{
    action::{Action, STREAMS},
    book::{Book, Mood, POISON_AFTER, SECRET, Shared},
    declared::{ISSUERS, name},
    desk::{Counter, Desk, Through, wait_for},
    dice::Dice,
    kit::Kit,
    model::{Limits, Model},
    process::{Process, Time, Timed},
    receivers::{Scene, Simulated, Way, fetches},
    tally::Tally,
};

mod ask;
mod doubt;
mod end;

/// The time that an acknowledgement may wait before it is on the disk.
const FLUSH: Duration = Duration::from_millis(50);

/// The longest time between two looks of the store at what is due, in milliseconds: usually, and while it does not accept.
const TICK: u64 = 5_000;
const TICK_SHUT: u64 = 250;

/// What came of one history.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The first broken promise, if one was broken.
    pub(crate) fault: Option<String>,
    /// The hash of everything that happened.
    pub(crate) hash: u64,
    /// The lines of the history, where they were asked for.
    pub(crate) trace: Vec<String>,
    /// How often what fired.
    pub(crate) tally: Tally,
}

/// Returns the number of actions of a seed.
#[must_use]
pub(crate) fn actions(seed: u64) -> usize {
    Action::all(seed).len()
}

/// Plays the history of a seed, without the actions whose numbers are in `without`.
pub(crate) fn play(kit: &Kit, seed: u64, without: &[usize], traced: bool) -> Outcome {
    let _blocking = kit.blocking.enter();
    match Play::new(kit, seed, traced) {
        Ok(mut play) => {
            play.run(without);
            let mut book = play.book.lock();
            let (fault, hash, trace, tally) = (book.fault.clone(), book.hash(), book.trace(), book.tally.clone());
            Outcome { fault, hash, trace, tally }
        }
        Err(why) => Outcome { fault: Some(why), ..Outcome::default() },
    }
}

/// What one turn came to.
#[derive(PartialEq, Eq)]
enum Turn {
    Went,
    /// Nothing can go on before time passes.
    Quiet,
    /// The process is at its end.
    Over,
}

struct Play<'a> {
    seed: u64,
    kit: &'a Kit,
    dice: Dice,
    /// The dice for what goes first.
    order: Dice,
    random: Arc<Dice>,
    time: Arc<Time>,
    book: Shared,
    scene: Arc<Scene>,
    options: Options,
    place: StorePlace,
    /// The streams as they are declared, and as they were when they were last declared.
    declared: BTreeMap<String, Value>,
    known: BTreeMap<String, Value>,
    full: bool,
    process: Process,
    desk: Option<Arc<Desk>>,
    router: Option<Router>,
    /// The group of which it is not known whether it is on the disk.
    doubt: Option<Vec<(Vec<Unit>, bool)>>,
    /// What is asked of the router and not answered.
    asked: Arc<AtomicUsize>,
    /// True when the store may have forgotten parked SETs since the model was told.
    tidied: bool,
    events: u64,
    ticked: u64,
    /// When the first commit came that waits for a flush.
    lazy_since: Option<u64>,
    /// True where the disk was full when the store last looked.
    was_full: bool,
    config: Config,
    _folder: tempfile::TempDir,
}

impl<'a> Play<'a> {
    fn new(kit: &'a Kit, seed: u64, traced: bool) -> Result<Self, String> {
        let dice = Dice::part(seed, 2);
        let time = Time::new(dice.once_in(2));
        let folder = tempfile::tempdir_in(&kit.folder).map_err(|error| error.to_string())?;
        let options = Options {
            path: folder.path().join("store"),
            budget_bytes: u64::MAX,
            reserve_bytes: 1 << 20,
            // A segment of 8 is never condensed: not even one of its records is as little as a tenth.
            segment_records: if dice.once_in(2) { 8 } else { 24 },
            recent_bytes: if dice.once_in(2) { 0 } else { 4096 },
            flush: FLUSH,
            idempotency_window: Duration::from_secs(1800),
            idempotency_keys_per_producer: 10,
            keep_settled: if dice.once_in(4) { Duration::from_secs(120) } else { Duration::ZERO },
            parked_age: Duration::from_secs(1800),
            parked_count: 5,
            clock_steady: Duration::from_secs(600),
            ..Options::default()
        };
        let config = Config {
            ready_sets: if dice.once_in(2) { 16 } else { 1000 },
            in_flight_sets: 32,
            backoff_initial: Duration::from_millis(200),
            backoff_max: Duration::from_secs(30),
            pause_after: Duration::from_secs(60),
            poison_after: POISON_AFTER,
            pause_after_parked: 6,
            signing_threads: 1,
            retention_interval: Duration::from_secs(15),
            ..Config::default()
        };
        let limits = Limits {
            window: millis(options.idempotency_window),
            parked_age: millis(options.parked_age),
            parked_count: options.parked_count,
            ids: options.idempotency_keys_per_producer,
        };
        let model = Model::new(limits, ISSUERS.iter().map(|issuer| (*issuer).to_owned()).collect());
        let book = Arc::new(Mutex::new(Book::new(model, time.clone(), traced)));
        let scene = Scene::new(book.clone(), Dice::part(seed, 3), Timed(time.clone()));
        let place = StorePlace { store: options.path.clone(), owner: folder.path().join("owner.json") };
        let random = Arc::new(Dice::part(seed, 4));
        let process = Process::new();
        let play = Self {
            seed,
            kit,
            dice,
            order: Dice::part(seed, 5),
            random,
            time,
            book,
            scene,
            options,
            place,
            declared: BTreeMap::new(),
            known: BTreeMap::new(),
            full: false,
            process,
            desk: None,
            router: None,
            doubt: None,
            asked: Arc::default(),
            tidied: false,
            events: 0,
            ticked: 0,
            lazy_since: None,
            was_full: false,
            config,
            _folder: folder,
        };
        FjallStore::init(&play.place, &play.options, &SECRET, &play.runtime()).map_err(|error| error.to_string())?;
        Ok(play)
    }

    fn runtime(&self) -> Runtime {
        Runtime {
            clock: Arc::new(Timed(self.time.clone())),
            random: self.random.clone(),
            tasks: self.process.queue.clone(),
        }
    }

    fn run(&mut self, without: &[usize]) {
        self.start();
        for (at, action) in Action::all(self.seed).into_iter().enumerate() {
            if !without.contains(&at) && !self.is_broken() {
                self.line(format_args!("action {at}: {action:?}"));
                self.act(action);
                // The action's own dice: what is left out of a history must not change the rest of it more than it has to.
                self.steps(Dice::part(self.seed, 1000 + at as u64).under(40));
            }
        }
        self.end();
        self.leave();
    }

    fn line(&self, line: std::fmt::Arguments<'_>) {
        self.book.lock().line(line);
    }

    fn fired(&self, what: &'static str) {
        self.book.lock().fired(what);
    }

    fn is_broken(&self) -> bool {
        self.book.lock().fault.is_some()
    }

    fn store(&self) -> Option<Arc<FjallStore>> {
        self.desk.as_ref().map(|desk| desk.inner().clone())
    }

    /// Takes one step, of a task or of the store.
    fn turn(&mut self) -> Turn {
        if self.is_broken() {
            return Turn::Over;
        }
        let Some(desk) = self.desk.clone() else { return Turn::Over };
        if is_open(desk.inner()) {
            if self.doubt.is_some() {
                self.resolve(false);
                return Turn::Went;
            }
            if std::mem::take(&mut self.tidied) {
                self.forget_parked();
            }
        }
        let waiting = desk.has_waiting();
        if self.process.has_ready() && (!waiting || !self.order.once_in(4)) {
            self.process.step(&self.order);
            return Turn::Went;
        }
        match desk.let_through(&self.order) {
            None => Turn::Quiet,
            Some(Through::Group(group)) => self.group(&desk, group),
            Some(Through::Read) => Turn::Went,
            Some(Through::Wrote) => {
                let _ = wait_for(desk.inner().barrier());
                if self.is_over(desk.inner()) { Turn::Over } else { Turn::Went }
            }
            Some(Through::Tidied) => {
                let _ = wait_for(desk.inner().barrier());
                if self.is_over(desk.inner()) {
                    self.fired("a crash while housekeeping is under way");
                    return Turn::Over;
                }
                self.tidied = true;
                Turn::Went
            }
        }
    }

    fn group(&mut self, desk: &Arc<Desk>, group: Vec<(crate::desk::Commit, Result<Vec<Done>, StoreError>)>) -> Turn {
        let entries: Vec<_> = group
            .iter()
            .map(|(commit, answer)| {
                let lazy = commit.how == setgate_store::Durability::Lazy;
                (commit.units.clone(), lazy, answer.clone())
            })
            .collect();
        if entries.iter().any(|(_, lazy, _)| *lazy) {
            let now = self.time.millis();
            self.lazy_since.get_or_insert(now);
        }
        let in_doubt = self.book.lock().group(&entries);
        // The writer folds after its answers, and may come to its end there.
        let _ = wait_for(desk.inner().barrier());
        if in_doubt {
            // What was refused beside it is not in doubt.
            let poisoned = |answer: &Result<_, StoreError>| matches!(answer, Err(StoreError::Poisoned(_)));
            let doubt = entries.into_iter().filter(|(.., answer)| poisoned(answer));
            self.doubt = Some(doubt.map(|(units, lazy, _)| (units, lazy)).collect());
        }
        if self.is_over(desk.inner()) {
            return Turn::Over;
        }
        group.into_iter().for_each(|(commit, answer)| commit.answer(answer));
        desk.tell();
        Turn::Went
    }

    /// Returns whether the store has come to its end, and with it the process.
    fn is_over(&self, store: &FjallStore) -> bool {
        if store.fatal().borrow().is_some() {
            self.fired("the disk does not confirm a flush");
            return true;
        }
        if store.is_closed() {
            self.fired("a crash at a commit");
            return true;
        }
        false
    }

    /// Takes so many steps; a process that comes to its end is started again.
    fn steps(&mut self, many: u64) {
        for _ in 0..many {
            match self.turn() {
                Turn::Went => {}
                Turn::Quiet => return,
                Turn::Over => return self.again(),
            }
        }
    }

    /// Goes on until time must pass.
    fn quiet(&mut self) {
        for step in 0.. {
            match self.turn() {
                Turn::Went => {}
                Turn::Quiet => return,
                Turn::Over => return self.again(),
            }
            if step > 200_000 {
                self.book.lock().broken("P5: the process is busy without end, while no time passes".into());
                return;
            }
        }
    }

    /// Lets time pass.
    fn pass(&mut self, millis: u64) {
        let until = self.time.micros() + millis * 1000;
        loop {
            self.quiet();
            if self.is_broken() {
                return;
            }
            let more = self.time.forward(until);
            self.tick();
            if !more {
                return self.quiet();
            }
        }
    }

    /// Lets the store do what is due: what waits is flushed after [`FLUSH`], the rest can wait for a second.
    fn tick(&mut self) {
        let now = self.time.millis();
        let Some(store) = self.store() else { return };
        let flushes = self.lazy_since.is_some_and(|since| now >= since + millis(FLUSH));
        let soon = if store.health().obstacle.is_some() { TICK_SHUT } else { TICK };
        if !flushes && now < self.ticked + soon {
            return;
        }
        self.ticked = now;
        self.lazy_since = self.lazy_since.map(|_| now).filter(|_| self.full || self.was_full || !flushes);
        let ticked = wait_for(store.tick());
        if ticked.is_ok() {
            // What is free is measured after a flush, and where it was little a flush may take longer.
            if !(self.full || self.was_full) {
                self.book.lock().model.flushed(now.saturating_sub(millis(FLUSH)));
            }
            self.was_full = self.full;
        } else {
            // It pauses before it opens the engine again: the first call woke it, these are behind the opening.
            let _ = wait_for(store.barrier());
            let _ = wait_for(store.barrier());
        }
        if self.is_over(&store) {
            self.again();
        }
    }

    /// Starts the process anew after its end.
    fn again(&mut self) {
        if !self.is_broken() {
            self.leave();
            self.start();
        }
    }

    /// Ends the process as a kill does.
    fn leave(&mut self) {
        self.line(format_args!("the process ends"));
        self.router = None;
        self.lazy_since = None;
        self.process = Process::new();
        if let Some(desk) = self.desk.take() {
            if desk.is_tidying() {
                self.fired("an end between two steps of housekeeping");
            }
            wait_for(desk.inner().abandon());
        }
        self.asked = Arc::default();
        let mut book = self.book.lock();
        book.process += 1;
        book.nothing_under_way();
    }

    /// Opens the store and starts the router, however often that takes.
    fn start(&mut self) {
        for _ in 0..50 {
            if self.is_broken() || self.try_start() {
                return;
            }
            self.leave();
        }
        self.book.lock().broken("the process does not start".into());
    }

    fn try_start(&mut self) -> bool {
        let runtime = self.runtime();
        let opened =
            FjallStore::open(&self.place, &self.options, &SECRET, &runtime, setgate_store::Observed::default());
        let store = match opened {
            Ok(opened) => opened.store,
            Err(error) => {
                self.book.lock().broken(format!("law 1: the store does not open: {error}"));
                return false;
            }
        };
        self.line(format_args!("a process starts"));
        store.run_by_hand();
        if self.kit.old_way {
            store.give_up_the_old_way();
        }
        store.set_free(self.free());
        let desk = Desk::new(store, Timed(self.time.clone()));
        self.desk = Some(desk.clone());
        self.resolve(true);
        if self.dice.once_in(6) {
            desk.inner().cut_after(self.dice.under(8));
        }
        let slot = Arc::new(Mutex::new(None));
        let (filled, parts) = (slot.clone(), self.parts(&runtime, Arc::new(Counter(desk))));
        runtime.spawn("start", async move {
            let started = Router::start(parts).await;
            *filled.lock() = Some(started);
        });
        if !self.until(&slot) {
            return false;
        }
        match slot.lock().take() {
            Some(Ok(router)) => self.router = Some(router),
            Some(Err(error)) => {
                // A store that is being opened again cannot be read.
                self.line(format_args!("the router does not start: {error}"));
                return false;
            }
            None => return false,
        }
        self.book.lock().told();
        for stream in 0..STREAMS {
            if let Some(router) = self.router.clone() {
                fetches(&runtime, &self.scene, router, name(stream));
            }
        }
        true
    }

    fn parts(&self, runtime: &Runtime, store: Arc<dyn Store>) -> Parts {
        let issuers = ISSUERS.iter().zip(&self.kit.keyrings).zip(1..).map(|((url, keyring), no)| Issuer {
            url: (*url).into(),
            no: IssuerNo(no),
            keyring: keyring.clone(),
            algorithm: Algorithm::EdDSA,
        });
        let methods =
            Way::ALL.iter().map(|way| Arc::new(Simulated(*way, self.scene.clone())) as Arc<dyn AnyMethod>).collect();
        Parts {
            runtime: runtime.clone(),
            store,
            kek: self.kit.kek.clone(),
            issuers: issuers.collect(),
            methods,
            config: self.config.clone(),
            observed: Observed::register(&mut Registry::default()),
        }
    }

    /// Goes on, and lets time pass, until there is an answer. Returns false where the process ended before.
    fn until<T>(&mut self, slot: &Mutex<Option<T>>) -> bool {
        for _ in 0..100_000 {
            if slot.lock().is_some() {
                return true;
            }
            match self.turn() {
                Turn::Went => {}
                Turn::Over => return false,
                Turn::Quiet => {
                    if !self.time.forward(self.time.micros() + 1_000_000) && !self.process.has_ready() {
                        continue;
                    }
                    if let Some(store) = self.store() {
                        let _ = wait_for(store.tick()).or_else(|_| wait_for(store.barrier()));
                        let _ = wait_for(store.barrier());
                        if self.is_over(&store) {
                            return false;
                        }
                    }
                }
            }
        }
        self.book.lock().broken("P5: there is no answer in all eternity".into());
        false
    }

    fn free(&self) -> u64 {
        if self.full { 1 << 10 } else { 1 << 40 }
    }

    fn good_moods(&self) {
        let mut book = self.book.lock();
        book.moods.extend((0..STREAMS).map(|stream| (name(stream), Mood::Good)));
    }
}

/// Returns whether the store can be read.
fn is_open(store: &FjallStore) -> bool {
    !store.is_closed() && store.health().obstacle.is_none_or(|obstacle| !obstacle.stops_delivery())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Counts what is asked and not answered.
struct Asked(Arc<AtomicUsize>);

impl Asked {
    fn new(asked: &Arc<AtomicUsize>) -> Self {
        asked.fetch_add(1, Ordering::Relaxed);
        Self(asked.clone())
    }

    /// Returns whether nothing else is asked.
    fn is_alone(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 1
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
