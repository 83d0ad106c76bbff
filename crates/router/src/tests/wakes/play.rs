//! Random histories of streams of every kind, with a check after each step that no stream is neglected.

use std::sync::atomic::AtomicBool;

use tokio::task::JoinHandle;

use super::*;
use crate::tests::{endpoints::Cluster, faulty::Faulty};

const KEYS: u64 = 12;
const IDS: [&str; 5] = ["push", "poll", "socket", "c0", "c1"];

/// The SETs that receivers fetched and have not settled.
type Fetched = Arc<Mutex<Vec<(&'static str, Jti, setgate_delivery::Attempt)>>>;

struct Play {
    bench: Bench,
    store: Arc<Faulty>,
    dice: Arc<SeededRandom>,
    peers: Vec<JoinHandle<()>>,
    fetched: Fetched,
    /// True when everything is acknowledged from now on.
    well: Arc<AtomicBool>,
    emitted: usize,
    window: usize,
}

fn config() -> Config {
    Config {
        ready_sets: 24,
        in_flight_sets: 40,
        pause_after_parked: u32::MAX,
        pause_after: Duration::from_secs(1_000_000),
        backoff_max: Duration::from_secs(20),
        retention_interval: Duration::from_secs(7),
        ..Config::default()
    }
}

fn declared(window: usize) -> Vec<Value> {
    let mut push = stream("push");
    push["delivery"]["window"] = window.into();
    push["retention"] = json!({ "sets": 60 });
    let mut poll = asked("poll");
    poll["delivery"]["after"] = 20.into();
    poll["inactivity_timeout"] = "90s".into();
    poll["batch"] = json!({ "linger": "400ms" });
    let socket = json!({ "id": "socket", "issuer": ISSUER, "audience": "s", "delivery": { "method": "asked", "order": "consumer" } });
    let on = |id: &str, linger: u32| json!({ "id": id, "issuer": ISSUER, "audience": id, "delivery": { "method": "clustered" }, "batch": { "linger": format!("{linger}ms") } });
    vec![push, poll, socket, on("c0", 0), on("c1", 250)]
}

impl Play {
    async fn new(seed: u64) -> Self {
        let (bench, store) = faulty(config(), &declared(4)).await;
        let play = Self {
            bench,
            store,
            dice: SeededRandom::new(seed),
            peers: Vec::new(),
            fetched: Fetched::default(),
            well: Arc::default(),
            emitted: 0,
            window: 4,
        };
        let (dice, well) = (SeededRandom::new(seed + 1000), play.well.clone());
        play.bench.method.answer_with(move |_| if well.load(Ordering::Relaxed) { ack() } else { outcome(&dice) });
        play
    }

    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.dice.below(bound as u64)).unwrap()
    }

    fn cluster(&self) -> Arc<Cluster> {
        self.bench.method.cluster.clone()
    }

    /// Opens a request or a socket that fetches a few times and goes.
    fn open(&mut self) {
        let id = if self.below(2) == 0 { "poll" } else { "socket" };
        let Some(target) = self.bench.router.session_target(id) else { return };
        let (rounds, sets) = (1 + self.below(3), 1 + self.below(20));
        let wait = Duration::from_millis(self.dice.below(60_000));
        let fetched = self.fetched.clone();
        self.peers.push(tokio::spawn(async move {
            let mut consumer = target.subscription.consumer();
            for _ in 0..rounds {
                let want = Want { sets, bytes: usize::MAX, wait: Some(wait) };
                let Ok(batch) = consumer.next_batch(want).await else { return };
                fetched.lock().extend(batch.hand_over().iter().map(|set| (id, set.jti, set.attempt)));
            }
            if id == "socket" {
                consumer.settled().await;
            }
        }));
    }

    fn settle_fetched(&mut self, most: usize) {
        for _ in 0..most {
            let count = self.fetched.lock().len();
            if count == 0 {
                return;
            }
            let (id, jti, attempt) = self.fetched.lock().swap_remove(self.below(count));
            let Some(target) = self.bench.router.session_target(id) else { continue };
            let said = if self.well.load(Ordering::Relaxed) { ack() } else { outcome(&self.dice) };
            target.subscription.settle(jti, (self.below(2) == 0).then_some(attempt), said);
        }
    }

    async fn pause_or_resume(&self, id: &str) {
        let _ = if self.below(2) == 0 {
            self.bench.router.pause(id, "test".into()).await
        } else {
            self.bench.router.resume(id, false).await
        };
    }

    async fn step(&mut self) {
        match self.below(100) {
            0..22 => {
                for _ in 0..1 + self.below(10) {
                    let key = usize::try_from(self.dice.below(KEYS)).unwrap();
                    self.bench.emit(key, self.emitted).await;
                    self.emitted += 1;
                }
            }
            22..34 if self.peers.len() < 8 => self.open(),
            34..38 if !self.peers.is_empty() => {
                let at = self.below(self.peers.len());
                self.peers.swap_remove(at).abort();
            }
            38..54 => {
                let most = 1 + self.below(12);
                self.settle_fetched(most);
            }
            54..66 => {
                let most = 1 + self.below(12);
                self.cluster().settle_some(most, &self.dice, outcome);
            }
            66..72 => self.bench.pass(Duration::from_micros(self.dice.below(5000))).await,
            72..80 => self.bench.pass(Duration::from_millis(self.dice.below(3000))).await,
            80..84 => self.bench.pass(Duration::from_millis(self.dice.below(40_000))).await,
            84..88 => self.pause_or_resume(IDS[self.below(IDS.len())]).await,
            88..91 => *self.bench.method.latency.lock() = Duration::from_millis([0, 0, 80, 6000][self.below(4)]),
            91..93 => {
                self.window = 4 + self.below(3);
                self.bench.declare(&declared(self.window)).await;
            }
            93..96 => {
                let fails = self.store.settle_fail.load(Ordering::Relaxed);
                self.store.settle_fail.store(!fails, Ordering::Relaxed);
            }
            96..98 => {
                self.peers.drain(..).for_each(|peer| peer.abort());
                let script = self.bench.method.script.lock().clone();
                self.bench.restart(config()).await;
                *self.bench.method.script.lock() = script;
            }
            _ => {}
        }
        self.bench.assert_nobody_is_neglected().await;
    }

    async fn finish(&mut self) {
        self.well.store(true, Ordering::Relaxed);
        self.store.settle_fail.store(false, Ordering::Relaxed);
        *self.bench.method.latency.lock() = Duration::ZERO;
        for round in 0.. {
            assert!(round < 2000, "something is never delivered; {}", self.bench.clocks());
            for id in IDS {
                let _ = self.bench.router.resume(id, false).await;
            }
            self.peers.retain(|peer| !peer.is_finished());
            while self.peers.len() < 4 {
                self.open();
            }
            self.settle_fetched(1000);
            self.cluster().settle_some(usize::MAX, &self.dice, |_| Ok(Receipt::Broker));
            self.bench.pass(Duration::from_millis(500)).await;
            self.bench.assert_nobody_is_neglected().await;
            if self.bench.router.streams().await.iter().all(|view| view.waiting == 0) {
                break;
            }
        }
        for view in self.bench.router.streams().await {
            assert_eq!(view.acknowledged + view.parked_total + view.dropped, view.owed, "{view:?}");
        }
        self.peers.drain(..).for_each(|peer| peer.abort());
        let rang = rings(&self.bench, Duration::from_secs(60)).await;
        assert!(rang < 20, "{rang} timers ring where nothing is owed; {}", self.bench.clocks());
    }
}

/// Returns an outcome that a peer may report, a good one more often than a bad one.
fn outcome(dice: &SeededRandom) -> Outcome {
    let after = (dice.below(3) == 0).then(|| Duration::from_millis(dice.below(30_000)));
    let scope = [Scope::Set, Scope::Set, Scope::Channel, Scope::Endpoint][usize::try_from(dice.below(4)).unwrap()];
    match dice.below(20) {
        0..5 => Err(Verdict::Retry { scope, after, cause: Cause::new("http_503", "as thrown") }),
        5 => refuse(ErrorCode::InvalidRequest),
        6 => refuse(ErrorCode::InvalidKey),
        7 => Err(Verdict::Return),
        _ => ack(),
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_nobody_who_has_something_due_is_neglected() {
    for seed in 0..8 {
        let mut play = Play::new(seed).await;
        for _ in 0..200 {
            play.step().await;
        }
        play.finish().await;
    }
}
