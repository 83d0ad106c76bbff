//! A model of random verdicts of all kinds and scopes, checked against what must hold: order, no loss, and that a held
//! endpoint gets probes alone.

use std::collections::BTreeMap;

use super::*;

const KEYS: usize = 5;
const STREAMS: usize = 4;

struct Play {
    bench: Bench,
    cluster: Arc<Cluster>,
    dice: Arc<SeededRandom>,
    emitted: usize,
    checked: usize,
    /// The last number that was handed over for the first time, by stream and key; `ended` holds the numbers that
    /// ended.
    last: BTreeMap<(Arc<str>, u64), u64>,
    jtis: BTreeMap<Jti, (Arc<str>, u64)>,
    ended: BTreeSet<(Arc<str>, u64)>,
    holds: usize,
}

impl Play {
    async fn new(seed: u64) -> Self {
        let declared: Vec<Value> = (0..STREAMS).map(|n| clustered(&format!("s{n:03}"))).collect();
        let config = Config {
            ready_sets: 16,
            pause_after_parked: u32::MAX,
            backoff_max: Duration::from_secs(20),
            ..Config::default()
        };
        let bench = Bench::new(config, &declared).await;
        let cluster = bench.method.cluster.clone();
        let (last, jtis, ended) = Default::default();
        Self { bench, cluster, dice: SeededRandom::new(seed), emitted: 0, checked: 0, last, jtis, ended, holds: 0 }
    }

    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.dice.below(bound as u64)).unwrap()
    }

    /// Checks what was handed over since the last call.
    fn look(&mut self) {
        let log = self.cluster.log.lock().clone();
        for (_, stream, set) in log.iter().skip(self.checked).filter(|(_, _, set)| is_event(set)) {
            let n = number(set);
            if self.jtis.insert(set.jti, (stream.clone(), n)).is_some() {
                continue;
            }
            let key = (stream.clone(), n % KEYS as u64);
            let earlier = (0..n).filter(|m| m % KEYS as u64 == key.1);
            let missing: Vec<_> = earlier.filter(|m| !self.ended.contains(&(stream.clone(), *m))).collect();
            assert!(missing.is_empty(), "{stream}: {n} leaves before {missing:?} have ended");
            let before = self.last.insert(key, n);
            assert!(before.is_none_or(|before| before < n));
        }
        self.checked = log.len();
        assert!(*self.cluster.most_held.lock() < 2, "two SETs leave while the endpoint is held");
        let mut out = BTreeSet::new();
        for one in &*self.cluster.out.lock() {
            assert!(out.insert(one.set.jti), "it is out twice");
        }
    }

    fn verdict(&self) -> Outcome {
        let cause = cluster_error();
        let scope = [Scope::Set, Scope::Channel, Scope::Endpoint][self.below(3)];
        let after = (self.below(4) == 0).then(|| Duration::from_secs(self.dice.below(30)));
        match self.below(16) {
            0..3 => Err(Verdict::Retry { scope, after, cause }),
            3 => Err(Verdict::Halt { scope, cause }),
            4 => refuse(ErrorCode::InvalidRequest),
            5 => Err(Verdict::Return),
            _ => carried(),
        }
    }

    /// Reports outcomes for some SETs, and updates the model of what may leave.
    fn settle(&mut self, most: usize) {
        for _ in 0..most {
            let out = self.cluster.out.lock().len();
            if out == 0 {
                return;
            }
            let at = self.below(out);
            let one = self.cluster.take(at);
            let outcome = self.verdict();
            self.check(&one, &outcome);
            one.settle(outcome);
        }
    }

    fn check(&mut self, one: &Out, outcome: &Outcome) {
        if matches!(outcome, Ok(_) | Err(Verdict::Refuse(_) | Verdict::Halt { scope: Scope::Set, .. }))
            && is_event(&one.set)
        {
            self.ended.insert((one.stream.clone(), number(&one.set)));
        }
        let mut held = self.cluster.held.lock();
        match outcome {
            Ok(_) => *held = None,
            Err(Verdict::Retry { scope: Scope::Endpoint, .. } | Verdict::Halt { scope: Scope::Endpoint, .. })
                if held.is_none() =>
            {
                self.holds += 1;
                *held = Some(Vec::new());
            }
            // The probe has a result, or came back without one: the next may leave.
            _ => {
                if let Some(probes) = &mut *held {
                    probes.retain(|jti| *jti != one.set.jti);
                }
            }
        }
    }

    async fn step(&mut self) {
        match self.below(20) {
            0..6 => {
                for _ in 0..1 + self.below(6) {
                    self.bench.emit(self.emitted % KEYS, self.emitted).await;
                    self.emitted += 1;
                }
            }
            6..13 => {
                let most = 1 + self.below(8);
                self.settle(most);
            }
            13..18 => self.bench.pass(Duration::from_millis(self.dice.below(4000))).await,
            18 => {
                let id = format!("s{:03}", self.below(STREAMS));
                let _ = if self.below(2) == 0 {
                    self.bench.router.pause(&id, "test".into()).await
                } else {
                    self.bench.router.resume(&id, false).await
                };
            }
            _ => {}
        }
        for _ in 0..self.below(8) {
            tokio::task::yield_now().await;
        }
        self.look();
    }

    async fn finish(&mut self) {
        for round in 0.. {
            assert!(round < 4000, "something is never delivered: {:#?}", self.bench.router.streams().await);
            for n in 0..STREAMS {
                let _ = self.bench.router.resume(&format!("s{n:03}"), false).await;
            }
            for one in self.cluster.take_all() {
                self.check(&one, &carried());
                one.settle(carried());
            }
            self.bench.pass(Duration::from_millis(500)).await;
            self.look();
            if self.bench.router.streams().await.iter().all(|view| view.waiting == 0 && view.status == "enabled") {
                break;
            }
        }
        for view in self.bench.router.streams().await {
            assert_eq!(view.acknowledged + view.parked_total, view.owed, "{view:?}");
            let lost = (0..self.emitted as u64).filter(|n| !self.ended.contains(&(view.id.as_str().into(), *n)));
            // Poison and SETs that were parked on the way are ends, too.
            assert!(lost.count() as u64 <= view.parked_total, "{} lost SETs", view.id);
            let subscription = self.bench.router.0.subscription(setgate_store::StreamNo(view.no)).unwrap();
            let state = subscription.state.lock();
            assert!(state.in_flight.leased.is_empty() && state.is_at_rest(), "something is left over");
        }
        assert!(self.bench.endpoint().is_open());
        assert_eq!(self.cluster.window.core().room(), ROOM, "room was not given back");
    }
}

#[tokio::test(start_paused = true)]
async fn order_and_every_set_survive_random_verdicts_and_held_means_held() {
    let mut holds = 0;
    for seed in 0..10 {
        let mut play = Play::new(seed).await;
        for _ in 0..300 {
            play.step().await;
        }
        play.finish().await;
        holds += play.holds;
    }
    assert!(holds > 40, "{holds}");
}
