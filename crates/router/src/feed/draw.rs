//! What a tap takes, and how it comes back when it is not settled.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use setgate_delivery::{Attempt, Cause, Class, Closed, Lapse, Order, Voice, Want};
use setgate_set::Timestamp;
use setgate_store::{Attempted, Kind, Note, Settlement};

use super::{Claimed, Draw, Drawn, Feed, Phase, Served, State, taps::For};
use crate::{
    backoff::pause,
    batch::{Ticket, Wish},
    endpoint::{NotNow, Probe},
    shared::Shared,
    slot::Slot,
};

/// Who draws.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drawer {
    pub(crate) tap: u64,
    /// How its hand-over can fail.
    pub(crate) order: Order,
    /// In which it was opened: it ends when method or endpoint change.
    pub(crate) generation: u64,
}

impl Feed {
    /// Claims what may leave now for a tap.
    pub(crate) fn claim(self: &Arc<Self>, drawer: Drawer, want: &Want, wish: &mut Wish, cx: &mut Context<'_>) -> Drawn {
        let tap = drawer.tap;
        let now = self.shared.house.clock.monotonic();
        let served = self.served.load_full();
        let mut state = self.state.lock();
        if drawer.generation != served.generation {
            return Drawn::Closed(Closed::Reconfigured);
        }
        if let Phase::Ending(closed) = &state.phase {
            return Drawn::Closed(closed.clone());
        }
        let had_chance = state.taps.use_chance(tap);
        if want.sets == 0 {
            state.taps.wait(tap, For::End, cx.waker());
            if state.phase == Phase::Disabled {
                return Drawn::Closed(Closed::Disabled);
            }
            if had_chance {
                // Somebody else may have room.
                self.stir(&mut state);
            }
            return Drawn::Nothing;
        }
        state.taps.wait(tap, For::Sets, cx.waker());
        if self.shared.is_halted() || state.late > 0 {
            return Drawn::Nothing;
        }
        state.lanes.wake(now);
        if let Some(slot) = state.next_control(now) {
            state.taps.took(tap);
            let probe = match state.leaves(now) {
                Ok(probe) => probe,
                Err(NotNow) => {
                    state.control.push_front(slot);
                    return self.refused(&mut state, &served, tap, now, cx);
                }
            };
            let draw = self.enter(&mut state, vec![slot], drawer, &Arc::default(), probe);
            state.control_busy = true;
            state.breaker.left();
            self.stir(&mut state);
            return Drawn::Slots(draw, served);
        }
        let open = state.phase == Phase::Open;
        let allowance = if open { state.allowance(now) } else { 0 };
        if allowance == 0 || !state.lanes.has_ready() && !state.lanes.has_held(tap) {
            if open && state.lanes.has_ready() {
                state.breaker.limited();
            }
            if allowance == 0 && state.would_draw(now) {
                return self.refused(&mut state, &served, tap, now, cx);
            }
            let over = state.claimed.is_empty() || state.patient;
            if state.phase == Phase::Disabled && over {
                return Drawn::Closed(Closed::Disabled);
            }
            if served.profile.voice == Voice::Sender && state.claimed.is_empty() {
                state.taps.took(tap);
                return Drawn::Closed(Closed::Idle);
            }
            return Drawn::Nothing;
        }
        if let Some(until) = state.lingers(now, Some(tap), want.sets, want.bytes) {
            if served.profile.voice == Voice::Sender && state.claimed.is_empty() {
                // Its line is run again when the time has come.
                state.taps.took(tap);
                self.look_again(&mut state, until);
                return Drawn::Closed(Closed::Idle);
            }
            self.look_again(&mut state, until);
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
        if most == allowance {
            state.breaker.limited();
        }
        let (mut slots, again) =
            state.lanes.draw(tap, drawer.order, most, want.bytes.min(limits.bytes), limits.overhead);
        if let Some(again) = again {
            state.rewind(again);
        }
        let ticket = loop {
            let bytes = slots.iter().map(|slot| slot.head.body_len as usize + limits.overhead).sum();
            let count = slots.len();
            match Ticket::take(windows.clone(), count, bytes) {
                Ok(ticket) => break ticket,
                // Half of it may fit: who waited for all of it would wait as long as others take what comes back.
                Err(_) if count > 1 => {
                    for slot in slots.split_off(count / 2).into_iter().rev() {
                        state.lanes.put_back(slot, None);
                    }
                }
                Err(full) => {
                    for slot in slots.into_iter().rev() {
                        state.lanes.put_back(slot, None);
                    }
                    wish.wait_to_fit(&full, count, bytes, cx);
                    return Drawn::Nothing;
                }
            }
        };
        let Ok(probe) = state.leaves(now) else {
            for slot in slots.into_iter().rev() {
                ticket.give(slot.head.body_len as usize + limits.overhead);
                state.lanes.put_back(slot, None);
            }
            return self.refused(&mut state, &served, tap, now, cx);
        };
        state.taps.took(tap);
        state.breaker.left();
        let draw = self.enter(&mut state, slots, drawer, &ticket, probe);
        // Others may take what is left, and there is room for more.
        self.stir(&mut state);
        Drawn::Slots(draw, served)
    }

    /// What the line shares with others is held, or another's probe was sooner: the tap waits, or its line is run again later.
    fn refused(
        self: &Arc<Self>,
        state: &mut State,
        served: &Served,
        tap: u64,
        now: Duration,
        cx: &Context<'_>,
    ) -> Drawn {
        if !self.is_refused(state, now) {
            // It is well by now.
            cx.waker().wake_by_ref();
            return Drawn::Nothing;
        }
        let over = state.claimed.is_empty() || state.patient;
        if state.phase == Phase::Disabled && over {
            return Drawn::Closed(Closed::Disabled);
        }
        if served.profile.voice == Voice::Sender && state.claimed.is_empty() {
            state.taps.took(tap);
            return Drawn::Closed(Closed::Idle);
        }
        Drawn::Nothing
    }

    /// Whether a tap draws one batch more than it was asked for: where the pool seals, and no other tap waits for the same SETs.
    pub(crate) fn draws_ahead(&self) -> bool {
        let served = self.served.load();
        served.profile.voice == Voice::Sender && served.seal.is_slow(&self.shared.pool)
    }

    /// `probe`: where the endpoint is held, the right to let one SET leave.
    fn enter(
        &self,
        state: &mut State,
        slots: Vec<Slot>,
        drawer: Drawer,
        ticket: &Arc<Ticket>,
        mut probe: Option<Probe>,
    ) -> Draw {
        let names = self.shared.store.names();
        let overhead = self.served.load().profile.limits.overhead;
        let lapse = match state.taps.manner(drawer.tap).map(|manner| manner.lapse) {
            Some(Lapse::After(after)) => Some(after),
            Some(Lapse::WithTap) | None => None,
        };
        state.draws += 1;
        let no = state.draws;
        let alone = slots.len() == 1 || drawer.order == Order::PerSet;
        let enter = |slot: Slot| {
            let jti = names.jti(slot.head.at, self.no, slot.head.boot);
            let claimed = Claimed {
                jti,
                attempt: Attempt(slot.attempts + 1),
                tap: drawer.tap,
                draw: no,
                order: drawer.order,
                alone,
                handed: None,
                reached: false,
                lapse,
                generation: drawer.generation,
                sealed: None,
                ticket: ticket.clone(),
                probe: probe.take(),
                bytes: slot.head.body_len as usize + overhead,
                slot: slot.clone(),
            };
            state.claimed.insert(slot.seq(), claimed);
            (slot, jti)
        };
        Draw { no, slots: slots.into_iter().map(enter).collect() }
    }

    /// The hand-over of these SETs, each with its draw, begins.
    pub(crate) fn handed_over(self: &Arc<Self>, sets: &[(u64, u64)]) {
        let now = self.shared.house.clock.monotonic();
        let mut state = self.state.lock();
        let State { claimed, lapses, taps, handed, .. } = &mut *state;
        let (mut lapse, mut orphans) = (false, Vec::new());
        for (seq, draw) in sets {
            let Some(claimed) =
                claimed.get_mut(seq).filter(|claimed| claimed.draw == *draw && claimed.handed.is_none())
            else {
                continue;
            };
            claimed.handed = Some(now);
            *handed += 1;
            taps.handed(claimed.tap);
            if let Some(at) = claimed.lapses_at() {
                lapses.insert((at, *seq));
                lapse = true;
            } else if taps.manner(claimed.tap).is_none() {
                // Its batch outlived its tap, with which it would have fallen due again.
                orphans.push(*seq);
            }
        }
        if lapse || !orphans.is_empty() {
            self.due_again(&mut state, &orphans, now);
            self.stir(&mut state);
        }
    }

    /// These SETs, each with its draw, were drawn and not handed over: it never happened.
    pub(crate) fn hand_back(self: &Arc<Self>, sets: &[(u64, u64)]) {
        let mut state = self.state.lock();
        self.take_back(&mut state, sets);
        self.stir(&mut state);
    }

    fn take_back(&self, state: &mut State, sets: &[(u64, u64)]) {
        let now = self.shared.house.clock.monotonic();
        for (seq, draw) in sets {
            if state.claimed.get(seq).is_some_and(|claimed| claimed.draw == *draw && claimed.handed.is_none())
                && let Some(claimed) = state.unclaim(*seq)
            {
                state.breaker.unknown(now);
                self.come_back(state, claimed, None);
            }
        }
    }

    /// A claim comes back to its place, and with it all that was drawn behind it: nothing later may arrive first.
    pub(super) fn come_back(&self, state: &mut State, claimed: Claimed, due: Option<Duration>) {
        let slot = self.keep_sealed(claimed);
        if slot.head.kind == Kind::Control {
            state.control_busy = false;
            state.control.push_front(slot);
            return;
        }
        for seq in state.lanes.put_back(slot, due) {
            if let Some(mut behind) = state.unclaim(seq) {
                if behind.handed.is_some() {
                    behind.slot.attempts = behind.attempt.0;
                }
                if let Some(settled) = &mut state.settled_meanwhile {
                    settled.insert(seq);
                }
                let slot = self.keep_sealed(behind);
                state.lanes.put_back(slot, None);
            }
        }
    }

    /// Keeps the token of a SET that comes back: a repeat is not signed again.
    fn keep_sealed(&self, claimed: Claimed) -> Slot {
        let Claimed { mut slot, jti, sealed, .. } = claimed;
        if let Some((generation, sealed)) = sealed {
            // The generation it was sealed in, not that of now: a key may have been revoked while it was handed over.
            self.shared.cache.keep(jti, generation, sealed);
            slot.sealed_before = true;
        }
        slot
    }

    /// Sealing or reading failed for the whole draw: everything goes back and the line waits.
    pub(crate) fn draw_failed(self: &Arc<Self>, sets: &[(u64, u64)], cause: Cause) {
        let now = self.shared.house.clock.monotonic();
        let wall = Timestamp::from_millis(self.shared.house.clock.wall_millis());
        tracing::warn!(stream = %self.served.load().stream.id, cause = %cause, "cannot prepare SETs");
        {
            let mut state = self.state.lock();
            let Shared { config, house, .. } = &*self.shared;
            // Before they go back: a probe that comes back untried would let the next one through at once.
            state.breaker.fault(now, Class::Transient, |failures| pause(config, &*house.random, failures));
            state.last_error = Some((wall, cause));
        }
        self.hand_back(sets);
    }

    /// A drawn SET is there and cannot be read: it waits for who repairs the store, its subject with it, and no other does.
    pub(crate) fn cannot_read(self: &Arc<Self>, (seq, draw): (u64, u64), cause: &Cause) {
        let (now, wall) = self.times();
        let mut state = self.state.lock();
        if state.claimed.get(&seq).is_none_or(|claimed| claimed.draw != draw) {
            return;
        }
        let Some(claimed) = state.unclaim(seq) else { return };
        tracing::error!(
            stream = %self.served.load().stream.id, cause = %cause,
            "a SET cannot be read and waits: stop the gateway and run `setgate store check`"
        );
        // It may have been the probe: another one may leave.
        state.breaker.unknown(now);
        state.last_error = Some((wall, cause.clone()));
        let due = now + Duration::from_secs(self.shared.config.backoff_most_s);
        self.come_back(&mut state, claimed, Some(due));
        self.stir(&mut state);
    }

    /// Handed-over SETs whose time to be settled is over are due again.
    pub(super) fn lapse(self: &Arc<Self>, state: &mut State, now: Duration) {
        let mut over = Vec::new();
        while let Some((at, seq)) = state.lapses.first().copied()
            && at <= now
        {
            state.lapses.pop_first();
            over.push(seq);
        }
        self.due_again(state, &over, now);
    }

    /// Handed-over SETs of which nobody will hear any more: that was an attempt.
    pub(super) fn due_again(&self, state: &mut State, seqs: &[u64], now: Duration) {
        let wall = Timestamp::from_millis(self.shared.house.clock.wall_millis());
        let mut notes = Vec::with_capacity(seqs.len());
        let all: Vec<Claimed> = seqs.iter().filter_map(|seq| state.unclaim(*seq)).collect();
        for mut claimed in all {
            let (slot, count) = (&mut claimed.slot, claimed.attempt.0);
            slot.attempts = count;
            slot.failed_at(wall);
            let first_failed = slot.first_failed().unwrap_or(wall);
            let note = Note::Attempt(Attempted { count, first_failed, next_at: wall });
            notes.push(Settlement { stream: self.no, at: slot.head.at, note });
            self.come_back(state, claimed, None);
        }
        if !notes.is_empty() {
            state.breaker.unknown(now);
            self.shared.settler.note(notes);
        }
    }

    /// A tap is gone: what it drew and did not hand over goes back, and what ends with it is due again.
    pub(crate) fn tap_gone(self: &Arc<Self>, tap: u64, unsent: &[(u64, u64)]) {
        let (now, wall) = self.times();
        let mut state = self.state.lock();
        state.visits.leave(now, wall);
        self.take_back(&mut state, unsent);
        let closed = state.taps.close(tap);
        if closed.is_some_and(|(manner, owes)| owes && manner.lapse == Lapse::WithTap) {
            let of_tap =
                |(seq, claimed): (&u64, &Claimed)| (claimed.tap == tap && claimed.handed.is_some()).then_some(*seq);
            let mut sent: Vec<u64> = state.claimed.iter().filter_map(of_tap).collect();
            sent.sort_unstable();
            self.due_again(&mut state, &sent, now);
        }
        state.lanes.tap_gone(tap);
        self.stir(&mut state);
    }
}

/// For [`TapCore::poll_settled`]: ready when nothing this tap handed over is unsettled.
pub(crate) fn poll_settled(feed: &Arc<Feed>, tap: u64, cx: &Context<'_>) -> Poll<()> {
    let mut state = feed.state.lock();
    if state.taps.owes_outcomes(tap) {
        state.taps.wait(tap, For::Outcomes, cx.waker());
        Poll::Pending
    } else {
        Poll::Ready(())
    }
}
