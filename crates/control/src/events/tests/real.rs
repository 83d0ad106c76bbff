//! The router itself behind the listener, with a store in memory.

use setgate_jose::{Algorithm, Kek, Keyring, Moment, Ring, Rotation, RsaBits};
use setgate_store::{IssuerNo, MemoryStore, Store};

use super::*;

async fn real() -> (Fixture, Arc<MemoryStore>) {
    let mut fixture = fixture();
    let clock = ManualClock::at(1_700_000_000_000);
    let runtime = runtime(clock.clone(), 9);
    let store = MemoryStore::new(runtime.clone(), &[7; 32]);
    let now = Moment { wall_millis: 1_700_000_000_000, monotonic: runtime.clock.monotonic() };
    let ring = Ring::new(now).generate(Algorithm::EdDSA, RsaBits::default(), now, &Rotation::default(), false).unwrap();
    let issuer = setgate_router::Issuer {
        url: A.into(),
        no: IssuerNo(1),
        keyring: Arc::new(Keyring::new(ring)),
        algorithm: Algorithm::EdDSA,
    };
    let router = setgate_router::Router::start(setgate_router::Parts {
        runtime: runtime.clone(),
        store: store.clone(),
        kek: Arc::new(Kek::generate().unwrap()),
        issuers: vec![issuer],
        methods: vec![],
        config: setgate_router::Config::default(),
        observed: fixture.registry.lend(setgate_router::Observed::register),
    })
    .await
    .unwrap();
    let section = ProducerSection {
        name: "p".into(),
        token_hashes: vec![fixture.token.hash.into()],
        issuers: vec![A.into()],
        events: EventsSection::All,
        subjects: SubjectsSection::Any,
    };
    let producers = setgate_oauth::enrol(&*store, &[section], &[A]).await.unwrap();
    fixture.app = world(WorldParts {
        issuers: Intake::of(&router),
        guard: Arc::new(Guard::new(producers, clock)),
        config: IntakeConfig::default(),
        runtime,
        observed: Observed::default(),
    })
    .unwrap();
    (fixture, store)
}

#[tokio::test]
async fn what_is_answered_202_stands_in_the_ledger_once() {
    let (fixture, store) = real().await;
    let first = fixture.one(&event("a")).await;
    assert_eq!(first.status, 202, "{first:?}");
    let mut other = event("a");
    other["sub_id"]["sub"] = "somebody-else".into();
    let answer = fixture.many(&[event("a"), other, event("b"), event("b"), event("c")]).await;
    assert_eq!(answer.statuses(), [202, 409, 202, 202, 202]);
    let lines = answer.lines();
    assert_eq!(lines[0]["txn"], first.json()["txn"], "a repeat is answered as the first");
    assert_eq!((&lines[0]["repeated"], &lines[3]["repeated"]), (&json!(true), &json!(true)));
    assert_eq!(lines[2]["txn"], lines[3]["txn"], "also within one request");
    assert_eq!(store.bounds().last, Position::new(3), "three events are in the ledger");
}

#[tokio::test]
async fn a_closed_store_is_503_and_does_not_say_what_is_inside() {
    let (fixture, store) = real().await;
    store.close().await.unwrap();
    let answer = fixture.one(&event("a")).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.headers.contains_key("retry-after"));
    assert!(!String::from_utf8_lossy(&answer.body).contains("store"), "{answer:?}");
}
