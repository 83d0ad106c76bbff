//! Tests of channels that share an operator's endpoint: it fails for all of them, and one SET at a time probes whether
//! it is healthy.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use setgate_delivery::Want;

use super::*;

/// The most SETs in the window that all channels share.
const ROOM: usize = 10_000;

/// A method whose channels share a cluster: what they hand over lies there until the test reports an outcome.
pub(super) struct Cluster {
    runtime: Runtime,
    pub(super) window: Window,
    pub(super) out: Mutex<Vec<Out>>,
    /// Every hand-over: its time, its stream, and the SET.
    pub(super) log: Mutex<Vec<(Duration, Arc<str>, SealedSet)>>,
    /// The number of channel runs so far.
    pub(super) runs: AtomicUsize,
    /// SETs that left while the endpoint is held and have no outcome yet, as the model sees it; `None` while it is
    /// open.
    pub(super) held: Mutex<Option<Vec<Jti>>>,
    /// The most of these SETs at once.
    pub(super) most_held: Mutex<usize>,
}

/// A SET that was handed over and has no outcome yet.
pub(super) struct Out {
    subscription: Subscription,
    stream: Arc<str>,
    set: SealedSet,
}

impl Out {
    fn settle(self, outcome: Outcome) {
        self.subscription.settle(self.set.jti, Some(self.set.attempt), outcome);
    }
}

struct ClusterChannel(Arc<Cluster>, Arc<str>, Form);

impl Cluster {
    pub(super) fn new(runtime: Runtime) -> Arc<Self> {
        let window = Window::of(ROOM, usize::MAX, 64 << 20);
        let (out, log, runs, held, most_held) = Default::default();
        Arc::new(Self { runtime, window, out, log, runs, held, most_held })
    }

    fn count(&self) -> usize {
        self.log.lock().len()
    }

    fn take(&self, at: usize) -> Out {
        self.out.lock().swap_remove(at)
    }

    fn take_all(&self) -> Vec<Out> {
        std::mem::take(&mut *self.out.lock())
    }

    /// Reports an outcome for up to `most` of the SETs that are out, in any order.
    pub(super) fn settle_some(&self, most: usize, dice: &SeededRandom, say: impl Fn(&SeededRandom) -> Outcome) {
        let most = most.min(self.out.lock().len());
        for _ in 0..most {
            let count = self.out.lock().len() as u64;
            if count > 0 {
                self.take(usize::try_from(dice.below(count)).unwrap()).settle(say(dice));
            }
        }
    }

    /// Reports for each SET that is out the outcome that `say` gives.
    pub(super) fn settle_each(&self, say: impl Fn(&SealedSet) -> Outcome) {
        for out in self.take_all() {
            let said = say(&out.set);
            out.settle(said);
        }
    }

    /// Reports the same outcome for everything that is out.
    fn settle_all(&self, outcome: &Outcome) {
        self.take_all().into_iter().for_each(|out| out.settle(outcome.clone()));
    }

    fn handed(&self, subscription: &Subscription, stream: &Arc<str>, set: SealedSet) {
        if let Some(probes) = &mut *self.held.lock() {
            probes.push(set.jti);
            let most = &mut *self.most_held.lock();
            *most = probes.len().max(*most);
        }
        self.log.lock().push((self.runtime.clock.monotonic(), stream.clone(), set.clone()));
        self.out.lock().push(Out { subscription: subscription.clone(), stream: stream.clone(), set });
    }
}

impl setgate_delivery::Channel for ClusterChannel {
    fn profile(&self) -> Profile {
        Profile {
            initiator: Initiator::Gateway,
            order: Order::PerSet,
            receipt: Receipt::Broker,
            form: self.2,
            redelivery: Redelivery::WhenConsumerEnds,
            limits: Limits { sets: 64, bytes: 1 << 20, overhead: 0, set_bytes: 16 << 10 },
            endpoint: Some("cluster/main".into()),
            windows: vec![self.0.window.clone()],
        }
    }

    async fn run(&self, subscription: Subscription, mut consumer: Consumer) -> Ended {
        self.0.runs.fetch_add(1, Ordering::Relaxed);
        loop {
            match consumer.next_batch(Want::ALL).await {
                Ok(batch) => batch.hand_over().into_iter().for_each(|set| self.0.handed(&subscription, &self.1, set)),
                Err(closed) => {
                    consumer.settled().await;
                    return closed;
                }
            }
        }
    }
}

pub(super) struct Clustered(pub(super) Arc<Cluster>);

impl AnyMethod for Clustered {
    fn entry(&self) -> Entry {
        Entry { name: "clustered", uri: "urn:example:clustered", aliases: &[] }
    }
    fn channel(&self, about: &About, terms: Value, _: Value) -> Result<Arc<dyn AnyChannel>, Fault> {
        let form = if terms["value"] == "claims" { Form::Claims } else { Form::Token };
        Ok(Arc::new(ClusterChannel(self.0.clone(), about.stream.clone(), form)))
    }
    fn publish(&self, terms: Value, _: &str) -> Result<Value, Fault> {
        Ok(terms)
    }
}

pub(super) fn clustered(id: &str) -> Value {
    json!({ "id": id, "issuer": ISSUER, "audience": id, "delivery": { "method": "clustered" } })
}

fn cluster_error() -> Cause {
    Cause::new("kafka_transport", "as scripted")
}

fn unhealthy(after: Option<Duration>) -> Outcome {
    Err(Verdict::Retry { scope: Scope::Endpoint, after, cause: cluster_error() })
}

fn ours() -> Outcome {
    Err(Verdict::Halt { scope: Scope::Endpoint, cause: Cause::new("kafka_auth", "as scripted") })
}

fn carried() -> Outcome {
    Ok(Receipt::Broker)
}

/// Makes a bench with this many streams on one cluster.
async fn bench(streams: usize) -> (Bench, Arc<Cluster>) {
    let declared: Vec<Value> = (0..streams).map(|n| clustered(&format!("s{n:03}"))).collect();
    let config = Config { pause_after: Duration::from_secs(0), ..Config::default() };
    let bench = Bench::new(config, &declared).await;
    let cluster = bench.method.cluster.clone();
    (bench, cluster)
}

impl Bench {
    fn endpoint(&self) -> Arc<crate::endpoint::Endpoint> {
        self.router.0.shared.endpoint(&"cluster/main".into())
    }

    /// Lets everything happen that can happen at once.
    async fn calm(&self) {
        self.pass(Duration::from_millis(1)).await;
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }

    /// Acknowledges everything that leaves, until nothing waits.
    async fn drained(&self, cluster: &Cluster) {
        self.until("all carried", async || {
            cluster.settle_all(&carried());
            // A stream that is missing in the configuration keeps what it is owed.
            self.router.streams().await.iter().all(|view| view.waiting == 0 || view.status == "disabled")
        })
        .await;
    }

    async fn status(&self, id: &str) -> &'static str {
        self.router.stream(id).await.unwrap().status
    }
}

#[tokio::test(start_paused = true)]
async fn a_volley_that_fails_holds_all_channels_and_pauses_none() {
    let (bench, cluster) = bench(3).await;
    for n in 0..20 {
        bench.emit(n, n).await;
    }
    bench.until("all are out", async || cluster.out.lock().len() == 60).await;
    let all = cluster.take_all();
    *cluster.held.lock() = Some(Vec::new());
    all.into_iter().for_each(|out| out.settle(unhealthy(Some(Duration::from_secs(100)))));
    bench.pass(Duration::from_secs(90)).await;
    assert_eq!(cluster.count(), 60, "nothing leaves while it is held");
    let held = bench.router.stream("s001").await.unwrap().held.unwrap();
    assert_eq!((&*held.endpoint, &*held.cause), ("cluster/main", "as scripted (kafka_transport)"));
    assert!((80..100).contains(&held.for_seconds) && held.next_attempt_seconds.is_some_and(|left| left < 20));
    let observed = &bench.router.0.shared.observed;
    let label = [("endpoint", "cluster/main".to_owned())];
    assert_eq!(observed.endpoint_held.get_or_create(&label).get(), 1);
    assert_eq!(observed.endpoint_holds.get_or_create(&label).get(), 1, "one volley is one fault");
    bench.until("the probe", async || cluster.count() == 61).await;
    bench.pass(Duration::from_secs(600)).await;
    assert_eq!(cluster.count(), 61, "one probe, however long it takes");
    *cluster.held.lock() = None;
    cluster.take(0).settle(carried());
    bench.until("all others", async || cluster.out.lock().len() == 59).await;
    assert!(cluster.out.lock().iter().all(|out| out.set.attempt.0 == 2), "an attempt was made");
    cluster.settle_all(&carried());
    bench.settled().await;
    assert!(bench.router.stream("s001").await.unwrap().held.is_none());
    assert_eq!(observed.endpoint_held.get_or_create(&label).get(), 0);
    assert_eq!(bench.status("s000").await, "enabled");
}

#[tokio::test(start_paused = true)]
async fn channels_take_turns_with_the_probe_and_nobody_gives_up() {
    let (bench, cluster) = bench(4).await;
    bench.emit(0, 0).await;
    bench.until("all are out", async || cluster.out.lock().len() == 4).await;
    cluster.settle_all(&unhealthy(None));
    let mut times = Vec::new();
    for n in 0..80 {
        bench.until("a probe", async || cluster.count() == 5 + n).await;
        assert_eq!(cluster.out.lock().len(), 1, "one at a time");
        times.push(bench.runtime.clock.monotonic());
        cluster.take(0).settle(unhealthy(None));
    }
    let log = cluster.log.lock().clone();
    let turns: Vec<_> = log.iter().skip(4).map(|(_, stream, _)| stream.clone()).collect();
    for four in turns.chunks(4) {
        assert_eq!(four.iter().collect::<BTreeSet<_>>().len(), 4, "another channel's turn each time: {turns:?}");
    }
    let mean = (times[79] - times[30]) / 49;
    assert!(mean > Duration::from_secs(60), "the back-off doubles up to its cap: {mean:?}");
    let view = bench.router.stream("s002").await.unwrap();
    assert_eq!((view.status, view.parked_total, view.waiting), ("enabled", 0, 1));
    assert!(log.iter().any(|(_, _, set)| set.attempt.0 > 19));
}

#[tokio::test(start_paused = true)]
async fn what_a_human_fixes_costs_no_attempt_waits_longer_and_is_tried_when_one_looked_at_it() {
    let (bench, cluster) = bench(2).await;
    bench.emit(0, 0).await;
    bench.until("out", async || cluster.out.lock().len() == 2).await;
    cluster.settle_all(&ours());
    bench.pass(Duration::from_millis(9900)).await;
    assert_eq!(cluster.count(), 2);
    bench.until("a probe", async || cluster.count() == 3).await;
    for n in 4..12 {
        cluster.settle_all(&ours());
        bench.until("a probe", async || cluster.count() == n).await;
    }
    assert!(cluster.log.lock().iter().all(|(_, _, set)| set.attempt.0 == 1));
    cluster.settle_all(&ours());
    bench.calm().await;
    bench.router.pause("s000", "test".into()).await.unwrap();
    bench.pass(Duration::from_secs(2)).await;
    let before = cluster.count();
    bench.router.resume("s000", false).await.unwrap();
    bench.calm().await;
    assert_eq!(cluster.count(), before + 1, "at once");
    assert_eq!(&*cluster.out.lock()[0].stream, "s000", "by whom it was asked for");
    cluster.settle_all(&carried());
    bench.drained(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn control_sets_are_held_too() {
    let (bench, cluster) = bench(2).await;
    bench.emit(0, 0).await;
    bench.until("out", async || cluster.out.lock().len() == 2).await;
    cluster.settle_all(&unhealthy(Some(Duration::from_secs(60))));
    bench.router.pause("s000", "test".into()).await.unwrap();
    bench.pass(Duration::from_secs(50)).await;
    assert_eq!(cluster.count(), 2);
    bench.router.pause("s001", "test".into()).await.unwrap();
    bench.until("the probe is a control SET", async || cluster.count() == 3).await;
    assert!(!is_event(&cluster.out.lock()[0].set));
    cluster.settle_all(&carried());
    bench.until("the other control SET", async || cluster.count() == 4).await;
    assert!(!is_event(&cluster.out.lock()[0].set));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_returns_untried_passes_the_chance_on_and_nothing_spins() {
    let (bench, cluster) = bench(5).await;
    bench.emit(0, 0).await;
    bench.until("out", async || cluster.out.lock().len() == 5).await;
    cluster.settle_all(&unhealthy(None));
    bench.until("a probe", async || cluster.count() == 6).await;
    cluster.settle_all(&Err(Verdict::Return));
    bench.calm().await;
    assert_eq!(cluster.count(), 7, "at once");
    let log = cluster.log.lock().clone();
    assert_ne!(log[5].1, log[6].1, "another's turn");
    assert!(log.iter().skip(5).all(|(_, _, set)| set.attempt.0 == 2), "no attempt counted");
    // A producer that is being rebuilt accepts nothing for a minute.
    let until = bench.runtime.clock.monotonic() + Duration::from_secs(60);
    while bench.runtime.clock.monotonic() < until {
        cluster.settle_all(&Err(Verdict::Return));
        bench.pass(Duration::from_millis(5)).await;
    }
    assert!(cluster.count() < 120, "{} probes in a minute", cluster.count());
    // A channel's permanent error that comes in between leaves the chance to others.
    let channel = Err(Verdict::Retry { scope: Scope::Channel, after: None, cause: cluster_error() });
    bench.until("a probe", async || !cluster.out.lock().is_empty()).await;
    let (before, who) = (cluster.count(), cluster.out.lock()[0].stream.clone());
    cluster.settle_all(&channel);
    bench.until("the next", async || cluster.count() > before).await;
    assert_ne!(cluster.out.lock()[0].stream, who);
    cluster.settle_all(&carried());
    bench.drained(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn who_is_invited_and_does_not_come_holds_up_nobody() {
    let (bench, cluster) = bench(3).await;
    bench.emit(0, 0).await;
    bench.until("out", async || cluster.out.lock().len() == 3).await;
    cluster.settle_all(&unhealthy(None));
    bench.calm().await;
    assert_eq!(bench.endpoint().waiting(), 3);
    // The first in the queue is gone, the second has nothing to send any more.
    bench.router.delete("s000").await.unwrap();
    bench.declare(&[clustered("s002")]).await;
    bench.until("the third", async || cluster.count() == 4).await;
    assert_eq!(&*cluster.out.lock()[0].stream, "s002");
    cluster.settle_all(&unhealthy(None));
    bench.until("again", async || cluster.count() == 5).await;
    bench.drained(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_sealed_before_the_fault_waits_too() {
    let (bench, cluster) = bench(2).await;
    bench.router.pause("s000", "test".into()).await.unwrap();
    for n in 0..12 {
        bench.emit(n, n).await;
    }
    bench.until("the other's", async || cluster.out.lock().len() == 13).await;
    bench.router.0.subscription(setgate_store::StreamNo(1)).unwrap().state.lock().phase =
        crate::subscription::Phase::Open;
    // Bodies are smaller than tokens: more is fetched than one answer may carry.
    let mut consumer = bench.router.session_target("s000").unwrap().subscription.consumer();
    let want = Want { sets: 8, bytes: 1200, wait: Some(Duration::from_millis(10)) };
    let first = consumer.next_batch(want).await.unwrap();
    assert!(first.more && !first.sets.is_empty());
    let first = first.hand_over();
    cluster.settle_all(&unhealthy(Some(Duration::from_secs(50))));
    assert!(consumer.next_batch(want).await.unwrap().sets.is_empty(), "it left though the endpoint is held");
    let subscription = bench.router.session_target("s000").unwrap().subscription;
    assert_eq!(subscription.outstanding(), first.len());
    subscription.settle_all(first.iter().map(|set| (set.jti, Some(set.attempt), carried())).collect());
    assert!(!consumer.next_batch(want).await.unwrap().sets.is_empty(), "it is well");
}

#[tokio::test(start_paused = true)]
async fn five_hundred_streams_on_a_held_endpoint_wait_quietly_and_are_woken_once() {
    let (bench, cluster) = bench(500).await;
    bench.emit(0, 0).await;
    bench.until("all are out", async || cluster.out.lock().len() == 500).await;
    cluster.settle_all(&unhealthy(Some(Duration::from_secs(100))));
    bench.calm().await;
    let runs = cluster.runs.load(Ordering::Relaxed);
    for n in 1..20 {
        bench.emit(n, n).await;
        bench.pass(Duration::from_secs(4)).await;
    }
    assert_eq!(bench.endpoint().waiting(), 500, "each stands in the queue once");
    let more = cluster.runs.load(Ordering::Relaxed) - runs;
    assert_eq!(more, 0, "no channel runs for nothing");
    let mut probes = 500;
    while probes < 520 {
        probes += 1;
        bench.until("a probe", async || cluster.count() == probes).await;
        cluster.settle_all(&unhealthy(Some(Duration::from_secs(10))));
    }
    let more = cluster.runs.load(Ordering::Relaxed) - runs;
    assert!(more <= 40, "{more} runs for 20 probes");
    bench.until("a probe", async || cluster.count() == probes + 1).await;
    cluster.settle_all(&carried());
    let runs = cluster.runs.load(Ordering::Relaxed);
    bench
        .until("all the rest", async || {
            cluster.settle_all(&carried());
            cluster.count() >= 521 + 20 * 500 - 1
        })
        .await;
    let more = cluster.runs.load(Ordering::Relaxed) - runs;
    assert!(more <= 1000, "{more} runs");
    bench.settled().await;
}

#[tokio::test(start_paused = true)]
async fn channels_of_an_endpoint_have_no_window_of_their_own() {
    let (bench, cluster) = bench(1).await;
    for n in 0..300 {
        bench.emit(n, n).await;
    }
    bench.until("all are out", async || cluster.out.lock().len() == 300).await;
    // A channel's permanent error is still the channel's: one probe leaves, then everything.
    let channel = Err(Verdict::Retry { scope: Scope::Channel, after: None, cause: cluster_error() });
    cluster.settle_all(&channel);
    bench.until("its probe", async || cluster.count() == 301).await;
    bench.pass(Duration::from_secs(60)).await;
    assert_eq!(cluster.count(), 301);
    assert!(bench.router.stream("s000").await.unwrap().held.is_none());
    cluster.settle_all(&carried());
    bench.until("the rest", async || cluster.out.lock().len() == 299).await;
    cluster.settle_all(&carried());
    bench.settled().await;
}

#[tokio::test(start_paused = true)]
async fn five_hundred_channels_share_a_window_that_is_shut_opened_and_settled_from_a_foreign_thread() {
    let (bench, cluster) = bench(500).await;
    cluster.window.limit(0, 0, 0);
    for n in 0..24 {
        bench.emit(n, n).await;
    }
    bench.pass(Duration::from_secs(5)).await;
    assert_eq!(cluster.count(), 0, "it is shut");
    cluster.window.limit(ROOM, usize::MAX, 64 << 20);
    let full = async || cluster.out.lock().len() == ROOM;
    bench.until("it is full", full).await;
    let served: BTreeSet<_> = cluster.out.lock().iter().map(|out| out.stream.clone()).collect();
    assert!(served.len() > 400, "{} channels have a part in it", served.len());
    cluster.window.limit(0, 0, 0);
    let settle_all = |all: Vec<Out>| {
        // The poll thread of a cluster's client knows no runtime.
        std::thread::spawn(move || {
            let mut subscriptions: BTreeMap<Arc<str>, (Subscription, Vec<_>)> = BTreeMap::new();
            for Out { subscription, stream, set } in all {
                let reports = &mut subscriptions.entry(stream).or_insert_with(|| (subscription, Vec::new())).1;
                reports.push((set.jti, Some(set.attempt), carried()));
            }
            subscriptions.into_values().for_each(|(subscription, all)| {
                subscription.settle_all(all);
            });
        })
        .join()
        .unwrap();
    };
    settle_all(cluster.take_all());
    bench.pass(Duration::from_secs(5)).await;
    assert_eq!(cluster.count(), ROOM, "nothing leaves while it is shut");
    cluster.window.limit(7, usize::MAX, 64 << 20);
    for round in 0..2000 {
        assert!(round < 1999, "{} are left", bench.router.streams().await.iter().map(|view| view.waiting).sum::<u64>());
        bench.calm().await;
        let all = cluster.take_all();
        assert!(all.len() <= 1000);
        if all.is_empty() && cluster.count() == 12_000 {
            break;
        }
        if round == 100 {
            cluster.window.limit(1000, usize::MAX, 64 << 20);
        }
        settle_all(all);
    }
    bench.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_needs_no_room_any_more_passes_it_on() {
    let (bench, cluster) = bench(3).await;
    cluster.window.limit(1, usize::MAX, 64 << 20);
    bench.emit(0, 0).await;
    bench.until("one is out", async || cluster.out.lock().len() == 1).await;
    bench.calm().await;
    // Of the two that wait, the first has nothing to send when room comes.
    let first = ["s000", "s001", "s002"].into_iter().find(|id| **id != *cluster.out.lock()[0].stream).unwrap();
    let no = bench.router.stream(first).await.unwrap().no;
    bench.router.0.subscription(setgate_store::StreamNo(no)).unwrap().state.lock().phase =
        crate::subscription::Phase::Paused;
    cluster.settle_all(&carried());
    bench.until("the second", async || cluster.out.lock().len() == 1).await;
    assert_ne!(&*cluster.out.lock()[0].stream, first);
}

#[tokio::test(start_paused = true)]
async fn a_backlog_takes_what_room_there_is_and_does_not_wait_for_all_of_it() {
    let (bench, cluster) = bench(2).await;
    bench.router.pause("s000", "test".into()).await.unwrap();
    bench.until("the announcement", async || cluster.count() == 1).await;
    cluster.settle_all(&carried());
    for n in 0..40 {
        bench.emit(n, n).await;
    }
    bench.until("the other's", async || cluster.out.lock().len() == 40).await;
    // All but one are acknowledged, and the window is far smaller than the backlog.
    cluster.window.limit(ROOM, usize::MAX, 2000);
    let mut all = cluster.take_all();
    let last = all.pop().unwrap();
    all.into_iter().for_each(|out| out.settle(carried()));
    bench.router.resume("s000", false).await.unwrap();
    bench.until("some of the backlog", async || cluster.out.lock().len() > 1).await;
    let out = cluster.out.lock().len();
    assert!(out < 20, "{out} SETs are out at once");
    last.settle(carried());
    bench.drained(&cluster).await;
}

mod model;
