//! Tests of sources against the client library's mock brokers, over real sockets.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::json;
use setgate_delivery::BrokerEvent;
mod fixture;
mod losses;

use fixture::{Ledger, Mock, Written, from};

fn number(partition: i32, n: u64) -> Written {
    (partition, Vec::new(), Some(json!({ "n": n }).to_string().into_bytes()))
}

fn numbers(partitions: i32, range: std::ops::Range<u64>) -> impl Iterator<Item = Written> {
    range.flat_map(move |n| (0..partitions).map(move |partition| number(partition, n)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_goes_on_where_it_ended_and_takes_nothing_twice() {
    let (mock, ledger) = (Mock::new(&[("events", 3)]), Ledger::new());
    mock.write("events", numbers(3, 0..100));
    for round in 1..=3 {
        let running = mock.collect(&ledger, from(json!({ "batch": 40 }))).await;
        ledger.until(|state| state.order.len() == 300 * round).await;
        running.end().await;
        let after = u64::try_from(round).unwrap() * 100;
        mock.write("events", numbers(3, after..after + 100));
    }
    let state = ledger.state.lock();
    assert_eq!((state.repeated, state.order.len()), (0, 900), "offsets were not committed");
    assert!(state.largest <= 40);
    drop(state);
    for partition in 0..3 {
        assert_eq!(ledger.of(partition), (0..300).collect::<Vec<_>>(), "the order of partition {partition}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_and_not_committed_comes_again_and_is_known() {
    let (mock, ledger) = (Mock::new(&[("events", 1)]), Ledger::new());
    mock.write("events", numbers(1, 0..50));
    ledger.state.lock().hangs = true;
    let running = mock.collect(&ledger, from(json!({}))).await;
    ledger.until(|state| !state.order.is_empty()).await;
    running.kill().await;
    let before = ledger.state.lock().order.len();
    ledger.state.lock().hangs = false;
    let running = mock.collect(&ledger, from(json!({}))).await;
    ledger.until(|state| state.order.len() == 50 && state.repeated >= before).await;
    running.end().await;
    assert_eq!(ledger.of(0), (0..50).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_records_go_to_the_error_topic_and_hold_nobody_up() {
    let (mock, ledger) = (Mock::new(&[("events", 1), ("errors", 1)]), Ledger::new());
    let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let text = |text: &str| Some(text.as_bytes().to_vec());
    mock.write(
        "events",
        [
            number(0, 0),
            (0, vec![header("trace", "abc"), header("err", "forged")], text("no json")),
            (0, Vec::new(), None),
            (0, vec![header("content-type", "application/secevent+jwt")], text("a.b.c")),
            (0, vec![header("ce_specversion", "0.3")], text("{}")),
            number(0, 1),
        ],
    );
    let running = mock.collect(&ledger, from(json!({ "error_topic": "errors" }))).await;
    let records = tokio::task::block_in_place(|| mock.read("errors", 3));
    ledger.until(|state| state.order.len() == 2).await;
    running.end().await;
    let (headers, value) = records.iter().find(|(_, value)| value == b"no json").unwrap();
    for (name, value) in [
        ("err", "invalid_request"),
        ("description", "no JSON"),
        ("trace", "abc"),
        ("source_topic", "events"),
        ("source_partition", "0"),
        ("source_offset", "1"),
    ] {
        assert_eq!(headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(value, b"no json");
    assert!(records.iter().any(|(headers, _)| headers["description"].contains("receiver side")));
    assert!(ledger.state.lock().parked.is_empty());
    let again = mock.collect(&ledger, from(json!({ "error_topic": "errors" }))).await;
    mock.write("events", [number(0, 2)]);
    ledger.until(|state| state.order.len() == 3).await;
    again.end().await;
    assert_eq!(ledger.state.lock().repeated, 0, "the offset of a bad record was not committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn monstrous_records_are_parked_and_hold_nobody_up() {
    let (mock, ledger) = (Mock::new(&[("events", 1)]), Ledger::new());
    let many: Vec<_> = (0..5000).map(|at| (format!("h{at}"), b"x".to_vec())).collect();
    let body = || Some(b"{\"n\":9}".to_vec());
    mock.write(
        "events",
        [
            number(0, 0),
            (0, many, body()),
            (0, vec![("big".to_owned(), vec![b'x'; 1 << 20])], body()),
            (0, Vec::new(), Some(vec![0xff; 3 << 20])),
            (0, Vec::new(), Some(b"[".repeat(100_000))),
            (0, vec![("content-type".to_owned(), vec![0xff, 0xfe])], body()),
            number(0, 1),
        ],
    );
    let running = mock.collect(&ledger, from(json!({}))).await;
    ledger.until(|state| state.parked.len() == 5 && state.order.len() == 2).await;
    running.end().await;
    let state = ledger.state.lock();
    let places: Vec<_> = state.parked.iter().map(|one| one.at.as_str()).collect();
    assert_eq!(places, ["events/0/1", "events/0/2", "events/0/3", "events/0/4", "events/0/5"]);
    assert_eq!(state.parked[2].body.len(), 3 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_off_stands_still_and_goes_on_in_order() {
    let (mock, ledger) = (Mock::new(&[("events", 2)]), Ledger::new());
    mock.write("events", numbers(2, 0..500));
    ledger.state.lock().busy = 5;
    let running = mock.collect(&ledger, from(json!({ "batch": 50 }))).await;
    ledger.until(|state| state.busy == 0).await;
    assert_eq!(ledger.takes(), 5, "more than one batch was taken while the first was put off");
    assert!(ledger.state.lock().order.is_empty());
    ledger.until(|state| state.order.len() == 1000).await;
    running.end().await;
    assert_eq!(ledger.state.lock().repeated, 0);
    for partition in 0..2 {
        assert_eq!(ledger.of(partition), (0..500).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_member_goes_on_where_the_first_ends() {
    let (mock, ledger) = (Mock::new(&[("events", 4)]), Ledger::new());
    mock.write("events", numbers(4, 0..100));
    let first = mock.collect(&ledger, from(json!({ "batch": 20 }))).await;
    ledger.until(|state| state.order.len() >= 100).await;
    let second = mock.collect(&ledger, from(json!({ "batch": 20 }))).await;
    mock.write("events", numbers(4, 100..200));
    ledger.until(|state| state.order.len() == 800).await;
    first.end().await;
    mock.write("events", numbers(4, 200..250));
    ledger.until(|state| state.order.len() == 1000).await;
    second.end().await;
    for partition in 0..4 {
        assert_eq!(ledger.of(partition), (0..250).collect::<Vec<_>>(), "partition {partition}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_topic_that_fails_stops_the_source_until_it_does_not() {
    let (mock, ledger) = (Mock::new(&[("events", 1), ("errors", 1)]), Ledger::new());
    mock.brokers().request_errors(RDKafkaApiKey::Produce, &[]);
    mock.write("events", [(0, Vec::new(), Some(b"bad".to_vec())), number(0, 1)]);
    mock.brokers()
        .request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    let running = mock.collect(&ledger, from(json!({ "error_topic": "errors" }))).await;
    let is_down =
        |event: &BrokerEvent| matches!(event, BrokerEvent::Down { cause, .. } if cause.text.contains("errors"));
    ledger.until(|state| state.told.iter().any(is_down)).await;
    let records = tokio::task::block_in_place(|| mock.read("errors", 1));
    assert_eq!(records[0].1, b"bad");
    running.end().await;
    assert!(matches!(
        ledger.state.lock().told.iter().rev().find(|event| !matches!(event, BrokerEvent::Figures { .. })),
        Some(BrokerEvent::Up { .. })
    ));
}
