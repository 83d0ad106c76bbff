//! Tests that a stream with something due is always running, queued or timed, and that nothing runs in a circle.

use std::sync::atomic::Ordering;

use setgate_delivery::{Batch, Want};
use setgate_store::StreamNo;

use super::{faulty::faulty, responder::*, *};

mod play;

/// A source of randomness that yields nothing but zeros.
struct Zero;

impl Random for Zero {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}

fn long(sets: usize) -> Want {
    Want { sets, bytes: usize::MAX, wait: Some(Duration::from_secs(600)) }
}

#[tokio::test(start_paused = true)]
async fn what_was_tried_before_a_restart_reaches_who_waits_already() {
    let mut bench = Bench::new(Config::default(), &[asked("a")]).await;
    for n in 0..40 {
        bench.emit(n, n).await;
    }
    let mut consumer = bench.router.session_target("a").unwrap().subscription.consumer();
    assert_eq!(take(&mut consumer, 40).await.len(), 40);
    drop(consumer);
    // Their redelivery timeout has passed: that was an attempt.
    for _ in 0..62 {
        bench.pass(Duration::from_secs(1)).await;
    }
    bench.restart(Config::default()).await;
    let mut consumer = bench.router.session_target("a").unwrap().subscription.consumer();
    let start = bench.runtime.clock.monotonic();
    // The consumer waits before the store is read.
    let batch = consumer.next_batch(long(40)).await.map(Batch::hand_over).unwrap();
    let took = bench.runtime.clock.monotonic() - start;
    assert_eq!(batch.len(), 40);
    assert!(took < Duration::from_secs(1), "after {took:?}; {}", bench.clocks());
}

#[tokio::test(start_paused = true)]
async fn what_is_due_in_the_moment_in_which_it_is_read_leaves() {
    let mut bench = Bench::new(Config::default(), &[stream("a")]).await;
    bench.method.answer_with(|_| retry(Scope::Set, "http_500"));
    for n in 0..10 {
        bench.emit(n, n).await;
    }
    bench.pass(Duration::from_secs(5)).await;
    bench.runtime.random = Arc::new(Zero);
    for _ in 0..300 {
        bench.pass(Duration::from_secs(1)).await;
    }
    bench.clock.advance(Duration::from_secs(600));
    bench.restart(Config::default()).await;
    bench.method.answer_with(|_| ack());
    for _ in 0..60 {
        bench.pass(Duration::from_secs(1)).await;
    }
    let view = bench.router.stream("a").await.unwrap();
    assert_eq!(view.waiting, 0, "{}", bench.clocks());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_settles_again_soon_wakes_who_was_turned_away() {
    let (bench, store) = faulty(Config::default(), &[asked("a")]).await;
    let subscription = bench.router.session_target("a").unwrap().subscription;
    bench.emit(0, 0).await;
    let first = take(&mut subscription.consumer(), 9).await;
    store.settle_fail.store(true, Ordering::Relaxed);
    subscription.settle(first[0].jti, None, ack());
    bench.until("halted", async || bench.router.0.shared.is_halted()).await;
    bench.emit(1, 1).await;
    let mut consumer = subscription.consumer();
    let fetched = tokio::spawn(async move { consumer.next_batch(long(9)).await.map(Batch::hand_over).unwrap() });
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    store.settle_fail.store(false, Ordering::Relaxed);
    for _ in 0..30 {
        bench.pass(Duration::from_secs(1)).await;
    }
    assert!(fetched.is_finished(), "it waits though the store is well; {}", bench.clocks());
    assert_eq!(numbers(&fetched.await.unwrap()), [1]);
}

#[tokio::test(start_paused = true)]
async fn timers_are_as_many_as_streams() {
    let mut month = asked("a");
    month["inactivity_timeout"] = "30d".into();
    month["batch"] = json!({ "linger": "10ms" });
    let bench = Bench::new(Config::default(), &[month, stream("b")]).await;
    let subscription = bench.router.session_target("a").unwrap().subscription;
    for n in 0..1000 {
        bench.emit(n, n).await;
        // A timer fires when the batch has waited for others, and the one for the month is set again.
        bench.pass(Duration::from_millis(20)).await;
        let all = take(&mut subscription.consumer(), 1).await;
        subscription.settle(all[0].jti, None, ack());
    }
    let kept = bench.router.0.shared.timers.kept();
    assert!(kept <= 2, "{kept} timers for two streams");
    let shown = || usize::try_from(bench.router.0.shared.observed.timers.get()).unwrap();
    assert_eq!(shown(), kept, "the metric says otherwise");
    bench.router.delete("b").await.unwrap();
    bench.until("it is gone", async || bench.router.0.shared.timers.kept() <= 1).await;
    assert_eq!(shown(), bench.router.0.shared.timers.kept(), "the metric says otherwise");
}

/// Returns the number of timers that fire in this time.
async fn rings(bench: &Bench, time: Duration) -> usize {
    let before = bench.router.0.shared.timers.rung();
    let steps = u32::try_from(time.as_millis() / 100).unwrap();
    for _ in 0..steps {
        bench.pass(time / steps).await;
    }
    bench.router.0.shared.timers.rung() - before
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_waits_for_what_is_in_flight_rings_no_timer_in_a_circle() {
    // The breaker is open and its time has come, while a request takes ten minutes.
    let bench = Bench::new(Config::default(), &[stream("a")]).await;
    let subscription = bench.router.0.subscription(StreamNo(1)).unwrap();
    bench.method.answer_with(|_| retry(Scope::Channel, "connect"));
    bench.emit(0, 0).await;
    bench.until("it failed", async || subscription.state.lock().shown.last_error.is_some()).await;
    *bench.method.latency.lock() = Duration::from_secs(600);
    bench.until("the probe is out", async || bench.method.count() == 2).await;
    bench.emit(1, 1).await;
    let rang = rings(&bench, Duration::from_secs(300)).await;
    assert!(rang < 10, "{rang} times");
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_stays_away_from_a_store_that_takes_no_pause_is_told_of_now_and_then() {
    let mut soon = asked("a");
    soon["inactivity_timeout"] = "5s".into();
    let (bench, store) = faulty(Config::default(), &[soon]).await;
    store.refuse_configure.store(true, Ordering::Relaxed);
    let rang = rings(&bench, Duration::from_secs(300)).await;
    assert!((5..100).contains(&rang), "{rang} times");
    store.refuse_configure.store(false, Ordering::Relaxed);
    bench.until("paused", async || bench.router.stream("a").await.unwrap().status == "paused").await;
}
