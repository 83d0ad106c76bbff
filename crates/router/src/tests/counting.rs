//! Tests that counters, views and store agree on every history, and that no counter falls while the process lives.

use proptest::prelude::*;
use setgate_store::{StreamNo, Tally};

use super::{
    responder::{asked, soon},
    *,
};

#[derive(Clone, Debug)]
enum Step {
    Emit {
        subject: usize,
        count: usize,
    },
    Answer(Answers),
    Pause {
        stream: usize,
    },
    Resume {
        stream: usize,
        reissue: bool,
    },
    /// The receiver that fetches comes, and reports no outcome.
    Fetch {
        sets: usize,
    },
    /// A late outcome of any SET that ever left: settled, parked, retained or due again meanwhile.
    Late {
        pick: usize,
        taken: bool,
    },
    Reissue {
        pick: usize,
    },
    Discard {
        pick: usize,
    },
    /// The configuration is applied again; streams that it no longer has are disabled.
    Declare {
        without: Option<usize>,
        narrow: bool,
    },
    DeleteAndDeclare {
        stream: usize,
    },
    Pass {
        millis: u64,
    },
    Restart,
}

#[derive(Clone, Copy, Debug)]
enum Answers {
    Take,
    Refuse,
    FailSets,
    FailChannel,
    Mixed,
}

const IDS: [&str; 3] = ["a", "b", "c"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let stream = 0..IDS.len();
    let answers = prop_oneof![
        3 => Just(Answers::Take),
        2 => Just(Answers::Refuse),
        1 => Just(Answers::FailSets),
        1 => Just(Answers::FailChannel),
        3 => Just(Answers::Mixed)
    ];
    let step = prop_oneof![
        12 => (0..6usize, 1..12usize).prop_map(|(subject, count)| Step::Emit { subject, count }),
        5 => answers.prop_map(Step::Answer),
        2 => stream.clone().prop_map(|stream| Step::Pause { stream }),
        3 => (stream.clone(), any::<bool>()).prop_map(|(stream, reissue)| Step::Resume { stream, reissue }),
        6 => (1..8usize).prop_map(|sets| Step::Fetch { sets }),
        8 => (any::<usize>(), any::<bool>()).prop_map(|(pick, taken)| Step::Late { pick, taken }),
        4 => any::<usize>().prop_map(|pick| Step::Reissue { pick }),
        2 => any::<usize>().prop_map(|pick| Step::Discard { pick }),
        2 => (proptest::option::of(stream.clone()), any::<bool>()).prop_map(|(without, narrow)| Step::Declare { without, narrow }),
        1 => stream.prop_map(|stream| Step::DeleteAndDeclare { stream }),
        6 => prop_oneof![Just(5u64), Just(60), Just(1_500), Just(20_000)].prop_map(|millis| Step::Pass { millis }),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..60)
}

fn declared(id: &str, narrow: bool) -> Value {
    // One stream is fetched from, two are sent to; what waits is cut soon.
    let mut declared = if id == "c" { asked(id) } else { stream(id) };
    declared["retention"] = json!({ "sets": 12 });
    if narrow {
        declared["remove_subjects"] = json!([{ "format": "opaque", "id": "subject-1" }]);
    }
    declared
}

fn config() -> Config {
    Config { retention_interval: Duration::from_secs(1), ..Config::default() }
}

/// The figures in this order: owed, acknowledged, parked, dropped, waiting.
type Figures = [u64; 5];

fn figures(tally: &Tally) -> Figures {
    let acknowledged = tally.acknowledged_receiver + tally.acknowledged_broker;
    [tally.owed, acknowledged, tally.parked, tally.dropped.values().sum(), tally.waiting]
}

/// A history, with everything that the test has seen of it.
struct History {
    bench: Bench,
    /// The streams that exist, by number; `dead` holds the last figures of the deleted ones.
    alive: Vec<StreamNo>,
    dead: Figures,
    /// The sums at the start of the process.
    base: Figures,
    /// The SETs that ever left.
    left: Vec<Jti>,
    /// The last reading of the counters of this process.
    seen: BTreeMap<String, u64>,
}

impl History {
    async fn begin() -> Self {
        let all: Vec<_> = IDS.iter().map(|id| declared(id, false)).collect();
        let bench = Bench::new(config(), &all).await;
        let mut history =
            Self { bench, alive: vec![], dead: [0; 5], base: [0; 5], left: vec![], seen: BTreeMap::new() };
        history.note_streams().await;
        history
    }

    async fn note_streams(&mut self) {
        self.alive = self.bench.router.streams().await.iter().map(|view| StreamNo(view.no)).collect();
    }

    async fn apply(&mut self, step: Step) {
        let bench = &self.bench;
        let id = |stream: usize| IDS[stream];
        match step {
            Step::Emit { subject, count } => {
                for n in 0..count {
                    bench.emit(subject, n).await;
                }
            }
            Step::Answer(answers) => bench.method.answer_with(move |set| match answers {
                Answers::Take => ack(),
                Answers::Refuse => refuse(ErrorCode::InvalidRequest),
                Answers::FailSets => retry(Scope::Set, "http_500"),
                Answers::FailChannel => retry(Scope::Channel, "connect"),
                Answers::Mixed => match set.jti.as_str().bytes().map(u32::from).sum::<u32>() % 5 {
                    0 => refuse(ErrorCode::Other("vendor".into())),
                    1 => retry(Scope::Set, "http_500"),
                    2 => refuse(ErrorCode::InvalidKey),
                    _ => ack(),
                },
            }),
            Step::Pause { stream } => drop(bench.router.pause(id(stream), "test".into()).await),
            Step::Resume { stream, reissue } => drop(bench.router.resume(id(stream), reissue).await),
            Step::Fetch { sets } => {
                if let Some(session) = bench.router.session_target("c") {
                    let batch = session.subscription.consumer().next_batch(soon(sets)).await;
                    let sets = batch.map(setgate_delivery::Batch::hand_over).unwrap_or_default();
                    self.left.extend(sets.iter().map(|set| set.jti));
                }
            }
            Step::Late { pick, taken } => {
                self.left.extend(bench.method.seen.lock().iter().map(|set| set.jti));
                self.left.sort();
                self.left.dedup();
                let Some(jti) = self.left.get(pick % self.left.len().max(1)) else { return };
                let named = bench.store.names().read(jti).unwrap();
                if let Some(subscription) = bench.router.0.subscription(named.stream) {
                    let outcome = if taken { ack() } else { refuse(ErrorCode::InvalidState) };
                    subscription.settle(vec![(*jti, None, outcome)]);
                }
            }
            Step::Reissue { pick } => {
                if let Some(jti) = self.parked(pick).await {
                    bench.router.reissue(vec![jti], pick.is_multiple_of(2)).await.unwrap();
                }
            }
            Step::Discard { pick } => {
                if let Some(jti) = self.parked(pick).await {
                    bench.router.discard(vec![jti]).await.unwrap();
                }
            }
            Step::Declare { without, narrow } => {
                let all = IDS.iter().enumerate().filter(|(at, _)| Some(*at) != without);
                let all = all.map(|(_, id)| serde_json::from_value(declared(id, narrow)).unwrap()).collect();
                bench.router.reconcile(all, true).await.unwrap();
            }
            Step::DeleteAndDeclare { stream } => {
                let no = StreamNo(bench.router.stream(id(stream)).await.unwrap().no);
                let [owed, acknowledged, parked, dropped, waiting] =
                    figures(&bench.store.cursor(no).await.unwrap().tally);
                bench.router.delete(id(stream)).await.unwrap();
                add(&mut self.dead, [owed, acknowledged, parked, dropped + waiting, 0]);
                self.alive.retain(|other| *other != no);
                let all = IDS.iter().map(|id| serde_json::from_value(declared(id, false)).unwrap()).collect();
                bench.router.reconcile(all, true).await.unwrap();
                self.note_streams().await;
            }
            Step::Pass { millis } => bench.pass(Duration::from_millis(millis)).await,
            Step::Restart => {
                self.bench.restart(config()).await;
                self.base = self.sums().await;
                self.seen.clear();
            }
        }
    }

    async fn parked(&self, pick: usize) -> Option<String> {
        let parked = self.bench.router.parked(None, None, None, 1000).await.unwrap();
        parked.get(pick % parked.len().max(1)).map(|parked| parked.jti.to_string())
    }

    /// Returns the sums over all streams that ever existed, as the store has them.
    async fn sums(&self) -> Figures {
        let mut sums = self.dead;
        for no in &self.alive {
            add(&mut sums, figures(&self.bench.store.cursor(*no).await.unwrap().tally));
        }
        sums
    }

    /// Returns the metrics of deliveries, by series.
    fn page(&self) -> BTreeMap<String, u64> {
        let page = self.bench.page();
        let lines = page.lines().filter(|line| line.starts_with("deliveries_"));
        lines
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
            .collect()
    }

    async fn check(&mut self) {
        let page = self.page();
        let sum =
            |start: &str| page.iter().filter(|(name, _)| name.starts_with(start)).map(|(_, value)| value).sum::<u64>();
        let [owed, acknowledged, parked, dropped, waiting] =
            ["owed_total", "acknowledged_total", "parked_total", "dropped_total", "waiting"]
                .map(|name| sum(&format!("deliveries_{name}")));
        assert_eq!(owed, acknowledged + parked + dropped + waiting, "the counters contradict each other: {page:#?}");
        let sums = self.sums().await;
        let since = |at: usize| sums[at] - self.base[at];
        assert_eq!(
            [acknowledged, parked, dropped, waiting],
            [since(1), since(2), since(3), sums[4]],
            "the store says otherwise: {page:#?}"
        );
        assert_eq!(owed, since(0) + self.base[4], "what waited at the start is owed");
        for (name, before) in self.seen.iter().filter(|(name, _)| name.contains("_total")) {
            assert!(page.get(name).is_some_and(|now| now >= before), "{name} fell from {before}");
        }
        let mut views = [0; 5];
        for view in self.bench.router.streams().await {
            let of = [view.owed, view.acknowledged, view.parked_total, view.dropped, view.waiting];
            assert_eq!(of[0], of[1] + of[2] + of[3] + of[4], "{view:?}");
            assert_eq!(of, figures(&self.bench.store.cursor(StreamNo(view.no)).await.unwrap().tally));
            add(&mut views, of);
        }
        add(&mut views, self.dead);
        assert_eq!(views, sums);
        self.seen = page;
    }
}

fn add(to: &mut Figures, more: Figures) {
    to.iter_mut().zip(more).for_each(|(to, more)| *to += more);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn counters_views_and_store_agree_in_every_history(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut history = History::begin().await;
            for step in steps {
                history.apply(step).await;
                history.check().await;
            }
            history.bench.pass(Duration::from_secs(2)).await;
            history.check().await;
        });
    }
}
