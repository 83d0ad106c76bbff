//! Tests of the ways in which records, or the reports about them, could be lost.

use std::time::Duration;

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::json;
use setgate_delivery::{About, BrokerEvent, Fault, Method as _};

use super::{
    fixture::{Ledger, Mock, from},
    number, numbers,
};

fn is_up(event: &BrokerEvent) -> bool {
    matches!(event, BrokerEvent::Up { .. })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_after_the_first_start_at_the_end_is_taken_also_when_nobody_was_there() {
    let (mock, ledger) = (Mock::new(&[("events", 2)]), Ledger::new());
    mock.write("events", numbers(2, 0..10));
    let running = mock.collect(&ledger, from(json!({ "start": "latest" }))).await;
    ledger.until(|state| state.told.iter().any(is_up)).await;
    running.end().await;
    mock.write("events", numbers(2, 10..20));
    let running = mock.collect(&ledger, from(json!({ "start": "latest" }))).await;
    ledger.until(|state| state.order.len() == 20).await;
    running.end().await;
    for partition in 0..2 {
        assert_eq!(ledger.of(partition), (10..20).collect::<Vec<_>>(), "partition {partition}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offset_that_is_gone_skips_nothing_that_is_there() {
    let (mock, ledger) = (Mock::new(&[("events", 1)]), Ledger::new());
    let running = mock.collect(&ledger, from(json!({ "start": "latest" }))).await;
    ledger.until(|state| state.told.iter().any(is_up)).await;
    mock.write("events", numbers(1, 0..5));
    ledger.until(|state| state.order.len() == 5).await;
    running.end().await;
    mock.write("events", numbers(1, 5..10));
    // This is what brokers answer when retention has deleted the record at the group's offset.
    let gone = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE;
    mock.brokers().request_errors(RDKafkaApiKey::Fetch, &[gone]);
    let running = mock.collect(&ledger, from(json!({ "start": "latest" }))).await;
    ledger.until(|state| state.order.len() == 10).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_whose_brokers_are_away_says_so_and_says_when_they_are_back() {
    let (mock, ledger) = (Mock::new(&[("events", 1)]), Ledger::new());
    mock.write("events", [number(0, 0)]);
    let running = mock.collect(&ledger, from(json!({}))).await;
    ledger.until(|state| state.order.len() == 1).await;
    mock.brokers().broker_down(1).unwrap();
    let last = |state: &super::fixture::State, up: bool| {
        let told = state.told.iter().rev().find(|event| !matches!(event, BrokerEvent::Figures { .. }));
        told.is_some_and(|event| is_up(event) == up)
    };
    ledger.until(|state| last(state, false)).await;
    assert_eq!(mock.cluster_is_up(), Some(false));
    mock.brokers().broker_up(1).unwrap();
    // Nothing is written meanwhile, and the return is noticed all the same.
    ledger.until(|state| last(state, true)).await;
    assert_eq!(mock.cluster_is_up(), Some(true), "the cluster's alarm stays for ever");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_bad_records_are_parked_together() {
    let (mock, ledger) = (Mock::new(&[("events", 1)]), Ledger::new());
    mock.write("events", (0..600).map(|_| (0, Vec::new(), Some(b"bad".to_vec()))));
    mock.write("events", [number(0, 1)]);
    let running = mock.collect(&ledger, from(json!({}))).await;
    ledger.until(|state| state.parked.len() == 600 && state.order.len() == 1).await;
    running.end().await;
    // Each park is a commit of its own in the store, so a producer of the topic could hold up everyone.
    assert!(ledger.state.lock().parks < 100, "{} commits", ledger.state.lock().parks);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_that_a_broker_refuses_are_committed_later() {
    let (mock, ledger) = (Mock::new(&[("events", 1)]), Ledger::new());
    mock.write("events", numbers(1, 0..10));
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    mock.brokers().request_errors(RDKafkaApiKey::OffsetCommit, &[refused; 2]);
    let running = mock.collect(&ledger, from(json!({}))).await;
    ledger.until(|state| state.order.len() == 10).await;
    assert_eq!(tokio::task::block_in_place(|| mock.committed("gate", "events", 10)), Some(10));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_writes_where_a_source_takes_from() {
    let mock = Mock::new(&[("events", 1)]);
    let method = mock.method().await;
    let channel = |cluster: &str, topic: &str| {
        let about = About { stream: "s".into(), issuer: "https://issuer.example".into(), operator_owned: true };
        let terms = serde_json::from_value(json!({ "cluster": cluster, "topic": topic })).unwrap();
        method.channel(&about, terms, setgate_kafka::Grant::default())
    };
    assert!(channel("main", "events").is_ok());
    method.source(from(json!({}))).unwrap();
    // The same brokers with other credentials are the same cluster.
    for cluster in ["main", "other"] {
        assert!(matches!(channel(cluster, "events").err(), Some(Fault::Terms { pointer, .. }) if pointer == "/topic"));
        assert!(channel(cluster, "sets").is_ok());
    }
    let of = |cluster: &str| method.places(&from(json!({ "cluster": cluster, "error_topic": "bad" })));
    assert_eq!(of("main"), of("other"));
    assert_eq!((of("main").reads.len(), of("main").writes.len(), of("main").joins.is_some()), (1, 1, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_ends_soon_also_while_its_brokers_are_away() {
    let (mock, ledger) = (Mock::new(&[("events", 1)]), Ledger::new());
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    mock.brokers().request_errors(RDKafkaApiKey::OffsetCommit, &[refused; 9]);
    mock.write("events", numbers(1, 0..10));
    let running = mock.collect(&ledger, from(json!({}))).await;
    ledger.until(|state| state.order.len() == 10).await;
    mock.brokers().broker_down(1).unwrap();
    ledger.until(|state| state.told.iter().any(|event| matches!(event, BrokerEvent::Down { .. }))).await;
    let ended = tokio::time::timeout(Duration::from_secs(20), running.end()).await;
    assert!(ended.is_ok(), "what the brokers do not answer holds up the end");
}
