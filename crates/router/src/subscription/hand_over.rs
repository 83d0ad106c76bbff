//! The hand-over: SETs stay with their consumer until they are settled, they time out, or the consumer is gone.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use setgate_delivery::Redelivery;
use setgate_set::Timestamp;
use setgate_store::{Attempted, Note, Settlement};

use super::{
    State, Subscription,
    consumers::For,
    parts::{InFlight, Leased},
};
use crate::number::{ConsumerNo, LeaseNo};

impl Subscription {
    /// Begins the hand-over of these leases.
    pub(crate) fn handed_over(self: &Arc<Self>, sets: &[LeaseNo]) {
        let now = self.shared.runtime.clock.monotonic();
        let mut state = self.state.lock();
        let State { in_flight: InFlight { leased, redeliveries, handed, .. }, consumers, .. } = &mut *state;
        let (mut redelivery, mut orphans) = (false, Vec::new());
        for LeaseNo { seq, batch } in sets {
            let Some(leased) = leased.get_mut(seq).filter(|leased| leased.batch == *batch && leased.handed.is_none())
            else {
                continue;
            };
            leased.handed = Some(now);
            *handed += 1;
            consumers.handed(leased.consumer);
            if let Some(at) = leased.redelivery_at() {
                redeliveries.insert((at, *seq));
                redelivery = true;
            } else if consumers.mode(leased.consumer).is_none() {
                // Its batch outlived the consumer, with whose end it would have fallen due again.
                orphans.push(*seq);
            }
        }
        if redelivery || !orphans.is_empty() {
            self.due_again(&mut state, &orphans, now);
            self.wake(&mut state);
        }
    }

    /// Makes handed-over SETs due again whose redelivery timeout has passed.
    pub(super) fn redeliver(self: &Arc<Self>, state: &mut State, now: Duration) {
        let mut over = Vec::new();
        while let Some((at, seq)) = state.in_flight.redeliveries.first().copied()
            && at <= now
        {
            state.in_flight.redeliveries.pop_first();
            over.push(seq);
        }
        self.due_again(state, &over, now);
    }

    /// Makes handed-over SETs due again of which no outcome will come any more; each counts as an attempt.
    pub(super) fn due_again(&self, state: &mut State, seqs: &[u64], now: Duration) {
        let wall = Timestamp::from_millis(self.shared.runtime.clock.wall_millis());
        let mut notes = Vec::with_capacity(seqs.len());
        let all: Vec<Leased> = seqs.iter().filter_map(|seq| state.end_lease(*seq)).collect();
        for mut leased in all {
            let (slot, count) = (&mut leased.slot, leased.attempt.0);
            slot.attempts = count;
            slot.failed_at(wall);
            let first_failed = slot.first_failed().unwrap_or(wall);
            let note = Note::Attempt(Attempted { count, first_failed, next_at: wall });
            notes.push(Settlement { stream: self.no, at: slot.head.at, note });
            self.come_back(state, leased, None);
        }
        if !notes.is_empty() {
            state.breaker.unknown(now);
            self.shared.settler.note(notes);
        }
    }

    /// Notes that a consumer is gone: what it fetched and did not hand over goes back, and what ends with it is due
    /// again.
    pub(crate) fn consumer_gone(self: &Arc<Self>, consumer: ConsumerNo, unsent: &[LeaseNo]) {
        let (now, wall) = self.times();
        let mut state = self.state.lock();
        state.presence.leave(now, wall);
        self.take_back(&mut state, unsent);
        let closed = state.consumers.close(consumer);
        if closed.is_some_and(|(mode, owes)| owes && mode.redelivery == Redelivery::WhenConsumerEnds) {
            let of_consumer = |(seq, leased): (&u64, &Leased)| {
                (leased.consumer == consumer && leased.handed.is_some()).then_some(*seq)
            };
            let mut sent: Vec<u64> = state.in_flight.leased.iter().filter_map(of_consumer).collect();
            sent.sort_unstable();
            self.due_again(&mut state, &sent, now);
        }
        state.lanes.consumer_gone(consumer);
        self.wake(&mut state);
    }
}

/// Polls for [`ConsumerCore::poll_settled`]: ready when nothing that this consumer handed over is unsettled.
pub(crate) fn poll_settled(subscription: &Arc<Subscription>, consumer: ConsumerNo, cx: &Context<'_>) -> Poll<()> {
    let mut state = subscription.state.lock();
    if state.consumers.owes_outcomes(consumer) {
        state.consumers.wait(consumer, For::Outcomes, cx.waker());
        Poll::Pending
    } else {
        Poll::Ready(())
    }
}
