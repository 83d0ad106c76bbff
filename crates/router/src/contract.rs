//! The subscription of a stream as its delivery method sees it.

use std::sync::Arc;

use setgate_delivery::{
    Attempt, Cause, DeliveryMode, Outcome,
    spi::{ConsumerCore, SubscriptionCore},
};
use setgate_set::Jti;

use crate::{
    batch::StreamConsumer,
    subscription::{Phase, Subscription},
};

/// A subscription behind an [`Arc`], as the contract demands.
pub(crate) struct Core(pub(crate) Arc<Subscription>);

impl SubscriptionCore for Core {
    fn consumer(&self, mode: Option<DeliveryMode>) -> Box<dyn ConsumerCore> {
        let (now, wall) = self.0.times();
        let served = self.0.served.load();
        let mode = mode.unwrap_or(DeliveryMode { order: served.profile.order, redelivery: served.profile.redelivery });
        let consumer = {
            let mut state = self.0.state.lock();
            state.presence.come(now, wall);
            state.consumers.open(mode)
        };
        Box::new(StreamConsumer::new(self.0.clone(), consumer, mode.order, served.generation))
    }

    fn settle(&self, all: Vec<(Jti, Option<Attempt>, Outcome)>) -> usize {
        self.0.settle(all)
    }

    fn reached(&self, sets: &[(Jti, Attempt)]) {
        self.0.reached(sets);
    }

    fn counts(&self) -> (usize, usize) {
        let handed = self.0.state.lock().in_flight.handed;
        let waiting = usize::try_from(self.0.shared.store.waiting(self.0.no)).unwrap_or(usize::MAX);
        (handed, waiting.saturating_sub(handed))
    }

    fn stalled(&self, why: Option<Cause>) {
        self.0.state.lock().shown.stalled = why;
    }

    fn has_due(&self) -> bool {
        self.0.has_due()
    }

    fn is_paused(&self) -> bool {
        self.0.state.lock().phase == Phase::Paused
    }
}
