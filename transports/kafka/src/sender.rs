//! The channel that sends the SETs of one stream to a topic.

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

/// The most SETs of one fetch, which are sealed together and settled whenever their reports come.
const BATCH_SETS: usize = 256;
/// The most bytes of one fetch, unless one record may be larger.
const BATCH_BYTES: usize = 1 << 20;
/// The wait for a missing producer, after which its start is asked for again.
const AGAIN: Duration = Duration::from_secs(5);
/// The SETs of one stream that may be under way whatever its share is: a smaller window is not worth dividing.
const SHARE_LEAST: usize = 64;
/// The pause before the next fetch after a record came straight back, since further ones would come straight back too.
const REST: Duration = Duration::from_millis(100);

/// A stream that goes to a topic, one SET per record, with as many under way as the cluster's window has room for.
pub struct KafkaChannel {
    cluster: Arc<Cluster>,
    topic: Arc<str>,
    shape: Shape,
    form: Form,
    /// The stream's share, half of the cluster's window unless that is small: a topic without a leader must not keep
    /// the room of all others until its records time out.
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

    /// Sends a SET, and returns whether the next one may follow at once.
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

    /// Waits until there is a producer, or until the consumer ends.
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
                // Nothing is fetched here; the call only returns when the consumer ends.
                end = consumer.next_batch(Want { sets: 0, ..Want::ALL }) => { end?; }
                // The producer's thread could not be started, and no other channel may come to try it again.
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
            // Nothing is held during the wait, since others need the room. Control SETs take none, so a shut window
            // does not keep them.
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

    /// Waits for a producer that has looked at the topic again.
    async fn settle_doubts(
        &self,
        subscription: &Subscription,
        consumer: &mut Consumer,
        producer_state: &mut watch::Receiver<ProducerState>,
    ) -> Result<(), Closed> {
        self.ready(subscription, consumer, producer_state).await?;
        tokio::select! {
            () = self.cluster.trust(&self.topic) => Ok(()),
            // Nothing is fetched here; the call only returns when the consumer ends.
            end = consumer.next_batch(Want { sets: 0, ..Want::ALL }) => end.map(drop),
        }
    }
}

impl Channel for KafkaChannel {
    fn profile(&self) -> Profile {
        let section = self.cluster.section();
        Profile {
            initiator: Initiator::Gateway,
            // When a record fails for good, its successors may be in the log already, so each subject has only one SET
            // under way.
            order: Order::PerSet,
            // The brokers acknowledge, and the readers of the topic do not.
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
        // Dropping the consumer now would give back thousands of SETs that are about to be acknowledged.
        consumer.settled().await;
        closed
    }
}
