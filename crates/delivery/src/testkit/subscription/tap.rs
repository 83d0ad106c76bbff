//! Taps of the simulated subscription: drawing, handing back, and the claim of a batch.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use setgate_set::{Envelope, OrderKey, Timestamp};

use super::{Drawer, Held, Simulated, Stage, State, Waiter};
use crate::{
    Attempt, Batch, Closed, Initiator, Redelivery, SealedSet, Want,
    spi::{Claim, TapCore},
};

pub(super) struct SimulatedTap {
    subscription: Simulated,
    drawer: Drawer,
    interrupted: bool,
}

impl SimulatedTap {
    pub(super) fn new(subscription: Simulated, drawer: Drawer) -> Self {
        Self { subscription, drawer, interrupted: false }
    }

    fn draw(&mut self, state: &mut State, want: &Want, cx: &Context<'_>) -> Poll<Result<Batch, Closed>> {
        let subscription = &self.subscription;
        let number = self.drawer.number;
        state.waiting.retain(|waiter| waiter.drawer.number != number);
        state.called.remove(&number);
        if let Some(end) = &state.end {
            return Poll::Ready(Err(end.clone()));
        }
        if subscription.0.profile.initiator == Initiator::Gateway && state.is_settled() {
            return Poll::Ready(Err(Closed::Idle));
        }
        let due = |state: &State| if want.sets == 0 { Vec::new() } else { subscription.due(state, self.drawer, want) };
        let mut mine = due(state);
        if mine.is_empty() && want.sets > 0 && state.retry_now && !state.paused && subscription.redeliver_all(state) > 0
        {
            mine = due(state);
        }
        let bytes = mine.iter().filter_map(|at| state.sets.get(*at)).map(|entry| entry.body.len()).sum();
        if mine.is_empty() || !self.take(mine.len(), bytes, cx.waker()) {
            let mut waiter = Waiter { drawer: self.drawer, want: *want, waker: cx.waker().clone(), called: false };
            subscription.call_when_room(&mut waiter);
            if !waiter.called && mine.is_empty() && !due(state).is_empty() {
                // Room came between the look at what is due and the look at the window.
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
            entry.stage = Stage::Claimed { tap: number, batch };
            entry.drawn = true;
            sets.push(SealedSet {
                jti: entry.jti,
                attempt: Attempt(entry.attempts + 1),
                body: entry.body.clone(),
                envelope: Arc::new(Envelope::new(Timestamp::from_seconds(1_700_000_000), Bytes::from_static(b"{}"))),
                order: OrderKey::from_bits(entry.key),
            });
        }
        let more = !subscription.due(state, self.drawer, &Want::ALL).is_empty();
        let claim = SimulatedClaim { subscription: subscription.clone(), drawer: self.drawer, batch, begun: false };
        Poll::Ready(Ok(Batch::new(sets, more, Box::new(claim))))
    }

    /// Room in all windows, or in none.
    fn take(&self, sets: usize, bytes: usize, waker: &Waker) -> bool {
        let windows = &self.subscription.0.profile.windows;
        for (at, window) in windows.iter().enumerate() {
            if !window.core().take(sets, bytes) {
                windows.iter().take(at).for_each(|window| window.core().give(sets, 1, bytes));
                super::wake_when_it_fits(window.core(), sets, bytes, waker);
                return false;
            }
        }
        true
    }
}

impl TapCore for SimulatedTap {
    fn poll_next(&mut self, want: &Want, cx: &mut Context<'_>) -> Poll<Result<Batch, Closed>> {
        let subscription = self.subscription.clone();
        let (drawn, wakers) = {
            let mut state = subscription.0.state.lock();
            if state.stutter && !std::mem::replace(&mut self.interrupted, true) {
                // Whoever selects over this future and something else drops it here; the tap remembers.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.interrupted = false;
            let same = |waiter: &Waiter| waiter.drawer.number == self.drawer.number && waiter.want == *want;
            let waited = state.waiting.iter().any(same);
            let drawn = self.draw(&mut state, want, cx);
            if waited && drawn.is_pending() {
                // Nothing has changed; to say that it has would keep whoever looks on and polls this awake for ever.
                return drawn;
            }
            // The chance that called this tap may be another's.
            (drawn, subscription.whom_to_wake(&mut state))
        };
        subscription.tell(wakers);
        drawn
    }

    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.subscription.0.state.lock();
        let number = self.drawer.number;
        if !state.sets.iter().any(|entry| matches!(entry.stage, Stage::Handed { tap, .. } if tap == number)) {
            return Poll::Ready(());
        }
        state.settling.push(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for SimulatedTap {
    fn drop(&mut self) {
        let (subscription, number) = (&self.subscription, self.drawer.number);
        subscription.change(|state| {
            state.taps.remove(&number);
            state.called.remove(&number);
            state.waiting.retain(|waiter| waiter.drawer.number != number);
            // What it drew and did not hand over goes back, and what goes with it.
            subscription.put_back(state, |stage| match stage {
                Stage::Claimed { tap, .. } | Stage::Handed { tap, redelivery: Redelivery::WhenConsumerEnds, .. } => {
                    *tap == number
                }
                _ => false,
            });
        });
    }
}

struct SimulatedClaim {
    subscription: Simulated,
    drawer: Drawer,
    batch: u64,
    begun: bool,
}

impl Claim for SimulatedClaim {
    fn handed_over(mut self: Box<Self>) {
        self.begun = true;
        let (ours, drawer) = (self.batch, self.drawer);
        let sender = self.subscription.0.profile.initiator == Initiator::Gateway;
        self.subscription.change(|state| {
            if !state.taps.contains(&drawer.number) {
                state
                    .wrongs
                    .push("a batch was handed over after its tap was dropped, which had handed it back".to_owned());
            }
            let (mut of_batch, mut of_tap) = (0, 0);
            for entry in &mut state.sets {
                if let Stage::Claimed { tap, batch } = entry.stage
                    && batch == ours
                {
                    entry.attempts += 1;
                    entry.stage = Stage::Handed { tap, batch, redelivery: drawer.mode.redelivery };
                    of_batch += 1;
                }
                let held = matches!(entry.stage, Stage::Handed { tap, .. } if tap == drawer.number);
                of_tap += usize::from(held);
            }
            state.most =
                state.most.max(if drawer.mode.redelivery == Redelivery::WhenConsumerEnds { of_tap } else { of_batch });
            // A request may be in the middle of its answer; a run hears the end before it draws.
            if sender && state.end.is_some() {
                state.wrongs.push("a batch was handed over after its tap had ended".to_owned());
            }
        });
    }
}

impl Drop for SimulatedClaim {
    fn drop(&mut self) {
        if !self.begun {
            let number = self.batch;
            let subscription = &self.subscription;
            subscription.change(|state| {
                subscription.put_back(state, |stage| matches!(stage, Stage::Claimed { batch, .. } if *batch == number));
            });
        }
    }
}
