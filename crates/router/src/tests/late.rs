//! Tests of outcomes for SETs that are not fetched, and of what is out when a stream changes.

use setgate_delivery::{Batch, DeliveryMode, Want};

use super::{responder::*, *};

/// Hands over twenty SETs, restarts, and returns the bench with these SETs. With `scanned`, the store has been scanned
/// after the restart.
async fn after_a_restart(scanned: bool) -> (Bench, Vec<SealedSet>) {
    let config = || Config { pause_after_parked: u32::MAX, ..Config::default() };
    let mut bench = Bench::new(config(), &[asked("a")]).await;
    for n in 0..20 {
        bench.emit(n, n).await;
    }
    let subscription = bench.router.session_target("a").unwrap().subscription;
    let all = take(&mut subscription.consumer(), 20).await;
    assert_eq!(all.len(), 20);
    bench.restart(config()).await;
    if scanned {
        bench.pass(Duration::from_secs(1)).await;
    }
    (bench, all)
}

#[tokio::test(start_paused = true)]
async fn what_a_request_settles_after_a_restart_is_not_in_its_own_answer() {
    for scanned in [true, false] {
        for outcome in [ack(), refuse(ErrorCode::InvalidRequest)] {
            let (bench, all) = after_a_restart(scanned).await;
            let subscription = bench.router.session_target("a").unwrap().subscription;
            subscription.settle_all(all.iter().take(10).map(|set| (set.jti, None, outcome.clone())).collect());
            let want = Want { sets: 100, bytes: usize::MAX, wait: Some(Duration::ZERO) };
            let mut again = numbers(&subscription.consumer().next_batch(want).await.map(Batch::hand_over).unwrap());
            while again.len() < 10 {
                again.extend(numbers(&take(&mut subscription.consumer(), 100).await));
            }
            again.sort_unstable();
            assert_eq!(again, (10..20).collect::<Vec<_>>(), "scanned: {scanned}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_out_by_another_method_does_not_hold_up_a_changed_stream() {
    let mut day = asked("a");
    day["delivery"]["after"] = 86_400.into();
    let bench = Bench::new(Config::default(), &[day]).await;
    for n in 0..20 {
        bench.emit(n, n).await;
    }
    let subscription = bench.router.session_target("a").unwrap().subscription;
    assert_eq!(take(&mut subscription.consumer(), 20).await.len(), 20);
    bench.declare(&[stream("a")]).await;
    bench.emit(30, 30).await;
    for _ in 0..60 {
        bench.pass(Duration::from_secs(1)).await;
    }
    let view = bench.router.stream("a").await.unwrap();
    assert_eq!((view.waiting, view.acknowledged), (0, 21));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_leaves_after_its_socket_is_gone_is_due_again() {
    let bench = Bench::new(Config::default(), &[asked("a")]).await;
    let subscription = bench.router.session_target("a").unwrap().subscription;
    bench.emit(0, 0).await;
    let mut consumer = subscription
        .consumer_with(DeliveryMode { order: Order::PerConsumer, redelivery: Redelivery::WhenConsumerEnds });
    let batch = consumer.next_batch(soon(9)).await.unwrap();
    drop(consumer);
    assert_eq!(batch.hand_over().len(), 1);
    bench.pass(Duration::from_secs(5)).await;
    assert_eq!(numbers(&take(&mut subscription.consumer(), 9).await), [0]);
}

#[tokio::test(start_paused = true)]
async fn saying_it_twice_counts_once() {
    let bench = Bench::new(Config::default(), &[asked("a")]).await;
    let subscription = bench.router.session_target("a").unwrap().subscription;
    bench.emit(0, 0).await;
    let all = take(&mut subscription.consumer(), 9).await;
    for _ in 0..3 {
        subscription.settle(all[0].jti, None, ack());
        tokio::task::yield_now().await;
    }
    bench.settled().await;
    bench.pass(Duration::from_secs(1)).await;
    let counted = "deliveries_acknowledged_total{method=\"asked\",receipt=\"receiver\"} 1\n";
    assert!(bench.page().contains(counted), "{}", bench.page());
    subscription.settle(all[0].jti, None, refuse(ErrorCode::InvalidRequest));
    bench.pass(Duration::from_secs(1)).await;
    assert_eq!(bench.router.stream("a").await.unwrap().parked, 0);
}

#[tokio::test(start_paused = true)]
async fn an_acknowledged_set_is_not_parked_by_what_is_said_right_after() {
    let bench = Bench::new(Config::default(), &[asked("a")]).await;
    let subscription = bench.router.session_target("a").unwrap().subscription;
    bench.emit(0, 0).await;
    bench.emit(0, 1).await;
    let all = take(&mut subscription.consumer(), 9).await;
    subscription.settle(all[0].jti, None, ack());
    subscription.settle(all[0].jti, None, refuse(ErrorCode::InvalidRequest));
    subscription.settle(all[1].jti, None, ack());
    bench.settled().await;
    bench.pass(Duration::from_secs(1)).await;
    let view = bench.router.stream("a").await.unwrap();
    assert_eq!((view.acknowledged, view.parked), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_key_goes_on_when_the_set_it_waits_for_was_taken_after_all() {
    let bench = Bench::new(Config::default(), &[asked("a")]).await;
    let subscription = bench.router.session_target("a").unwrap().subscription;
    bench.emit(0, 0).await;
    bench.emit(0, 1).await;
    let all = take(&mut subscription.consumer(), 1).await;
    let later = Verdict::Retry {
        scope: Scope::Set,
        after: Some(Duration::from_secs(1800)),
        cause: Cause::new("http_503", "later"),
    };
    subscription.settle(all[0].jti, Some(all[0].attempt), Err(later));
    bench.pass(Duration::from_secs(1)).await;
    subscription.settle(all[0].jti, None, ack());
    bench.pass(Duration::from_secs(1)).await;
    assert_eq!(numbers(&take(&mut subscription.consumer(), 9).await), [1]);
}

#[tokio::test(start_paused = true)]
async fn of_a_batch_only_what_was_acknowledged_is_settled() {
    let bench = Bench::new(Config::default(), &[asked("a")]).await;
    for n in 0..6 {
        bench.emit(n, n).await;
    }
    let subscription = bench.router.session_target("a").unwrap().subscription;
    let mut consumer = subscription.consumer();
    let all = take(&mut consumer, 9).await;
    assert_eq!(numbers(&all), [0, 1, 2, 3, 4, 5], "one batch");
    subscription.settle_all(vec![(all[1].jti, None, ack()), (all[4].jti, None, ack())]);
    bench.pass(Duration::from_secs(1)).await;
    let view = bench.router.stream("a").await.unwrap();
    assert_eq!((view.acknowledged, view.waiting), (2, 4), "{view:?}");
    // The others are handed over again when their time is over.
    bench.pass(Duration::from_secs(61)).await;
    assert_eq!(numbers(&take(&mut consumer, 9).await), [0, 2, 3, 5]);
}
