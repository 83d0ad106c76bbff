//! Tests of the limits on how long and how much a stream may keep waiting.

use setgate_store::{Rule, StreamNo, Tally};

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn limited(id: &str, retention: Value) -> Value {
    let mut stream = stream(id);
    stream["retention"] = retention;
    stream
}

fn config() -> Config {
    Config { retention_interval: Duration::from_secs(60), ..Config::default() }
}

async fn tally(bench: &Bench, id: &str) -> Tally {
    let no = StreamNo(bench.router.stream(id).await.unwrap().no);
    bench.store.cursor(no).await.unwrap().tally
}

/// Acknowledges everything from now on; returns the numbers of the events that were acknowledged.
async fn delivered(bench: &Bench) -> Vec<u64> {
    bench.method.seen.lock().clear();
    bench.method.answer_with(|_| ack());
    bench.settled().await;
    let mut numbers: Vec<u64> = bench.method.seen.lock().iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

fn down() -> Outcome {
    retry(Scope::Channel, "http_503")
}

#[tokio::test(start_paused = true)]
async fn of_more_sets_than_a_stream_may_keep_the_oldest_are_dropped_and_counted() {
    let bench = Bench::new(config(), &[limited("a", json!({ "sets": 3 })), stream("b")]).await;
    bench.method.answer_with(|_| down());
    for n in 0..5 {
        bench.emit(n, n).await;
    }
    bench.until("some are dropped", async || tally(&bench, "a").await.waiting == 3).await;
    let counted = tally(&bench, "a").await;
    assert_eq!((counted.owed, counted.dropped.clone()), (5, BTreeMap::from([(Rule::TooMany, 2)])));
    bench.pass(2 * MINUTE).await;
    assert_eq!(tally(&bench, "a").await, counted, "as many as it may keep are kept");
    assert_eq!(tally(&bench, "b").await.waiting, 5, "nobody else loses anything");
    assert_eq!(delivered(&bench).await, [0, 1, 2, 2, 3, 3, 4, 4]);
}

#[tokio::test(start_paused = true)]
async fn sets_that_are_older_than_a_stream_keeps_them_are_dropped_and_counted() {
    let bench = Bench::new(config(), &[limited("a", json!({ "age": "10m" })), stream("b")]).await;
    bench.method.answer_with(|_| down());
    for n in 0..2 {
        bench.emit(n, n).await;
    }
    for _ in 0..8 {
        bench.pass(MINUTE).await;
    }
    assert_eq!(tally(&bench, "a").await.waiting, 2, "they are not too old yet");
    bench.emit(2, 2).await;
    bench.until("some are dropped", async || tally(&bench, "a").await.waiting == 1).await;
    let counted = tally(&bench, "a").await;
    assert_eq!((counted.owed, counted.dropped), (3, BTreeMap::from([(Rule::TooOld, 2)])));
    assert_eq!(tally(&bench, "b").await.waiting, 3, "nobody else loses anything");
    assert_eq!(delivered(&bench).await, [0, 1, 2, 2]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_dropped_by_age_while_the_clock_is_not_believed() {
    let bench = Bench::new(config(), &[limited("a", json!({ "age": "10m" }))]).await;
    bench.method.answer_with(|_| down());
    bench.emit(0, 0).await;
    bench.clock.advance(Duration::from_secs(30 * 24 * 3600));
    for _ in 0..20 {
        bench.pass(MINUTE).await;
    }
    assert!(bench.store.time().suspect, "the clock leapt a month");
    assert_eq!(tally(&bench, "a").await.waiting, 1, "its age is not known");
}
