//! The lanes of one stream: who may leave now, in which order.
//!
//! A lane is the queue of one order key. Lanes hold the *ready set*; what is owed beyond it stays a bit in the store
//! until there is room. Pure: no clock, no lock, no I/O.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    time::Duration,
};

use delivery::Order;
use set::{OrderKey, Timestamp};
use store::Head;

/// An owed SET that stands in a lane or is drawn.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) head: Head,
    /// Attempts made.
    pub(crate) attempts: u32,
    /// When the first of them failed.
    pub(crate) first_failed: Option<Timestamp>,
    /// Failures of this SET alone, each with a success of another SET since the one before.
    pub(crate) lone_failures: u32,
    /// The stream's count of successes at the last of them.
    pub(crate) successes_then: u64,
}

impl Slot {
    pub(crate) fn new(head: Head) -> Self {
        Self { head, attempts: 0, first_failed: None, lone_failures: 0, successes_then: 0 }
    }

    pub(crate) fn seq(&self) -> u64 {
        self.head.at.seq
    }
}

#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<Slot>,
    /// Drawn and not settled.
    busy: usize,
    /// Not before then.
    waits: Option<Duration>,
    /// Stands in `ready`.
    listed: bool,
    /// The first SET of this key that was passed over because the ready set was full.
    missed: Option<u64>,
}

/// What [`Lanes::offer`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It stands in its lane.
    Taken,
    /// Its key is blocked and the ready set full: a bit remembers it.
    PassedOver,
    /// It stands there already.
    Known,
}

/// The lanes of one stream.
#[derive(Debug)]
pub(crate) struct Lanes {
    order: Order,
    most: usize,
    lanes: HashMap<OrderKey, Lane>,
    ready: VecDeque<OrderKey>,
    timers: BinaryHeap<Reverse<(Duration, OrderKey)>>,
    stopped: HashSet<OrderKey>,
    queued: usize,
    passed_over: usize,
}

impl Lanes {
    pub(crate) fn new(order: Order, most: usize) -> Self {
        Self {
            order,
            most: most.max(1),
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            timers: BinaryHeap::new(),
            stopped: HashSet::new(),
            queued: 0,
            passed_over: 0,
        }
    }

    /// Changes how many SETs may stand here; those that do stay.
    pub(crate) fn set_most(&mut self, most: usize) {
        self.most = most.max(1);
    }

    pub(crate) fn set_order(&mut self, order: Order) {
        self.order = order;
    }

    /// SETs that stand in lanes.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// Room in the ready set.
    pub(crate) fn room(&self) -> usize {
        self.most.saturating_sub(self.queued)
    }

    /// Whether something may leave now.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// SETs passed over because their key is blocked.
    pub(crate) fn passed_over(&self) -> usize {
        self.passed_over
    }

    /// When the next waiting lane is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Places an owed SET at the end of its lane. SETs must be offered in the order of the ledger.
    pub(crate) fn offer(&mut self, slot: Slot, due: Option<Duration>) -> Offered {
        let (key, seq) = (slot.head.order, slot.seq());
        let lane = self.lanes.entry(key).or_default();
        if lane.queue.back().is_some_and(|last| last.seq() >= seq) {
            let known = lane.queue.binary_search_by_key(&seq, Slot::seq).is_ok();
            return if known { Offered::Known } else { Offered::PassedOver };
        }
        let blocked = lane.busy > 0 || lane.waits.is_some() || !lane.queue.is_empty();
        if lane.missed.is_some() || (blocked && self.queued >= self.most) {
            lane.missed = Some(lane.missed.map_or(seq, |first| first.min(seq)));
            self.passed_over += 1;
            return Offered::PassedOver;
        }
        if let (Some(due), true) = (due, lane.queue.is_empty() && lane.busy == 0) {
            lane.waits = Some(due);
            self.timers.push(Reverse((due, key)));
        }
        lane.queue.push_back(slot);
        self.queued += 1;
        self.list(key);
        Offered::Taken
    }

    /// Takes up to `most` SETs that may leave now, with at most `bytes` of bodies (at least one SET).
    pub(crate) fn draw(&mut self, most: usize, bytes: usize, overhead: usize) -> Vec<Slot> {
        let mut drawn = Vec::new();
        let mut total = 0usize;
        let mut full = false;
        while drawn.len() < most && !full {
            let Some(key) = self.ready.pop_front() else { break };
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            lane.listed = false;
            let mut taken = 0usize;
            while drawn.len() < most && (taken == 0 || self.order != Order::PerSet) {
                let Some(next) = lane.queue.front() else { break };
                let size = next.head.body_len as usize + overhead;
                if !drawn.is_empty() && total + size > bytes {
                    full = true;
                    break;
                }
                total += size;
                drawn.extend(lane.queue.pop_front());
                taken += 1;
            }
            lane.busy += taken;
            self.queued -= taken;
            if taken == 0 && full {
                // This lane is first next time.
                lane.listed = true;
                self.ready.push_front(key);
            }
        }
        drawn
    }

    /// A drawn SET comes back to its place; it leaves again when `due` has come.
    ///
    /// Whatever of its key was drawn behind it comes back too, in the caller's loop: the queue is kept in ledger order.
    pub(crate) fn put_back(&mut self, slot: Slot, due: Option<Duration>) {
        let key = slot.head.order;
        let lane = self.lanes.entry(key).or_default();
        lane.busy = lane.busy.saturating_sub(1);
        let place = lane.queue.partition_point(|other| other.seq() < slot.seq());
        lane.queue.insert(place, slot);
        self.queued += 1;
        if let Some(due) = due {
            lane.waits = Some(lane.waits.map_or(due, |other| other.max(due)));
            self.timers.push(Reverse((due, key)));
        }
        self.list(key);
    }

    /// A drawn SET is settled. Returns the first SET of its key that was passed over, when the lane has run empty: scan again from there.
    pub(crate) fn settled(&mut self, key: OrderKey) -> Option<u64> {
        let lane = self.lanes.get_mut(&key)?;
        lane.busy = lane.busy.saturating_sub(1);
        if lane.busy == 0 && lane.queue.is_empty() {
            let missed = self.lanes.remove(&key).and_then(|lane| lane.missed);
            return self.found_again(missed);
        }
        self.list(key);
        None
    }

    /// Takes a SET that is not drawn out of its lane: it was acknowledged late. Returns from where to scan again, if anywhere.
    pub(crate) fn withdraw(&mut self, key: OrderKey, seq: u64) -> Option<u64> {
        let lane = self.lanes.get_mut(&key)?;
        let place = lane.queue.binary_search_by_key(&seq, Slot::seq).ok()?;
        lane.queue.remove(place);
        self.queued -= 1;
        if lane.busy > 0 || !lane.queue.is_empty() {
            return None;
        }
        let lane = self.lanes.remove(&key)?;
        if lane.listed {
            // Else the key would stand in line twice when it comes again, and two of its SETs would leave at once.
            self.ready.retain(|other| *other != key);
        }
        self.found_again(lane.missed)
    }

    /// Wakes the lanes whose time has come.
    pub(crate) fn wake(&mut self, now: Duration) {
        while let Some(Reverse((at, key))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            if let Some(lane) = self.lanes.get_mut(&key)
                && lane.waits.is_some_and(|until| until <= now)
            {
                lane.waits = None;
                self.list(key);
            }
        }
    }

    /// Forgets waiting times: everything may be tried at once (a stream was resumed).
    pub(crate) fn hurry(&mut self) {
        let waiting: Vec<_> = self.timers.drain().map(|Reverse((_, key))| key).collect();
        for key in waiting {
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.waits = None;
                self.list(key);
            }
        }
    }

    /// Makes room when everything that stands here waits for its time or is stopped: only the first SET of each such key keeps
    /// its slot.
    pub(crate) fn squeeze(&mut self) {
        for (key, lane) in &mut self.lanes {
            if (lane.waits.is_some() || self.stopped.contains(key)) && lane.queue.len() > 1 {
                let gone = lane.queue.len() - 1;
                let first_gone = lane.queue.get(1).map(Slot::seq);
                lane.queue.truncate(1);
                self.queued -= gone;
                self.passed_over += gone;
                lane.missed = match (lane.missed, first_gone) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
            }
        }
    }

    /// Stops a key until [`Lanes::go_on`] (`on_refusal = stop_key`).
    pub(crate) fn stop(&mut self, key: OrderKey) {
        self.stopped.insert(key);
        if let Some(lane) = self.lanes.get_mut(&key)
            && std::mem::take(&mut lane.listed)
        {
            self.ready.retain(|other| *other != key);
        }
    }

    /// Lets a stopped key go on.
    pub(crate) fn go_on(&mut self, key: OrderKey) {
        if self.stopped.remove(&key) {
            self.list(key);
        }
    }

    /// Forgets SETs before `below` that are not drawn: they were dropped by a limit. Returns from where to scan again, if anywhere.
    pub(crate) fn forget_below(&mut self, below: u64) -> Option<u64> {
        let (mut gone, mut again) = (0, None::<u64>);
        self.lanes.retain(|_, lane| {
            let keep_from = lane.queue.partition_point(|slot| slot.seq() < below);
            gone += keep_from;
            lane.queue.drain(..keep_from);
            if lane.busy > 0 || !lane.queue.is_empty() {
                return true;
            }
            again = match (again, lane.missed) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            false
        });
        self.queued -= gone;
        self.ready.retain(|key| self.lanes.contains_key(key));
        self.found_again(again)
    }

    /// Everything passed over from `missed` on is found again by the scan.
    fn found_again(&mut self, missed: Option<u64>) -> Option<u64> {
        if missed.is_some() {
            self.passed_over = 0;
        }
        missed
    }

    /// Forgets everything that is not drawn; the scan finds it again.
    pub(crate) fn forget_all(&mut self) {
        self.lanes.retain(|_, lane| {
            lane.queue.clear();
            lane.missed = None;
            lane.waits = None;
            lane.listed = false;
            lane.busy > 0
        });
        self.ready.clear();
        self.timers.clear();
        self.queued = 0;
        self.passed_over = 0;
    }

    fn list(&mut self, key: OrderKey) {
        let Some(lane) = self.lanes.get_mut(&key) else { return };
        if !lane.listed
            && lane.busy == 0
            && lane.waits.is_none()
            && !lane.queue.is_empty()
            && !self.stopped.contains(&key)
        {
            lane.listed = true;
            self.ready.push_back(key);
        }
    }
}

#[cfg(test)]
mod tests;
