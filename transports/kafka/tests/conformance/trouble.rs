//! Tests that nothing stalls, spins or waits for ever when brokers are in trouble.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rdkafka::types::RDKafkaRespErr;
use serde_json::json;
use setgate_delivery::{
    Attempt, Cause, Closed, DeliveryMode, Jti, Method, Outcome, Profile, Subscription, Verdict,
    spi::{ConsumerCore, SubscriptionCore},
    testkit::{End, Simulated},
};

use super::{
    PRODUCE, all_acknowledged,
    mock::{Mock, run, subscription},
};

const OUT_OF_ORDER: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
const FORBIDDEN: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;

/// A subscription that counts the SETs that come back untried.
struct Counting {
    inner: Simulated,
    returned: AtomicUsize,
}

impl SubscriptionCore for Counting {
    fn consumer(&self, mode: Option<DeliveryMode>) -> Box<dyn ConsumerCore> {
        self.inner.consumer(mode)
    }

    fn settle(&self, all: Vec<(Jti, Option<Attempt>, Outcome)>) -> usize {
        let returned = all.iter().filter(|(.., outcome)| matches!(outcome, Err(Verdict::Return))).count();
        self.returned.fetch_add(returned, Ordering::Relaxed);
        self.inner.settle(all)
    }

    fn counts(&self) -> (usize, usize) {
        self.inner.counts()
    }

    fn stalled(&self, _: Option<Cause>) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_back_at_once_is_not_handed_over_again_at_once() {
    let mock = Mock::with("sets", 1);
    let method = mock.method(json!({})).await;
    let channel = method.channel(json!({ "topic": "sets" }));
    // A second producer that breaks before it has worked is replaced after a rest.
    mock.brokers().request_errors(PRODUCE, &[OUT_OF_ORDER, OUT_OF_ORDER]);
    // Control SETs take no room, so a shut window does not hold them.
    let inner = Simulated::new(Profile { windows: Vec::new(), ..channel.profile() }, 3, 3);
    let counting = Arc::new(Counting { inner: inner.clone(), returned: AtomicUsize::new(0) });
    let of = Subscription::new(counting.clone());
    let consumer = of.consumer();
    let end = tokio::time::timeout(Duration::from_secs(25), channel.clone().run(of, consumer)).await.unwrap();
    assert_eq!(end, Closed::Idle);
    all_acknowledged(&inner);
    let returned = counting.returned.load(Ordering::Relaxed);
    assert!((1..100).contains(&returned), "{returned} came back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_breaks_again_and_again_leaves_the_window_open() {
    let mock = Mock::with("sets", 1);
    let method = mock.method(json!({ "in_flight": 70 })).await;
    let channel = method.channel(json!({ "topic": "sets" }));
    mock.brokers().request_errors(PRODUCE, &[OUT_OF_ORDER; 3]);
    let subscription = subscription(&channel, 500, 500);
    assert_eq!(run(&channel, &subscription).await, Closed::Idle);
    all_acknowledged(&subscription);
    assert_eq!(channel.profile().windows[0].core().room(), 70);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_topic_that_was_refused_wait_for_the_same_look_and_hold_no_room_meanwhile() {
    let mock = Mock::with("sets", 1);
    let method = mock.method(json!({ "in_flight": 20 })).await;
    let channels: Vec<_> =
        (0..4).map(|n| method.channel_of(&format!("stream-{n}"), json!({ "topic": "sets" }))).collect();
    mock.brokers().request_errors(PRODUCE, &[FORBIDDEN]);
    let refused = subscription(&channels[0], 1, 1);
    run(&channels[0], &refused).await;
    assert!(matches!(&refused.ends()[0], Some(End::Halted(cause)) if cause.code == "topic_authorization"));
    // The operator grants it and resumes all streams, and the brokers take their time.
    mock.brokers().broker_round_trip_time(1, Duration::from_millis(1500)).unwrap();
    let resumed: Vec<_> = channels.iter().map(|channel| subscription(channel, 5, 5)).collect();
    let window = channels[0].profile().windows[0].clone();
    let looks = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(window.core().room(), 20, "nothing has left, and others could not leave");
        mock.brokers().broker_round_trip_time(1, Duration::ZERO).unwrap();
    };
    let all = futures_util::future::join_all(
        channels.iter().zip(&resumed).map(|(channel, subscription)| run(channel, subscription)),
    );
    tokio::join!(all, looks);
    resumed.iter().for_each(all_acknowledged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_refused_without_saying_which_record_costs_the_guilty_one_alone() {
    let mock = Mock::with("sets", 1);
    let method = mock.method(json!({ "linger": "200ms" })).await;
    let channel = method.channel(json!({ "topic": "sets" }));
    for error in [RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD, RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP]
    {
        // A batch is refused, then the first of the records that are sent alone.
        mock.brokers().request_errors(PRODUCE, &[error, error]);
        let subscription = subscription(&channel, 20, 20);
        assert_eq!(run(&channel, &subscription).await, Closed::Idle);
        let refused: Vec<_> = subscription.ends().into_iter().filter(|end| *end != Some(End::Acknowledged)).collect();
        let [Some(End::Refused(refusal))] = &refused[..] else { panic!("{error:?}: {} are refused", refused.len()) };
        assert_eq!(refusal.code.as_str(), "invalid_request");
        assert_eq!(subscription.attempts(), vec![1; 20]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_nobody_leads_leaves_room_for_others() {
    let mock = Mock::with("sets", 1);
    mock.brokers().create_topic("stuck", 1, 1).unwrap();
    mock.brokers().partition_leader("stuck", 0, None).unwrap();
    let method = mock.method(json!({ "in_flight": 200, "timeout": "30s" })).await;
    let (stuck, channel) =
        (method.channel(json!({ "topic": "stuck" })), method.channel_of("other", json!({ "topic": "sets" })));
    let (waits, goes) = (subscription(&stuck, 1000, 1000), subscription(&channel, 500, 500));
    let others = async {
        waits.until(|subscription| subscription.handed() >= 100).await;
        // The first look at a topic takes its time.
        tokio::time::timeout(Duration::from_secs(10), run(&channel, &goes))
            .await
            .expect("it waits for another's topic");
        waits.end(Closed::Draining);
        method.kafka.close(Duration::ZERO).await;
    };
    let (end, ()) = tokio::join!(run(&stuck, &waits), others);
    assert_eq!(end, Closed::Draining);
    all_acknowledged(&goes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_does_not_wait_for_a_look_at_a_cluster_that_is_away() {
    let mock = Mock::with("sets", 1);
    let method = mock.method(json!({})).await;
    let channel = method.channel(json!({ "topic": "sets" }));
    mock.brokers().request_errors(PRODUCE, &[FORBIDDEN]);
    run(&channel, &subscription(&channel, 1, 1)).await;
    mock.brokers().broker_down(-1).unwrap();
    let looking = subscription(&channel, 10, 10);
    let closes = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        looking.end(Closed::Draining);
        let close = method.kafka.close(Duration::from_millis(300));
        tokio::time::timeout(Duration::from_millis(2500), close).await.expect("it waits for the answer to a look");
    };
    let (end, ()) = tokio::join!(run(&channel, &looking), closes);
    assert_eq!((end, looking.handed()), (Closed::Draining, 0));
}
