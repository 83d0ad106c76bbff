//! Sends the SETs of one stream to a topic.

use std::{sync::Arc, time::Duration};

use setgate_delivery::{
    About, Channel, Closed, Consumer, Finding, Form, Initiator, Limits, Order, Profile, Receipt, Redelivery, SealedSet,
    Subscription, Want, Window,
};
use tokio::sync::watch;

use crate::{
    cluster::{Cluster, DeliveryContext, PendingRecord, ProducerState, Record},
    config::{Terms, Value},
    probe::{self, Subject},
    wire::{OVERHEAD, Shape},
};

/// SETs of one fetch: sealed together, settled whenever their reports come.
const BATCH_SETS: usize = 256;
/// Bytes of one fetch.
const BATCH_BYTES: usize = 1 << 20;
/// For so long a producer that is not there is waited for, before it is made sure that it is being made.
const AGAIN: Duration = Duration::from_secs(5);
/// SETs of one stream that may be under way whatever its share is: a smaller window is not worth dividing.
const SHARE_LEAST: usize = 64;
/// For so long nothing is fetched when something came straight back: fetched again at once, it would come back at once.
const REST: Duration = Duration::from_millis(100);

/// One stream that goes to a topic: one SET a record, as many under way as the cluster's window has room for.
pub struct KafkaChannel {
    cluster: Arc<Cluster>,
    topic: Arc<str>,
    shape: Shape,
    form: Form,
    /// No more than half of the cluster's window: a topic that nobody leads must not keep the room of all others until it times out.
    share: Window,
}

impl KafkaChannel {
    pub(crate) fn new(cluster: Arc<Cluster>, about: &About, terms: &Terms) -> Self {
        let form = match terms.value {
            Value::Set => Form::Token,
            Value::Claims => Form::Claims,
        };
        let section = cluster.section();
        let sets = (section.in_flight / 2).max(SHARE_LEAST.min(section.in_flight));
        let share = Window::of(sets, usize::MAX, (section.in_flight_bytes / 2).max(section.record_bytes));
        Self { cluster, topic: terms.topic.as_str().into(), shape: Shape::new(terms, about), form, share }
    }

    /// Tells whether the next one may follow at once.
    fn send(&self, context: &Arc<DeliveryContext>, set: &SealedSet) -> bool {
        let made = self.shape.make(set);
        let since = self.cluster.reported().now();
        let pending = PendingRecord::Set { context: context.clone(), jti: set.jti, attempt: set.attempt, since };
        let record = Record {
            topic: &self.topic,
            key: made.key.as_deref(),
            headers: made.headers,
            value: &made.value,
            timestamp: made.timestamp,
        };
        self.cluster.send(record, Box::new(pending))
    }

    /// Waits until there is a producer; hears meanwhile if the consumer ends.
    async fn ready(
        &self,
        subscription: &Subscription,
        consumer: &mut Consumer,
        producer_state: &mut watch::Receiver<ProducerState>,
    ) -> Result<(), Closed> {
        loop {
            let cause = match &*producer_state.borrow_and_update() {
                ProducerState::Ready => {
                    subscription.stalled(None);
                    return Ok(());
                }
                ProducerState::Absent => None,
                ProducerState::Failing(cause) => Some(cause.clone()),
                ProducerState::Over => return Err(Closed::Draining),
            };
            if cause.is_some() {
                subscription.stalled(cause);
            }
            tokio::select! {
                changed = producer_state.changed() => if changed.is_err() { return Err(Closed::Draining) },
                // Nothing is fetched; only an end comes out of this.
                end = consumer.next_batch(Want { sets: 0, ..Want::ALL }) => { end?; }
                // Its thread could not be started, and no other channel may come to try it again.
                () = self.cluster.runtime().clock.sleep(AGAIN) => drop(self.cluster.begin()),
            }
        }
    }

    async fn hand_over(&self, subscription: &Subscription, consumer: &mut Consumer) -> Closed {
        let context = Arc::new(DeliveryContext { subscription: subscription.clone(), topic: self.topic.clone() });
        let mut producer_state = self.cluster.begin();
        if let Err(closed) = self.ready(subscription, consumer, &mut producer_state).await {
            return closed;
        }
        loop {
            let batch = match consumer.next_batch(Want::ALL).await {
                Ok(batch) => batch,
                Err(closed) => return closed,
            };
            // Nothing is held while it waits: others need the room. Control SETs take none, so a shut window does not keep them.
            let is_ready = matches!(*producer_state.borrow(), ProducerState::Ready);
            if !is_ready || self.cluster.doubts(&self.topic) {
                drop(batch);
                if let Err(closed) = self.settle_doubts(subscription, consumer, &mut producer_state).await {
                    return closed;
                }
                continue;
            }
            let mut went = true;
            for set in batch.hand_over() {
                went &= self.send(&context, &set);
            }
            if !went {
                self.cluster.runtime().clock.sleep(REST).await;
            }
        }
    }

    /// Waits for a producer that knows the topic anew.
    async fn settle_doubts(
        &self,
        subscription: &Subscription,
        consumer: &mut Consumer,
        producer_state: &mut watch::Receiver<ProducerState>,
    ) -> Result<(), Closed> {
        self.ready(subscription, consumer, producer_state).await?;
        tokio::select! {
            () = self.cluster.trust(&self.topic) => Ok(()),
            // Nothing is fetched; only an end comes out of this.
            end = consumer.next_batch(Want { sets: 0, ..Want::ALL }) => end.map(drop),
        }
    }
}

impl Channel for KafkaChannel {
    fn profile(&self) -> Profile {
        let section = self.cluster.section();
        Profile {
            initiator: Initiator::Gateway,
            // When a record fails for good, its successors may be in the log already, so a subject has one under way.
            order: Order::PerSet,
            // A broker's word; whoever reads the topic says nothing.
            receipt: Receipt::Broker,
            form: self.form,
            // Every record gets a report, at the latest by its time-out.
            redelivery: Redelivery::WhenConsumerEnds,
            limits: Limits {
                sets: BATCH_SETS.min(section.in_flight),
                bytes: BATCH_BYTES.max(section.record_bytes).min(section.in_flight_bytes),
                overhead: OVERHEAD.min(section.record_bytes / 4),
                set_bytes: section.record_bytes - OVERHEAD.min(section.record_bytes / 4),
            },
            endpoint: Some(self.cluster.broker().clone()),
            windows: vec![self.cluster.window().clone(), self.share.clone()],
        }
    }

    async fn probe(&self) -> Vec<Finding> {
        probe::topic(&Subject::of(&self.cluster), &self.topic).await
    }

    async fn run(&self, subscription: Subscription, mut consumer: Consumer) -> Closed {
        let closed = self.hand_over(&subscription, &mut consumer).await;
        // Dropping the consumer now would hand back thousands that are about to be acknowledged.
        consumer.settled().await;
        closed
    }
}
