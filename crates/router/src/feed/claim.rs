//! What a tap claims: what may leave now, within the windows of its line.

use std::{sync::Arc, task::Context, time::Duration};

use setgate_delivery::{Attempt, Closed, Order, Redelivery, Voice, Want};

use super::{Draw, Drawn, Feed, Phase, Served, State, parts::Claimed, taps::For};
use crate::{
    batch::{Ticket, Waiter},
    endpoint::{NotNow, Probe},
    number::{Generation, TapNo},
    slot::Slot,
};

/// Who draws.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drawer {
    pub(crate) tap: TapNo,
    /// How its hand-over can fail.
    pub(crate) order: Order,
    /// In which it was opened: it ends when method or endpoint change.
    pub(crate) generation: Generation,
}

impl Feed {
    /// Claims what may leave now for a tap.
    pub(crate) fn claim(
        self: &Arc<Self>,
        drawer: Drawer,
        want: &Want,
        waiter: &mut Waiter,
        cx: &mut Context<'_>,
    ) -> Drawn {
        let tap = drawer.tap;
        let now = self.shared.runtime.clock.monotonic();
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
                self.wake(&mut state);
            }
            return Drawn::Nothing;
        }
        state.taps.wait(tap, For::Sets, cx.waker());
        if self.shared.is_halted() || state.in_flight.late > 0 {
            return Drawn::Nothing;
        }
        state.lanes.wake(now);
        if let Some(slot) = state.next_control(now) {
            state.taps.took(tap);
            let probe = match state.leaves(now) {
                Ok(probe) => probe,
                Err(NotNow) => {
                    state.control.queue.push_front(slot);
                    return self.refused(&mut state, &served, tap, now, cx);
                }
            };
            let draw = self.enter(&mut state, vec![slot], drawer, &Arc::default(), probe);
            state.control.busy = true;
            state.breaker.left();
            self.wake(&mut state);
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
            let over = state.in_flight.claimed.is_empty() || state.patient;
            if state.phase == Phase::Disabled && over {
                return Drawn::Closed(Closed::Disabled);
            }
            if served.profile.voice == Voice::Sender && state.in_flight.claimed.is_empty() {
                state.taps.took(tap);
                return Drawn::Closed(Closed::Idle);
            }
            return Drawn::Nothing;
        }
        if let Some(until) = state.lingers(now, Some(tap), want.sets, want.bytes) {
            if served.profile.voice == Voice::Sender && state.in_flight.claimed.is_empty() {
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
            waiter.wait(&windows, cx);
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
                    waiter.wait_to_fit(&full, count, bytes, cx);
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
        self.wake(&mut state);
        Drawn::Slots(draw, served)
    }

    /// What the line shares with others is held, or another's probe was sooner: the tap waits, or its line is run again later.
    fn refused(
        self: &Arc<Self>,
        state: &mut State,
        served: &Served,
        tap: TapNo,
        now: Duration,
        cx: &Context<'_>,
    ) -> Drawn {
        if !self.is_refused(state, now) {
            // It is well by now.
            cx.waker().wake_by_ref();
            return Drawn::Nothing;
        }
        let over = state.in_flight.claimed.is_empty() || state.patient;
        if state.phase == Phase::Disabled && over {
            return Drawn::Closed(Closed::Disabled);
        }
        if served.profile.voice == Voice::Sender && state.in_flight.claimed.is_empty() {
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
        let redelivery = match state.taps.manner(drawer.tap).map(|manner| manner.redelivery) {
            Some(Redelivery::After(after)) => Some(after),
            Some(Redelivery::WhenConsumerEnds) | None => None,
        };
        state.in_flight.draws = state.in_flight.draws.next();
        let no = state.in_flight.draws;
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
                redelivery,
                generation: drawer.generation,
                sealed: None,
                ticket: ticket.clone(),
                probe: probe.take(),
                bytes: slot.head.body_len as usize + overhead,
                slot: slot.clone(),
            };
            state.in_flight.claimed.insert(slot.seq(), claimed);
            (slot, jti)
        };
        Draw { no, slots: slots.into_iter().map(enter).collect() }
    }
}
