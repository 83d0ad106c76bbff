//! Consumers of the simulated subscription: fetching, giving back, and the lease of a batch.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use setgate_set::{Envelope, OrderKey, Timestamp};

use super::{Held, LeaseHolder, Simulated, Stage, State, Waiter};
use crate::{
    Attempt, Batch, Closed, Initiator, Redelivery, SealedSet, Want,
    spi::{ConsumerCore, Lease},
};

pub(super) struct SimulatedConsumer {
    subscription: Simulated,
    holder: LeaseHolder,
    interrupted: bool,
}

impl SimulatedConsumer {
    pub(super) fn new(subscription: Simulated, holder: LeaseHolder) -> Self {
        Self { subscription, holder, interrupted: false }
    }

    fn fetch(&mut self, state: &mut State, want: &Want, cx: &Context<'_>) -> Poll<Result<Batch, Closed>> {
        let subscription = &self.subscription;
        let number = self.holder.number;
        state.waiting.retain(|waiter| waiter.holder.number != number);
        state.called.remove(&number);
        if let Some(end) = &state.end {
            return Poll::Ready(Err(end.clone()));
        }
        if subscription.0.profile.initiator == Initiator::Gateway && state.is_settled() {
            return Poll::Ready(Err(Closed::Idle));
        }
        let due = |state: &State| if want.sets == 0 { Vec::new() } else { subscription.due(state, self.holder, want) };
        let mut mine = due(state);
        if mine.is_empty() && want.sets > 0 && state.retry_now && !state.paused && subscription.redeliver_all(state) > 0
        {
            mine = due(state);
        }
        let bytes = mine.iter().filter_map(|at| state.sets.get(*at)).map(|entry| entry.body.len()).sum();
        if mine.is_empty() || !self.reserve(mine.len(), bytes, cx.waker()) {
            let mut waiter = Waiter { holder: self.holder, want: *want, waker: cx.waker().clone(), called: false };
            subscription.call_when_room(&mut waiter);
            if !waiter.called && mine.is_empty() && !due(state).is_empty() {
                // Room came between the check of what is due and the check of the window.
                cx.waker().wake_by_ref();
            }
            state.waiting.push(waiter);
            return Poll::Pending;
        }
        state.numbers += 1;
        let batch = state.numbers;
        state.batches.insert(batch, Held { sets: mine.len(), bytes });
        let mut sets = Vec::with_capacity(mine.len());
        for at in &mine {
            let Some(entry) = state.sets.get_mut(*at) else { continue };
            entry.stage = Stage::Leased { consumer: number, batch };
            entry.fetched = true;
            sets.push(SealedSet {
                jti: entry.jti,
                attempt: Attempt(entry.attempts + 1),
                body: entry.body.clone(),
                envelope: Arc::new(Envelope::new(Timestamp::from_seconds(1_700_000_000), Bytes::from_static(b"{}"))),
                order: OrderKey::from_bits(entry.key),
            });
        }
        let more = !subscription.due(state, self.holder, &Want::ALL).is_empty();
        let lease = SimulatedLease { subscription: subscription.clone(), holder: self.holder, batch, begun: false };
        Poll::Ready(Ok(Batch::new(sets, more, Box::new(lease))))
    }

    /// Reserves room in all windows or in none.
    fn reserve(&self, sets: usize, bytes: usize, waker: &Waker) -> bool {
        let windows = &self.subscription.0.profile.windows;
        for (at, window) in windows.iter().enumerate() {
            if !window.core().reserve(sets, bytes) {
                windows.iter().take(at).for_each(|window| window.core().give(sets, 1, bytes));
                super::wake_when_it_fits(window.core(), sets, bytes, waker);
                return false;
            }
        }
        true
    }
}

impl ConsumerCore for SimulatedConsumer {
    fn poll_next_batch(&mut self, want: &Want, cx: &mut Context<'_>) -> Poll<Result<Batch, Closed>> {
        let subscription = self.subscription.clone();
        let (fetched, wakers) = {
            let mut state = subscription.0.state.lock();
            if state.stutter && !std::mem::replace(&mut self.interrupted, true) {
                // A caller that selects over this future and something else drops it here; the consumer remembers.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.interrupted = false;
            let same = |waiter: &Waiter| waiter.holder.number == self.holder.number && waiter.want == *want;
            let waited = state.waiting.iter().any(same);
            let fetched = self.fetch(&mut state, want, cx);
            if waited && fetched.is_pending() {
                // Nothing has changed; reporting a change would keep a caller that watches for changes and polls this
                // awake for ever.
                return fetched;
            }
            // The chance that called this consumer may suit another.
            (fetched, subscription.whom_to_wake(&mut state))
        };
        subscription.tell(wakers);
        fetched
    }

    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.subscription.0.state.lock();
        let number = self.holder.number;
        if !state.sets.iter().any(|entry| matches!(entry.stage, Stage::Handed { consumer, .. } if consumer == number)) {
            return Poll::Ready(());
        }
        state.settling.push(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for SimulatedConsumer {
    fn drop(&mut self) {
        let (subscription, number) = (&self.subscription, self.holder.number);
        subscription.change(|state| {
            state.consumers.remove(&number);
            state.called.remove(&number);
            state.waiting.retain(|waiter| waiter.holder.number != number);
            // SETs that it fetched and did not hand over go back, and those that fall due when it ends.
            subscription.put_back(state, |stage| match stage {
                Stage::Leased { consumer, .. }
                | Stage::Handed { consumer, redelivery: Redelivery::WhenConsumerEnds, .. } => *consumer == number,
                _ => false,
            });
        });
    }
}

struct SimulatedLease {
    subscription: Simulated,
    holder: LeaseHolder,
    batch: u64,
    begun: bool,
}

impl Lease for SimulatedLease {
    fn handed_over(mut self: Box<Self>) {
        self.begun = true;
        let (ours, holder) = (self.batch, self.holder);
        let sender = self.subscription.0.profile.initiator == Initiator::Gateway;
        self.subscription.change(|state| {
            if !state.consumers.contains(&holder.number) {
                state.wrongs.push(
                    "a batch was handed over after its consumer was dropped, which had handed it back".to_owned(),
                );
            }
            let (mut of_batch, mut of_consumer) = (0, 0);
            for entry in &mut state.sets {
                if let Stage::Leased { consumer, batch } = entry.stage
                    && batch == ours
                {
                    entry.attempts += 1;
                    entry.stage = Stage::Handed { consumer, batch, redelivery: holder.mode.redelivery };
                    of_batch += 1;
                }
                let held = matches!(entry.stage, Stage::Handed { consumer, .. } if consumer == holder.number);
                of_consumer += usize::from(held);
            }
            state.most = state.most.max(if holder.mode.redelivery == Redelivery::WhenConsumerEnds {
                of_consumer
            } else {
                of_batch
            });
            // A request may be in the middle of its answer; a run learns of the end before it fetches.
            if sender && state.end.is_some() {
                state.wrongs.push("a batch was handed over after its consumer had ended".to_owned());
            }
        });
    }
}

impl Drop for SimulatedLease {
    fn drop(&mut self) {
        if !self.begun {
            let number = self.batch;
            let subscription = &self.subscription;
            subscription.change(|state| {
                subscription.put_back(state, |stage| matches!(stage, Stage::Leased { batch, .. } if *batch == number));
            });
        }
    }
}
