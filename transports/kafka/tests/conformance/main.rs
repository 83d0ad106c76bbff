//! Tests of the method against the client library's mock brokers, over real sockets.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use std::{sync::Arc, time::Duration};

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::json;
use setgate_delivery::{
    BrokerEvent, Cause, Closed, Method,
    spi::AnyChannel,
    testkit::{End, Simulated, conform},
};
mod fixture;
mod mock;
mod trouble;

use mock::{Mock, run, subscription};

const PRODUCE: RDKafkaApiKey = RDKafkaApiKey::Produce;

fn all_acknowledged(subscription: &Simulated) {
    assert!(
        subscription.ends().iter().all(|end| *end == Some(End::Acknowledged)),
        "{:?} {:?}",
        subscription.ends(),
        subscription.causes()
    );
    assert_eq!(subscription.wrongs(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_channel_keeps_the_contract_with_tokens() {
    conform(&fixture::Carried { value: "set" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_channel_keeps_the_contract_with_claims() {
    conform(&fixture::Carried { value: "claims" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_is_a_record_with_key_headers_and_time() {
    let mock = Mock::with("sets.acme", 3);
    let method = mock.method(json!({})).await;
    let channel = method.channel(json!({ "topic": "sets.acme", "timestamp": "iat" }));
    let subscription = subscription(&channel, 40, 8);
    assert_eq!(run(&channel, &subscription).await, Closed::Idle);
    all_acknowledged(&subscription);
    assert_eq!(subscription.attempts(), vec![1; 40]);

    let records = mock.read("sets.acme", 3, 40);
    let bodies = subscription.bodies();
    for (at, jti) in subscription.ids().iter().enumerate() {
        let record = records.iter().find(|record| record.header("set_jti") == Some(jti.as_str())).unwrap();
        assert_eq!(record.value, bodies[at]);
        assert_eq!(record.key.as_deref(), Some(format!("{:016x}", at % 8).as_str()));
        assert_eq!(record.timestamp, 1_700_000_000_000);
        let names: Vec<_> = record.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["content-type", "set_jti", "set_iss", "set_iat", "set_stream"]);
        assert_eq!(record.header("content-type"), Some("application/secevent+jwt"));
        assert_eq!(record.header("set_iss"), Some("https://issuer.example/ä"));
        assert_eq!(record.header("set_iat"), Some("1700000000"));
        assert_eq!(record.header("set_stream"), Some("stream"));
    }
    for key in 0..8 {
        let key = format!("{key:016x}");
        let of_key: Vec<_> = records.iter().filter(|record| record.key.as_deref() == Some(&key)).collect();
        assert!(of_key.iter().all(|record| record.partition == of_key[0].partition), "a key is in two partitions");
    }
    method.told(|event| matches!(event, BrokerEvent::Up { .. })).await;
    assert_eq!(method.ups_and_downs(), ["up"]);
    let figures = method.told(|event| matches!(event, BrokerEvent::Figures { figures, .. } if figures.contains(&("sent_records_total", 40.0)))).await;
    assert!(matches!(figures, BrokerEvent::Figures { broker, .. } if &*broker == "kafka/main"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_by_itself_is_retried_inside() {
    let mock = Mock::with("sets", 1);
    let method = mock.method(json!({})).await;
    let channel = method.channel(json!({ "topic": "sets" }));
    for error in [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
    ] {
        mock.brokers().request_errors(PRODUCE, &[error; 3]);
        let subscription = subscription(&channel, 10, 10);
        assert_eq!(run(&channel, &subscription).await, Closed::Idle);
        all_acknowledged(&subscription);
        assert_eq!(subscription.attempts(), vec![1; 10], "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_forbidden_halts_the_channel_and_works_when_it_is_granted() {
    let mock = Mock::with("sets", 1);
    let method = mock.method(json!({})).await;
    let channel = method.channel(json!({ "topic": "sets" }));
    mock.brokers().request_errors(PRODUCE, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    let refused = subscription(&channel, 1, 1);
    run(&channel, &refused).await;
    let Some(End::Halted(Cause { code, text, .. })) = &refused.ends()[0] else { panic!("{:?}", refused.ends()) };
    assert_eq!(*code, "topic_authorization");
    assert!(text.contains("`sets`") && text.contains("Write"), "{text}");
    // The producer would refuse this one from memory if it did not look again.
    let granted = subscription(&channel, 5, 5);
    run(&channel, &granted).await;
    all_acknowledged(&granted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_not_there_halts_the_channel() {
    let mock = Mock::with("sets", 1);
    let method = mock.method(json!({ "timeout": "5s" })).await;
    let channel = method.channel(json!({ "topic": "other" }));
    let subscription = subscription(&channel, 3, 3);
    run(&channel, &subscription).await;
    for end in subscription.ends() {
        let Some(End::Halted(cause)) = end else { panic!("{end:?}") };
        assert_eq!(cause.code, "topic_unknown");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fatal_error_replaces_the_producer_and_costs_no_attempt() {
    let mock = Mock::with("sets", 1);
    let method = mock.method(json!({})).await;
    let channel = method.channel(json!({ "topic": "sets" }));
    let before = subscription(&channel, 5, 5);
    run(&channel, &before).await;
    mock.brokers().request_errors(PRODUCE, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
    let during = subscription(&channel, 500, 500);
    assert_eq!(run(&channel, &during).await, Closed::Idle);
    all_acknowledged(&during);
    assert_eq!(during.attempts(), vec![1; 500]);
    method.told(|event| matches!(event, BrokerEvent::Down { cause, .. } if cause.code == "fatal")).await;
    assert_eq!(method.ups_and_downs(), ["up", "down", "up"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_too_large_is_sent_record_by_record() {
    let mock = Mock::with("sets", 1);
    let method = mock.method(json!({ "linger": "200ms" })).await;
    let channel = method.channel(json!({ "topic": "sets" }));
    // A batch is refused, then the first of the records that are sent alone.
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    mock.brokers().request_errors(PRODUCE, &[error, error]);
    let subscription = subscription(&channel, 20, 20);
    assert_eq!(run(&channel, &subscription).await, Closed::Idle);
    let refused: Vec<_> = subscription.ends().into_iter().filter(|end| *end != Some(End::Acknowledged)).collect();
    let [Some(End::Refused(refusal))] = &refused[..] else { panic!("{refused:?}") };
    assert_eq!(refusal.code.as_str(), "too_large");
    assert!(refusal.description.as_ref().unwrap().contains("max.message.bytes"));
    assert_eq!(subscription.attempts(), vec![1; 20]);
    let records = mock.read("sets", 1, 19);
    assert!(records.iter().all(|record| record.header("set_iss").is_some() && record.key.is_some()), "{records:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_away_is_told_with_its_cause_and_comes_back() {
    let mock = Mock::with("sets", 1);
    let method = mock.method(json!({ "timeout": "5s" })).await;
    let channel = method.channel(json!({ "topic": "sets" }));
    run(&channel, &subscription(&channel, 1, 1)).await;
    mock.brokers().broker_down(-1).unwrap();
    let subscription = subscription(&channel, 10, 10);
    let waits = async {
        subscription.until(|subscription| !subscription.causes().is_empty()).await;
        // The trouble is the endpoint's, and the operator reads the cause.
        assert_eq!(subscription.causes().keys().collect::<Vec<_>>(), [&"unreachable"]);
        mock.brokers().broker_up(-1).unwrap();
    };
    let (end, ()) = tokio::join!(run(&channel, &subscription), waits);
    assert_eq!(end, Closed::Idle);
    all_acknowledged(&subscription);
    let down = method.told(|event| matches!(event, BrokerEvent::Down { .. })).await;
    assert!(matches!(down, BrokerEvent::Down { cause, .. } if cause.code == "unreachable"));
    assert_eq!(method.ups_and_downs(), ["up", "down", "up"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_share_one_window() {
    let mock = Mock::with("sets", 4);
    let method = mock.method(json!({ "in_flight": 90 })).await;
    let runs = (0..20).map(|number| {
        let channel = method.channel_of(&format!("stream-{number}"), json!({ "topic": "sets" }));
        tokio::spawn(async move {
            let subscription = subscription(&channel, 150, 50);
            assert_eq!(run(&channel, &subscription).await, Closed::Idle);
            all_acknowledged(&subscription);
            assert_eq!(subscription.attempts(), vec![1; 150]);
        })
    });
    for run in runs.collect::<Vec<_>>() {
        run.await.unwrap();
    }
    let window = method.channel(json!({ "topic": "sets" })).profile().windows[0].clone();
    assert_eq!(window.core().room(), 90, "something was not given back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_deleted_hears_what_it_had_handed_over() {
    let mock = Mock::with("sets", 1);
    let method = mock.method(json!({ "linger": "500ms", "in_flight": 50 })).await;
    let channel: Arc<dyn AnyChannel> = method.channel(json!({ "topic": "sets" }));
    let subscription = subscription(&channel, 200, 200);
    let deletes = async {
        subscription.until(|subscription| subscription.handed() == 50).await;
        subscription.end(Closed::Deleted);
    };
    let (end, ()) = tokio::join!(run(&channel, &subscription), deletes);
    assert_eq!(end, Closed::Deleted);
    assert_eq!(subscription.handed(), 0);
    assert_eq!(subscription.ends().iter().filter(|end| **end == Some(End::Acknowledged)).count(), 50);
    assert_eq!(subscription.wrongs(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_waits_for_what_is_under_way_and_gives_back_the_rest() {
    let mock = Mock::with("sets", 1);
    let method = mock.method(json!({ "linger": "1000ms", "in_flight": 50 })).await;
    let channel = method.channel(json!({ "topic": "sets" }));
    let kept = subscription(&channel, 50, 50);
    let closes = async {
        kept.until(|subscription| subscription.handed() == 50).await;
        method.kafka.close(Duration::from_secs(20)).await;
        // Every report is settled when this is over.
        assert!(kept.ends().iter().all(Option::is_some));
    };
    let (end, ()) = tokio::join!(run(&channel, &kept), closes);
    assert_eq!(end, Closed::Idle);
    all_acknowledged(&kept);

    let method = mock.method(json!({ "in_flight": 50 })).await;
    let channel = method.channel(json!({ "topic": "sets" }));
    run(&channel, &subscription(&channel, 1, 1)).await;
    mock.brokers().broker_down(-1).unwrap();
    let given_back = subscription(&channel, 50, 50);
    let closes = async {
        given_back.until(|subscription| subscription.handed() == 50).await;
        given_back.end(Closed::Draining);
        method.kafka.close(Duration::from_millis(300)).await;
    };
    let (end, ()) = tokio::join!(run(&channel, &given_back), closes);
    assert_eq!(end, Closed::Draining);
    assert_eq!((given_back.handed(), given_back.attempts()), (0, vec![0; 50]));
}
