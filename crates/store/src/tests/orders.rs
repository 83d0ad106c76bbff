//! Tests of every order of appending, closing, folding, condensing, trimming and retaining, ended at every step that
//! reaches the disk.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{
    Durability, NewEvent, ParkedFilter, Position, Rule, Settlement, StoreError, StreamNo, Unit, Version,
    fjall::Trim,
    testkit::{acknowledged, body, event, owed, parked, tail},
};

/// The records of a segment: enough for one record to be owed when it is condensed.
const SEGMENT: u64 = 12;
const STREAMS: std::ops::Range<u32> = 1..4;

#[derive(Clone, Debug)]
enum Step {
    /// Appends one unit with these records.
    Append(Vec<Vec<u32>>),
    /// Acknowledges all that the stream is owed except every `but_each`-th position; 0 leaves none out.
    Acknowledge {
        stream: u32,
        but_each: u64,
        lazy: bool,
    },
    Park {
        stream: u32,
        pick: usize,
    },
    Retain {
        stream: u32,
        below: u64,
    },
    Disable {
        stream: u32,
    },
    Fold,
    Plan,
    /// Carries out the oldest plan that waits, whatever happened in between.
    Trim,
    Clear,
    Housekeep,
    Kill,
    Close,
}

use Step::*;

/// A model of the content that a store must have.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    last: u64,
    owed: BTreeMap<u32, BTreeSet<u64>>,
    /// The counts (owed ever, acknowledged, parked, dropped) by stream.
    tally: BTreeMap<u32, [u64; 4]>,
    parked: BTreeSet<(u32, u64)>,
    /// The deliveries acknowledged lazily since the last durable commit, which may come back.
    loose: BTreeSet<(u32, u64)>,
    version: u64,
}

fn text(seq: u64) -> String {
    format!("body-{seq}")
}

impl Model {
    fn append(&mut self, targets: &[u32]) {
        self.last += 1;
        for stream in targets.iter().copied().collect::<BTreeSet<_>>() {
            self.owed.entry(stream).or_default().insert(self.last);
            self.tally.entry(stream).or_default()[0] += 1;
        }
    }

    fn end(&mut self, stream: u32, seq: u64, how: usize) {
        assert!(self.owed.entry(stream).or_default().remove(&seq));
        self.tally.entry(stream).or_default()[how] += 1;
    }

    fn drop_below(&mut self, stream: u32, below: u64) {
        for seq in self.of(stream).into_iter().filter(|seq| *seq < below) {
            self.end(stream, seq, 3);
        }
    }

    fn of(&self, stream: u32) -> Vec<u64> {
        self.owed.get(&stream).into_iter().flatten().copied().collect()
    }

    /// Checks that the store has this content. Returns the model with the lazy acknowledgements that were lost.
    async fn as_in(&self, store: &Arc<dyn Store>) -> Result<Self, String> {
        let mut model = self.clone();
        let found = store.bounds().last.seq;
        if found != self.last {
            return Err(format!("the last record is {found}, not {}", self.last));
        }
        if store.version() != Version(self.version) {
            return Err(format!("version {}, not {}", store.version(), self.version));
        }
        for (stream, seq) in &self.loose {
            if store.is_owed(StreamNo(*stream), Position::new(*seq)) {
                model.owed.entry(*stream).or_default().insert(*seq);
                model.tally.entry(*stream).or_default()[1] -= 1;
            }
        }
        let told: BTreeSet<u64> = tail(store).await.iter().map(|entry| entry.head.at.seq).collect();
        for stream in STREAMS {
            let expected = model.of(stream);
            let found = owed(store, stream).await;
            if found != expected {
                return Err(format!("stream {stream} is owed {found:?}, not {expected:?}"));
            }
            for seq in &expected {
                if body(store, *seq).await.as_deref() != Some(text(*seq).as_bytes()) {
                    return Err(format!("record {seq} is owed and has no body"));
                }
                if !told.contains(seq) {
                    return Err(format!("the tail leaves record {seq} out, which stream {stream} is owed"));
                }
            }
            let tally = store.cursor(StreamNo(stream)).await.unwrap().tally;
            let found =
                [tally.owed, tally.acknowledged_receiver, tally.parked, tally.dropped.values().sum(), tally.waiting];
            let [all, acknowledged, parked, dropped] = model.tally.get(&stream).copied().unwrap_or_default();
            let expected = [all, acknowledged, parked, dropped, expected.len() as u64];
            if found != expected {
                return Err(format!("stream {stream} counts {found:?}, not {expected:?}"));
            }
        }
        let kept = store.parked(ParkedFilter { most: usize::MAX, ..ParkedFilter::default() }).await.unwrap();
        let found: BTreeSet<_> = kept.iter().map(|kept| (kept.stream.0, kept.at.seq)).collect();
        if found != model.parked || kept.iter().any(|kept| kept.body != text(kept.at.seq)) {
            return Err(format!("parked are {found:?}, not {:?}", model.parked));
        }
        model.loose.clear();
        Ok(model)
    }
}

struct Run {
    folder: Folder,
    store: Arc<FjallStore>,
    model: Model,
    /// The plans that wait to be carried out, also by the next process.
    plans: std::collections::VecDeque<Trim>,
    /// The places that earlier processes passed.
    passed: u64,
    /// The place at which the process must end.
    cut_at: Option<u64>,
}

impl Run {
    fn new(cut_at: Option<u64>) -> Self {
        // A killed process leaves what it wrote to the system; in memory it is flushed sooner.
        let memory = std::path::Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let mut folder = Folder::in_folder(folder.unwrap(), |options| {
            (options.segment_records, options.recent_bytes, options.flush) = (SEGMENT, 0, Duration::from_secs(3600));
        });
        let store = folder.store();
        let run = Self { folder, store, model: Model::default(), plans: Default::default(), passed: 0, cut_at };
        run.arm();
        run
    }

    fn arm(&self) {
        if let Some(after) = self.cut_at.and_then(|at| at.checked_sub(self.passed)) {
            self.store.cut_after(after);
        }
    }

    fn any(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// Carries out one step and checks what the store must hold after it.
    async fn apply(&mut self, step: &Step) {
        let before = self.model.clone();
        let mut after = before.clone();
        match self.act(step, &mut after).await {
            Ok(()) => {
                self.model = after;
                // The work that follows an answer may end the process, too.
                let barrier = Unit::Settle { fence: self.store.fence(), what: vec![] };
                if let Err(error) = self.store.commit(vec![barrier], Durability::Sync).await {
                    assert!(self.cut_at.take().is_some(), "after {step:?} it failed by itself: {error}");
                    self.open_again().await;
                    let found = self.model.as_in(&self.any()).await;
                    self.model = found.unwrap_or_else(|wrong| panic!("cut after {step:?}: {wrong}"));
                }
            }
            Err(error) => {
                assert!(self.cut_at.take().is_some(), "{step:?} failed by itself: {error}");
                self.open_again().await;
                let store = self.any();
                self.model = match (before.as_in(&store).await, after.as_in(&store).await) {
                    (Ok(model), _) | (_, Ok(model)) => model,
                    (Err(before), Err(after)) => panic!("cut in {step:?}: {before}; or, done: {after}"),
                };
            }
        }
        let mut strict = self.model.clone();
        strict.loose.clear();
        if let Err(wrong) = strict.as_in(&self.any()).await {
            panic!("after {step:?}: {wrong}");
        }
    }

    async fn open_again(&mut self) {
        self.store.abandon().await;
        self.passed += self.store.places_passed();
        self.store = match self.folder.try_open() {
            Ok(opened) => opened.store,
            Err(error) => panic!("it does not open: {error}"),
        };
        self.arm();
    }

    async fn act(&mut self, step: &Step, after: &mut Model) -> Result<(), StoreError> {
        let fence = self.store.fence();
        let unit = match step {
            Append(all) => {
                let mut events = Vec::new();
                for targets in all {
                    after.append(targets);
                    events.push(NewEvent { config: Version(u64::MAX), ..event(&text(after.last), targets) });
                }
                Unit::Append { events }
            }
            Acknowledge { stream, but_each, .. } => {
                let mut what: Vec<Settlement> = Vec::new();
                for seq in after.of(*stream) {
                    if *but_each == 0 || seq % but_each != 0 {
                        after.end(*stream, seq, 1);
                        after.loose.insert((*stream, seq));
                        what.push(acknowledged(*stream, seq));
                    }
                }
                Unit::Settle { fence, what }
            }
            Park { stream, pick } => {
                let owed = after.of(*stream);
                let Some(seq) = owed.get(pick % owed.len().max(1)) else { return Ok(()) };
                after.end(*stream, *seq, 2);
                after.parked.insert((*stream, *seq));
                Unit::Settle { fence, what: vec![parked(*stream, *seq)] }
            }
            Retain { stream, below } => {
                after.drop_below(*stream, *below);
                Unit::Retain { fence, stream: StreamNo(*stream), below: Position::new(*below), rule: Rule::TooMany }
            }
            Disable { stream } => {
                after.drop_below(*stream, u64::MAX);
                after.version += 1;
                let drop_through = vec![(StreamNo(*stream), Rule::Disabled)];
                Unit::Configure { change: vec![], expect: None, membership: false, drop_through, notice: vec![] }
            }
            other => return self.housekeep(other, after).await,
        };
        let lazy = matches!(step, Acknowledge { lazy: true, .. });
        let empty = matches!(&unit, Unit::Settle { what, .. } if what.is_empty());
        self.store.commit(vec![unit], if lazy { Durability::Lazy } else { Durability::Sync }).await?;
        if !lazy && !empty {
            after.loose.clear();
        }
        Ok(())
    }

    async fn housekeep(&mut self, step: &Step, after: &mut Model) -> Result<(), StoreError> {
        match step {
            Fold => self.store.fold().await?,
            Plan => self.plans.push_back(self.store.plan_trim().await?),
            Trim => {
                let Some(plan) = self.plans.pop_front() else { return Ok(()) };
                self.store.trim(plan).await?;
            }
            Clear => self.store.clear_away().await?,
            Housekeep => self.store.housekeep().await?,
            Kill => {
                self.open_again().await;
                *after = after.as_in(&self.any()).await.unwrap_or_else(|wrong| panic!("after a kill: {wrong}"));
            }
            Close => {
                self.store.close().await?;
                after.loose.clear();
                self.open_again().await;
            }
            other => unreachable!("{other:?}"),
        }
        Ok(())
    }
}

/// Carries out the steps and ends the process at one place. Returns the number of places.
async fn run(steps: &[Step], cut_at: Option<u64>) -> u64 {
    let mut run = Run::new(cut_at);
    for step in steps.iter().chain(&[Kill, Housekeep, Close]) {
        run.apply(step).await;
    }
    let places = run.passed;
    run.store.close().await.unwrap();
    let report = FjallStore::check(&run.folder.place()).unwrap();
    assert!(report.is_sound(), "{:?}", report.problems);
    places
}

/// Cuts at every place of these steps.
fn everywhere(steps: &[Step]) {
    runtime().block_on(async {
        let places = run(steps, None).await;
        for place in 0..places {
            run(steps, Some(place)).await;
        }
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn many(count: usize, targets: &[u32]) -> Step {
    Append(vec![targets.to_vec(); count])
}

fn all_of(stream: u32) -> Step {
    Acknowledge { stream, but_each: 0, lazy: false }
}

fn but_each_of_2(but_each: u64) -> Step {
    Acknowledge { stream: 2, but_each, lazy: false }
}

#[test]
fn a_segment_that_closes_after_the_fold_is_not_given_up_before_its_end_is_folded() {
    everywhere(&[
        many(10, &[1]),
        Fold,
        many(3, &[1]),
        // The first segment ends before this record.
        many(1, &[1]),
        all_of(1),
        Plan,
        Trim,
        Clear,
        many(2, &[1, 2]),
    ]);
}

#[test]
fn a_segment_that_closes_after_the_fold_is_not_condensed_before_its_end_is_folded() {
    everywhere(&[
        many(10, &[1, 2]),
        Fold,
        many(3, &[1, 2]),
        many(1, &[1, 2]),
        all_of(1),
        Acknowledge { stream: 2, but_each: 12, lazy: false },
        Plan,
        Trim,
        Clear,
        Retain { stream: 2, below: 13 },
        Plan,
        Trim,
        many(1, &[2]),
    ]);
}

#[test]
fn an_old_plan_gives_up_nothing_that_came_to_be_owed_again() {
    everywhere(&[
        many(13, &[1, 2]),
        all_of(1),
        Acknowledge { stream: 2, but_each: 10, lazy: true },
        Plan,
        Kill,
        Trim,
        Clear,
        Acknowledge { stream: 2, but_each: 0, lazy: true },
        Plan,
        Kill,
        Trim,
        Clear,
        Housekeep,
    ]);
}

#[test]
fn housekeeping_between_all_else_loses_nothing() {
    everywhere(&[
        many(10, &[1, 2, 3]),
        Disable { stream: 3 },
        Housekeep,
        many(10, &[1, 2]),
        Acknowledge { stream: 1, but_each: 11, lazy: true },
        Park { stream: 2, pick: 3 },
        Acknowledge { stream: 2, but_each: 7, lazy: false },
        Housekeep,
        many(10, &[1, 3]),
        Retain { stream: 2, below: 9 },
        Housekeep,
        all_of(1),
        Housekeep,
    ]);
}

/// Returns a store as an earlier release left it: its first segment was condensed, or deleted, before its end was
/// folded.
async fn old_store(settle: &[Step], then: &[Step]) -> Run {
    let mut run = Run::new(None);
    run.store.give_up_the_old_way();
    let appended = [many(10, &[1, 2]), Fold, many(3, &[1, 2]), many(1, &[1, 2])];
    let settled = [Park { stream: 2, pick: 10 }, all_of(1)];
    for step in appended.iter().chain(&settled).chain(settle).chain(&[Plan, Trim, Clear]).chain(then) {
        run.apply(step).await;
    }
    run
}

#[test]
fn a_store_that_gave_a_segment_up_before_its_end_was_folded_opens_with_all_it_owes() {
    runtime().block_on(async {
        for but_each in [12, 0] {
            let mut run = old_store(
                &[but_each_of_2(but_each)],
                &[many(2, &[1, 2]), Acknowledge { stream: 1, but_each: 0, lazy: false }],
            )
            .await;
            for step in [Kill, Housekeep, many(30, &[1]), all_of(1), Kill, Housekeep, Close] {
                run.apply(&step).await;
            }
            run.store.close().await.unwrap();
            assert!(FjallStore::check(&run.folder.place()).unwrap().is_sound());
        }
    });
}

#[test]
fn what_a_limit_dropped_of_such_a_segment_is_counted_neither_as_owed_nor_as_dropped() {
    runtime().block_on(async {
        let mut run = old_store(&[Retain { stream: 2, below: 11 }, but_each_of_2(12)], &[]).await;
        run.open_again().await;
        let store = run.any();
        crate::testkit::assert_sums(&store, STREAMS.start..=STREAMS.end).await;
        assert_eq!(owed(&store, 2).await, [12]);
        assert_eq!(body(&store, 12).await.as_deref(), Some(text(12).as_bytes()));
    });
}

#[test]
fn such_a_store_is_refused_when_something_owed_is_missing() {
    runtime().block_on(async {
        let run = old_store(&[but_each_of_2(12)], &[]).await;
        run.store.abandon().await;
        {
            let path = run.folder.place().store.join("engine");
            let engine = fjall::Database::builder(path).worker_threads(1).manual_journal_persist(true).open().unwrap();
            let held = engine.keyspace("held", fjall::KeyspaceCreateOptions::default).unwrap();
            let mut key = vec![1];
            key.extend(12u64.to_be_bytes());
            assert!(held.contains_key(&key).unwrap());
            held.remove(&key).unwrap();
            engine.persist(fjall::PersistMode::SyncAll).unwrap();
        }
        let error = run.folder.try_open().unwrap_err();
        assert!(error.to_string().contains("record 12 is owed and its body is missing"), "{error}");
    });
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let stream = || 1..4u32;
    let targets = prop_oneof![
        4 => Just(vec![1]),
        3 => Just(vec![1, 2]),
        2 => Just(vec![1, 2, 3]),
        2 => Just(vec![]),
    ];
    let step = prop_oneof![
        6 => proptest::collection::vec(targets, 1..9).prop_map(Append),
        6 => (stream(), prop_oneof![Just(0u64), Just(10), Just(11), Just(3)], any::<bool>())
            .prop_map(|(stream, but_each, lazy)| Acknowledge { stream, but_each, lazy }),
        1 => (stream(), any::<usize>()).prop_map(|(stream, pick)| Park { stream, pick }),
        2 => (stream(), 1..60u64).prop_map(|(stream, below)| Retain { stream, below }),
        1 => stream().prop_map(|stream| Disable { stream }),
        2 => Just(Fold),
        5 => Just(Plan),
        5 => Just(Trim),
        2 => Just(Clear),
        2 => Just(Housekeep),
        2 => Just(Kill),
        1 => Just(Close),
    ];
    proptest::collection::vec(step, 8..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_steps_loses_anything_wherever_the_process_ends(steps in steps(), place in any::<u64>()) {
        runtime().block_on(async {
            let places = run(&steps, None).await;
            run(&steps, Some(place % places.max(1))).await;
        });
    }
}
