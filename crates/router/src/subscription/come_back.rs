//! The return of leases to their lanes: untried, failed, or unreadable.

use std::{sync::Arc, time::Duration};

use setgate_delivery::{Cause, Class};
use setgate_set::Timestamp;
use setgate_store::Kind;

use super::{State, Subscription, parts::Leased};
use crate::{backoff::pause, number::LeaseNo, shared::Shared, slot::Slot};

impl Subscription {
    /// Takes back leases that were not handed over, as if they had never been made.
    pub(crate) fn hand_back(self: &Arc<Self>, sets: &[LeaseNo]) {
        let mut state = self.state.lock();
        self.take_back(&mut state, sets);
        self.wake(&mut state);
    }

    pub(super) fn take_back(&self, state: &mut State, sets: &[LeaseNo]) {
        let now = self.shared.runtime.clock.monotonic();
        for lease in sets {
            if state.in_flight.lease(*lease).is_some_and(|leased| leased.handed.is_none())
                && let Some(leased) = state.end_lease_if(*lease)
            {
                state.breaker.unknown(now);
                self.come_back(state, leased, None);
            }
        }
    }

    /// Puts a lease back in its place, and with it everything that was fetched behind it: nothing later may arrive
    /// first.
    pub(super) fn come_back(&self, state: &mut State, leased: Leased, due: Option<Duration>) {
        let slot = self.keep_sealed(leased);
        if slot.head.kind == Kind::Control {
            state.control.busy = false;
            state.control.queue.push_front(slot);
            return;
        }
        for seq in state.lanes.put_back(slot, due) {
            if let Some(mut behind) = state.end_lease(seq) {
                if behind.handed.is_some() {
                    behind.slot.attempts = behind.attempt.0;
                }
                if let Some(settled) = &mut state.scan.settled_meanwhile {
                    settled.insert(seq);
                }
                let slot = self.keep_sealed(behind);
                state.lanes.put_back(slot, None);
            }
        }
    }

    /// Keeps the token of a SET that comes back, so that a repeat is not signed again.
    fn keep_sealed(&self, leased: Leased) -> Slot {
        let Leased { mut slot, jti, sealed, .. } = leased;
        if let Some((generation, sealed)) = sealed {
            // The token keeps the generation in which it was sealed, not the present one: a key may have been revoked
            // while it was handed over.
            self.shared.cache.keep(jti, generation, sealed);
            slot.sealed_before = true;
        }
        slot
    }

    /// Takes back a whole batch whose sealing or reading failed; the channel then waits.
    pub(crate) fn fetch_failed(self: &Arc<Self>, sets: &[LeaseNo], cause: Cause) {
        let now = self.shared.runtime.clock.monotonic();
        let wall = Timestamp::from_millis(self.shared.runtime.clock.wall_millis());
        tracing::warn!(stream = %self.served.load().stream.id, cause = %cause, "cannot prepare SETs");
        {
            let mut state = self.state.lock();
            let Shared { config, runtime, .. } = &*self.shared;
            // The fault comes before the SETs go back: a probe that comes back untried would let the next one through
            // at once.
            state.breaker.fault(now, Class::Transient, |failures| pause(config, &*runtime.random, failures));
            state.shown.last_error = Some((wall, cause));
        }
        self.hand_back(sets);
    }

    /// Puts back a fetched SET that exists and cannot be read: it waits until the store is repaired, its subject with
    /// it, and nothing else does.
    pub(crate) fn cannot_read(self: &Arc<Self>, lease: LeaseNo, cause: &Cause) {
        let (now, wall) = self.times();
        let mut state = self.state.lock();
        let Some(leased) = state.end_lease_if(lease) else { return };
        tracing::error!(
            stream = %self.served.load().stream.id, cause = %cause,
            "a SET cannot be read and waits: stop the gateway and run `setgate store check`"
        );
        // The SET may have been the probe, so another one may leave.
        state.breaker.unknown(now);
        state.shown.last_error = Some((wall, cause.clone()));
        let due = now + self.shared.config.backoff_max;
        self.come_back(&mut state, leased, Some(due));
        self.wake(&mut state);
    }
}
