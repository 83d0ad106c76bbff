//! A test of several consumers with several delivery modes on one stream, against a small model of P4.
//!
//! The check is by the first arrival of each `jti`: nothing arrives before every earlier SET of its key has arrived or
//! is settled; nothing is lost; nothing is handed over twice while it is held.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use setgate_delivery::{Batch, DeliveryMode};

use super::{responder::*, *};

const REDELIVERY: Duration = Duration::from_secs(60);
const KEYS: u64 = 6;

/// The consumer that holds a SET, and the time until which it does, unless that is the end of the consumer.
#[derive(Clone, Copy)]
struct Hold {
    consumer: usize,
    until: Option<Duration>,
}

#[derive(Default)]
struct Model {
    jtis: BTreeMap<u64, Jti>,
    arrived: BTreeSet<u64>,
    settled: BTreeSet<u64>,
    held: BTreeMap<u64, Hold>,
    repeats: usize,
}

impl Model {
    fn handed(&mut self, now: Duration, n: u64, hold: Hold) {
        self.redeliver(now);
        assert!(!self.held.contains_key(&n), "{n} is handed out while it is held");
        // A SET that was fetched when a late acknowledgement came may still leave: a repeat of a settled SET does no
        // harm.
        if !self.settled.contains(&n) {
            self.held.insert(n, hold);
        }
    }

    fn arrives(&mut self, n: u64) {
        if !self.arrived.insert(n) {
            self.repeats += 1;
            return;
        }
        let earlier = (0..n).filter(|m| m % KEYS == n % KEYS);
        let missing: Vec<u64> = earlier.filter(|m| !self.arrived.contains(m) && !self.settled.contains(m)).collect();
        assert!(missing.is_empty(), "{n} arrives before {missing:?}");
    }

    /// Makes a SET due again, and with it what was fetched behind it.
    fn falls_back(&mut self, n: u64) {
        self.held.retain(|m, _| *m < n || m % KEYS != n % KEYS);
    }

    fn redeliver(&mut self, now: Duration) {
        let over: Vec<u64> =
            self.held.iter().filter(|(_, hold)| hold.until.is_some_and(|at| at <= now)).map(|(n, _)| *n).collect();
        over.into_iter().for_each(|n| self.falls_back(n));
    }

    fn consumer_gone(&mut self, consumer: usize) {
        let of_consumer = |hold: &Hold| hold.consumer == consumer && hold.until.is_none();
        let over: Vec<u64> = self.held.iter().filter(|(_, hold)| of_consumer(hold)).map(|(n, _)| *n).collect();
        over.into_iter().for_each(|n| self.falls_back(n));
    }
}

/// A request or a socket of the receiver.
struct Peer {
    no: usize,
    consumer: Consumer,
    /// SETs that were written to the socket and have not arrived; a request has no pipe.
    pipe: Option<VecDeque<SealedSet>>,
}

struct Play {
    bench: Bench,
    dice: Arc<SeededRandom>,
    model: Model,
    peers: Vec<Peer>,
    /// Answers that have not left yet; they outlive their consumer.
    answers: Vec<(usize, Batch)>,
    emitted: u64,
    opened: usize,
}

fn config() -> Config {
    Config { ready_sets: 24, in_flight_sets: 40, pause_after_parked: u32::MAX, ..Config::default() }
}

impl Play {
    async fn new(seed: u64) -> Self {
        let bench = Bench::new(config(), &[asked("a")]).await;
        let (model, peers, answers) = Default::default();
        Self { bench, dice: SeededRandom::new(seed), model, peers, answers, emitted: 0, opened: 0 }
    }

    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.dice.below(bound as u64)).unwrap()
    }

    fn now(&self) -> Duration {
        self.bench.runtime.clock.monotonic()
    }

    fn subscription(&self) -> Subscription {
        self.bench.router.session_target("a").unwrap().subscription
    }

    fn open(&mut self, socket: bool) {
        let mode = DeliveryMode { order: Order::PerConsumer, redelivery: Redelivery::WhenConsumerEnds };
        let consumer = if socket { self.subscription().consumer_with(mode) } else { self.subscription().consumer() };
        self.opened += 1;
        self.peers.push(Peer { no: self.opened, consumer, pipe: socket.then(VecDeque::new) });
    }

    async fn fetch(&mut self, at: usize, most: usize) {
        let peer = &mut self.peers[at];
        let batch = peer.consumer.next_batch(soon(most)).await.unwrap();
        assert!(batch.sets.len() <= most);
        let no = peer.no;
        if peer.pipe.is_none() {
            self.answers.push((no, batch));
            return;
        }
        let now = self.now();
        for set in batch.hand_over() {
            self.model.handed(now, number(&set), Hold { consumer: no, until: None });
            self.peers[at].pipe.as_mut().unwrap().push_back(set);
        }
    }

    /// Lets the answer of a request leave; it arrives whole or not at all.
    fn answer(&mut self, at: usize, arrives: bool) {
        let (consumer, batch) = self.answers.swap_remove(at);
        let now = self.now();
        for set in batch.hand_over() {
            let n = number(&set);
            self.model.jtis.insert(n, set.jti);
            self.model.handed(now, n, Hold { consumer, until: Some(now + REDELIVERY) });
            if arrives {
                self.model.arrives(n);
            }
        }
    }

    fn arrive(&mut self, at: usize, most: usize) {
        let pipe = self.peers[at].pipe.as_mut().unwrap();
        let come: Vec<_> = pipe.drain(..pipe.len().min(most)).collect();
        for set in come {
            self.model.jtis.insert(number(&set), set.jti);
            self.model.arrives(number(&set));
        }
    }

    /// Gives back the SETs that the socket had no time to write.
    fn give_back(&mut self, at: usize) {
        let pipe = self.peers[at].pipe.as_mut().unwrap();
        let tail: Vec<_> = pipe.drain(pipe.len() / 2..).collect();
        tail.iter().for_each(|set| self.model.falls_back(number(set)));
        let all = tail.iter().map(|set| (set.jti, Some(set.attempt), Err(Verdict::Return))).collect();
        self.subscription().settle_all(all);
    }

    fn acknowledge(&mut self, most: usize) {
        let known: Vec<u64> = self.model.arrived.iter().copied().collect();
        let mut all = vec![(Jti::from_block(b'a', *b"no such SET here"), None, ack())];
        for _ in 0..most.min(known.len()) {
            // A SET may be reported again and again, in any order, whatever became of it.
            let n = known[self.below(known.len())];
            let outcome = if self.below(12) == 0 { refuse(ErrorCode::InvalidRequest) } else { ack() };
            self.model.settled.insert(n);
            self.model.held.remove(&n);
            all.push((self.model.jtis[&n], None, outcome));
        }
        self.subscription().settle_all(all);
    }

    fn hang_up(&mut self, at: usize) {
        let peer = self.peers.swap_remove(at);
        self.model.consumer_gone(peer.no);
    }

    async fn step(&mut self) {
        let (peers, answers) = (self.peers.len(), self.answers.len());
        match self.below(100) {
            0..20 => {
                for _ in 0..1 + self.below(12) {
                    let n = self.emitted;
                    let key = usize::try_from(n % KEYS).unwrap();
                    self.bench.emit(key, usize::try_from(n).unwrap()).await;
                    self.emitted += 1;
                }
            }
            20..28 if peers < 5 => {
                let socket = self.below(2) == 0;
                self.open(socket);
            }
            28..50 if peers > 0 => {
                let (at, most) = (self.below(peers), 1 + self.below(12));
                self.fetch(at, most).await;
            }
            50..60 if answers > 0 => {
                let (at, arrives) = (self.below(answers), self.below(5) > 0);
                self.answer(at, arrives);
            }
            60..63 if answers > 0 => {
                let at = self.below(answers);
                drop(self.answers.swap_remove(at));
            }
            63..76 if peers > 0 => {
                let (at, most) = (self.below(peers), self.below(8));
                if self.peers[at].pipe.is_some() {
                    self.arrive(at, most);
                }
            }
            76..78 if peers > 0 => {
                let at = self.below(peers);
                if self.peers[at].pipe.is_some() {
                    self.give_back(at);
                }
            }
            78..90 => {
                let most = self.below(10);
                self.acknowledge(most);
            }
            90..94 if peers > 0 => {
                let at = self.below(peers);
                self.hang_up(at);
            }
            94..99 => self.bench.pass(Duration::from_secs(self.dice.below(30))).await,
            99 if self.below(3) == 0 => {
                self.peers.clear();
                self.answers.clear();
                self.model.held.clear();
                self.bench.restart(config()).await;
            }
            _ => {}
        }
        for _ in 0..self.below(6) {
            tokio::task::yield_now().await;
        }
    }

    /// Lets the receiver fetch and acknowledge everything.
    async fn finish(&mut self) {
        self.answers.clear();
        while !self.peers.is_empty() {
            self.hang_up(0);
        }
        for round in 0..2000 {
            self.open(round % 2 == 0);
            let socket = self.peers[0].pipe.is_some();
            self.fetch(0, 10).await;
            if socket {
                self.arrive(0, 100);
            } else {
                self.answer(0, true);
            }
            let unsettled: Vec<u64> = self.model.arrived.difference(&self.model.settled).copied().collect();
            let all = unsettled.iter().map(|n| (self.model.jtis[n], None, ack())).collect();
            self.subscription().settle_all(all);
            for n in unsettled {
                self.model.settled.insert(n);
                self.model.held.remove(&n);
            }
            self.hang_up(0);
            self.bench.pass(Duration::from_secs(1)).await;
            if self.bench.router.stream("a").await.unwrap().waiting == 0 {
                break;
            }
        }
        let view = self.bench.router.stream("a").await.unwrap();
        assert_eq!(view.waiting, 0, "nothing more comes, and {} wait: {view:?}", view.waiting);
        let lost: Vec<u64> = (0..self.emitted).filter(|n| !self.model.arrived.contains(n)).collect();
        assert!(lost.is_empty(), "lost {lost:?}");
        assert_eq!(view.acknowledged + view.parked_total, self.emitted);
        let state = self.bench.router.0.subscription(setgate_store::StreamNo(1)).unwrap();
        let state = state.state.lock();
        assert!(state.in_flight.leased.is_empty() && state.is_at_rest(), "something is left over");
    }
}

#[tokio::test(start_paused = true)]
async fn consumers_of_all_modes_share_a_stream_without_breaking_order() {
    let mut repeats = 0;
    for seed in 0..24 {
        let mut play = Play::new(seed).await;
        for _ in 0..500 {
            play.step().await;
        }
        play.finish().await;
        repeats += play.model.repeats;
    }
    assert!(repeats > 30, "what was lost must have come again: {repeats}");
}
