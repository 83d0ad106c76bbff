//! Sources with a method that collects from a script.

use std::collections::VecDeque;

use parking_lot::Mutex;
use setgate_delivery::{
    About as ChannelAbout, Channel, Closed, Consumer, Entry, Env, Finding, Method, NoOptions, Profile, Subscription,
};
use setgate_store::Position;

use super::*;
use crate::config::{Source, load};

/// The next step of the fake: pass something to the ingest, park it, report an event, or end with a fault.
enum Does {
    Take(Vec<Incoming>),
    Park(Vec<Rejected>),
    Tell(BrokerEvent),
    Fail,
}

/// A method that collects what a test puts in its script.
struct Collector {
    script: Mutex<VecDeque<Does>>,
    answers: Mutex<Vec<Answer>>,
    runs: watch::Sender<usize>,
    idle: watch::Sender<usize>,
    wake: tokio::sync::Notify,
}

struct NoChannel;

impl Channel for NoChannel {
    fn profile(&self) -> Profile {
        unreachable!("nothing is delivered")
    }

    async fn run(&self, _: Subscription, _: Consumer) -> Closed {
        Closed::Idle
    }
}

impl Method for Collector {
    const ENTRY: Entry = Entry { name: "collector", uri: "urn:test:collector", aliases: &[] };
    type Section = NoOptions;
    type Grant = NoOptions;
    type Terms = NoOptions;
    type Channel = NoChannel;

    async fn start(_: NoOptions, _: Env) -> Result<Self, Fault> {
        Ok(Self::new())
    }

    fn channel(self: &Arc<Self>, _: &ChannelAbout, _: NoOptions, _: NoOptions) -> Result<NoChannel, Fault> {
        Ok(NoChannel)
    }

    fn publish(&self, _: &NoOptions, _: &str) -> Json {
        Json::Null
    }

    fn source(&self, from: Json) -> Result<(), Fault> {
        match from.get("place") {
            Some(Json::String(_)) => Ok(()),
            _ => Err(Fault::Terms { pointer: "/place".into(), cause: Cause::new("invalid", "name a place") }),
        }
    }

    async fn collect(self: &Arc<Self>, _: Json, into: Arc<dyn Ingest>, mut stop: Stop) -> Result<(), Fault> {
        self.runs.send_modify(|runs| *runs += 1);
        loop {
            let next = self.script.lock().pop_front();
            match next {
                Some(Does::Take(what)) => {
                    let answers = into.accept("test", what).await;
                    self.answers.lock().extend(answers);
                }
                Some(Does::Park(what)) => assert!(into.park(what).await),
                Some(Does::Tell(event)) => into.report(event),
                Some(Does::Fail) => return Err(Fault::Start(Cause::new("group_authorization", "grant Read"))),
                None => {
                    self.idle.send_modify(|idle| *idle += 1);
                    tokio::select! {
                        () = raised(&mut stop) => return Ok(()),
                        () = self.wake.notified() => {}
                    }
                }
            }
        }
    }

    async fn probe(&self) -> Vec<Finding> {
        Vec::new()
    }
}

impl Collector {
    fn new() -> Self {
        Self {
            script: Mutex::default(),
            answers: Mutex::default(),
            runs: watch::channel(0).0,
            idle: watch::channel(0).0,
            wake: tokio::sync::Notify::new(),
        }
    }

    /// Runs the steps and returns the answers to them.
    async fn act(&self, all: Vec<Does>) -> Vec<Answer> {
        let mut idle = self.idle.subscribe();
        let before = *idle.borrow_and_update();
        self.script.lock().extend(all);
        self.wake.notify_one();
        idle.wait_for(|now| *now > before && self.script.lock().is_empty()).await.unwrap();
        std::mem::take(&mut *self.answers.lock())
    }
}

/// The part of a method that sources use; the contract's own wrapper is private to it.
struct Any(Arc<Collector>);

impl AnyMethod for Any {
    fn entry(&self) -> Entry {
        Collector::ENTRY
    }
    fn channel(&self, _: &ChannelAbout, _: Json, _: Json) -> Result<Arc<dyn setgate_delivery::spi::AnyChannel>, Fault> {
        Err(Fault::Unsupported("nothing is delivered"))
    }
    fn publish(&self, _: Json, _: &str) -> Result<Json, Fault> {
        Ok(Json::Null)
    }
    fn collect(&self, from: Json, into: Arc<dyn Ingest>, stop: Stop) -> BoxFuture<'static, Result<(), Fault>> {
        let method = self.0.clone();
        Box::pin(async move { method.collect(from, into, stop).await })
    }
    fn source(&self, from: Json) -> Result<(), Fault> {
        Method::source(&*self.0, from)
    }
    fn places(&self, from: &Json) -> Places {
        let text = |member: &str| from.get(member).and_then(Json::as_str).map(str::to_owned);
        let all = |member: &str| text(member).into_iter().collect();
        Places { reads: all("place"), writes: all("errors"), joins: text("group") }
    }
}

/// A ledger that keeps the ids of accepted events in memory.
#[derive(Default)]
struct Ledger {
    ids: Mutex<Vec<String>>,
    full: Mutex<bool>,
}

impl setgate_control::Accept for Ledger {
    fn gate(&self) -> Result<(), setgate_router::Closed> {
        match *self.full.lock() {
            true => Err(setgate_router::Closed {
                why: "full".into(),
                summary: "full",
                rule: None,
                retry_after: Duration::from_secs(3),
                status: 503,
            }),
            false => Ok(()),
        }
    }

    fn accept(
        &self,
        _: setgate_store::ProducerNo,
        events: Vec<setgate_set::Event>,
    ) -> BoxFuture<'static, Vec<setgate_router::Accepted>> {
        let mut ids = self.ids.lock();
        let answers = events.iter().map(|event| {
            ids.push(event.id.as_deref().unwrap_or_default().to_owned());
            setgate_router::Accepted::New { at: Position::new(1), txn: "t".into() }
        });
        let answers = answers.collect();
        Box::pin(std::future::ready(answers))
    }
}

const ISSUER: &str = "https://a.example";
const EVENT: &str = r#"{"events":{"urn:x":{}},"sub_id":{"format":"opaque","id":"a"}}"#;

fn config(more: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("setgate.toml");
    let text = format!(
        "[[issuers]]\nurl = \"{ISSUER}\"\n[[sources]]\nname = \"hr\"\nissuer = \"{ISSUER}\"\nevents = [\"urn:x\"]\n\
         subjects = \"any\"\n{more}"
    );
    std::fs::write(&path, text).unwrap();
    load(Source::File(path), false, Vec::new()).unwrap().config
}

struct Fixture {
    method: Arc<Collector>,
    ledger: Arc<Ledger>,
    shown: Arc<Sources>,
    running: Running,
    registry: setgate_telemetry::Registry,
    runtime: Runtime,
}

async fn fixture(runtime: Runtime) -> Fixture {
    let config = config("kind = \"collector\"\nfrom = { place = \"here\" }\n");
    let (method, ledger) = (Arc::new(Collector::new()), Arc::new(Ledger::default()));
    let methods: Vec<Arc<dyn AnyMethod>> = vec![Arc::new(Any(method.clone()))];
    let registry = setgate_telemetry::Registry::new();
    let ready = prepare(Parts {
        runtime: &runtime,
        config: &config,
        methods: &methods,
        intakes: vec![Intake { issuer: ISSUER.into(), accept: ledger.clone() }],
        observed: setgate_control::Observed::default(),
        store: setgate_store::MemoryStore::new(runtime.clone(), &[7; 32]),
        registry: &registry,
        brokers: registry.lend(Brokers::register),
    })
    .await
    .unwrap();
    let shown = ready.shown.clone();
    Fixture { method, ledger, shown, running: ready.start(&runtime), registry, runtime }
}

fn event(id: Identity, body: &'static str) -> Incoming {
    Incoming::Event { id, body: body.into() }
}

#[tokio::test]
async fn what_a_method_collects_is_validated_as_at_the_intake_and_taken() {
    let fixture = fixture(setgate_clock::system()).await;
    let answers = fixture
        .method
        .act(vec![Does::Take(vec![
            event(Identity::OrElse("k/0/1".into()), EVENT),
            event(Identity::Given("k/0/2".into()), r#"{"events":{"urn:y":{}},"sub_id":{"format":"opaque","id":"a"}}"#),
            Incoming::Set { named: None, token: bytes::Bytes::from_static(b"a.b.c") },
            event(Identity::Given("k/0/3".into()), EVENT),
        ])])
        .await;
    assert!(matches!(&answers[1], Answer::Refused(refusal) if refusal.code == ErrorCode::AccessDenied), "{answers:?}");
    assert!(matches!(&answers[2], Answer::Refused(_)), "{answers:?}");
    assert_eq!((&answers[0], &answers[3]), (&Answer::Taken, &Answer::Taken));
    assert_eq!(*fixture.ledger.ids.lock(), ["k/0/1", "k/0/3"]);
    *fixture.ledger.full.lock() = true;
    let answers = fixture.method.act(vec![Does::Take(vec![event(Identity::Given("k/0/4".into()), EVENT)])]).await;
    assert_eq!(answers, [Answer::Busy { after: Duration::from_secs(3) }]);
    fixture.running.end(&fixture.runtime, Duration::from_secs(20)).await;
}

#[tokio::test]
async fn what_a_method_tells_and_parks_is_shown_under_the_sources_name() {
    let fixture = fixture(setgate_clock::system()).await;
    let refusal = Refusal { code: ErrorCode::InvalidRequest, description: Some("no".into()), language: None };
    let bad = Rejected { at: "t/0/7".into(), key: None, body: "x".into(), refusal };
    let broker: Arc<str> = "whatever".into();
    fixture
        .method
        .act(vec![
            Does::Park(vec![bad]),
            Does::Tell(BrokerEvent::Up { broker: broker.clone() }),
            Does::Tell(BrokerEvent::Figures { broker, figures: vec![("lag_records", 5.0)] }),
        ])
        .await;
    let text = fixture.registry.text();
    for line in [
        "setgate_broker_up{broker=\"source/hr\"} 1\n",
        "setgate_broker_lag_records{broker=\"source/hr\"} 5.0\n",
        "setgate_source_records_parked{source=\"hr\"} 1\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    assert_eq!(fixture.shown.discard(fixture.shown.get("hr").unwrap(), None).await.unwrap(), 1);
    fixture.running.end(&fixture.runtime, Duration::from_secs(20)).await;
}

/// A clock on which every sleep ends at once and is recorded.
struct Hasty(Arc<dyn setgate_clock::Clock>, Arc<Mutex<Vec<Duration>>>);

impl setgate_clock::Clock for Hasty {
    fn wall_millis(&self) -> u64 {
        self.0.wall_millis()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn sleep(&self, how_long: Duration) -> BoxFuture<'static, ()> {
        self.1.lock().push(how_long);
        Box::pin(std::future::ready(()))
    }
}

#[tokio::test]
async fn a_source_that_ends_with_a_fault_is_started_again_with_growing_rests() {
    let (mut runtime, rests) = (setgate_clock::system(), Arc::new(Mutex::default()));
    runtime.clock = Arc::new(Hasty(runtime.clock, rests.clone()));
    let fixture = fixture(runtime).await;
    fixture.method.runs.subscribe().wait_for(|runs| *runs == 1).await.unwrap();
    fixture.method.act((0..8).map(|_| Does::Fail).collect()).await;
    assert_eq!(*fixture.method.runs.borrow(), 9);
    let rests: Vec<_> = rests.lock().iter().map(Duration::as_secs).collect();
    assert_eq!(rests, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert!(fixture.registry.text().contains("setgate_broker_up{broker=\"source/hr\"} 0\n"));
    fixture.running.end(&setgate_clock::system(), Duration::from_secs(20)).await;
    assert_eq!(*fixture.method.runs.borrow(), 9, "what was told to stop is not started again");
}

#[tokio::test]
async fn a_source_that_cannot_be_is_refused_with_its_key() {
    let methods: Vec<Arc<dyn AnyMethod>> = vec![Arc::new(Any(Arc::new(Collector::new())))];
    let refused = |more: &str| {
        let error = validate(&config(more), &methods).err().unwrap();
        assert_eq!(error.exit, Exit::Usage);
        format!("{} {}", error.message, error.remedy.unwrap_or_default())
    };
    let text = refused("kind = \"pigeon\"\nfrom = {}\n");
    assert!(text.contains("sources.hr.kind") && text.contains("collector"), "{text}");
    let text = refused("kind = \"collector\"\nfrom = { place = 1 }\n");
    assert!(text.contains("sources.hr.from.place") && text.contains("name a place"), "{text}");
    assert!(validate(&config("kind = \"collector\"\nfrom = { place = \"x\" }\n"), &methods).is_ok());
    let (linked, _) =
        super::super::assemble::methods_of(&config("kind = \"push\"\nfrom = {}\n"), &setgate_clock::system())
            .await
            .unwrap();
    let error = validate(&config("kind = \"push\"\nfrom = {}\n"), &linked).err().unwrap();
    assert!(
        error.message.contains("sources.hr.kind") && error.message.contains("does not collect"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn sources_that_get_into_each_others_way_are_refused() {
    let methods: Vec<Arc<dyn AnyMethod>> = vec![Arc::new(Any(Arc::new(Collector::new())))];
    let two = |one: &str, other: &str| {
        let more = format!(
            "kind = \"collector\"\nfrom = {{ {one} }}\n[[sources]]\nname = \"it\"\nissuer = \"{ISSUER}\"\nevents = \"all\"\n\
             subjects = \"any\"\nkind = \"collector\"\nfrom = {{ {other} }}\n"
        );
        validate(&config(&more), &methods)
            .err()
            .map(|error| format!("{} {}", error.message, error.remedy.unwrap_or_default()))
    };
    assert_eq!(
        two("place = \"a\", group = \"g\", errors = \"e\"", "place = \"a\", group = \"h\", errors = \"e\""),
        None
    );
    // Each would receive again, as another's event, what the other has not committed.
    let text = two("place = \"a\", group = \"g\"", "place = \"a\", group = \"g\"").unwrap();
    assert!(text.contains("sources.it.from") && text.contains("`hr`") && text.contains("group of its own"), "{text}");
    // Refused records would go round in a loop.
    for (one, other) in [("a", "b"), ("b", "a")] {
        let errors = |place: &str| if place == "a" { "place = \"a\", errors = \"b\"" } else { "place = \"b\"" };
        let text = two(errors(one), errors(other)).unwrap();
        assert!(text.contains("puts what it refuses into b") && text.contains("error topic"), "{text}");
    }
}
