//! The lease of SETs to a consumer: those that may leave now, within the windows of its channel.

use std::{sync::Arc, task::Context, time::Duration};

use setgate_delivery::{Attempt, Closed, Initiator, Order, Redelivery, Want, Window};

use super::{Fetched, FetchedBatch, Phase, Served, State, Subscription, consumers::For, parts::Leased};
use crate::{
    endpoint::{NotNow, Probe},
    number::{ConsumerNo, Generation},
    slot::Slot,
    window::{Reservation, Waiter},
};

/// The consumer that fetches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeaseHolder {
    pub(crate) consumer: ConsumerNo,
    /// The unit in which its hand-over can fail.
    pub(crate) order: Order,
    /// The generation in which it was opened; the consumer ends when method or endpoint change.
    pub(crate) generation: Generation,
}

/// A consumer that asks for SETs, with the configuration in force and the time.
struct Asking<'a> {
    holder: LeaseHolder,
    want: &'a Want,
    served: Arc<Served>,
    now: Duration,
}

impl Subscription {
    /// Leases to a consumer what may leave now.
    pub(crate) fn lease(
        self: &Arc<Self>,
        holder: LeaseHolder,
        want: &Want,
        waiter: &mut Waiter,
        cx: &mut Context<'_>,
    ) -> Fetched {
        let consumer = holder.consumer;
        let now = self.shared.runtime.clock.monotonic();
        let asking = Asking { holder, want, served: self.served.load_full(), now };
        let mut state = self.state.lock();
        if holder.generation != asking.served.generation {
            return Fetched::Closed(Closed::Reconfigured);
        }
        if let Phase::Ending(closed) = &state.phase {
            return Fetched::Closed(closed.clone());
        }
        let had_chance = state.consumers.use_chance(consumer);
        if want.sets == 0 {
            return self.await_end(&mut state, consumer, had_chance, cx);
        }
        state.consumers.wait(consumer, For::Sets, cx.waker());
        if self.shared.is_halted() || state.in_flight.late > 0 {
            return Fetched::Nothing;
        }
        state.lanes.wake(now);
        if let Some(slot) = state.next_control(now) {
            return self.lease_control(&mut state, slot, asking, cx);
        }
        let open = state.phase == Phase::Open;
        let allowance = if open { state.allowance(now) } else { 0 };
        if allowance == 0 || !state.lanes.has_ready() && !state.lanes.has_held(consumer) {
            if open && state.lanes.has_ready() {
                state.breaker.limited();
            }
            if allowance == 0 && state.would_fetch(now) {
                return self.refused(&mut state, &asking, cx);
            }
            return Self::close_or_wait(&mut state, &asking);
        }
        if let Some(until) = state.lingers(now, Some(consumer), want.sets, want.bytes) {
            // The channel of a sender is run again when the time has come.
            self.look_again(&mut state, until);
            return Self::close_or_wait(&mut state, &asking);
        }
        self.lease_lanes(&mut state, allowance, asking, waiter, cx)
    }

    /// Lets the consumer, which asks for nothing, wait for the end of the stream.
    fn await_end(
        self: &Arc<Self>,
        state: &mut State,
        consumer: ConsumerNo,
        had_chance: bool,
        cx: &Context<'_>,
    ) -> Fetched {
        state.consumers.wait(consumer, For::End, cx.waker());
        if state.phase == Phase::Disabled {
            return Fetched::Closed(Closed::Disabled);
        }
        if had_chance {
            // Another consumer may have room.
            self.wake(state);
        }
        Fetched::Nothing
    }

    /// Leases one control SET, which leaves alone and before all others.
    fn lease_control(self: &Arc<Self>, state: &mut State, slot: Slot, asking: Asking<'_>, cx: &Context<'_>) -> Fetched {
        state.consumers.took(asking.holder.consumer);
        let probe = match state.leaves(asking.now) {
            Ok(probe) => probe,
            Err(NotNow) => {
                state.control.queue.push_front(slot);
                return self.refused(state, &asking, cx);
            }
        };
        let batch = self.enter(state, vec![slot], asking.holder, &Arc::default(), probe);
        state.control.busy = true;
        state.breaker.left();
        self.wake(state);
        Fetched::Slots(batch, asking.served)
    }

    /// Leases what the lanes have ready, as much as want, method, windows and breaker allow.
    fn lease_lanes(
        self: &Arc<Self>,
        state: &mut State,
        allowance: usize,
        asking: Asking<'_>,
        waiter: &mut Waiter,
        cx: &mut Context<'_>,
    ) -> Fetched {
        let Asking { holder, want, served, now } = &asking;
        let limits = served.profile.limits;
        let windows: Vec<_> = served.profile.windows.iter().chain([&self.own_window]).cloned().collect();
        let room = windows.iter().map(|window| window.core().room()).min().unwrap_or(usize::MAX);
        if room == 0 {
            waiter.wait(&windows, cx);
            return Fetched::Nothing;
        }
        let most = [want.sets, limits.sets, room, allowance, served.seal.quantum()].into_iter().min().unwrap_or(1);
        if most == allowance {
            state.breaker.limited();
        }
        let bytes = want.bytes.min(limits.bytes);
        let (mut slots, again) = state.lanes.fetch(holder.consumer, holder.order, most, bytes, limits.overhead);
        if let Some(again) = again {
            state.rewind(again);
        }
        let Some(reservation) = take_room(state, &windows, &mut slots, limits.overhead, waiter, cx) else {
            return Fetched::Nothing;
        };
        let Ok(probe) = state.leaves(*now) else {
            for slot in slots.into_iter().rev() {
                reservation.give(slot.head.body_len as usize + limits.overhead);
                state.lanes.put_back(slot, None);
            }
            return self.refused(state, &asking, cx);
        };
        state.consumers.took(holder.consumer);
        state.breaker.left();
        let batch = self.enter(state, slots, *holder, &reservation, probe);
        // Others may take what is left, and there is room for more.
        self.wake(state);
        Fetched::Slots(batch, asking.served)
    }

    /// Handles a shared endpoint that is held, or another's probe that came first: the consumer waits, or its channel
    /// is run again later.
    fn refused(self: &Arc<Self>, state: &mut State, asking: &Asking<'_>, cx: &Context<'_>) -> Fetched {
        if !self.is_refused(state, asking.now) {
            // The endpoint is healthy by now.
            cx.waker().wake_by_ref();
            return Fetched::Nothing;
        }
        Self::close_or_wait(state, asking)
    }

    /// Ends a call that has nothing to lease: a disabled stream closes the consumer, a sender with nothing out ends,
    /// others wait.
    fn close_or_wait(state: &mut State, asking: &Asking<'_>) -> Fetched {
        let none_out = state.in_flight.leased.is_empty();
        if state.phase == Phase::Disabled && (none_out || state.patient) {
            return Fetched::Closed(Closed::Disabled);
        }
        if asking.served.profile.initiator == Initiator::Gateway && none_out {
            state.consumers.took(asking.holder.consumer);
            return Fetched::Closed(Closed::Idle);
        }
        Fetched::Nothing
    }

    /// Returns whether a consumer fetches one batch ahead: where the pool seals for a sender, so that no other consumer
    /// waits for the same SETs.
    pub(crate) fn prefetches(&self) -> bool {
        let served = self.served.load();
        served.profile.initiator == Initiator::Gateway && served.seal.is_slow(&self.shared.pool)
    }

    /// Enters fetched SETs as leases of one batch. `probe` is the right to let one SET leave where the endpoint is
    /// held.
    fn enter(
        &self,
        state: &mut State,
        slots: Vec<Slot>,
        holder: LeaseHolder,
        reservation: &Arc<Reservation>,
        mut probe: Option<Probe>,
    ) -> FetchedBatch {
        let names = self.shared.store.names();
        let overhead = self.served.load().profile.limits.overhead;
        let redelivery = match state.consumers.mode(holder.consumer).map(|mode| mode.redelivery) {
            Some(Redelivery::After(after)) => Some(after),
            Some(Redelivery::WhenConsumerEnds) | None => None,
        };
        state.in_flight.batches = state.in_flight.batches.next();
        let no = state.in_flight.batches;
        let alone = slots.len() == 1 || holder.order == Order::PerSet;
        let enter = |slot: Slot| {
            let jti = names.jti(slot.head.at, self.no, slot.head.boot);
            let leased = Leased {
                jti,
                attempt: Attempt(slot.attempts + 1),
                consumer: holder.consumer,
                batch: no,
                order: holder.order,
                alone,
                handed: None,
                reached: false,
                redelivery,
                generation: holder.generation,
                sealed: None,
                reservation: reservation.clone(),
                probe: probe.take(),
                bytes: slot.head.body_len as usize + overhead,
                slot: slot.clone(),
            };
            state.in_flight.leased.insert(slot.seq(), leased);
            (slot, jti)
        };
        FetchedBatch { no, slots: slots.into_iter().map(enter).collect() }
    }
}

/// Takes room in all windows for the fetched SETs, or for as many of them as fit; the others go back. Waits when there
/// is no room for one.
fn take_room(
    state: &mut State,
    windows: &[Window],
    slots: &mut Vec<Slot>,
    overhead: usize,
    waiter: &mut Waiter,
    cx: &mut Context<'_>,
) -> Option<Arc<Reservation>> {
    loop {
        let bytes = slots.iter().map(|slot| slot.head.body_len as usize + overhead).sum();
        let count = slots.len();
        match Reservation::make(windows.to_vec(), count, bytes) {
            Ok(reservation) => return Some(reservation),
            // Half of the SETs may fit: waiting for room for all of them could last as long as others take what comes
            // back.
            Err(_) if count > 1 => {
                for slot in slots.split_off(count / 2).into_iter().rev() {
                    state.lanes.put_back(slot, None);
                }
            }
            Err(full) => {
                for slot in slots.drain(..).rev() {
                    state.lanes.put_back(slot, None);
                }
                waiter.wait_to_fit(&full, count, bytes, cx);
                return None;
            }
        }
    }
}
