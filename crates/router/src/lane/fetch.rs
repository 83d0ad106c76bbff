//! The fetch: chooses the SETs that leave now, lane by lane.

use setgate_delivery::Order;
use setgate_set::OrderKey;

use super::{Lane, Lanes, Listed};
use crate::{number::ConsumerNo, slot::Slot};

/// The SETs that one fetch takes, and the limits on it.
struct Portion {
    slots: Vec<Slot>,
    /// Bytes of `slots`.
    total: usize,
    /// The most SETs.
    most: usize,
    bytes: usize,
    /// Bytes that each SET has beside its body.
    overhead: usize,
    /// True when the next SET did not fit, or must leave alone.
    full: bool,
}

impl Portion {
    fn has_enough(&self) -> bool {
        self.full || self.slots.len() >= self.most
    }
}

impl Lane {
    /// Moves the SETs that may leave together from the front of the lane into the portion; returns their number.
    fn fetch(&mut self, portion: &mut Portion, order: Order) -> usize {
        let mut taken = 0;
        while !portion.has_enough() && (taken == 0 || order != Order::PerSet) {
            let Some(next) = self.queue.front() else { break };
            let size = next.head.body_len as usize + portion.overhead;
            // A SET that may be the reason why others fail with it leaves alone.
            let apart = order != Order::PerSet && next.is_apart();
            portion.full = apart;
            if !portion.slots.is_empty() && (apart || portion.total + size > portion.bytes) {
                portion.full = true;
                break;
            }
            portion.total += size;
            self.out.insert(next.seq());
            portion.slots.extend(self.queue.pop_front());
            taken += 1;
        }
        taken
    }
}

impl Lanes {
    /// Takes for a consumer up to `most` SETs that may leave now, with at most `bytes` of bodies and overhead (at least
    /// one SET).
    ///
    /// `order` decides which SETs of one key may leave together. Also returns the position from which to scan again, if
    /// any: a consumer that holds a key may go on with its skipped SETs.
    pub(crate) fn fetch(
        &mut self,
        consumer: ConsumerNo,
        order: Order,
        most: usize,
        bytes: usize,
        overhead: usize,
    ) -> (Vec<Slot>, Option<u64>) {
        let mut portion = Portion { slots: Vec::new(), total: 0, most, bytes, overhead, full: false };
        let mut again = None;
        while !portion.has_enough() {
            let Some((key, was)) = self.next_lane(consumer) else { break };
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            let taken = lane.fetch(&mut portion, order);
            self.queued -= taken;
            if taken == 0 && !portion.full {
                continue;
            }
            if taken == 0 {
                self.relist_first(key, was, consumer);
            } else if order == Order::PerConsumer {
                lane.holder = consumer;
                self.held.entry(consumer).or_default();
                if lane.queue.is_empty()
                    && let Some(missed) = lane.missed.take()
                {
                    again = Some(again.map_or(missed, |other: u64| other.min(missed)));
                }
                self.list(key);
            }
        }
        (portion.slots, self.found_again(again))
    }

    /// Lists a lane in front again when none of its SETs fitted.
    fn relist_first(&mut self, key: OrderKey, was: Listed, consumer: ConsumerNo) {
        let Some(lane) = self.lanes.get_mut(&key) else { return };
        lane.listed = was;
        self.retries += usize::from(lane.since.is_zero());
        match was {
            Listed::Free => {
                self.free += 1;
                self.ready.push_front(key);
            }
            Listed::Held => self.held.entry(consumer).or_default().push_front(key),
            Listed::No => {}
        }
    }

    /// Returns the lane whose turn it is, taken off its list.
    fn next_lane(&mut self, consumer: ConsumerNo) -> Option<(OrderKey, Listed)> {
        let free_first = self.free_next;
        self.free_next = !free_first;
        let wanted = if free_first { [Listed::Free, Listed::Held] } else { [Listed::Held, Listed::Free] };
        wanted.into_iter().find_map(|listed| {
            loop {
                let channel = if listed == Listed::Free { Some(&mut self.ready) } else { self.held.get_mut(&consumer) };
                let key = channel?.pop_front()?;
                if let Some(lane) = self.lanes.get_mut(&key)
                    && lane.listed == listed
                    && (listed == Listed::Free || lane.holder == consumer)
                {
                    self.unlist(key);
                    return Some((key, listed));
                }
            }
        })
    }
}
