//! Test of a router that lags behind the ledger while segments are given up.

use setgate_store::{Durability, FjallStore, Kind, NewEvent, Options, StorePlace, StreamNo, Unit, Version};

use super::{faulty::Faulty, *};

#[tokio::test(start_paused = true)]
async fn a_router_that_lags_hands_over_what_is_owed_of_condensed_segments_in_order() {
    let clock = ManualClock::at(1_800_000_000_000);
    let runtime = setgate_clock::manual::runtime(clock.clone(), 7);
    let folder = tempfile::tempdir().unwrap();
    let place = StorePlace { store: folder.path().join("store"), owner: folder.path().join("owner") };
    let options = Options {
        path: place.store.clone(),
        reserve_bytes: 1,
        segment_records: 32,
        recent_bytes: 0,
        ..Options::default()
    };
    FjallStore::init(&place, &options, &[9; 32], &runtime).unwrap();
    let opened =
        FjallStore::open(&place, &options, &[9; 32], &runtime, setgate_store::Observed::default()).unwrap().store;
    let store = Faulty::over(opened.clone());
    let bench = Bench::over(store.clone(), clock, runtime, Config::default()).await;
    bench.declare(&[stream("a")]).await;
    let no = StreamNo(bench.router.stream("a").await.unwrap().no);

    bench.emit(0, 0).await;
    bench.until("the first is settled", async || opened.waiting(no) == 0 && bench.method.count() == 1).await;
    store.tail_held.send_replace(true);
    // A read that waits already may still return this one.
    bench.emit(0, 1).await;
    bench.pass(Duration::from_secs(5)).await;
    bench.emit(0, 2).await;
    // No stream wants these events.
    let unwanted = NewEvent {
        kind: Kind::Intake,
        issuer: IssuerNo(1),
        producer: ProducerNo(1),
        config: Version(u64::MAX),
        order: setgate_set::OrderKey::from_bits(1),
        targets: Arc::default(),
        body: "{}".into(),
        once: None,
    };
    let events = vec![unwanted; 80];
    for some in events.chunks(8) {
        opened.commit(vec![Unit::Append { events: some.to_vec() }], Durability::Sync).await.unwrap();
    }
    bench.emit(0, 3).await;
    bench.pass(Duration::from_secs(5)).await;
    opened.housekeep().await.unwrap();
    assert!(opened.bounds().first.seq > 32, "nothing was condensed: {:?}", opened.bounds());
    assert!(bench.method.count() <= 2, "the router does not lag");

    store.tail_held.send_replace(false);
    bench.settled().await;
    let seen: Vec<u64> = bench.method.seen.lock().iter().map(number).collect();
    assert_eq!(seen, [0, 1, 2, 3]);
    assert_eq!(assert_order_and_identity(&bench.method.seen.lock()), 4);
    bench.router.drain(Duration::from_secs(1)).await;
    opened.close().await.unwrap();
}
