//! The lanes of one stream: which SETs may leave now, and in which order.
//!
//! A lane is the queue of one order key. Lanes hold the *ready set*; what is owed beyond it stays a bit in the store
//! until there is room. The module is pure: no clock, no lock, no I/O.

mod fetch;
mod out;
mod waits;

use std::{collections::VecDeque, time::Duration};

use setgate_delivery::Order;
use setgate_set::OrderKey;

use self::{out::Out, waits::Waits};
use crate::{hash::Map, number::ConsumerNo, slot::Slot};

/// The consumers that may fetch from a listed lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Listed {
    /// The lane is not listed: it is empty, waiting or stopped, or its SETs are out.
    #[default]
    No,
    /// Any consumer.
    Free,
    /// The consumer that holds the SETs that are out of it.
    Held,
}

#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<Slot>,
    /// SETs that are fetched and not settled.
    out: Out,
    /// The consumer that holds everything that is out and may take more.
    holder: ConsumerNo,
    /// The time before which nothing leaves, if the lane waits.
    waits: Option<Duration>,
    listed: Listed,
    /// The time since which it is listed; zero when its first SET was tried before.
    since: Duration,
    /// The first SET of this key that was skipped because the ready set was full.
    missed: Option<u64>,
}

impl Lane {
    /// Returns whether the lane waits only for the SET that was its first until now.
    fn waits_for_nobody(&self) -> bool {
        self.waits.is_some() && self.queue.front().is_none_or(|next| next.attempts == 0)
    }
}

/// The result of [`Lanes::offer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// The SET stands in its lane.
    Taken,
    /// The key is blocked and the ready set full: a bit remembers the SET.
    PassedOver,
    /// The SET stands in its lane already.
    Known,
}

/// The lanes of one stream.
#[derive(Debug)]
pub(crate) struct Lanes {
    most: usize,
    lanes: Map<OrderKey, Lane>,
    /// Free lanes in the order in which they became ready; an entry whose lane is no longer listed as free is void.
    ready: VecDeque<OrderKey>,
    /// The number of lanes listed as free.
    free: usize,
    /// Lanes that a consumer holds, kept in the same way, by consumer.
    held: Map<ConsumerNo, VecDeque<OrderKey>>,
    /// True when a free lane is next: held and free lanes are fetched in turn.
    free_next: bool,
    waits: Waits,
    /// Stopped keys, each with the number of its stop, which only grows, and the SET that stopped it.
    stopped: Map<OrderKey, (u64, u64)>,
    stops: u64,
    queued: usize,
    skipped: usize,
    /// The time as last set by a caller.
    now: Duration,
    /// The number of listed lanes whose first SET was tried before.
    retries: usize,
}

impl Lanes {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            lanes: Map::default(),
            ready: VecDeque::new(),
            free: 0,
            held: Map::default(),
            free_next: false,
            waits: Waits::default(),
            stopped: Map::default(),
            stops: 0,
            queued: 0,
            skipped: 0,
            now: Duration::ZERO,
            retries: 0,
        }
    }

    /// Bytes of an empty lane.
    #[cfg(test)]
    pub(crate) const LANE: usize = size_of::<(OrderKey, Lane)>();

    /// Sets the time: lanes that become ready later count as ready since then.
    pub(crate) fn tell(&mut self, now: Duration) {
        self.now = now;
    }

    /// Returns the time since which the oldest SET stands ready that this consumer may take, or that any consumer may
    /// take; zero when one was tried before.
    pub(crate) fn ready_since(&mut self, consumer: Option<ConsumerNo>) -> Option<Duration> {
        if self.retries > 0 {
            return Some(Duration::ZERO);
        }
        while let Some(key) = self.ready.front() {
            if self.lanes.get(key).is_some_and(|lane| lane.listed == Listed::Free) {
                break;
            }
            self.ready.pop_front();
        }
        let held =
            consumer.filter(|consumer| self.has_held(*consumer)).and_then(|consumer| self.held.get(&consumer)?.front());
        let fronts = [self.ready.front(), held];
        fronts.into_iter().flatten().filter_map(|key| self.lanes.get(key)).map(|lane| lane.since).min()
    }

    /// Returns whether this many SETs or bytes stand ready, for this consumer or for any.
    pub(crate) fn is_enough(
        &self,
        consumer: Option<ConsumerNo>,
        order: Order,
        sets: usize,
        bytes: usize,
        overhead: usize,
    ) -> bool {
        if self.queued < sets && bytes == usize::MAX {
            return false;
        }
        let held = consumer.and_then(|consumer| self.held.get(&consumer));
        let (mut count, mut size) = (0, 0);
        for (key, listed) in self
            .ready
            .iter()
            .map(|key| (key, Listed::Free))
            .chain(held.into_iter().flatten().map(|key| (key, Listed::Held)))
        {
            let Some(lane) = self.lanes.get(key).filter(|lane| lane.listed == listed) else { continue };
            let most = if order == Order::PerSet { 1 } else { usize::MAX };
            for slot in lane.queue.iter().take(most) {
                count += 1;
                size += slot.head.body_len as usize + overhead;
                if count >= sets || size >= bytes {
                    return true;
                }
            }
        }
        false
    }

    /// Sets the most SETs that may stand here; those that do stay.
    pub(crate) fn set_most(&mut self, most: usize) {
        self.most = most.max(1);
    }

    /// Returns the number of SETs that stand in lanes.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// Returns the room in the ready set.
    pub(crate) fn room(&self) -> usize {
        self.most.saturating_sub(self.queued)
    }

    /// Returns whether something may leave now by any consumer.
    pub(crate) fn has_ready(&self) -> bool {
        self.free > 0
    }

    /// Returns whether something may leave now by this consumer alone: the next SETs of keys whose earlier ones it
    /// holds.
    pub(crate) fn has_held(&mut self, consumer: ConsumerNo) -> bool {
        let Some(held) = self.held.get_mut(&consumer) else { return false };
        while let Some(key) = held.front() {
            if self.lanes.get(key).is_some_and(|lane| lane.listed == Listed::Held && lane.holder == consumer) {
                return true;
            }
            held.pop_front();
        }
        false
    }

    /// Returns the consumers for which something may leave that no other may take.
    pub(crate) fn holders(&mut self) -> Vec<ConsumerNo> {
        let consumers: Vec<ConsumerNo> =
            self.held.iter().filter(|(_, held)| !held.is_empty()).map(|(consumer, _)| *consumer).collect();
        consumers.into_iter().filter(|consumer| self.has_held(*consumer)).collect()
    }

    /// Notes that a consumer is gone: what it holds waits for its end, or comes back.
    pub(crate) fn consumer_gone(&mut self, consumer: ConsumerNo) {
        self.held.remove(&consumer);
    }

    /// Returns the number of SETs that were skipped because their key is blocked.
    pub(crate) fn skipped(&self) -> usize {
        self.skipped
    }

    /// Returns the time at which the next waiting lane is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.waits.0.first().map(|(at, _)| *at)
    }

    /// Places an owed SET at the end of its lane. SETs must be offered in the order of the ledger.
    pub(crate) fn offer(&mut self, slot: Slot, due: Option<Duration>) -> Offered {
        let (key, seq) = (slot.head.order, slot.seq());
        let lane = self.lanes.entry(key).or_default();
        if lane.queue.back().is_some_and(|last| last.seq() >= seq) {
            let known = lane.queue.binary_search_by_key(&seq, Slot::seq).is_ok();
            return if known { Offered::Known } else { Offered::PassedOver };
        }
        let blocked = !lane.out.is_empty() || lane.waits.is_some() || !lane.queue.is_empty();
        if lane.missed.is_some() || (blocked && self.queued >= self.most) {
            lane.missed = Some(lane.missed.map_or(seq, |first| first.min(seq)));
            self.skipped += 1;
            return Offered::PassedOver;
        }
        if let (Some(due), true) = (due, lane.queue.is_empty() && lane.out.is_empty()) {
            self.waits.set(key, lane, Some(due));
        }
        if lane.queue.capacity() == 0 {
            // Most lanes have one SET at a time.
            lane.queue.reserve_exact(1);
        }
        lane.queue.push_back(slot);
        self.queued += 1;
        self.list(key);
        Offered::Taken
    }

    /// Puts a fetched SET back in its place; it leaves again when `due` has come.
    ///
    /// Returns the SETs of its key that were fetched behind it and are still out: they must come back too, since they
    /// may not arrive first.
    pub(crate) fn put_back(&mut self, slot: Slot, due: Option<Duration>) -> Vec<u64> {
        let (key, seq) = (slot.head.order, slot.seq());
        let lane = self.lanes.entry(key).or_default();
        if let Err(place) = lane.queue.binary_search_by_key(&seq, Slot::seq) {
            lane.queue.insert(place, slot);
            self.queued += 1;
        }
        if let Some(due) = due {
            let until = lane.waits.map_or(due, |other| other.max(due));
            self.waits.set(key, lane, Some(until));
        }
        let behind = lane.out.behind(seq).to_vec();
        // The first SET of the lane may be another now.
        self.unlist(key);
        self.came_in(key, seq);
        behind
    }

    /// Notes that a fetched SET is settled. Returns the first SET of its key that was skipped, when the lane has run
    /// empty: the scan starts again there.
    pub(crate) fn settled(&mut self, key: OrderKey, seq: u64) -> Option<u64> {
        self.came_in(key, seq);
        self.remove_if_empty(key)
    }

    /// Notes that a SET is no longer out; when it was the last, its lane is free again.
    fn came_in(&mut self, key: OrderKey, seq: u64) {
        let Some(lane) = self.lanes.get_mut(&key) else { return };
        lane.out.remove(seq);
        if lane.out.is_empty() {
            lane.holder = ConsumerNo::NOBODY;
            if lane.listed == Listed::Held {
                self.unlist(key);
            }
        }
        self.unlist_if_waiting(key);
        self.list(key);
    }

    fn remove_if_empty(&mut self, key: OrderKey) -> Option<u64> {
        let lane = self.lanes.get(&key)?;
        if !lane.out.is_empty() || !lane.queue.is_empty() {
            return None;
        }
        self.unlist(key);
        let missed = self.lanes.remove(&key).and_then(|mut lane| {
            self.waits.set(key, &mut lane, None);
            lane.missed
        });
        self.found_again(missed)
    }

    /// Removes from its lane a SET that is not fetched, since it was acknowledged late. Returns the position from which
    /// to scan again, if any.
    pub(crate) fn withdraw(&mut self, key: OrderKey, seq: u64) -> Option<u64> {
        let lane = self.lanes.get_mut(&key)?;
        let place = lane.queue.binary_search_by_key(&seq, Slot::seq).ok()?;
        lane.queue.remove(place);
        self.queued -= 1;
        if place == 0 && lane.waits_for_nobody() {
            self.waits.set(key, lane, None);
        }
        if lane.queue.is_empty() {
            self.unlist(key);
        }
        self.list(key);
        self.remove_if_empty(key)
    }

    /// Removes a SET from its lane as if it were fetched, and stops the lane until it is settled, since it was refused
    /// late.
    pub(crate) fn remove(&mut self, key: OrderKey, seq: u64) -> Option<Slot> {
        let lane = self.lanes.get_mut(&key)?;
        let place = lane.queue.binary_search_by_key(&seq, Slot::seq).ok()?;
        let slot = lane.queue.remove(place)?;
        if place == 0 && lane.waits_for_nobody() {
            self.waits.set(key, lane, None);
        }
        lane.out.insert(seq);
        self.queued -= 1;
        self.unlist(key);
        self.list(key);
        Some(slot)
    }

    /// Wakes the lanes whose time has come.
    pub(crate) fn wake(&mut self, now: Duration) {
        self.tell(now);
        while let Some((at, key)) = self.waits.0.first().copied()
            && at <= now
        {
            self.waits.0.pop_first();
            self.wait_no_more(key);
        }
    }

    fn wait_no_more(&mut self, key: OrderKey) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            self.waits.set(key, lane, None);
            self.list(key);
        }
    }

    /// Forgets waiting times, so that everything may be tried at once, as when a stream is resumed.
    pub(crate) fn retry_now(&mut self) {
        let waiting: Vec<_> = self.waits.0.iter().map(|(_, key)| *key).collect();
        waiting.into_iter().for_each(|key| self.wait_no_more(key));
    }

    /// Makes room when everything that stands here waits for its time or is stopped: only the first SET of each such
    /// key keeps its slot. With `out` the same applies to keys whose earlier SETs are out, since a receiver may take
    /// its time.
    pub(crate) fn shrink(&mut self, out: bool) {
        for (key, lane) in &mut self.lanes {
            let stands = lane.waits.is_some() || self.stopped.contains_key(key) || out && !lane.out.is_empty();
            if stands && lane.queue.len() > 1 {
                let gone = lane.queue.len() - 1;
                let first_gone = lane.queue.get(1).map(Slot::seq);
                lane.queue.truncate(1);
                self.queued -= gone;
                self.skipped += gone;
                lane.missed = match (lane.missed, first_gone) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
            }
        }
    }

    /// Stops a key for a SET that is parked, until [`Lanes::go_on`] (`on_refusal = stop_key`).
    pub(crate) fn stop(&mut self, key: OrderKey, seq: u64) {
        self.stops += 1;
        self.stopped.insert(key, (self.stops, seq));
        self.unlist(key);
    }

    /// Returns whether a key is stopped.
    pub(crate) fn is_stopped(&self, key: OrderKey) -> bool {
        self.stopped.contains_key(&key)
    }

    /// Returns the stopped keys, each with the number of its stop and the SET that stopped it.
    pub(crate) fn stopped(&self) -> impl Iterator<Item = (OrderKey, u64, u64)> {
        self.stopped.iter().map(|(key, (stop, seq))| (*key, *stop, *seq))
    }

    /// Returns the number of stops made so far.
    pub(crate) fn stops(&self) -> u64 {
        self.stops
    }

    /// Lets a stopped key go on.
    pub(crate) fn go_on(&mut self, key: OrderKey) {
        if self.stopped.remove(&key).is_some() {
            self.list(key);
        }
    }

    /// Forgets SETs before `below` that are not fetched, since a limit dropped them. Returns the position from which to
    /// scan again, if any.
    pub(crate) fn forget_below(&mut self, below: u64) -> Option<u64> {
        let (mut gone, mut again) = (0, None::<u64>);
        let mut go_on = Vec::new();
        self.lanes.retain(|key, lane| {
            let keep_from = lane.queue.partition_point(|slot| slot.seq() < below);
            gone += keep_from;
            lane.queue.drain(..keep_from);
            if keep_from > 0 && lane.waits_for_nobody() {
                self.waits.set(*key, lane, None);
                go_on.push(*key);
            }
            if lane.queue.is_empty() {
                let was = std::mem::take(&mut lane.listed);
                self.free -= usize::from(was == Listed::Free);
                self.retries -= usize::from(was != Listed::No && lane.since.is_zero());
            }
            if !lane.out.is_empty() || !lane.queue.is_empty() {
                return true;
            }
            again = match (again, lane.missed) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            false
        });
        self.queued -= gone;
        go_on.into_iter().for_each(|key| self.list(key));
        self.found_again(again)
    }

    /// Resets the count of skipped SETs when the scan is to start again from `missed`, where it finds them; returns
    /// `missed`.
    fn found_again(&mut self, missed: Option<u64>) -> Option<u64> {
        if missed.is_some() {
            self.skipped = 0;
        }
        missed
    }

    /// Forgets every SET that is not fetched; the scan finds them again.
    pub(crate) fn forget_all(&mut self) {
        self.lanes.retain(|_, lane| {
            lane.queue.clear();
            lane.missed = None;
            lane.waits = None;
            lane.listed = Listed::No;
            !lane.out.is_empty()
        });
        self.ready.clear();
        self.free = 0;
        self.retries = 0;
        self.held.values_mut().for_each(VecDeque::clear);
        self.waits.0.clear();
        self.queued = 0;
        self.skipped = 0;
    }

    fn list(&mut self, key: OrderKey) {
        let Some(lane) = self.lanes.get_mut(&key) else { return };
        if lane.listed != Listed::No || lane.waits.is_some() || lane.queue.is_empty() || self.stopped.contains_key(&key)
        {
            return;
        }
        let retry = lane.queue.front().is_some_and(|first| first.attempts > 0);
        lane.since = if retry { Duration::ZERO } else { self.now.max(Duration::from_nanos(1)) };
        if lane.out.is_empty() {
            lane.listed = Listed::Free;
            self.free += 1;
            self.retries += usize::from(retry);
            if self.ready.len() > 64 + 2 * self.free {
                self.ready.retain(|key| self.lanes.get(key).is_some_and(|lane| lane.listed == Listed::Free));
            }
            self.ready.push_back(key);
        } else if let Some(held) = self.held.get_mut(&lane.holder) {
            lane.listed = Listed::Held;
            self.retries += usize::from(retry);
            held.push_back(key);
        }
    }

    fn unlist(&mut self, key: OrderKey) {
        let Some(lane) = self.lanes.get_mut(&key) else { return };
        let was = std::mem::take(&mut lane.listed);
        self.free -= usize::from(was == Listed::Free);
        self.retries -= usize::from(was != Listed::No && lane.since.is_zero());
    }

    fn unlist_if_waiting(&mut self, key: OrderKey) {
        if self.lanes.get(&key).is_some_and(|lane| lane.waits.is_some()) {
            self.unlist(key);
        }
    }
}

#[cfg(test)]
mod tests;
