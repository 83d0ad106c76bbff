//! A method whose receivers come and ask, for tests that fetch by hand.

use setgate_delivery::{Batch, Want};

use super::*;

pub(super) struct Asked;

pub(super) struct AskedChannel {
    order: Order,
    redelivery: Redelivery,
}

impl setgate_delivery::Channel for AskedChannel {
    fn profile(&self) -> Profile {
        Profile {
            initiator: Initiator::Receiver,
            order: self.order,
            receipt: Receipt::Receiver,
            form: Form::Token,
            redelivery: self.redelivery,
            limits: Limits { sets: 100, bytes: 1 << 20, overhead: 0, set_bytes: 16 << 10 },
            endpoint: None,
            windows: vec![],
        }
    }
}

impl AnyMethod for Asked {
    fn entry(&self) -> Entry {
        Entry { name: "asked", uri: "urn:example:asked", aliases: &[] }
    }
    fn channel(&self, _: &About, terms: Value, _: Value) -> Result<Arc<dyn AnyChannel>, Fault> {
        let redelivery = terms.get("after").and_then(Value::as_u64);
        Ok(Arc::new(AskedChannel {
            order: if terms["order"] == "consumer" { Order::PerConsumer } else { Order::PerBatch },
            redelivery: redelivery
                .map_or(Redelivery::WhenConsumerEnds, |after| Redelivery::After(Duration::from_secs(after))),
        }))
    }
    fn publish(&self, _: Value, at: &str) -> Result<Value, Fault> {
        Ok(json!({ "method": "urn:example:asked", "endpoint_url": at }))
    }
}

/// Declares a stream on [`Asked`]: `PerBatch`, due again after a minute.
pub(super) fn asked(id: &str) -> Value {
    json!({ "id": id, "issuer": ISSUER, "audience": "https://receiver.example", "delivery": { "method": "asked", "after": 60 } })
}

/// Returns the want of a poll that does not wait long.
pub(super) fn soon(sets: usize) -> Want {
    Want { sets, bytes: usize::MAX, wait: Some(Duration::from_millis(100)) }
}

/// Fetches a batch and hands it over.
pub(super) async fn take(consumer: &mut Consumer, sets: usize) -> Vec<SealedSet> {
    consumer.next_batch(soon(sets)).await.map(Batch::hand_over).unwrap()
}

pub(super) fn numbers(sets: &[SealedSet]) -> Vec<u64> {
    sets.iter().map(number).collect()
}

mod session {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_gateway_learns_of_a_stream_all_that_a_session_needs() {
        let bench = Bench::new(Config::default(), &[asked("a"), stream("b")]).await;
        assert!(bench.router.session_target("c").is_none());
        let target = bench.router.session_target("a").unwrap();
        assert_eq!((target.method, &*target.issuer, &*target.stream), ("asked", ISSUER, "a"));
        assert_eq!((target.initiator, &target.owner), (Initiator::Receiver, &::setgate_stream::Owner::Operator));
        assert!(target.channel.as_any().downcast_ref::<AskedChannel>().is_some());
        bench.emit(0, 0).await;
        let mut consumer = target.subscription.consumer();
        assert_eq!(numbers(&take(&mut consumer, 10).await), [0]);
        let view = bench.router.stream("a").await.unwrap();
        assert_eq!(view.endpoint.as_deref(), Some("https://idp.example/asked/a"));
        assert_eq!(view.last_session_seconds_ago, Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_channel_outlives_a_pause_and_not_a_change_of_its_terms() {
        let bench = Bench::new(Config::default(), &[asked("a")]).await;
        let channel = bench.router.session_target("a").unwrap().channel;
        bench.router.pause("a", "test".into()).await.unwrap();
        assert!(
            Arc::ptr_eq(&channel, &bench.router.session_target("a").unwrap().channel),
            "what its method keeps there is lost"
        );
        let mut changed = asked("a");
        changed["delivery"]["after"] = 30.into();
        bench.declare(&[changed]).await;
        assert!(!Arc::ptr_eq(&channel, &bench.router.session_target("a").unwrap().channel));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_shown_when_the_receiver_was_here_last() {
        let bench = Bench::new(Config::default(), &[asked("a")]).await;
        let last = async || bench.router.stream("a").await.unwrap().last_session_seconds_ago;
        assert_eq!(last().await, None);
        bench.router.session_target("a").unwrap().touch();
        bench.pass(Duration::from_secs(9)).await;
        assert_eq!(last().await, Some(9));
        let consumer = bench.router.session_target("a").unwrap().subscription.consumer();
        bench.pass(Duration::from_secs(9)).await;
        assert_eq!(last().await, Some(0), "it is here still");
        drop(consumer);
        bench.pass(Duration::from_secs(2)).await;
        assert_eq!(last().await, Some(2));
    }
}

mod redelivery {
    use setgate_delivery::{Attempt, DeliveryMode};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_not_acknowledged_in_time_comes_again_unsigned_and_counted() {
        let bench = Bench::new(Config::default(), &[asked("a")]).await;
        let subscription = bench.router.session_target("a").unwrap().subscription;
        for n in 0..3 {
            bench.emit(0, n).await;
        }
        let first = take(&mut subscription.consumer(), 10).await;
        assert_eq!(numbers(&first), [0, 1, 2]);
        subscription.settle(first[1].jti, None, ack());
        assert!(
            take(&mut subscription.consumer(), 10).await.is_empty(),
            "its consumer is long gone, and it is held still"
        );
        bench.pass(Duration::from_secs(61)).await;
        let again = take(&mut subscription.consumer(), 10).await;
        assert_eq!(numbers(&again), [0, 2]);
        assert_eq!((again[0].jti, again[0].attempt), (first[0].jti, Attempt(2)));
        assert_eq!(again[0].body, first[0].body, "signed again");
        bench.pass(Duration::from_millis(100)).await;
        let attempts: Vec<_> =
            bench.store.attempts(::setgate_store::StreamNo(1)).into_iter().map(|(_, one)| one.count).collect();
        assert_eq!(attempts, [1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_an_answer_starts_when_it_leaves() {
        let bench = Bench::new(Config::default(), &[asked("a")]).await;
        let subscription = bench.router.session_target("a").unwrap().subscription;
        bench.emit(0, 0).await;
        let batch = subscription.consumer().next_batch(soon(10)).await.unwrap();
        bench.pass(Duration::from_secs(50)).await;
        assert_eq!(batch.hand_over().len(), 1);
        bench.pass(Duration::from_secs(50)).await;
        assert!(take(&mut subscription.consumer(), 10).await.is_empty());
        bench.pass(Duration::from_secs(11)).await;
        assert_eq!(numbers(&take(&mut subscription.consumer(), 10).await), [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_outcomes_after_a_restart_are_one_commit() {
        let mut bench = Bench::new(Config::default(), &[asked("a")]).await;
        for n in 0..1000 {
            bench.emit(n, n).await;
        }
        let subscription = bench.router.session_target("a").unwrap().subscription;
        let mut all = Vec::new();
        while all.len() < 1000 {
            let taken = take(&mut subscription.consumer(), 100).await;
            assert!(!taken.is_empty());
            all.extend(taken);
        }
        bench.restart(Config::default()).await;
        bench.pass(Duration::from_secs(1)).await;
        let subscription = bench.router.session_target("a").unwrap().subscription;
        // One SET is refused (`setErrs`), the others are acknowledged, all of them twice.
        let refused = all[7].jti;
        let outcomes: Vec<_> = all
            .iter()
            .map(|set| (set.jti, None, if set.jti == refused { refuse(ErrorCode::InvalidRequest) } else { ack() }))
            .collect();
        subscription.settle_all(outcomes.clone());
        subscription.settle_all(outcomes);
        bench.settled().await;
        let view = bench.router.stream("a").await.unwrap();
        assert_eq!((view.acknowledged, view.parked), (999, 1));
        assert!(take(&mut subscription.consumer(), 10).await.is_empty(), "what was settled comes again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_and_a_request_of_one_url_fail_each_in_its_mode() {
        let bench = Bench::new(Config::default(), &[asked("a")]).await;
        let subscription = bench.router.session_target("a").unwrap().subscription;
        let mut socket = subscription
            .consumer_with(DeliveryMode { order: Order::PerConsumer, redelivery: Redelivery::WhenConsumerEnds });
        bench.emit(0, 0).await;
        assert_eq!(numbers(&take(&mut socket, 1).await), [0]);
        bench.emit(0, 1).await;
        bench.emit(1, 2).await;
        bench.pass(Duration::from_millis(10)).await;
        assert_eq!(numbers(&take(&mut subscription.consumer(), 9).await), [2], "the socket holds the other key");
        assert_eq!(numbers(&take(&mut socket, 9).await), [1], "and may go on with it");
        drop(socket);
        assert_eq!(numbers(&take(&mut subscription.consumer(), 9).await), [0, 1], "at once");
        bench.pass(Duration::from_secs(61)).await;
        let mut again = numbers(&take(&mut subscription.consumer(), 9).await);
        again.sort_by_key(|n| *n == 2);
        assert_eq!(again, [0, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_cut_in_two_keeps_a_key_together() {
        let bench = Bench::new(Config::default(), &[asked("a")]).await;
        let subscription = bench.router.session_target("a").unwrap().subscription;
        for n in 0..6 {
            bench.emit(n % 2, n).await;
        }
        let mut consumer = subscription.consumer();
        // The bodies fit, the tokens do not: the batch is cut once the tokens are known.
        let want = Want { bytes: 1200, ..soon(10) };
        let first = consumer.next_batch(want).await.map(Batch::hand_over).unwrap();
        assert!((1..6).contains(&first.len()), "{}", first.len());
        let mut second = take(&mut consumer, 10).await;
        let keys: Vec<_> = first.iter().map(|set| set.order).collect();
        second.extend(take(&mut subscription.consumer(), 10).await);
        assert!(!second.is_empty(), "the other key waits for nobody");
        assert!(
            second.iter().all(|set| !keys.contains(&set.order)),
            "{:?} then {:?}",
            numbers(&first),
            numbers(&second)
        );
    }
}

mod waking {
    use std::{
        future::Future,
        sync::atomic::{AtomicUsize, Ordering as Atomic},
        task::{Context, Poll, Wake, Waker},
    };

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Atomic::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_new_set_wakes_one_of_four_waiting_consumers_and_the_next_when_that_is_gone() {
        let bench = Bench::new(Config::default(), &[asked("a")]).await;
        let subscription = bench.router.session_target("a").unwrap().subscription;
        let counts: Vec<Arc<Count>> = (0..4).map(|_| Arc::default()).collect();
        let woken = || counts.iter().map(|count| count.0.load(Atomic::Relaxed)).collect::<Vec<_>>();
        let want = Want { wait: None, ..soon(1) };
        let mut waiting: Vec<_> = counts
            .iter()
            .map(|count| {
                let mut consumer = subscription.consumer();
                let mut next = Box::pin(async move { consumer.next_batch(want).await });
                let waker = Waker::from(count.clone());
                assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                next
            })
            .collect();
        bench.emit(0, 0).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(woken(), [1, 0, 0, 0]);
        drop(waiting.remove(0));
        assert_eq!(woken(), [1, 1, 0, 0], "its chance is handed on");
        // The second takes it, and what comes then wakes the third.
        let waker = Waker::from(counts[1].clone());
        let Poll::Ready(Ok(_first)) = waiting[0].as_mut().poll(&mut Context::from_waker(&waker)) else { panic!() };
        assert_eq!(woken(), [1, 1, 0, 0]);
        bench.emit(1, 1).await;
        bench.emit(2, 2).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(woken(), [1, 1, 1, 0]);
        let waker = Waker::from(counts[2].clone());
        let Poll::Ready(Ok(_second)) = waiting[1].as_mut().poll(&mut Context::from_waker(&waker)) else { panic!() };
        assert_eq!(woken(), [1, 1, 1, 1], "one SET was all it wanted: the next may have the other");
    }
}

#[test]
fn an_idle_stream_costs_little() {
    let fixed = size_of::<crate::subscription::Subscription>()
        + size_of::<crate::subscription::Served>()
        + size_of::<crate::seal::Seal>();
    assert!(fixed <= 1536, "{fixed} bytes beside its record, its channel and its names");
    let lane = crate::lane::Lanes::LANE + size_of::<crate::slot::Slot>();
    assert!(lane <= 256, "{lane} bytes for a lane of one SET");
}
