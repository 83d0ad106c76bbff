use std::{sync::atomic::AtomicUsize, task::Context, task::Wake};

use futures_util::FutureExt;

use super::*;
use crate::{Batch, Consumer, Limits, Receipt};

fn profile(order: Order, redelivery: Redelivery) -> Profile {
    Profile {
        initiator: Initiator::Receiver,
        order,
        receipt: Receipt::Receiver,
        form: Form::Token,
        redelivery,
        limits: Limits { sets: 10, bytes: usize::MAX, overhead: 0, set_bytes: usize::MAX },
        endpoint: None,
        windows: Vec::new(),
    }
}

const LATER: Redelivery = Redelivery::After(std::time::Duration::from_secs(60));

fn fetch(consumer: &mut Consumer, sets: usize) -> Option<Batch> {
    consumer.next_batch(Want { sets, ..Want::ALL }).now_or_never().map(Result::unwrap)
}

fn hand_over(consumer: &mut Consumer, sets: usize) -> Vec<Jti> {
    fetch(consumer, sets).map(Batch::hand_over).unwrap_or_default().iter().map(|set| set.jti).collect()
}

#[test]
fn a_consumer_has_an_order_and_a_redelivery_of_its_own() {
    let simulated = Simulated::new(profile(Order::PerConsumer, Redelivery::WhenConsumerEnds), 6, 1);
    let subscription = simulated.subscription();
    let mut socket = subscription.consumer();
    let mut request = subscription.consumer_with(DeliveryMode { order: Order::PerBatch, redelivery: LATER });
    assert_eq!(hand_over(&mut socket, 1).len(), 1);
    assert!(fetch(&mut request, 9).is_none(), "the key is the socket's");
    assert_eq!(hand_over(&mut socket, 1).len(), 1, "the socket may have its successor");
    drop(socket);
    assert_eq!(simulated.handed(), 0, "what a socket holds goes with it");
    let first = hand_over(&mut request, 2);
    assert!(fetch(&mut request, 9).is_none(), "another batch waits for the first");
    drop(request);
    assert_eq!((first.len(), simulated.handed()), (2, 2), "what a request took outlives it");
    simulated.redeliver();
    assert_eq!(simulated.handed(), 0);
    assert_eq!(simulated.attempts(), [2, 2, 0, 0, 0, 0]);
    assert!(simulated.wrongs().is_empty());
}

#[test]
fn a_final_outcome_counts_from_the_lease_on_and_from_any_attempt() {
    let simulated = Simulated::new(profile(Order::PerBatch, LATER), 4, 4);
    let subscription = simulated.subscription();
    let ids = simulated.ids();
    let mut consumer = subscription.consumer();
    let batch = fetch(&mut consumer, 2).unwrap();
    subscription.settle(ids[0], None, Ok(Receipt::Receiver));
    drop(batch);
    assert_eq!(simulated.ends()[..2], [Some(End::Acknowledged), None]);
    assert_eq!(hand_over(&mut consumer, 1), [ids[1]]);
    simulated.redeliver();
    subscription.settle(ids[1], Some(Attempt(1)), Ok(Receipt::Receiver));
    assert_eq!(simulated.ends()[1], Some(End::Acknowledged), "its time was over, and it counts");
    assert!(simulated.wrongs().is_empty());
    subscription.settle(Jti::from_block(b't', [7; 16]), None, Ok(Receipt::Receiver));
    assert_eq!((simulated.unknown(), simulated.wrongs().len()), (1, 0), "a foreign id is ignored");
    subscription.settle(ids[3], None, Ok(Receipt::Receiver));
    assert_eq!(simulated.wrongs().len(), 1, "nobody can know what was never fetched");
    assert_eq!(simulated.ends()[3], None);
}

#[test]
fn a_consumer_that_goes_hands_back_what_it_fetched() {
    let simulated = Simulated::new(profile(Order::PerBatch, LATER), 4, 4);
    let subscription = simulated.subscription();
    let mut consumer = subscription.consumer();
    let batch = fetch(&mut consumer, 4).unwrap();
    drop(consumer);
    assert!(simulated.has_free());
    assert_eq!(batch.hand_over().len(), 4);
    assert_eq!(simulated.wrongs().len(), 1, "handing over after that is a fault");
    assert_eq!(simulated.handed(), 0);
}

#[derive(Default)]
struct Counted(AtomicUsize);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

#[test]
fn one_waiting_consumer_is_woken_per_set_and_the_chance_is_handed_on() {
    let simulated = Simulated::new(profile(Order::PerBatch, LATER), 1, 1);
    let subscription = simulated.subscription();
    simulated.pause(true);
    let woken: [Arc<Counted>; 3] = std::array::from_fn(|_| Arc::default());
    let count = || woken.each_ref().map(|woken| woken.0.load(std::sync::atomic::Ordering::SeqCst));
    let mut consumers: Vec<Option<Consumer>> = (0..3).map(|_| Some(subscription.consumer())).collect();
    let poll = |consumers: &mut [Option<Consumer>], at: usize| {
        let waker = Waker::from(woken[at].clone());
        let consumer = consumers[at].as_mut().unwrap();
        let mut next = std::pin::pin!(consumer.next_batch(Want::ALL));
        next.as_mut().poll_unpin(&mut Context::from_waker(&waker))
    };
    for at in 0..3 {
        assert!(poll(&mut consumers, at).is_pending());
    }
    simulated.pause(false);
    assert_eq!(count(), [1, 0, 0]);
    simulated.retry_now();
    assert_eq!(count(), [1, 0, 0], "there is one SET, and somebody was called for it");
    consumers[0] = None;
    assert_eq!(count(), [1, 1, 0], "who was called is gone");
    let batch = match poll(&mut consumers, 1) {
        std::task::Poll::Ready(batch) => batch.unwrap(),
        std::task::Poll::Pending => panic!("it was called for nothing"),
    };
    assert_eq!(count(), [1, 1, 0]);
    drop(batch);
    assert_eq!(count(), [1, 1, 1], "what was fetched and not handed over is another's");
    simulated.end(Closed::Deleted);
    let std::task::Poll::Ready(Err(Closed::Deleted)) = poll(&mut consumers, 2) else {
        panic!("the end is everybody's")
    };
}

#[test]
fn more_says_whether_more_is_due_now() {
    let simulated = Simulated::new(profile(Order::PerBatch, LATER), 6, 2);
    let subscription = simulated.subscription();
    let mut consumer = subscription.consumer();
    let one = fetch(&mut consumer, 1).unwrap();
    assert!(one.more);
    let rest = fetch(&mut consumer, 9).unwrap();
    assert_eq!((rest.sets.len(), rest.more), (3, false), "the others wait for the first of their key");
}

#[test]
fn a_chance_that_nobody_takes_passes_all_who_wait() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let window = Arc::new(WindowCore::new(1, usize::MAX, usize::MAX));
    assert!(window.reserve(1, 0));
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = count.clone().into();
    for _ in 0..100_000 {
        wake_when_it_fits(&window, 1, 0, &waker);
    }
    window.give(1, 1, 0);
    assert_eq!(count.0.load(std::sync::atomic::Ordering::Relaxed), 100_000);
}
