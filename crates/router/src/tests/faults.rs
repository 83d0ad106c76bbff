//! Tests of faults by which the router could stand still, run hot, or forget.

use std::sync::atomic::{AtomicUsize, Ordering};

use setgate_delivery::spi::SubscriptionCore;
use setgate_store::StreamNo;

use super::{
    faulty::{Next, faulty},
    *,
};

fn after(wait: Duration) -> Outcome {
    Err(Verdict::Retry { scope: Scope::Set, after: Some(wait), cause: Cause::new("http_500", "as scripted") })
}

/// Returns the answer to an event, if it comes within a minute of virtual time.
async fn answered(bench: &Bench, n: usize) -> Option<Accepted> {
    tokio::time::timeout(Duration::from_secs(60), bench.emit(n, n)).await.ok()
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_caller_went_away_is_in_force_and_stops_no_intake() {
    let (bench, store) = faulty(Config::default(), &[stream("a")]).await;
    *store.configure.lock() = Some(Next::Silence);
    let gone = tokio::time::timeout(Duration::from_secs(1), bench.router.pause("a", "test".into())).await;
    assert!(gone.is_err(), "the caller hung up");
    assert!(matches!(answered(&bench, 1).await, Some(Accepted::New { .. })), "intake stands still");
    bench.until("paused", async || bench.router.stream("a").await.unwrap().status == "paused").await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_delete_leaves_the_stream_delivered() {
    let (bench, store) = faulty(Config::default(), &[stream("a")]).await;
    *store.configure.lock() = Some(Next::Refuse);
    bench.router.delete("a").await.unwrap_err();
    assert!(matches!(answered(&bench, 1).await, Some(Accepted::New { .. })));
    bench.until("delivered", async || bench.method.count() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_breaks_off_after_its_commit_stops_no_intake() {
    let (bench, store) = faulty(Config::default(), &[stream("a"), stream("b")]).await;
    store.parked_fail.store(true, Ordering::Relaxed);
    let _ = bench.router.delete("a").await;
    assert!(matches!(answered(&bench, 1).await, Some(Accepted::New { .. })), "intake stands still");
    store.parked_fail.store(false, Ordering::Relaxed);
    bench.until("gone", async || bench.router.stream("a").await.is_none()).await;
    bench.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_backlog_of_a_stream_that_was_absent_for_a_while_is_delivered() {
    let bench = Bench::new(Config::default(), &[stream("a"), stream("b")]).await;
    bench.router.pause("b", "test".into()).await.unwrap();
    for n in 0..300 {
        bench.emit(n, n).await;
    }
    bench.pass(Duration::from_secs(1)).await;
    bench.declare(&[stream("a")]).await;
    bench.pass(Duration::from_secs(1)).await;
    bench.declare(&[stream("a"), stream("b")]).await;
    if bench.router.stream("b").await.unwrap().status == "paused" {
        bench.router.resume("b", false).await.unwrap();
    }
    bench.delivered().await;
    assert!(bench.router.stream("b").await.unwrap().acknowledged >= 300);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_signs_no_repeat() {
    let bench = Bench::new(Config::default(), &[stream("a")]).await;
    let keyring = bench.keyring.clone();
    let old = keyring.signer(Algorithm::Es256).unwrap().kid().to_owned();
    let tries = AtomicUsize::new(0);
    let revoke = (keyring.clone(), old.clone());
    bench.method.answer_with(move |_| {
        if tries.fetch_add(1, Ordering::Relaxed) > 0 {
            return ack();
        }
        // The operator revokes the key while the request is under way.
        let (keyring, old) = &revoke;
        keyring.install(keyring.ring().revoke(old, Moment::default()).unwrap());
        retry(Scope::Channel, "timeout")
    });
    bench.emit(0, 0).await;
    bench.settled().await;
    let kids: Vec<_> = bench.method.seen.lock().iter().map(|set| header(&set.body)["kid"].clone()).collect();
    assert_eq!(kids.len(), 2);
    assert_eq!(kids[0], old.as_str());
    assert_ne!(kids[1], old.as_str(), "a token of the revoked key was handed over after the revocation");
}

fn header(token: &[u8]) -> Value {
    use base64::Engine as _;
    let first = token.split(|byte| *byte == b'.').next().unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(first).unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_key_waits_instead_of_spinning() {
    let bench = Bench::new(Config::default(), &[stream("a")]).await;
    let whole = bench.keyring.ring();
    bench.keyring.install(Ring::new(Moment::default()));
    bench.emit(0, 0).await;
    bench.pass(Duration::from_secs(3600)).await;
    let view = bench.router.stream("a").await.unwrap();
    assert!(view.last_error.unwrap().contains("no_key"));
    bench.keyring.install((*whole).clone());
    bench.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_stopped_key_with_a_full_ready_set_holds_up_no_other() {
    let config = Config { ready_sets: 64, ..Config::default() };
    let mut stopping = stream("a");
    stopping["on_refusal"] = "stop_key".into();
    let (bench, store) = faulty(config, &[stopping]).await;
    bench.method.answer_with(|set| if number(set) == 0 { refuse(ErrorCode::InvalidRequest) } else { ack() });
    for n in 0..200 {
        bench.emit(0, n).await;
    }
    bench.until("parked", async || bench.router.stream("a").await.unwrap().parked == 1).await;
    for n in 200..300 {
        bench.emit(n, n).await;
    }
    bench.until("the others", async || bench.router.stream("a").await.unwrap().acknowledged == 100).await;
    let before = store.scans.load(Ordering::Relaxed);
    bench.pass(Duration::from_secs(60)).await;
    assert!(store.scans.load(Ordering::Relaxed) < before + 10, "it reads the store over and over");
}

#[tokio::test(start_paused = true)]
async fn lanes_that_all_wait_cost_no_reading() {
    let config = Config { ready_sets: 64, poison_after: 1000, ..Config::default() };
    let (bench, store) = faulty(config, &[stream("a")]).await;
    // One SET in two fails alone, so that the channel stays healthy while more and more keys wait.
    bench
        .method
        .answer_with(|set| if !number(set).is_multiple_of(2) { after(Duration::from_secs(600)) } else { ack() });
    for n in 0..400 {
        bench.emit(n, n).await;
    }
    bench.until("the others", async || bench.router.stream("a").await.unwrap().acknowledged == 200).await;
    assert!(bench.runtime.clock.monotonic() < Duration::from_secs(300), "first attempts queue behind late retries");
    let before = store.scans.load(Ordering::Relaxed);
    bench.pass(Duration::from_secs(60)).await;
    assert!(store.scans.load(Ordering::Relaxed) < before + 10, "it reads the store over and over");
}

#[tokio::test(start_paused = true)]
async fn a_window_without_room_for_the_next_bytes_is_waited_for_quietly() {
    let config = Config { in_flight_bytes: 10_000, ..Config::default() };
    let bench = Bench::new(config, &[stream("a")]).await;
    let blob = "x".repeat(3000);
    for n in 0..12 {
        let event = json!({
            "events": { "https://example.com/changed": { "n": n, "blob": blob } },
            "sub_id": { "format": "opaque", "id": format!("subject-{n}") },
        });
        bench.emit_event(event).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
    bench.settled().await;
    assert_eq!(assert_order_and_identity(&bench.method.seen.lock()), 12);
}

#[tokio::test(start_paused = true)]
async fn what_comes_before_a_lane_is_read_on_does_not_overtake_it() {
    let bench = Bench::new(Config { ready_sets: 2, ..Config::default() }, &[stream("a")]).await;
    let subscription = bench.router.0.subscription(StreamNo(1)).unwrap();
    bench.method.answer_with(|set| if number(set) == 0 { after(Duration::from_secs(5)) } else { ack() });
    bench.emit(0, 0).await;
    bench.until("it waits", async || subscription.state.lock().lanes.next_due().is_some()).await;
    // The other key finds its place, and the second of the first key becomes a bit in the store.
    bench.emit(0, 1).await;
    bench.emit(1, 2).await;
    bench.until("the other key", async || bench.router.stream("a").await.unwrap().acknowledged == 1).await;
    assert_eq!(subscription.state.lock().lanes.skipped(), 1);
    while subscription.state.lock().in_flight.leased.values().all(|leased| leased.handed.is_none()) {
        bench.pass(Duration::from_millis(1)).await;
    }
    // The SET is acknowledged, and its lane runs empty. Before the scan begins, the tail brings one more.
    bench.emit(0, 3).await;
    let jti = subscription.state.lock().in_flight.leased.values().next().map(|leased| leased.jti).unwrap();
    let core = crate::contract::Core::new(subscription.clone(), subscription.served.load_full());
    SubscriptionCore::settle(&core, vec![(jti, None, ack())]);
    let limits = 100;
    let entries = bench.store.tail(setgate_store::Position::new(3), limits, Duration::ZERO).await.unwrap();
    subscription.push(&entries.iter().collect::<Vec<_>>());
    bench.settled().await;
    assert_eq!(assert_order_and_identity(&bench.method.seen.lock()), 4);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_settles_nothing_holds_up_no_request_for_long() {
    use super::responder::{asked, numbers, take};

    let (bench, store) = faulty(Config::default(), &[asked("a")]).await;
    let subscription = bench.router.session_target("a").unwrap().subscription;
    for n in 0..2 {
        bench.emit(n, n).await;
    }
    let all = take(&mut subscription.consumer(), 9).await;
    bench.pass(Duration::from_secs(61)).await;
    bench.pass(Duration::from_secs(1)).await;
    store.settle_fail.store(true, Ordering::Relaxed);
    // Another outcome is on its way into the store; then a late acknowledgement comes.
    bench.emit(2, 2).await;
    let other = take(&mut subscription.consumer(), 1).await;
    subscription.settle(other[0].jti, None, ack());
    let left: Vec<_> = all.iter().filter(|set| set.jti != other[0].jti).collect();
    subscription.settle(left[0].jti, None, ack());
    bench.pass(Duration::from_millis(10)).await;
    let mut consumer = subscription.consumer();
    let fetched = tokio::spawn(async move { numbers(&take(&mut consumer, 9).await) });
    for _ in 0..5 {
        bench.pass(Duration::from_secs(1)).await;
    }
    let fetched = tokio::time::timeout(Duration::from_secs(1), fetched).await.expect("it waits for the store").unwrap();
    assert!(fetched.is_empty(), "nothing leaves while nothing can be written: {fetched:?}");
    store.settle_fail.store(false, Ordering::Relaxed);
    for _ in 0..10 {
        bench.pass(Duration::from_secs(1)).await;
    }
    assert_eq!(numbers(&take(&mut subscription.consumer(), 9).await), [2]);
}
