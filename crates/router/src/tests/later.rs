//! A method whose hand-over ends before the outcomes of its SETs are known, as that of multi-SET push does: requests of
//! many SETs, acknowledged in a later answer.

use setgate_delivery::{Attempt, Want};

use super::*;

const REDELIVERY: Duration = Duration::from_secs(60);

type Verdicts = Arc<dyn Fn(&[SealedSet]) -> Option<Verdict> + Send + Sync>;

/// The SETs that were handed over, request by request.
pub(super) struct Requests {
    runtime: Runtime,
    /// The peer's verdict on a request; `None` means that it has the SETs and acknowledges them later.
    verdicts: Mutex<Verdicts>,
    pub(super) seen: Mutex<Vec<Vec<u64>>>,
    /// The SETs that the peer has and has not acknowledged.
    out: Mutex<Vec<(Subscription, Jti, Attempt)>>,
}

struct LaterChannel(Arc<Requests>);

impl Requests {
    pub(super) fn new(runtime: Runtime) -> Arc<Self> {
        Arc::new(Self {
            runtime,
            verdicts: Mutex::new(Arc::new(|_| None)),
            seen: Mutex::default(),
            out: Mutex::default(),
        })
    }

    pub(super) fn answer_with(&self, verdicts: impl Fn(&[SealedSet]) -> Option<Verdict> + Send + Sync + 'static) {
        *self.verdicts.lock() = Arc::new(verdicts);
    }

    pub(super) fn acknowledge_all(&self) {
        self.acknowledge(usize::MAX);
    }

    /// Acknowledges the first of the SETs that the peer has.
    fn acknowledge(&self, most: usize) {
        let some: Vec<_> = {
            let mut out = self.out.lock();
            let count = out.len().min(most);
            out.drain(..count).collect()
        };
        for (subscription, jti, attempt) in some {
            subscription.settle(jti, Some(attempt), ack());
        }
    }
}

impl setgate_delivery::Channel for LaterChannel {
    fn profile(&self) -> Profile {
        Profile {
            initiator: Initiator::Gateway,
            order: Order::PerBatch,
            receipt: Receipt::Receiver,
            form: Form::Token,
            redelivery: Redelivery::After(REDELIVERY),
            limits: Limits { sets: 20, bytes: 1 << 20, overhead: 0, set_bytes: 16 << 10 },
            endpoint: None,
            windows: vec![],
        }
    }

    async fn run(&self, subscription: Subscription, mut consumer: Consumer) -> Ended {
        let up = &self.0;
        loop {
            let sets = match consumer.next_batch(Want::ALL).await {
                Ok(batch) => batch.hand_over(),
                Err(closed) => return closed,
            };
            up.seen.lock().push(sets.iter().filter(|set| is_event(set)).map(number).collect());
            up.runtime.clock.sleep(Duration::from_millis(5)).await;
            let verdicts = up.verdicts.lock().clone();
            let names: Vec<_> = sets.iter().map(|set| (set.jti, set.attempt)).collect();
            match verdicts(&sets) {
                None => {
                    subscription.reached(&names);
                    up.out.lock().extend(names.into_iter().map(|(jti, attempt)| (subscription.clone(), jti, attempt)));
                }
                Some(verdict) => {
                    let all = names.into_iter().rev();
                    subscription
                        .settle_all(all.map(|(jti, attempt)| (jti, Some(attempt), Err(verdict.clone()))).collect());
                }
            }
        }
    }
}

pub(super) struct Later(pub(super) Arc<Requests>);

impl AnyMethod for Later {
    fn entry(&self) -> Entry {
        Entry { name: "later", uri: "urn:example:later", aliases: &[] }
    }
    fn channel(&self, _: &About, _: Value, _: Value) -> Result<Arc<dyn AnyChannel>, Fault> {
        Ok(Arc::new(LaterChannel(self.0.clone())))
    }
    fn publish(&self, terms: Value, _: &str) -> Result<Value, Fault> {
        Ok(terms)
    }
}

pub(super) fn later(id: &str) -> Value {
    json!({ "id": id, "issuer": ISSUER, "audience": id, "delivery": { "method": "later" } })
}

fn channel_fails() -> Verdict {
    Verdict::Retry { scope: Scope::Channel, after: None, cause: Cause::new("timeout", "as scripted") }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_answered_ends_the_trouble_of_its_channel_before_anything_is_acknowledged() {
    let bench = Bench::new(Config::default(), &[later("a")]).await;
    let requests = bench.method.requests.clone();
    requests.answer_with(|_| Some(channel_fails()));
    for n in 0..100 {
        bench.emit(n, n).await;
    }
    bench.until("it failed", async || requests.seen.lock().len() > 2).await;
    requests.answer_with(|_| None);
    let view = async || bench.router.stream("a").await.unwrap();
    bench.until("the probe", async || !requests.out.lock().is_empty()).await;
    for _ in 0..50 {
        bench.pass(Duration::from_millis(100)).await;
    }
    let reached = requests.out.lock().len();
    assert_eq!(reached, 100, "the peer has {reached} of 100 after 5 s; {:?}", view().await);
    requests.acknowledge_all();
    bench.settled().await;
}

#[tokio::test(start_paused = true)]
async fn of_a_request_only_what_was_acknowledged_is_settled() {
    let bench = Bench::new(Config::default(), &[later("a")]).await;
    let requests = bench.method.requests.clone();
    let event = |n: usize| {
        json!({
            "events": { "https://example.com/changed": { "n": n } },
            "sub_id": { "format": "opaque", "id": format!("subject-{n}") },
        })
    };
    let events = (0..12).map(|n| Event::parse(event(n), &EventLimits::default()).unwrap()).collect();
    let origin = EventOrigin { issuer: bench.router.issuer(ISSUER).unwrap(), producer: ProducerNo(1) };
    bench.router.accept(origin, events).await;
    bench.until("the peer has all", async || requests.out.lock().len() == 12).await;
    let sizes: Vec<usize> = requests.seen.lock().iter().map(Vec::len).collect();
    let within = |count: usize| {
        !sizes.iter().scan(0, |sum, size| Some(*sum + size).inspect(|new| *sum = *new)).any(|end| end == count)
    };
    assert!(within(5), "the fifth SET is the last of a request: {sizes:?}");
    requests.acknowledge(5);
    bench.pass(Duration::from_secs(1)).await;
    let view = bench.router.stream("a").await.unwrap();
    assert_eq!((view.acknowledged, view.waiting), (5, 7), "{view:?}");
    // The others are sent again when their time is over.
    bench.pass(REDELIVERY + Duration::from_secs(1)).await;
    bench
        .until("the peer has the others", async || requests.seen.lock().iter().map(Vec::len).sum::<usize>() == 19)
        .await;
    requests.acknowledge_all();
    bench.delivered().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_now_and_then_does_not_wait_for_acknowledgements_that_are_outstanding() {
    let bench = Bench::new(Config::default(), &[later("a")]).await;
    let requests = bench.method.requests.clone();
    let dice = SeededRandom::new(5);
    requests.answer_with(move |_| (dice.below(50) == 0).then(channel_fails));
    // The SETs are acknowledged up to 15 s after they are handed over.
    for n in 0..3000 {
        bench.emit(n % 997, n).await;
        if n % 50 == 49 {
            bench.pass(Duration::from_millis(500)).await;
        }
        if n % 1000 == 999 {
            bench.pass(Duration::from_secs(5)).await;
            requests.acknowledge_all();
        }
    }
    for _ in 0..10 {
        bench.pass(Duration::from_secs(1)).await;
        requests.acknowledge_all();
    }
    let view = bench.router.stream("a").await.unwrap();
    assert!(view.waiting < 50, "{} of 3000 wait", view.waiting);
}
