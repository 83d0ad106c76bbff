//! What a tap takes, and how it comes back when it is not settled.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use delivery::{Attempt, Cause, Closed, Lapse, Voice, Want};
use set::{Jti, Timestamp};

use super::{Claimed, Drawn, Feed, Phase, State};
use crate::{
    backoff::pause,
    batch::{Ticket, Wish},
    lane::Slot,
    shared::Shared,
};

impl Feed {
    /// Claims what may leave now for a tap.
    pub(crate) fn claim(
        self: &Arc<Self>,
        tap: u64,
        generation: u64,
        want: &Want,
        wish: &mut Wish,
        cx: &mut Context<'_>,
    ) -> Drawn {
        let now = self.shared.house.clock.monotonic();
        let served = self.served.load_full();
        let mut state = self.state.lock();
        if generation != served.generation {
            return Drawn::Closed(Closed::Reconfigured);
        }
        if let Phase::Ending(closed) = &state.phase {
            return Drawn::Closed(closed.clone());
        }
        state.wakers.insert(tap, cx.waker().clone());
        if want.sets == 0 || self.shared.is_halted() {
            return Drawn::Nothing;
        }
        state.lanes.wake(now);
        if let Some(slot) = state.next_control(now) {
            state.wakers.remove(&tap);
            let ticket = Arc::default();
            let slots = self.enter(&mut state, vec![slot], tap, served.generation, &ticket);
            state.control_busy = true;
            state.breaker.left();
            return Drawn::Slots(slots, served);
        }
        let open = state.phase == Phase::Open;
        let allowance = if open { state.breaker.allowance(now, state.claimed.len()) } else { 0 };
        if allowance == 0 || !state.lanes.has_ready() {
            if !open && state.phase == Phase::Disabled && state.claimed.is_empty() {
                return Drawn::Closed(Closed::Disabled);
            }
            if served.profile.voice == Voice::Sender && state.claimed.is_empty() {
                state.wakers.remove(&tap);
                return Drawn::Closed(Closed::Idle);
            }
            return Drawn::Nothing;
        }
        let limits = served.profile.limits;
        let windows: Vec<_> = served.profile.windows.iter().chain([&self.own_window]).cloned().collect();
        let room = windows.iter().map(|window| window.core().room()).min().unwrap_or(usize::MAX);
        if room == 0 {
            wish.wait(&windows, cx);
            return Drawn::Nothing;
        }
        let most = [want.sets, limits.sets, room, allowance, served.seal.quantum()].into_iter().min().unwrap_or(1);
        let slots = state.lanes.draw(most, want.bytes.min(limits.bytes), limits.overhead);
        let bytes = slots.iter().map(|slot| slot.head.body_len as usize + limits.overhead).sum();
        let count = slots.len();
        let ticket = match Ticket::take(windows, count, bytes) {
            Ok(ticket) => ticket,
            Err(full) => {
                slots.into_iter().for_each(|slot| state.lanes.put_back(slot, None));
                wish.wait_to_fit(&full, count, bytes, cx);
                return Drawn::Nothing;
            }
        };
        state.wakers.remove(&tap);
        state.breaker.left();
        let slots = self.enter(&mut state, slots, tap, served.generation, &ticket);
        if state.wants_scan() {
            self.stir(&mut state);
        }
        Drawn::Slots(slots, served)
    }

    fn enter(
        &self,
        state: &mut State,
        slots: Vec<Slot>,
        tap: u64,
        generation: u64,
        ticket: &Arc<Ticket>,
    ) -> Vec<(Slot, Jti)> {
        let names = self.shared.store.names();
        let overhead = self.served.load().profile.limits.overhead;
        slots
            .into_iter()
            .map(|slot| {
                let jti = names.jti(slot.head.at, self.no, slot.head.boot);
                let claimed = Claimed {
                    jti,
                    attempt: Attempt(slot.attempts + 1),
                    tap,
                    handed_at: None,
                    generation,
                    sealed: None,
                    ticket: ticket.clone(),
                    bytes: slot.head.body_len as usize + overhead,
                    slot: slot.clone(),
                };
                state.claimed.insert(slot.seq(), claimed);
                (slot, jti)
            })
            .collect()
    }

    /// The hand-over of these SETs begins.
    pub(crate) fn handed_over(self: &Arc<Self>, seqs: &[u64]) {
        let now = self.shared.house.clock.monotonic();
        let mut state = self.state.lock();
        for seq in seqs {
            if let Some(claimed) = state.claimed.get_mut(seq) {
                claimed.handed_at = Some(now);
            }
        }
        if let Lapse::After(after) = self.served.load().profile.lapse {
            self.shared.timers.at(now + after, self);
        }
    }

    /// These SETs were drawn and not handed over: it never happened.
    pub(crate) fn hand_back(self: &Arc<Self>, seqs: &[u64]) {
        let now = self.shared.house.clock.monotonic();
        let mut state = self.state.lock();
        for seq in seqs {
            if state.claimed.get(seq).is_some_and(|claimed| claimed.handed_at.is_none())
                && let Some(claimed) = state.claimed.remove(seq)
            {
                claimed.ticket.give(claimed.bytes);
                state.breaker.unknown(now);
                state.put_back(claimed.slot, None);
            }
        }
        self.stir(&mut state);
    }

    /// Sealing or reading failed for the whole batch: everything goes back and the line waits.
    pub(crate) fn draw_failed(self: &Arc<Self>, seqs: &[u64], cause: Cause) {
        let now = self.shared.house.clock.monotonic();
        let wall = Timestamp::from_millis(self.shared.house.clock.wall_millis());
        tracing::warn!(stream = %self.served.load().stream.id, cause = %cause, "cannot prepare SETs");
        {
            let mut state = self.state.lock();
            let Shared { config, house, .. } = &*self.shared;
            // Before they go back: a probe that comes back untried would let the next one through at once.
            state.breaker.fault(now, false, |failures| pause(config, &*house.random, failures));
            state.last_error = Some((wall, cause));
            self.set_timer(&state);
        }
        self.hand_back(seqs);
    }

    /// Drawn SETs whose time to be settled is over are due again.
    pub(super) fn lapse(self: &Arc<Self>, state: &mut State, now: Duration, after: Duration) {
        let over: Vec<u64> = state
            .claimed
            .iter()
            .filter(|(_, claimed)| claimed.handed_at.is_some_and(|at| at + after <= now))
            .map(|(seq, _)| *seq)
            .collect();
        self.due_again(state, &over);
        if let Some(next) = state.claimed.values().filter_map(|claimed| claimed.handed_at).min() {
            self.shared.timers.at(next + after, self);
        }
    }

    fn due_again(self: &Arc<Self>, state: &mut State, seqs: &[u64]) {
        for seq in seqs {
            if let Some(mut claimed) = state.claimed.remove(seq) {
                claimed.ticket.give(claimed.bytes);
                claimed.slot.attempts = claimed.attempt.0;
                self.keep_sealed(&claimed);
                state.put_back(claimed.slot, None);
            }
        }
    }

    /// A tap is gone: what it drew is due again.
    pub(crate) fn tap_gone(self: &Arc<Self>, tap: u64) {
        let (now, wall) = self.times();
        let lapse = self.served.load().profile.lapse;
        let mut state = self.state.lock();
        state.visits.leave(now, wall);
        state.wakers.remove(&tap);
        let of_tap = |handed: bool| {
            move |(seq, claimed): (&u64, &Claimed)| {
                (claimed.tap == tap && claimed.handed_at.is_some() == handed).then_some(*seq)
            }
        };
        let unsent: Vec<u64> = state.claimed.iter().filter_map(of_tap(false)).collect();
        let sent: Vec<u64> = state.claimed.iter().filter_map(of_tap(true)).collect();
        for seq in unsent {
            if let Some(claimed) = state.claimed.remove(&seq) {
                claimed.ticket.give(claimed.bytes);
                state.breaker.unknown(now);
                state.put_back(claimed.slot, None);
            }
        }
        if lapse == Lapse::WithTap {
            state.breaker.unknown(now);
            self.due_again(&mut state, &sent);
        }
        self.stir(&mut state);
    }
}

/// For [`TapCore::poll_settled`]: ready when nothing this tap handed over is unsettled.
pub(crate) fn poll_settled(feed: &Arc<Feed>, tap: u64, cx: &Context<'_>) -> Poll<()> {
    let mut state = feed.state.lock();
    if state.claimed.values().any(|claimed| claimed.tap == tap && claimed.handed_at.is_some()) {
        state.wakers.insert(tap, cx.waker().clone());
        Poll::Pending
    } else {
        Poll::Ready(())
    }
}
