//! Tests of the limits on what may wait for a stream, whether or not it can be delivered.

use setgate_store::{Durability, Key, Put, Unit};

use super::*;

fn keeping(sets: u64) -> Value {
    let mut declared = stream("a");
    declared["retention"] = json!({ "sets": sets });
    declared
}

fn often() -> Config {
    Config { retention_interval: Duration::from_secs(1), ..Config::default() }
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_none_keeps_none() {
    for (sets, waiting) in [(0, 0), (1, 1), (2, 2)] {
        let bench = Bench::new(often(), &[keeping(sets)]).await;
        bench.method.answer_with(|_| retry(Scope::Channel, "connect"));
        for n in 0..5 {
            bench.emit(n, n).await;
        }
        bench.pass(Duration::from_secs(3)).await;
        let view = bench.router.stream("a").await.unwrap();
        assert_eq!((view.waiting, view.dropped), (waiting, 5 - waiting), "`retention.sets = {sets}`");
    }
}

/// The present configuration lacks the method that the stream was made for: its SETs wait, within its limits.
#[tokio::test(start_paused = true)]
async fn a_stream_that_nothing_can_deliver_keeps_no_more_than_it_may() {
    let mut bench = Bench::new(often(), &[keeping(3)]).await;
    let record = bench.store.range(Key::from("stream/")).await.unwrap().remove(0);
    let mut stream: Value = serde_json::from_slice(&record.value).unwrap();
    stream["delivery"]["method"] = "urn:example:gone".into();
    let put = Put { key: record.key, value: Some(stream.to_string().into()) };
    let unit =
        Unit::Configure { change: vec![put], expect: None, membership: true, drop_through: vec![], notice: vec![] };
    bench.store.commit(vec![unit], Durability::Sync).await.unwrap();
    bench.restart(often()).await;
    for n in 0..10 {
        bench.emit(n, n).await;
    }
    bench.pass(Duration::from_secs(3)).await;
    let view = bench.router.stream("a").await.unwrap();
    assert!(view.nothing_because.is_some(), "{view:?}");
    assert_eq!((view.owed, view.waiting, view.dropped), (10, 3, 7));
    let page = bench.page();
    assert!(page.contains("deliveries_dropped_total{method=\"none\",rule=\"too_many\"} 7\n"), "{page}");
}
