//! Tests of limits and linger of batches, and of receivers that stay away.

use setgate_delivery::Want;

use super::{responder::*, *};

fn batched(mut stream: Value, batch: &Value) -> Value {
    stream["batch"] = batch.clone();
    stream
}

/// Polls until SETs come; returns them and the virtual time that it took.
async fn wait_for(bench: &Bench, consumer: &mut Consumer, most: usize) -> (Vec<u64>, Duration) {
    let from = bench.runtime.clock.monotonic();
    for _ in 0..2000 {
        let want = Want { wait: Some(Duration::from_millis(1)), ..soon(most) };
        let batch = consumer.next_batch(want).await.unwrap();
        if !batch.sets.is_empty() {
            return (numbers(&batch.hand_over()), bench.runtime.clock.monotonic().saturating_sub(from));
        }
        bench.pass(Duration::from_millis(5)).await;
    }
    panic!("nothing came");
}

#[tokio::test(start_paused = true)]
async fn a_batch_waits_for_others_until_it_is_full_or_its_oldest_has_waited() {
    let bench = Bench::new(Config::default(), &[batched(asked("a"), &json!({ "sets": 3, "linger": "400ms" }))]).await;
    let mut consumer = bench.router.session_target("a").unwrap().subscription.consumer();
    for n in 0..2 {
        bench.emit(n, n).await;
    }
    let (sets, after) = wait_for(&bench, &mut consumer, 10).await;
    assert_eq!(sets, [0, 1]);
    assert!((380..450).contains(&after.as_millis()), "{after:?}");
    for n in 2..9 {
        bench.emit(n, n).await;
    }
    bench.pass(Duration::from_millis(5)).await;
    let (sets, after) = wait_for(&bench, &mut consumer, 10).await;
    assert_eq!(sets, [2, 3, 4], "the stream's limit, at once");
    assert!(after.as_millis() < 50, "{after:?}");
    let (sets, after) = wait_for(&bench, &mut consumer, 2).await;
    assert_eq!(sets, [5, 6], "what is wanted is full");
    assert!(after.as_millis() < 50, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn bytes_fill_a_batch_too() {
    let bench =
        Bench::new(Config::default(), &[batched(asked("a"), &json!({ "bytes": 600, "linger": "10000ms" }))]).await;
    let mut consumer = bench.router.session_target("a").unwrap().subscription.consumer();
    for n in 0..12 {
        bench.emit(n, n).await;
    }
    bench.pass(Duration::from_millis(5)).await;
    let (sets, after) = wait_for(&bench, &mut consumer, 100).await;
    assert!((2..6).contains(&sets.len()) && after.as_millis() < 50, "{sets:?} after {after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_repeat_and_a_control_set_linger_for_nobody() {
    let slow = batched(asked("a"), &json!({ "linger": "10000ms" }));
    let bench = Bench::new(Config::default(), &[slow]).await;
    let subscription = bench.router.session_target("a").unwrap().subscription;
    bench.emit(0, 0).await;
    let mut consumer = subscription.consumer();
    assert_eq!(wait_for(&bench, &mut consumer, 10).await.0, [0]);
    bench.pass(Duration::from_secs(60)).await;
    let (sets, after) = wait_for(&bench, &mut consumer, 10).await;
    assert_eq!((sets, after.as_millis() < 50), (vec![0], true), "{after:?}");
    bench.router.pause("a", "test".into()).await.unwrap();
    bench.pass(Duration::from_millis(5)).await;
    assert_eq!(take(&mut consumer, 10).await.len(), 1, "the announcement");
}

#[tokio::test(start_paused = true)]
async fn single_pushes_linger_too() {
    let bench = Bench::new(Config::default(), &[batched(stream("a"), &json!({ "linger": "300ms" }))]).await;
    // These are fewer than leave at once at first.
    for n in 0..3 {
        bench.emit(n, n).await;
    }
    bench.pass(Duration::from_millis(250)).await;
    assert_eq!(bench.method.count(), 0);
    bench.pass(Duration::from_millis(100)).await;
    assert_eq!(bench.method.count(), 3);
    bench.settled().await;
}

#[test]
fn a_linger_of_more_than_ten_seconds_is_refused() {
    let declared = |linger: u32| {
        serde_json::from_value::<crate::Declared>(batched(stream("a"), &json!({ "linger": format!("{linger}ms") })))
    };
    assert!(declared(10_000).is_ok());
    assert!(declared(10_001).unwrap_err().to_string().contains("write \"0s\" to \"10s\""));
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_receiver_stays_away_is_paused_and_a_session_restarts_the_time() {
    let mut left = asked("a");
    left["inactivity_timeout"] = "100s".into();
    // A receiver that is called does not have to come.
    let mut called = stream("b");
    called["inactivity_timeout"] = "100s".into();
    let bench = Bench::new(Config::default(), &[left, called]).await;
    let status = async || bench.router.stream("a").await.unwrap().status;
    bench.pass(Duration::from_secs(90)).await;
    bench.router.session_target("a").unwrap().touch();
    bench.pass(Duration::from_secs(90)).await;
    assert_eq!(status().await, "enabled");
    let socket = bench.router.session_target("a").unwrap().subscription.consumer();
    bench.pass(Duration::from_secs(500)).await;
    assert_eq!(status().await, "enabled", "it is here");
    drop(socket);
    bench.pass(Duration::from_secs(99)).await;
    assert_eq!(status().await, "enabled");
    bench.pass(Duration::from_secs(2)).await;
    bench.until("paused", async || status().await == "paused").await;
    let view = bench.router.stream("a").await.unwrap();
    assert!(view.reason.unwrap().contains("100 seconds"));
    let announced = take(&mut bench.router.session_target("a").unwrap().subscription.consumer(), 10).await;
    assert_eq!(claims(&announced[0].body)["events"][setgate_set::framework::STREAM_UPDATED]["status"], "paused");
    bench.router.resume("a", false).await.unwrap();
    bench.pass(Duration::from_secs(90)).await;
    assert_eq!(status().await, "enabled", "the time begins anew");
    assert_eq!(bench.router.stream("b").await.unwrap().status, "enabled");
}
