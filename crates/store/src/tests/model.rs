//! Tests of random units against a small model, with cuts and openings in between.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{
    Appended, Done, Durability, Ending, Fact, NewEvent, ParkedFilter, Position, Put, Rule, Space, StreamNo, Unit,
    Version, Witness,
    testkit::{acknowledged, attempted, body, event, event_once, owed, parked, tail},
};

#[derive(Clone, Debug)]
enum Step {
    Append { targets: Vec<u32>, once: Option<(u8, u8)> },
    Acknowledge { stream: u32, seq: u64, lazy: bool },
    Attempt { stream: u32, seq: u64 },
    Park { stream: u32, seq: u64 },
    Retain { stream: u32, below: u64 },
    Disable { stream: u32 },
    Reissue { pick: usize },
    Discard { pick: usize },
    Put { key: u8 },
    Allocate,
    Housekeep,
    Cut,
    Close,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let stream = 1..4u32;
    let seq = 1..40u64;
    let step = prop_oneof![
        8 => (proptest::collection::vec(1..4u32, 0..4), proptest::option::of((0..6u8, 0..2u8))).prop_map(|(targets, once)| Step::Append { targets, once }),
        8 => (stream.clone(), seq.clone(), any::<bool>()).prop_map(|(stream, seq, lazy)| Step::Acknowledge { stream, seq, lazy }),
        2 => (stream.clone(), seq.clone()).prop_map(|(stream, seq)| Step::Attempt { stream, seq }),
        3 => (stream.clone(), seq.clone()).prop_map(|(stream, seq)| Step::Park { stream, seq }),
        1 => (stream.clone(), seq.clone()).prop_map(|(stream, below)| Step::Retain { stream, below }),
        1 => stream.prop_map(|stream| Step::Disable { stream }),
        2 => any::<usize>().prop_map(|pick| Step::Reissue { pick }),
        1 => any::<usize>().prop_map(|pick| Step::Discard { pick }),
        1 => (0..4u8).prop_map(|key| Step::Put { key }),
        1 => Just(Step::Allocate),
        1 => Just(Step::Housekeep),
        2 => Just(Step::Cut),
        1 => Just(Step::Close),
    ];
    proptest::collection::vec(step, 1..60)
}

/// A model of the content that a store must have.
#[derive(Default)]
struct Model {
    bodies: Vec<String>,
    owed: BTreeMap<u32, BTreeSet<u64>>,
    /// The counts (owed ever, acknowledged, parked, dropped) by stream.
    tally: BTreeMap<u32, [u64; 4]>,
    tried: BTreeMap<(u32, u64), u32>,
    parked: BTreeMap<(u32, u64), String>,
    once: BTreeMap<u8, (u8, u64)>,
    puts: BTreeMap<String, u64>,
    version: u64,
    membership: u64,
    numbers: BTreeSet<u32>,
    /// The deliveries acknowledged lazily since the last durable commit.
    loose: Vec<(u32, u64)>,
    loose_attempts: bool,
}

impl Model {
    fn append(&mut self, body: String, targets: &[u32]) -> u64 {
        self.bodies.push(body);
        let seq = self.bodies.len() as u64;
        for stream in targets.iter().copied().collect::<BTreeSet<_>>() {
            self.owed.entry(stream).or_default().insert(seq);
            self.tally.entry(stream).or_default()[0] += 1;
        }
        self.durable();
        seq
    }

    fn end(&mut self, stream: u32, seq: u64, how: usize) -> bool {
        let news = self.owed.entry(stream).or_default().remove(&seq);
        if news {
            self.tally.entry(stream).or_default()[how] += 1;
            self.tried.remove(&(stream, seq));
        }
        news
    }

    fn drop_below(&mut self, stream: u32, below: u64) -> usize {
        let gone: Vec<u64> = self.owed.entry(stream).or_default().range(..below).copied().collect();
        for seq in &gone {
            self.end(stream, *seq, 3);
        }
        gone.len()
    }

    /// Records that everything up to now is durable.
    fn durable(&mut self) {
        self.loose.clear();
        self.loose_attempts = false;
    }
}

/// A witness that counts the facts of a store, by the end of the deliveries.
#[derive(Debug, Default)]
struct Counter(parking_lot::Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    owed: u64,
    /// The counts (acknowledged, parked, dropped) by stream.
    ended: BTreeMap<u32, [u64; 3]>,
    waiting: u64,
}

impl Witness for Counter {
    fn saw(&self, facts: &[Fact], waiting: u64) {
        let mut counted = self.0.lock();
        counted.waiting = waiting;
        for fact in facts {
            match fact {
                Fact::Owed(_, count) => counted.owed += count,
                Fact::Ended(stream, ending, count) => {
                    let how = match ending {
                        Ending::Acknowledged(_) => 0,
                        Ending::Parked(code) => {
                            assert_eq!(*code, setgate_set::ErrorCode::InvalidRequest, "the code is told");
                            1
                        }
                        Ending::Dropped(_) => 2,
                    };
                    counted.ended.entry(stream.0).or_default()[how] += count;
                }
            }
        }
    }
}

/// A witness, and the counts of what had ended before it was registered.
struct Watched {
    counter: Arc<Counter>,
    ended: BTreeMap<u32, [u64; 3]>,
}

fn watch(store: &Arc<dyn Store>, model: &Model) -> Watched {
    let counter = Arc::new(Counter::default());
    store.watch(counter.clone());
    Watched { counter, ended: model.tally.iter().map(|(stream, [_, ended @ ..])| (*stream, *ended)).collect() }
}

impl Watched {
    /// Asserts that the reported facts add up and agree with the model.
    fn check(&self, model: &Model) {
        let counted = self.counter.0.lock();
        let ended: u64 = counted.ended.values().flatten().sum();
        assert_eq!(counted.owed, ended + counted.waiting, "{counted:?}");
        assert_eq!(counted.waiting, model.owed.values().map(|owed| owed.len() as u64).sum::<u64>());
        for (stream, [_, now @ ..]) in &model.tally {
            let before = self.ended.get(stream).copied().unwrap_or_default();
            let told = counted.ended.get(stream).copied().unwrap_or_default();
            let since: Vec<_> = now.iter().zip(before).map(|(now, before)| now - before).collect();
            assert_eq!(told, since[..], "stream {stream}: {counted:?}");
        }
    }
}

async fn run(bench: &mut impl Bench, steps: Vec<Step>) {
    let mut store = bench.open().await;
    let mut model = Model::default();
    let mut watched = watch(&store, &model);
    for step in steps {
        let opens = matches!(step, Step::Cut | Step::Close);
        store = take(bench, store, &mut model, step).await;
        if opens {
            // A new process begins with new counters.
            watched = watch(&store, &model);
        }
        watched.check(&model);
    }
    if bench.survives() {
        store.close().await.unwrap();
        drop(store);
        let store = bench.open().await;
        assert_same(&store, &model).await;
    }
}

async fn take(bench: &mut impl Bench, store: Arc<dyn Store>, model: &mut Model, step: Step) -> Arc<dyn Store> {
    let fence = store.fence();
    let sync = |unit| store.commit(vec![unit], Durability::Sync);
    match step {
        Step::Append { targets, once } => {
            let text = format!("body-{}", model.bodies.len());
            let event = match once {
                Some((key, digest)) => event_once(&text, &targets, key, digest),
                None => event(&text, &targets),
            };
            let event = NewEvent { config: Version(model.membership), ..event };
            let Done::Appended(answers) = sync(Unit::Append { events: vec![event] }).await.unwrap().remove(0) else {
                panic!()
            };
            let known =
                once.and_then(|(key, digest)| model.once.get(&key).map(|(first, seq)| (*first == digest, *seq)));
            match (known, &answers[0]) {
                (None, Appended::New { at, .. }) => {
                    let seq = model.append(text, &targets);
                    assert_eq!(at.seq, seq);
                    if let Some((key, digest)) = once {
                        model.once.insert(key, (digest, seq));
                    }
                }
                (Some((true, seq)), Appended::Repeat { at, .. }) | (Some((false, seq)), Appended::Conflict { at }) => {
                    assert_eq!(at.seq, seq)
                }
                other => panic!("{other:?}"),
            }
        }
        Step::Acknowledge { stream, seq, lazy } => {
            let news = model.end(stream, seq, 1);
            let how = if lazy { Durability::Lazy } else { Durability::Sync };
            let done =
                store.commit(vec![Unit::Settle { fence, what: vec![acknowledged(stream, seq)] }], how).await.unwrap();
            assert_eq!(done, [Done::Settled(usize::from(news))]);
            match (lazy, news) {
                (true, true) => model.loose.push((stream, seq)),
                (false, _) => model.durable(),
                _ => {}
            }
        }
        Step::Attempt { stream, seq } => {
            let count = 1 + model.tried.get(&(stream, seq)).copied().unwrap_or_default();
            let what = vec![attempted(stream, seq, count)];
            assert_eq!(
                store.commit(vec![Unit::Settle { fence, what }], Durability::Lazy).await.unwrap(),
                [Done::Settled(0)]
            );
            if model.owed.entry(stream).or_default().contains(&seq) {
                model.tried.insert((stream, seq), count);
                model.loose_attempts = true;
            }
        }
        Step::Park { stream, seq } => {
            let news = model.end(stream, seq, 2);
            if news {
                model.parked.insert((stream, seq), model.bodies[seq as usize - 1].clone());
            }
            let done = sync(Unit::Settle { fence, what: vec![parked(stream, seq)] }).await.unwrap();
            assert_eq!(done, [Done::Settled(usize::from(news))]);
            model.durable();
        }
        Step::Retain { stream, below } => {
            let gone = model.drop_below(stream, below.min(model.bodies.len() as u64 + 1));
            let unit =
                Unit::Retain { fence, stream: StreamNo(stream), below: Position::new(below), rule: Rule::TooMany };
            assert_eq!(sync(unit).await.unwrap(), [Done::Retained(gone)]);
            model.durable();
        }
        Step::Disable { stream } => {
            model.drop_below(stream, u64::MAX);
            model.version += 1;
            model.membership = model.version;
            let notice = model.append("notice".into(), &[stream]);
            let control = NewEvent { kind: crate::Kind::Control, ..event("notice", &[stream]) };
            let drop_through = vec![(StreamNo(stream), Rule::Disabled)];
            let unit =
                Unit::Configure { change: vec![], expect: None, membership: true, drop_through, notice: vec![control] };
            let expected = Done::Configured { version: Version(model.version), notices: vec![Position::new(notice)] };
            assert_eq!(sync(unit).await.unwrap(), [expected]);
        }
        Step::Reissue { pick } => {
            let Some(((stream, seq), text)) = pick_of(&model.parked, pick) else { return store };
            model.parked.remove(&(stream, seq));
            let at = model.append(text, &[stream]);
            let unit = Unit::Reissue { fence, stream: StreamNo(stream), of: Position::new(seq) };
            assert_eq!(sync(unit).await.unwrap(), [Done::Reissued(Some(Position::new(at)))]);
        }
        Step::Discard { pick } => {
            let Some(((stream, seq), _)) = pick_of(&model.parked, pick) else { return store };
            model.parked.remove(&(stream, seq));
            let unit = Unit::Discard { fence, what: vec![(StreamNo(stream), Position::new(seq))] };
            assert_eq!(sync(unit).await.unwrap(), [Done::Discarded(1)]);
            model.durable();
        }
        Step::Put { key } => {
            model.version += 1;
            let key = format!("key/{key}");
            let gone = model.puts.remove(&key).is_some();
            if !gone {
                model.puts.insert(key.clone(), model.version);
            }
            let value = (!gone).then(|| bytes::Bytes::from(model.version.to_string()));
            let change = vec![Put { key: key.into(), value }];
            let unit = Unit::Configure {
                change,
                expect: Some(Version(model.version - 1)),
                membership: false,
                drop_through: vec![],
                notice: vec![],
            };
            assert_eq!(
                sync(unit).await.unwrap(),
                [Done::Configured { version: Version(model.version), notices: vec![] }]
            );
            model.durable();
        }
        Step::Allocate => {
            let Done::Allocated(number) = sync(Unit::Allocate { space: Space::Stream }).await.unwrap().remove(0) else {
                panic!()
            };
            assert!(model.numbers.insert(number));
            model.durable();
        }
        Step::Housekeep => store.housekeep().await.unwrap(),
        Step::Cut if bench.survives() => {
            bench.cut(store).await;
            let store = bench.open().await;
            // Units that were answered lazily may or may not have reached the disk.
            for (stream, seq) in std::mem::take(&mut model.loose) {
                if store.is_owed(StreamNo(stream), Position::new(seq)) {
                    model.owed.entry(stream).or_default().insert(seq);
                    model.tally.entry(stream).or_default()[1] -= 1;
                }
            }
            // The attempts that were lost or came back with them are not modelled: they are read from the store.
            model.tried.clear();
            for stream in 1..4 {
                for (at, tried) in store.attempts(StreamNo(stream)) {
                    model.tried.insert((stream, at.seq), tried.count);
                }
            }
            assert_same(&store, model).await;
            return store;
        }
        Step::Close if bench.survives() => {
            store.close().await.unwrap();
            drop(store);
            let store = bench.open().await;
            model.durable();
            assert_same(&store, model).await;
            return store;
        }
        Step::Cut | Step::Close => {}
    }
    assert_same(&store, model).await;
    store
}

fn pick_of(parked: &BTreeMap<(u32, u64), String>, pick: usize) -> Option<((u32, u64), String)> {
    parked.iter().nth(pick % parked.len().max(1)).map(|(key, text)| (*key, text.clone()))
}

async fn assert_same(store: &Arc<dyn Store>, model: &Model) {
    let last = model.bodies.len() as u64;
    assert_eq!(store.bounds().last, Position::new(last));
    assert_eq!(store.version(), Version(model.version));
    let first = store.bounds().first.seq;
    let told: Vec<u64> = tail(store).await.iter().map(|entry| entry.head.at.seq).collect();
    assert!(told.is_sorted());
    assert_eq!(
        told.iter().copied().filter(|seq| *seq >= first).collect::<Vec<_>>(),
        (first..=last).collect::<Vec<_>>()
    );
    let owed_by_any: BTreeSet<u64> = model.owed.values().flatten().copied().collect();
    assert!(owed_by_any.iter().all(|seq| told.contains(seq)), "{owed_by_any:?} is owed, {told:?} is told");
    for stream in 1..4u32 {
        let expected: Vec<u64> = model.owed.get(&stream).into_iter().flatten().copied().collect();
        assert_eq!(owed(store, stream).await, expected, "stream {stream}");
        for seq in &expected {
            assert_eq!(body(store, *seq).await.as_deref(), Some(model.bodies[*seq as usize - 1].as_bytes()));
        }
        let tally = store.cursor(StreamNo(stream)).await.unwrap().tally;
        let found = [tally.owed, tally.acknowledged_receiver, tally.parked, tally.dropped.values().sum()];
        assert_eq!(found, model.tally.get(&stream).copied().unwrap_or_default(), "stream {stream}");
        let tried: Vec<_> =
            store.attempts(StreamNo(stream)).into_iter().map(|(at, tried)| ((stream, at.seq), tried.count)).collect();
        let expected: Vec<_> =
            model.tried.range((stream, 0)..(stream + 1, 0)).map(|(key, count)| (*key, *count)).collect();
        assert_eq!(tried, expected);
    }
    let parked = store.parked(ParkedFilter { most: usize::MAX, ..ParkedFilter::default() }).await.unwrap();
    let parked: Vec<_> = parked
        .iter()
        .map(|kept| ((kept.stream.0, kept.at.seq), String::from_utf8_lossy(&kept.body).into_owned()))
        .collect();
    assert_eq!(parked, model.parked.clone().into_iter().collect::<Vec<_>>());
    let puts = store.range("key/".into()).await.unwrap();
    let puts: Vec<_> = puts.into_iter().map(|record| (record.key.0, record.version.0)).collect();
    assert_eq!(puts, model.puts.clone().into_iter().collect::<Vec<_>>());
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_in_memory_is_the_model(steps in steps()) {
        runtime().block_on(run(&mut Memory, steps));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_embedded_store_is_the_model(steps in steps(), recent in prop_oneof![Just(0usize), Just(1usize << 20)]) {
        runtime().block_on(async {
            let mut folder = Folder::with(|options| (options.recent_bytes, options.segment_records) = (recent, 12));
            run(&mut folder, steps).await;
        });
    }
}
