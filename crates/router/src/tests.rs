//! Tests of the router as a whole, over the store in memory and a method that follows a script.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use setgate_clock::{Random, Runtime, manual::ManualClock, manual::SeededRandom};
use setgate_delivery::{
    About, Cause, Closed as Ended, Consumer, Entry, Fault, Form, Initiator, Limits, Order, Outcome, Profile, Receipt,
    Redelivery, Refusal, Scope, SealedSet, Subscription, Verdict, Window, drive,
    spi::{AnyChannel, AnyMethod},
};
use setgate_jose::{Algorithm, Kek, Keyring, Moment, Ring, Rotation, RsaBits};
use setgate_set::{ErrorCode, Event, EventLimits, Jti};
use setgate_store::{IssuerNo, MemoryStore, ProducerNo, Store};

use crate::{Accepted, Config, EventOrigin, Issuer, Observed, Parts, Router};

mod aside;
mod audiences;
mod batching;
mod budget;
mod counting;
mod endpoints;
mod faults;
mod faulty;
mod lagging;
mod late;
mod later;
mod limits;
mod moved;
mod poison;
mod responder;
mod retention;
mod rotten;
mod sharing;
mod telling;
mod wakes;

const ISSUER: &str = "https://idp.example";

type Script = Arc<dyn Fn(&SealedSet) -> Outcome + Send + Sync>;

/// A sender that records what it hands over and answers by a script, after a short (virtual) time.
struct Scripted {
    seen: Arc<Mutex<Vec<SealedSet>>>,
    in_flight: Arc<Mutex<HashMap<u64, usize>>>,
    overlaps: Arc<Mutex<usize>>,
    script: Mutex<Script>,
    /// The time that an answer takes in addition to the short one.
    latency: Mutex<Duration>,
    runtime: Runtime,
    /// The remark of its channels.
    remark: Mutex<Option<String>>,
    /// The cluster of the method whose channels share one.
    cluster: Arc<endpoints::Cluster>,
    /// The requests of the method whose outcomes come later.
    requests: Arc<later::Requests>,
}

struct ScriptedChannel(Arc<Scripted>, Window);

impl setgate_delivery::Channel for ScriptedChannel {
    fn profile(&self) -> Profile {
        Profile {
            initiator: Initiator::Gateway,
            order: Order::PerSet,
            receipt: Receipt::Receiver,
            form: Form::Token,
            redelivery: Redelivery::WhenConsumerEnds,
            limits: Limits { sets: 64, bytes: 1 << 20, overhead: 0, set_bytes: 16 << 10 },
            endpoint: None,
            windows: vec![self.1.clone()],
        }
    }

    fn remark(&self) -> Option<String> {
        self.0.remark.lock().clone()
    }

    async fn run(&self, subscription: Subscription, consumer: Consumer) -> Ended {
        let up = &self.0;
        drive::each(&subscription, consumer, |set| async move {
            up.seen.lock().push(set.clone());
            {
                let mut flying = up.in_flight.lock();
                let count = flying.entry(set.order.bits()).or_default();
                *count += 1;
                if *count > 1 {
                    *up.overlaps.lock() += 1;
                }
            }
            let latency = *up.latency.lock();
            up.runtime.clock.sleep(latency + Duration::from_millis(1 + up.runtime.random.below(20))).await;
            *up.in_flight.lock().entry(set.order.bits()).or_default() -= 1;
            let script = up.script.lock().clone();
            script(&set)
        })
        .await
    }
}

impl Scripted {
    fn new(runtime: Runtime, script: Script) -> Arc<Self> {
        let (seen, in_flight, overlaps, latency, remark) = Default::default();
        let cluster = endpoints::Cluster::new(runtime.clone());
        let requests = later::Requests::new(runtime.clone());
        let script = Mutex::new(script);
        Arc::new(Self { seen, in_flight, overlaps, script, latency, remark, runtime, cluster, requests })
    }

    fn answer_with(&self, script: impl Fn(&SealedSet) -> Outcome + Send + Sync + 'static) {
        *self.script.lock() = Arc::new(script);
    }

    fn count(&self) -> usize {
        self.seen.lock().len()
    }
}

struct Handle(Arc<Scripted>);

impl AnyMethod for Handle {
    fn entry(&self) -> Entry {
        Entry { name: "scripted", uri: "urn:example:scripted", aliases: &[] }
    }
    fn channel(&self, _: &About, terms: Value, _: Value) -> Result<Arc<dyn AnyChannel>, Fault> {
        let window = terms.get("window").and_then(Value::as_u64).unwrap_or(16);
        Ok(Arc::new(ScriptedChannel(self.0.clone(), Window::of_sets(usize::try_from(window).unwrap()))))
    }
    fn publish(&self, terms: Value, _: &str) -> Result<Value, Fault> {
        Ok(terms)
    }
    fn secret_terms(&self) -> &'static [&'static str] {
        &["/secret"]
    }
}

/// The inside of a gateway, without listeners.
struct Bench {
    router: Router,
    method: Arc<Scripted>,
    store: Arc<dyn Store>,
    clock: Arc<ManualClock>,
    runtime: Runtime,
    keyring: Arc<Keyring>,
    kek: Arc<Kek>,
    /// The metrics of the process, which begin anew with each start.
    metrics: Mutex<Registry>,
}

fn ack() -> Outcome {
    Ok(Receipt::Receiver)
}

fn retry(scope: Scope, code: &'static str) -> Outcome {
    Err(Verdict::Retry { scope, after: None, cause: Cause::new(code, "as scripted") })
}

/// Makes the outcome of a channel that fails until a person fixes it.
fn misconfigured(scope: Scope, code: &'static str) -> Outcome {
    Err(Verdict::Retry { scope, after: None, cause: Cause::configuration(code, "as scripted") })
}

fn refuse(code: ErrorCode) -> Outcome {
    Err(Verdict::Refuse(Refusal { code, description: Some("as scripted".into()), language: None }))
}

impl Bench {
    async fn new(config: Config, streams: &[Value]) -> Self {
        let clock = ManualClock::at(1_800_000_000_000);
        let runtime = setgate_clock::manual::runtime(clock.clone(), 7);
        let store = MemoryStore::new(runtime.clone(), &[9; 32]);
        let bench = Self::over(store, clock, runtime, config).await;
        bench.declare(streams).await;
        bench
    }

    /// Makes a bench over any store, without streams.
    async fn over(store: Arc<dyn Store>, clock: Arc<ManualClock>, runtime: Runtime, config: Config) -> Self {
        let now = Moment::default();
        let ring =
            Ring::new(now).generate(Algorithm::Es256, RsaBits::default(), now, &Rotation::default(), false).unwrap();
        let keyring = Arc::new(Keyring::new(ring));
        let kek = Arc::new(Kek::generate().unwrap());
        let method = Scripted::new(runtime.clone(), Arc::new(|_| ack()));
        let mut metrics = Registry::default();
        let router = Self::start((&runtime, &mut metrics), &store, &keyring, &kek, &method, config).await;
        Self { router, method, store, clock, runtime, keyring, kek, metrics: Mutex::new(metrics) }
    }

    async fn start(
        (runtime, metrics): (&Runtime, &mut Registry),
        store: &Arc<dyn Store>,
        keyring: &Arc<Keyring>,
        kek: &Arc<Kek>,
        method: &Arc<Scripted>,
        config: Config,
    ) -> Router {
        let issuer =
            Issuer { url: ISSUER.into(), no: IssuerNo(1), keyring: keyring.clone(), algorithm: Algorithm::Es256 };
        let clustered = endpoints::Clustered(method.cluster.clone());
        let parts = Parts {
            runtime: runtime.clone(),
            store: store.clone(),
            kek: kek.clone(),
            issuers: vec![issuer],
            methods: vec![
                Arc::new(Handle(method.clone())),
                Arc::new(responder::Asked),
                Arc::new(clustered),
                Arc::new(later::Later(method.requests.clone())),
            ],
            config,
            observed: Observed::register(metrics),
        };
        Router::start(parts).await.unwrap()
    }

    /// Ends the process and starts another one; only the store is kept.
    async fn restart(&mut self, config: Config) {
        self.router.drain(Duration::ZERO).await;
        let script = self.method.script.lock().clone();
        let method = Scripted::new(self.runtime.clone(), script);
        method.seen.lock().clone_from(&self.method.seen.lock());
        self.method = method;
        let mut metrics = Registry::default();
        let runtime = (&self.runtime, &mut metrics);
        self.router = Self::start(runtime, &self.store, &self.keyring, &self.kek, &self.method, config).await;
        self.metrics = Mutex::new(metrics);
    }

    /// Returns the metrics page.
    fn page(&self) -> String {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &self.metrics.lock()).unwrap();
        page
    }

    async fn declare(&self, streams: &[Value]) {
        let declared = streams.iter().map(|stream| serde_json::from_value(stream.clone()).unwrap()).collect();
        self.router.reconcile(declared, true).await.unwrap();
    }

    async fn emit(&self, subject: usize, n: usize) -> Accepted {
        self.emit_event(json!({
            "events": { "https://example.com/changed": { "n": n } },
            "sub_id": { "format": "opaque", "id": format!("subject-{subject}") },
        }))
        .await
    }

    async fn emit_event(&self, event: Value) -> Accepted {
        let event = Event::parse(event, &EventLimits::default()).unwrap();
        let issuer = self.router.issuer(ISSUER).unwrap();
        self.router.accept(EventOrigin { issuer, producer: ProducerNo(1) }, vec![event]).await.remove(0)
    }

    /// Lets virtual time pass until the condition holds; fails after an hour of it.
    async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        for _ in 0..360_000 {
            if holds().await {
                return;
            }
            self.pass(Duration::from_millis(10)).await;
        }
        panic!("{what}: never came; {}\n{:#?}", self.clocks(), self.router.streams().await);
    }

    /// Describes both clocks and, on them, what each stream waits for, for a test that fails.
    fn clocks(&self) -> String {
        let clock = &self.runtime.clock;
        let mut text = format!("wall {} ms, monotonic {:?}", clock.wall_millis(), clock.monotonic());
        for subscription in self.router.0.subscriptions() {
            let timer = subscription.shared.timers.scheduled(subscription.no);
            let next = subscription.next_attempt();
            let state = subscription.state.lock();
            text += &format!(
                "\nstream {}: next attempt {next:?} {}",
                subscription.no,
                state.debug(clock.monotonic(), timer)
            );
        }
        text
    }

    /// Checks that each stream with something due is running, queued or timed, with all tasks at rest.
    async fn assert_nobody_is_neglected(&self) {
        for _ in 0..300 {
            tokio::task::yield_now().await;
        }
        let neglected: Vec<_> =
            self.router.0.subscriptions().iter().filter_map(|subscription| subscription.neglected()).collect();
        assert!(neglected.is_empty(), "{}\n{}", neglected.join("\n"), self.clocks());
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        tokio::time::sleep(time).await;
    }

    async fn settled(&self) {
        self.until("all settled", async || self.router.streams().await.iter().all(|view| view.waiting == 0)).await;
    }

    /// Waits until everything is settled and checks that it was acknowledged: what is dropped or parked is settled too,
    /// but not delivered.
    async fn delivered(&self) {
        self.settled().await;
        for view in self.router.streams().await {
            assert_eq!((view.acknowledged, view.dropped, view.parked_total), (view.owed, 0, 0), "{view:?}");
        }
    }
}

fn stream(id: &str) -> Value {
    json!({ "id": id, "issuer": ISSUER, "audience": "https://receiver.example", "delivery": { "method": "scripted", "window": 16 } })
}

fn claims(token: &[u8]) -> Value {
    use base64::Engine as _;
    let payload = token.split(|byte| *byte == b'.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

fn number(set: &SealedSet) -> u64 {
    claims(&set.body)["events"]["https://example.com/changed"]["n"].as_u64().unwrap()
}

/// Checks P3 and P4: first arrivals of each order key come in the order of acceptance; a repeat has the same `jti` and
/// payload. Returns the number of different SETs.
fn assert_order_and_identity(seen: &[SealedSet]) -> usize {
    let mut payloads: HashMap<Jti, Value> = HashMap::new();
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    for set in seen {
        let payload = claims(&set.body);
        let number = number(set);
        match payloads.get(&set.jti) {
            Some(before) => assert_eq!(*before, payload, "a repeat must have the same payload"),
            None => {
                payloads.insert(set.jti, payload);
                let before = last.insert(set.order.bits(), number);
                assert!(before.is_none_or(|before| before < number), "{number} came after {before:?}");
            }
        }
    }
    payloads.len()
}

#[tokio::test(start_paused = true)]
async fn every_event_reaches_every_stream_that_wants_it_once() {
    let narrow = json!({ "id": "b", "issuer": ISSUER, "audience": "b", "events": ["https://example.com/other"], "delivery": { "method": "scripted" } });
    let bench = Bench::new(Config::default(), &[stream("a"), narrow]).await;
    for n in 0..300 {
        assert!(matches!(bench.emit(n % 7, n).await, Accepted::New { .. }));
    }
    bench.settled().await;
    let seen = bench.method.seen.lock().clone();
    assert_eq!(seen.len(), 300);
    assert_eq!(assert_order_and_identity(&seen), 300);
    let first = claims(&seen[0].body);
    assert_eq!((first["iss"].as_str(), first["aud"].as_str()), (Some(ISSUER), Some("https://receiver.example")));
    assert!(first.get("sub").is_none() && first.get("exp").is_none());
    assert_eq!(first["txn"].as_str().map(str::len), Some(32));
}

#[tokio::test(start_paused = true)]
async fn order_per_subject_and_identity_hold_under_every_kind_of_failure() {
    for seed in 0..12 {
        let config = Config {
            ready_sets: 24,
            poison_after: 1000,
            pause_after: Duration::from_secs(1_000_000),
            ..Config::default()
        };
        let mut bench = Bench::new(config.clone(), &[stream("a")]).await;
        let dice = SeededRandom::new(seed);
        bench.method.answer_with(move |_| match dice.below(12) {
            0 => retry(Scope::Set, "http_500"),
            1 => retry(Scope::Channel, "connect"),
            2 => Err(Verdict::Return),
            3 => refuse(ErrorCode::InvalidKey),
            _ => ack(),
        });
        for n in 0..400 {
            // One subject is hot, and many come once.
            bench.emit(if n % 3 == 0 { 0 } else { n % 50 }, n).await;
            if n % 150 == 149 {
                bench.pass(Duration::from_millis(400)).await;
                bench.restart(config.clone()).await;
            }
        }
        bench.settled().await;
        let seen = bench.method.seen.lock().clone();
        assert_eq!(assert_order_and_identity(&seen), 400, "seed {seed}");
        assert!(seen.len() > 450, "seed {seed}: failures must have led to repeats");
        assert_eq!(*bench.method.overlaps.lock(), 0, "seed {seed}: two SETs of one subject were in flight together");
        let view = &bench.router.streams().await[0];
        assert_eq!((view.owed, view.acknowledged), (400, 400), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn order_identity_and_the_pause_hold_where_the_pool_seals() {
    let mut bench = Bench::new(
        Config { signing_threads: 2, pause_after: Duration::from_secs(1_000_000), ..Config::default() },
        &[],
    )
    .await;
    let now = Moment::default();
    let ring = bench.keyring.ring();
    bench
        .keyring
        .install(ring.generate(Algorithm::Rs256, RsaBits::default(), now, &Rotation::default(), false).unwrap());
    let mut slow = stream("a");
    slow["algorithm"] = "RS256".into();
    bench.declare(&[slow]).await;
    let dice = SeededRandom::new(3);
    bench.method.answer_with(move |_| match dice.below(10) {
        0 => retry(Scope::Channel, "connect"),
        1 => Err(Verdict::Return),
        _ => ack(),
    });
    for n in 0..200 {
        bench.emit(n % 40, n).await;
    }
    bench.until("some have left", async || bench.method.count() > 20).await;
    bench.router.pause("a", "test".into()).await.unwrap();
    bench.pass(Duration::from_secs(5)).await;
    let events = || bench.method.seen.lock().iter().filter(|set| is_event(set)).count();
    let left = events();
    bench.pass(Duration::from_secs(600)).await;
    assert_eq!(events(), left, "nothing that was sealed leaves a paused stream");
    bench.restart(Config { signing_threads: 2, ..Config::default() }).await;
    bench.router.resume("a", false).await.unwrap();
    bench.settled().await;
    let seen: Vec<_> = bench.method.seen.lock().iter().filter(|set| is_event(set)).cloned().collect();
    assert_eq!(assert_order_and_identity(&seen), 200);
}

fn is_event(set: &SealedSet) -> bool {
    claims(&set.body)["events"].get("https://example.com/changed").is_some()
}

#[tokio::test(start_paused = true)]
async fn a_backlog_of_one_subject_larger_than_the_ready_set_drains_in_order() {
    let config = Config { ready_sets: 16, ..Config::default() };
    let bench = Bench::new(config, &[stream("a")]).await;
    bench.router.pause("a", "test".into()).await.unwrap();
    for n in 0..500 {
        bench.emit(usize::from(n >= 450), n).await;
    }
    bench.router.resume("a", false).await.unwrap();
    bench.delivered().await;
    let seen: Vec<_> = bench
        .method
        .seen
        .lock()
        .iter()
        .filter(|set| claims(&set.body)["events"].get("https://example.com/changed").is_some())
        .cloned()
        .collect();
    assert_eq!(assert_order_and_identity(&seen), 500);
}

#[tokio::test(start_paused = true)]
async fn a_paused_stream_hands_over_nothing_but_the_announcement() {
    let bench = Bench::new(Config::default(), &[stream("a")]).await;
    let view = bench.router.pause("a", "maintenance".into()).await.unwrap();
    assert_eq!((view.status, view.reason.as_deref()), ("paused", Some("maintenance")));
    for n in 0..20 {
        bench.emit(n, n).await;
    }
    bench.pass(Duration::from_secs(60)).await;
    {
        let seen = bench.method.seen.lock();
        assert_eq!(seen.len(), 1, "the announcement alone");
        let payload = claims(&seen[0].body);
        assert_eq!(payload["events"][setgate_set::framework::STREAM_UPDATED]["status"], "paused");
        assert_eq!(payload["sub_id"], json!({ "format": "opaque", "id": "a" }));
    }
    bench.router.resume("a", false).await.unwrap();
    bench.settled().await;
    assert_eq!(bench.method.count(), 22);
    let enabled = claims(&bench.method.seen.lock()[1].body);
    assert_eq!(
        enabled["events"][setgate_set::framework::STREAM_UPDATED]["status"],
        "enabled",
        "before the held events"
    );
}

#[tokio::test(start_paused = true)]
async fn a_poison_set_is_parked_and_stops_nobody() {
    let bench = Bench::new(Config::default(), &[stream("a")]).await;
    bench.method.answer_with(|set| if number(set) == 3 { retry(Scope::Set, "http_500") } else { ack() });
    for n in 0..600 {
        bench.emit(n % 5, n).await;
        bench.pass(Duration::from_secs(2)).await;
    }
    bench.settled().await;
    let parked = bench.router.parked(Some("a"), None, None, 10).await.unwrap();
    assert_eq!(parked.len(), 1);
    assert_eq!(parked[0].code, ErrorCode::Poison);
    let view = &bench.router.streams().await[0];
    assert_eq!((view.acknowledged, view.parked, view.owed), (599, 1, 600));
    // The SET can be issued again, with a new jti and the same txn.
    let before = bench.router.parked_one(parked[0].jti.as_str()).await.unwrap().unwrap();
    bench.method.answer_with(|_| ack());
    let refused = bench.router.reissue(vec![parked[0].jti.to_string()], false).await.unwrap();
    assert!(refused[0].error.as_deref().is_some_and(|why| why.contains("--out-of-order")), "{refused:?}");
    let issued = bench.router.reissue(vec![parked[0].jti.to_string()], true).await.unwrap();
    let new = issued[0].new_jti.clone().unwrap();
    assert_ne!(new, parked[0].jti.to_string());
    bench.settled().await;
    let last = bench.method.seen.lock().last().cloned().unwrap();
    assert_eq!(last.jti.as_str(), new);
    assert_eq!(claims(&last.body)["txn"], before.claims.unwrap()["txn"]);
    assert!(bench.router.parked(Some("a"), None, None, 10).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_a_fault_of_its_own_is_paused_with_its_sets_waiting() {
    let bench = Bench::new(Config::default(), &[stream("a")]).await;
    bench.method.answer_with(|_| refuse(ErrorCode::InvalidKey));
    for n in 0..50 {
        bench.emit(n, n).await;
    }
    bench.until("paused", async || bench.router.streams().await[0].status == "paused").await;
    let view = bench.router.streams().await.remove(0);
    assert_eq!((view.acknowledged, view.parked, view.dropped), (0, 0, 0), "a stale key set must not cost a backlog");
    assert!(view.reason.unwrap().contains("invalid_key"));
    assert!(view.waiting >= 50);
    bench.method.answer_with(|_| ack());
    bench.router.resume("a", false).await.unwrap();
    bench.delivered().await;
}

#[tokio::test(start_paused = true)]
async fn an_absent_endpoint_is_waited_for_without_end() {
    let bench = Bench::new(Config::default(), &[stream("a")]).await;
    bench.method.answer_with(|_| retry(Scope::Channel, "connect"));
    for n in 0..5 {
        bench.emit(n, n).await;
    }
    bench.pass(Duration::from_secs(24 * 3600)).await;
    let tries = bench.method.count();
    assert!((200..3000).contains(&tries), "{tries} attempts in a day");
    let view = bench.router.streams().await.remove(0);
    assert_eq!((view.status, view.waiting), ("enabled", 5));
    bench.method.answer_with(|_| ack());
    bench.pass(Duration::from_secs(301)).await;
    bench.delivered().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_in_flight_at_a_restart_is_handed_over_again_with_the_same_jti() {
    let mut bench = Bench::new(Config::default(), &[stream("a")]).await;
    bench.method.answer_with(|_| retry(Scope::Channel, "timeout"));
    for n in 0..40 {
        bench.emit(n, n).await;
    }
    bench.pass(Duration::from_millis(100)).await;
    bench.restart(Config::default()).await;
    bench.method.answer_with(|_| ack());
    bench.settled().await;
    let seen = bench.method.seen.lock().clone();
    assert!(seen.len() > 40);
    assert_eq!(assert_order_and_identity(&seen), 40);
}

#[tokio::test(start_paused = true)]
async fn an_event_with_an_id_is_accepted_once() {
    let bench = Bench::new(Config::default(), &[stream("a")]).await;
    let event = |n: u64, txn: Option<&str>| {
        let mut event = json!({ "events": { "https://example.com/changed": { "n": n } }, "sub_id": { "format": "email", "email": "a@example.com" }, "id": "one" });
        if let Some(txn) = txn {
            event["txn"] = txn.into();
        }
        event
    };
    let Accepted::New { txn, .. } = bench.emit_event(event(1, None)).await else { panic!("accepted") };
    assert_eq!(bench.emit_event(event(1, None)).await, Accepted::Repeat { txn });
    assert_eq!(bench.emit_event(event(2, None)).await, Accepted::Conflict);
    assert_eq!(bench.emit_event(event(1, Some("other"))).await, Accepted::Conflict);
    bench.settled().await;
    assert_eq!(bench.method.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn producers_cannot_speak_of_streams() {
    let bench = Bench::new(Config::default(), &[stream("a")]).await;
    let event = json!({ "events": { "https://example.com/changed": {} }, "sub_id": { "format": "opaque", "id": "a" } });
    assert_eq!(bench.emit_event(event).await, Accepted::NamesStream);
}

#[tokio::test(start_paused = true)]
async fn reconciling_never_deletes() {
    let bench = Bench::new(Config::default(), &[stream("a"), stream("b")]).await;
    bench.method.answer_with(|_| retry(Scope::Channel, "connect"));
    for n in 0..10 {
        bench.emit(n, n).await;
    }
    let only: Vec<crate::Declared> = vec![serde_json::from_value(stream("a")).unwrap()];
    let report = bench.router.reconcile(only, true).await.unwrap();
    assert_eq!(report.absent, ["b"]);
    let b = bench.router.stream("b").await.unwrap();
    assert_eq!((b.status, b.waiting), ("disabled", 10), "an accident in the file must not cost a backlog");
    let report = bench.router.reconcile(vec![], true).await.unwrap();
    assert_eq!((report.absent, report.unchanged), (vec!["a".to_owned()], 0), "the other is gone already");
    for id in ["a", "b"] {
        let view = bench.router.stream(id).await.unwrap();
        assert_eq!((view.status, view.waiting, view.dropped), ("disabled", 10, 0), "{id}");
    }
    bench.declare(&[stream("a"), stream("b")]).await;
    bench.method.answer_with(|_| ack());
    bench.delivered().await;
    assert_eq!(bench.router.stream("b").await.unwrap().acknowledged, 10);
}

#[tokio::test(start_paused = true)]
async fn more_than_a_tenth_of_the_streams_goes_only_when_asked_twice() {
    let many: Vec<_> = (0..20).map(|number| stream(&format!("s{number}"))).collect();
    // The number of streams, and the number of them that may go unasked.
    for (there, may_go) in [(1, 0), (2, 0), (9, 0), (10, 1), (19, 1), (20, 2)] {
        let bench = Bench::new(Config::default(), &many[..there]).await;
        let declared = |from: usize| -> Vec<crate::Declared> {
            many[from..there].iter().map(|stream| serde_json::from_value(stream.clone()).unwrap()).collect()
        };
        let refused = bench.router.reconcile(declared(may_go + 1), false).await.unwrap_err().to_string();
        let said = format!("{} of {there} streams are declared no more, `s0` among them", may_go + 1);
        assert!(refused.starts_with(&said), "{refused}");
        assert!(bench.router.streams().await.iter().all(|view| view.status == "enabled"), "something was changed");
        let report = bench.router.reconcile(declared(may_go), false).await.unwrap();
        assert_eq!(report.absent.len(), may_go);
        // Streams that went before do not count among those that could go now.
        assert!(bench.router.reconcile(vec![], false).await.is_err());
        assert_eq!(bench.router.reconcile(vec![], true).await.unwrap().absent.len(), there - may_go);
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_audience_is_refused_while_sets_wait() {
    let bench = Bench::new(Config::default(), &[stream("a")]).await;
    bench.method.answer_with(|_| retry(Scope::Channel, "connect"));
    bench.emit(0, 0).await;
    let mut moved = stream("a");
    moved["audience"] = "https://thief.example".into();
    let error = bench.router.reconcile(vec![serde_json::from_value(moved).unwrap()], false).await.unwrap_err();
    assert!(error.to_string().contains("1 SETs wait"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_was_narrowed_since_the_decision_does_not_leave() {
    let bench = Bench::new(Config::default(), &[stream("a")]).await;
    bench.router.pause("a", "test".into()).await.unwrap();
    for n in 0..10 {
        bench.emit(n, n).await;
    }
    let mut narrowed = stream("a");
    narrowed["remove_subjects"] = json!([{ "format": "opaque", "id": "subject-3" }]);
    bench.declare(&[narrowed.clone()]).await;
    bench.router.resume("a", false).await.unwrap();
    bench.settled().await;
    let view = bench.router.streams().await.remove(0);
    assert_eq!((view.dropped, view.acknowledged), (1, view.owed - 1));
    let mut subjects: Vec<_> = bench.method.seen.lock().iter().filter(|set| is_event(set)).map(number).collect();
    subjects.sort_unstable();
    assert_eq!(subjects, [0, 1, 2, 4, 5, 6, 7, 8, 9], "all but that of subject 3");
}

#[tokio::test(start_paused = true)]
async fn a_secret_of_a_stream_never_lies_open_in_the_store() {
    let mut with_secret = stream("a");
    with_secret["delivery"]["secret"] = "canary-4711".into();
    let mut bench = Bench::new(Config::default(), &[with_secret.clone()]).await;
    assert_eq!(bench.store.range("stream/".into()).await.unwrap().len(), 1);
    for record in bench.store.range("".into()).await.unwrap() {
        assert!(!String::from_utf8_lossy(&record.value).contains("canary"), "{:?}", record.key);
    }
    bench.restart(Config::default()).await;
    let report = bench.router.reconcile(vec![serde_json::from_value(with_secret).unwrap()], false).await.unwrap();
    assert_eq!(report.unchanged, 1, "it opens to what it was");
}

#[tokio::test(start_paused = true)]
async fn an_oversized_set_is_parked_and_the_lane_goes_on() {
    let bench = Bench::new(Config::default(), &[stream("a")]).await;
    let big = json!({ "events": { "https://example.com/changed": { "n": 0, "blob": "x".repeat(20 << 10) } }, "sub_id": { "format": "opaque", "id": "subject-1" } });
    bench.emit_event(big).await;
    bench.emit(1, 1).await;
    bench.settled().await;
    let view = bench.router.streams().await.remove(0);
    assert_eq!((view.acknowledged, view.parked), (1, 1));
    assert_eq!(bench.router.parked(None, None, None, 5).await.unwrap()[0].code, ErrorCode::TooLarge);
}

#[tokio::test(start_paused = true)]
async fn a_dead_stream_does_not_hold_up_another() {
    let bench = Bench::new(
        Config::default(),
        &[stream("a"), {
            let mut b = stream("b");
            b["audience"] = "dead".into();
            b
        }],
    )
    .await;
    bench
        .method
        .answer_with(|set| if claims(&set.body)["aud"] == "dead" { retry(Scope::Channel, "connect") } else { ack() });
    for n in 0..100 {
        bench.emit(n % 4, n).await;
    }
    let began = bench.runtime.clock.monotonic();
    bench.until("a is served", async || bench.router.stream("a").await.unwrap().waiting == 0).await;
    let took = bench.runtime.clock.monotonic().saturating_sub(began);
    assert!(took < Duration::from_secs(5), "the dead one held it up for {took:?}");
    assert_eq!(bench.router.stream("b").await.unwrap().waiting, 100);
}
