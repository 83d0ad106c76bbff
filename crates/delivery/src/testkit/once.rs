//! A subscription that gives each SET once and keeps its first outcome.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use parking_lot::Mutex;
use setgate_set::{Envelope, Jti, OrderKey, Timestamp};

use crate::{
    Attempt, Batch, Cause, Closed, Outcome, SealedSet, Subscription, Want,
    spi::{AnyChannel, ConsumerCore, Lease, SubscriptionCore},
};

/// Hands over each body once, all at the same time, and returns the first outcome of each.
///
/// The function serves tests of single answers: nothing is retried, and no window is taken.
pub async fn outcomes(channel: Arc<dyn AnyChannel>, bodies: Vec<Bytes>) -> Vec<Option<Outcome>> {
    let once = Once(Arc::new(Mutex::new(OnceState {
        outcomes: vec![None; bodies.len()],
        bodies,
        fetched: false,
        waker: None,
    })));
    let subscription = Subscription::new(Arc::new(once.clone()));
    let consumer = subscription.consumer();
    channel.run(subscription, consumer).await;
    std::mem::take(&mut once.0.lock().outcomes)
}

#[derive(Clone)]
struct Once(Arc<Mutex<OnceState>>);

struct OnceState {
    bodies: Vec<Bytes>,
    outcomes: Vec<Option<Outcome>>,
    fetched: bool,
    waker: Option<Waker>,
}

impl SubscriptionCore for Once {
    fn consumer(&self, _mode: Option<crate::DeliveryMode>) -> Box<dyn ConsumerCore> {
        Box::new(self.clone())
    }

    fn settle(&self, all: Vec<(Jti, Option<Attempt>, Outcome)>) -> usize {
        let mut ended = 0;
        let mut state = self.0.lock();
        for (jti, _, outcome) in all {
            let place = usize::try_from(u128::from_be_bytes(jti.block().1)).unwrap_or(usize::MAX).wrapping_sub(1);
            if let Some(slot) = state.outcomes.get_mut(place) {
                ended += usize::from(slot.is_none());
                slot.get_or_insert(outcome);
            }
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        ended
    }

    fn counts(&self) -> (usize, usize) {
        let state = self.0.lock();
        let open = state.outcomes.iter().filter(|outcome| outcome.is_none()).count();
        if state.fetched { (open, 0) } else { (0, open) }
    }

    fn stalled(&self, _: Option<Cause>) {}
}

impl ConsumerCore for Once {
    fn poll_next_batch(&mut self, want: &Want, cx: &mut Context<'_>) -> Poll<Result<Batch, Closed>> {
        let mut state = self.0.lock();
        if state.outcomes.iter().all(Option::is_some) {
            return Poll::Ready(Err(Closed::Idle));
        }
        if state.fetched || want.sets == 0 {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.fetched = true;
        let set = |(at, body): (usize, &Bytes)| SealedSet {
            jti: Jti::from_block(b't', (at as u128 + 1).to_be_bytes()),
            attempt: Attempt(1),
            body: body.clone(),
            envelope: Arc::new(Envelope::new(Timestamp::from_seconds(1_700_000_000), Bytes::from_static(b"{}"))),
            order: OrderKey::from_bits(at as u64),
        };
        Poll::Ready(Ok(Batch::new(state.bodies.iter().enumerate().map(set).collect(), false, Box::new(NoLease))))
    }

    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.outcomes.iter().all(Option::is_some) {
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

struct NoLease;

impl Lease for NoLease {
    fn handed_over(self: Box<Self>) {}
}
