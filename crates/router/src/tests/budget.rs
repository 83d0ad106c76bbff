//! Tests that a stream which fills the store does not close intake for others (P5): the largest holder is cut, oldest
//! first, and its view shows that.

use setgate_store::{FjallStore, Options, Position, StorePlace, StreamNo};

use super::*;

const MIB: u64 = 1 << 20;

/// Makes a bench over a store on disk with a small budget, in real time.
async fn on_disk(folder: &std::path::Path, budget_bytes: u64) -> Bench {
    let clock = ManualClock::at(1_800_000_000_000);
    let runtime = setgate_clock::manual::runtime(clock.clone(), 7);
    let options = Options {
        path: folder.join("store"),
        budget_bytes,
        reserve_bytes: 1,
        segment_bytes: 8 * MIB,
        ..Options::default()
    };
    let place = StorePlace { store: options.path.clone(), owner: folder.join("owner") };
    FjallStore::init(&place, &options, &[9; 32], &runtime).unwrap();
    let store =
        FjallStore::open(&place, &options, &[9; 32], &runtime, setgate_store::Observed::default()).unwrap().store;
    Bench::over(store, clock, runtime, Config { retention_interval: Duration::from_secs(3600), ..Config::default() })
        .await
}

fn wants(id: &str, event: &str) -> Value {
    json!({
        "id": id, "issuer": ISSUER, "audience": id, "events": [format!("https://example.com/{event}")],
        "delivery": { "method": "scripted" }, "retention": { "budget_percent": 100 },
    })
}

fn large(n: usize) -> Value {
    json!({
        "events": { "https://example.com/large": { "n": n, "text": "x".repeat(500_000) } },
        "sub_id": { "format": "opaque", "id": format!("subject-{n}") },
    })
}

#[tokio::test]
async fn dead_streams_are_cut_before_intake_closes_and_the_good_one_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let streams = [wants("dead", "large"), wants("absent", "large"), wants("good", "changed")];
    // The engine's journals take up to 128 MiB of the budget.
    let bench = on_disk(folder.path(), 400 * MIB).await;
    bench.declare(&streams).await;
    for id in ["dead", "absent"] {
        bench.router.pause(id, "nobody is there".into()).await.unwrap();
    }
    const ALL: usize = 760;
    for n in 0..ALL {
        let accepted = bench.emit_event(large(n)).await;
        assert!(matches!(accepted, Accepted::New { .. }), "event {n}: {accepted:?} {:?}", bench.store.health());
        assert!(matches!(bench.emit(n % 7, n).await, Accepted::New { .. }), "event {n}");
    }
    let view = async |id: &str| bench.router.stream(id).await.unwrap();
    for _ in 0..3000 {
        if view("good").await.waiting == 0 {
            break;
        }
        bench.pass(Duration::from_millis(10)).await;
    }
    let good = view("good").await;
    assert_eq!((good.acknowledged, good.dropped, good.limited), (ALL as u64, 0, None));
    for id in ["dead", "absent"] {
        let dead = view(id).await;
        let limited = dead.limited.clone().unwrap();
        assert_eq!((limited.rule, limited.dropped), ("too_large", dead.dropped));
        assert_eq!(dead.waiting + dead.dropped, ALL as u64, "{id}");
        assert!(dead.dropped > 50 && dead.waiting > 200, "{id}: {} dropped, {} kept", dead.dropped, dead.waiting);
        let oldest = bench.store.owed(StreamNo(dead.no), Position::START, 1).await.unwrap()[0].at;
        assert!(oldest.seq > 100, "the oldest go first: {oldest}");
    }
    let health = bench.store.health();
    assert!(health.accepts && health.bytes < health.budget, "{health:?}");
    bench.router.drain(Duration::ZERO).await;
    bench.store.close().await.unwrap();
}

#[tokio::test]
async fn a_stream_is_cut_to_its_share_only_if_freeing_what_nobody_needs_is_not_enough() {
    let mut dead = wants("dead", "changed");
    dead["retention"] = json!({ "budget_percent": 10 });
    let config = Config { retention_interval: Duration::from_secs(2), ..Config::default() };
    let (bench, store) = faulty::faulty(config, &[dead]).await;
    bench.router.pause("dead", "nobody is there".into()).await.unwrap();
    for n in 0..20 {
        assert!(matches!(bench.emit(n % 7, n).await, Accepted::New { .. }), "event {n}");
    }
    assert!(store.cursor(StreamNo(1)).await.unwrap().bytes > 1000 / 10, "it holds more than its share");
    for (after, dropped) in [(790, 0), (810, 1)] {
        *store.taken.lock() = Some((990, after));
        bench.pass(Duration::from_secs(3)).await;
        let dead = bench.router.stream("dead").await.unwrap();
        assert_eq!(dead.dropped.min(1), dropped, "{after} of 1000 bytes are taken once it has tidied up");
        assert_eq!(dead.waiting + dead.dropped, 20);
    }
}
