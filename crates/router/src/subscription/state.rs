//! The consequences of one stream's state: who may fetch, what waits, and when a time comes.

use std::time::Duration;

use setgate_store::Kind;

use super::{
    Phase, SKIPPED_MOST, State,
    parts::{Leased, Linger},
};
use crate::{
    endpoint::{NotNow, Probe},
    number::{ConsumerNo, LeaseNo},
    slot::Slot,
};

/// The time after which an absence that led to no pause is reported again.
const ABSENCE_AGAIN: Duration = Duration::from_secs(10);

impl State {
    /// Returns how many SETs may leave now, as far as channel and endpoint are known to be healthy.
    pub(super) fn allowance(&self, now: Duration) -> usize {
        let shared = self.endpoint.as_ref().map_or(usize::MAX, |endpoint| endpoint.allowance(now, self.no));
        shared.min(self.breaker.allowance(now, self.in_flight.count()))
    }

    /// Returns whether the shared endpoint, if there is one, is not held.
    pub(crate) fn is_endpoint_open(&self) -> bool {
        self.endpoint.as_ref().is_none_or(|endpoint| endpoint.is_open())
    }

    /// Returns whether this SET may leave although its endpoint may be held.
    pub(crate) fn lets_pass(&self, leased: &Leased) -> bool {
        self.endpoint.as_ref().is_none_or(|endpoint| endpoint.lets_pass(leased.probe.as_ref()))
    }

    /// Notes that the shared endpoint acknowledged a SET.
    pub(super) fn endpoint_took(&self) {
        if let Some(endpoint) = &self.endpoint {
            endpoint.took();
        }
    }

    /// Notes that a SET failed as if its channel had. Returns whether this SET alone is the reason nevertheless.
    pub(super) fn is_this_set(&mut self, leased: &mut Leased) -> bool {
        let alone = leased.alone;
        leased.slot.troubles().failed_with_channel(&mut self.streaks.fared, alone)
    }

    /// Asks to let SETs leave now; returns the right to be a probe where only one may.
    pub(super) fn leaves(&self, now: Duration) -> Result<Option<Probe>, NotNow> {
        self.endpoint.as_ref().map_or(Ok(None), |endpoint| endpoint.leave(now, self.no))
    }

    pub(super) fn fetchable(&self, now: Duration) -> bool {
        self.would_fetch(now) && self.allowance(now) > 0
    }

    /// Returns whether something may leave now, apart from the shared endpoint.
    pub(super) fn would_fetch(&self, now: Duration) -> bool {
        let waits = match self.phase {
            Phase::Ending(_) => false,
            Phase::Open => self.control_waits() || self.lanes.has_ready(),
            Phase::Paused | Phase::Disabled => self.control_waits(),
        };
        waits && self.breaker.allowance(now, self.in_flight.count()) > 0
    }

    pub(super) fn control_waits(&self) -> bool {
        !self.control.queue.is_empty() && !self.control.busy
    }

    /// Returns the time until which the ready SETs wait for others to leave with them, for this consumer or for any.
    /// Neither a retry nor a probe waits.
    pub(super) fn lingers(
        &mut self,
        now: Duration,
        consumer: Option<ConsumerNo>,
        sets: usize,
        bytes: usize,
    ) -> Option<Duration> {
        let Linger { wait, order, limits } = self.linger;
        if wait.is_zero() {
            return None;
        }
        let until = self.lanes.ready_since(consumer)? + wait;
        if until <= now {
            return None;
        }
        let order = consumer.and_then(|consumer| self.consumers.mode(consumer)).map_or(order, |mode| mode.order);
        let sets = sets.min(limits.sets).min(self.allowance(now));
        (!self.lanes.is_enough(consumer, order, sets, bytes.min(limits.bytes), limits.overhead)).then_some(until)
    }

    /// Returns the time at which the receiver will have stayed away for longer than it may.
    pub(super) fn abandoned_at(&self) -> Option<Duration> {
        if self.phase != Phase::Open { None } else { self.presence.over_at() }
    }

    /// Returns the time at which to report that the receiver stays away: not without a break where the pause does not
    /// succeed.
    pub(super) fn absent_at(&self) -> Option<Duration> {
        let at = self.abandoned_at()?;
        Some(self.presence.absence_logged.map_or(at, |logged| at.max(logged + ABSENCE_AGAIN)))
    }

    /// Returns the next time at which something is due that is not due yet.
    pub(super) fn next_time(&self, now: Duration) -> Option<Duration> {
        let redeliveries = self.in_flight.redeliveries.first().map(|(at, _)| *at);
        // An open breaker whose time has come waits only for what is in flight.
        let opens = self.breaker.opens_at().filter(|at| *at > now);
        [self.lanes.next_due(), redeliveries, opens, self.absent_at()].into_iter().flatten().min()
    }

    pub(super) fn wants_scan(&self) -> bool {
        let behind = self.scan.seen > self.scan.upto || self.scan.rewind.is_some();
        // When everything that stands in lanes waits for its time, other SETs may be due before it. The same holds
        // where a receiver takes its time with what it fetched.
        let out = self.in_flight.count() == 0 || self.patient;
        let stuck = !self.lanes.has_ready() && out && self.lanes.queued() < SKIPPED_MOST;
        let room = self.lanes.queued() <= self.lanes.room() || stuck;
        behind && room && self.phase == Phase::Open && self.lanes.skipped() < SKIPPED_MOST
    }

    pub(super) fn knows_control(&self, seq: u64) -> bool {
        self.in_flight.leased.contains_key(&seq) || self.control.queue.iter().any(|slot| slot.seq() == seq)
    }

    /// Returns whether nothing that is owed waits in the store for its place: a new SET may then go to its lane without
    /// overtaking it.
    pub(super) fn is_caught_up(&self) -> bool {
        self.scan.upto >= self.scan.seen && !self.scan.reading && self.scan.rewind.is_none()
    }

    pub(super) fn caught_up_to(&mut self, seq: u64) {
        if self.is_caught_up() {
            self.scan.upto = self.scan.upto.max(seq);
        }
        self.scan.seen = self.scan.seen.max(seq);
    }

    pub(super) fn next_control(&mut self, now: Duration) -> Option<Slot> {
        if self.control.busy || self.allowance(now) == 0 {
            return None;
        }
        self.control.queue.pop_front()
    }

    /// Lets the lane of a SET that has ended go on.
    pub(super) fn finish(&mut self, slot: &Slot) {
        if slot.head.kind == Kind::Control {
            self.control.busy = false;
        } else if let Some(again) = self.lanes.settled(slot.head.order, slot.seq()) {
            self.rewind(again);
        }
    }

    /// Ends this lease, unless it has ended or come back meanwhile.
    pub(super) fn end_lease_if(&mut self, lease: LeaseNo) -> Option<Leased> {
        self.in_flight.lease(lease)?;
        self.end_lease(lease.seq)
    }

    /// Ends a lease that is settled or comes back, and gives its room back.
    pub(super) fn end_lease(&mut self, seq: u64) -> Option<Leased> {
        let leased = self.in_flight.leased.remove(&seq)?;
        match &mut self.in_flight.returned {
            Some(returned) => returned.add(&leased.reservation, leased.bytes),
            None => leased.reservation.give(leased.bytes),
        }
        if let Some(at) = leased.redelivery_at() {
            self.in_flight.redeliveries.remove(&(at, seq));
        }
        if leased.handed.is_some() {
            self.in_flight.handed -= 1;
            self.in_flight.reached -= usize::from(leased.reached);
            self.consumers.came_back(leased.consumer);
        }
        Some(leased)
    }

    /// Returns whether nothing is out and nothing is left over of what was.
    #[cfg(test)]
    pub(crate) fn is_at_rest(&self) -> bool {
        self.in_flight.handed == 0
            && self.in_flight.redeliveries.is_empty()
            && self.in_flight.ending.is_empty()
            && !self.control.busy
    }

    pub(super) fn rewind(&mut self, to: u64) {
        let to = to.saturating_sub(1);
        self.scan.rewind = Some(self.scan.rewind.map_or(to, |other| other.min(to)));
    }
}
