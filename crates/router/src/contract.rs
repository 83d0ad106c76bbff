//! The subscription of a stream as its delivery method sees it.

use std::sync::Arc;

use setgate_delivery::{
    Attempt, Cause, DeliveryMode, Outcome,
    spi::{ConsumerCore, SubscriptionCore},
};
use setgate_set::Jti;

use crate::{
    batch::StreamConsumer,
    subscription::{Phase, Served, Subscription},
};

/// A subscription behind an [`Arc`], as the contract demands, for one channel.
///
/// Its consumers belong to the delivery that the channel was made for, whenever they are opened: once the stream is
/// moved to another method or endpoint, they get nothing of the new one.
pub(crate) struct Core {
    subscription: Arc<Subscription>,
    served: Arc<Served>,
}

impl Core {
    pub(crate) fn new(subscription: Arc<Subscription>, served: Arc<Served>) -> Self {
        Self { subscription, served }
    }
}

impl SubscriptionCore for Core {
    fn consumer(&self, mode: Option<DeliveryMode>) -> Box<dyn ConsumerCore> {
        let (now, wall) = self.subscription.times();
        let served = &self.served;
        let mode = mode.unwrap_or(DeliveryMode { order: served.profile.order, redelivery: served.profile.redelivery });
        let consumer = {
            let mut state = self.subscription.state.lock();
            state.presence.come(now, wall);
            state.consumers.open(mode)
        };
        Box::new(StreamConsumer::new(self.subscription.clone(), consumer, mode.order, served.generation))
    }

    fn settle(&self, all: Vec<(Jti, Option<Attempt>, Outcome)>) -> usize {
        self.subscription.settle(all)
    }

    fn reached(&self, sets: &[(Jti, Attempt)]) {
        self.subscription.reached(sets);
    }

    fn counts(&self) -> (usize, usize) {
        let handed = self.subscription.state.lock().in_flight.handed;
        let waiting =
            usize::try_from(self.subscription.shared.store.waiting(self.subscription.no)).unwrap_or(usize::MAX);
        (handed, waiting.saturating_sub(handed))
    }

    fn stalled(&self, why: Option<Cause>) {
        self.subscription.state.lock().shown.stalled = why;
    }

    fn has_due(&self) -> bool {
        self.subscription.has_due()
    }

    fn is_paused(&self) -> bool {
        self.subscription.state.lock().phase == Phase::Paused
    }
}
