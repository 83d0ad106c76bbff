//! The router lags behind the ledger while segments are given up.

use store::{Durability, FjallStore, Kind, NewEvent, Options, Place, StreamNo, Unit, Version};

use super::{faulty::Faulty, *};

#[tokio::test(start_paused = true)]
async fn a_router_that_lags_hands_over_what_is_owed_of_condensed_segments_in_order() {
    let clock = ManualClock::at(1_800_000_000_000);
    let house = clock::manual::house(clock.clone(), 7);
    let folder = tempfile::tempdir().unwrap();
    let place = Place { store: folder.path().join("store"), owner: folder.path().join("owner") };
    let options = Options {
        path: place.store.clone(),
        reserve_bytes: 1,
        segment_records: 16,
        recent_bytes: 0,
        ..Options::default()
    };
    FjallStore::init(&place, &options, &[9; 32], &house).unwrap();
    let opened = FjallStore::open(&place, &options, &[9; 32], &house, store::Observed::default()).unwrap().store;
    let store = Faulty::over(opened.clone());
    let bench = Bench::over(store.clone(), clock, house, Config::default()).await;
    bench.declare(&[stream("a")]).await;
    let no = StreamNo(bench.router.stream("a").await.unwrap().no);

    store.tail_held.send_replace(true);
    bench.emit(0, 0).await;
    bench.until("the first is delivered", async || bench.method.count() == 1).await;
    bench.emit(0, 1).await;
    // Nobody wants these.
    let unwanted = NewEvent {
        kind: Kind::Intake,
        issuer: IssuerNo(1),
        producer: ProducerNo(1),
        config: Version(u64::MAX),
        order: set::OrderKey::from_bits(1),
        targets: Arc::default(),
        body: "{}".into(),
        once: None,
    };
    let events = vec![unwanted; 40];
    for some in events.chunks(8) {
        opened.commit(vec![Unit::Append { events: some.to_vec() }], Durability::Sync).await.unwrap();
    }
    bench.emit(0, 2).await;
    bench.until("the first is settled", async || opened.waiting(no) == 2).await;
    opened.housekeep().await.unwrap();
    assert!(opened.bounds().first.seq > 16, "nothing was condensed: {:?}", opened.bounds());

    store.tail_held.send_replace(false);
    bench.settled().await;
    let seen: Vec<u64> = bench.method.seen.lock().iter().map(number).collect();
    assert_eq!(seen, [0, 1, 2]);
    assert_eq!(assert_order_and_identity(&bench.method.seen.lock()), 3);
    bench.router.drain(Duration::from_secs(1)).await;
    opened.close().await.unwrap();
}
