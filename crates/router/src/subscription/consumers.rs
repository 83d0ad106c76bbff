//! The consumers of one stream: their delivery modes, which of them wait, and whose turn it is.

use std::{task::Waker, time::Duration};

use setgate_delivery::{DeliveryMode, Order, Redelivery};

use crate::number::ConsumerNo;

/// The time within which a woken consumer takes its chance; after it another is woken too, since a consumer may be busy
/// with its peer.
const CHANCE: Duration = Duration::from_millis(10);

/// The thing that a consumer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// SETs.
    Sets,
    /// The end of the stream alone, since its peer has no room.
    End,
    /// The outcomes of what the consumer handed over.
    Outcomes,
}

#[derive(Debug)]
struct OneConsumer {
    id: ConsumerNo,
    order: Order,
    redelivery: Redelivery,
    /// The number of SETs that it handed over and that are unsettled.
    handed: u32,
    /// The turn since which it waits, what it waits for, and its waker.
    waits: Option<(u64, For, Waker)>,
}

/// All consumers of one stream. Their number is small: each is a request or a connection of one receiver.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    all: Vec<OneConsumer>,
    last: ConsumerNo,
    turns: u64,
    /// The consumer that was woken for what any consumer may take, and the time of that.
    chance: Option<(ConsumerNo, Duration)>,
}

impl Consumers {
    /// Opens a new consumer with a number of its own.
    pub(crate) fn open(&mut self, mode: DeliveryMode) -> ConsumerNo {
        self.last = self.last.next();
        if self.all.len() < 4 {
            self.all.reserve_exact(1);
        }
        self.all.push(OneConsumer {
            id: self.last,
            order: mode.order,
            redelivery: mode.redelivery,
            handed: 0,
            waits: None,
        });
        self.last
    }

    fn get(&mut self, id: ConsumerNo) -> Option<&mut OneConsumer> {
        self.all.iter_mut().find(|consumer| consumer.id == id)
    }

    /// Returns the consumer's delivery mode; `None` when it is gone.
    pub(crate) fn mode(&self, id: ConsumerNo) -> Option<DeliveryMode> {
        self.all
            .iter()
            .find(|consumer| consumer.id == id)
            .map(|consumer| DeliveryMode { order: consumer.order, redelivery: consumer.redelivery })
    }

    /// Removes a consumer. Returns its delivery mode, and whether something that it handed over is unsettled.
    pub(crate) fn close(&mut self, id: ConsumerNo) -> Option<(DeliveryMode, bool)> {
        let at = self.all.iter().position(|consumer| consumer.id == id)?;
        let consumer = self.all.swap_remove(at);
        if self.all.is_empty() {
            self.all = Vec::new();
        }
        self.took(id);
        Some((DeliveryMode { order: consumer.order, redelivery: consumer.redelivery }, consumer.handed > 0))
    }

    /// Lets the consumer wait; it keeps its place in the queue when it waited for the same before.
    pub(crate) fn wait(&mut self, id: ConsumerNo, what: For, waker: &Waker) {
        self.turns += 1;
        let turn = self.turns;
        if let Some(consumer) = self.get(id) {
            match &mut consumer.waits {
                Some((_, before, old)) if *before == what => old.clone_from(waker),
                waits => *waits = Some((turn, what, waker.clone())),
            }
        }
    }

    /// Notes that the consumer no longer waits and has used its chance.
    pub(crate) fn took(&mut self, id: ConsumerNo) {
        if self.chance.is_some_and(|(consumer, _)| consumer == id) {
            self.chance = None;
        }
        if let Some(consumer) = self.get(id) {
            consumer.waits = None;
        }
    }

    /// Returns whether the consumer was woken for what any consumer may take; its chance is used then.
    pub(crate) fn use_chance(&mut self, id: ConsumerNo) -> bool {
        let had = self.chance.is_some_and(|(consumer, _)| consumer == id);
        if had {
            self.chance = None;
        }
        had
    }

    /// Returns whether a consumer waits for SETs, or was woken for them.
    pub(crate) fn somebody_comes(&self) -> bool {
        self.chance.is_some() || self.waiting().next().is_some()
    }

    /// Returns whether a consumer was woken and has not come yet.
    #[cfg(test)]
    pub(crate) fn is_called(&self) -> bool {
        self.chance.is_some()
    }

    fn waiting(&self) -> impl Iterator<Item = (u64, ConsumerNo)> {
        self.all.iter().filter_map(|consumer| match consumer.waits {
            Some((turn, For::Sets, _)) => Some((turn, consumer.id)),
            _ => None,
        })
    }

    /// Wakes the consumer that waits longest for SETs, unless one is on its way. Returns the time at which to do so
    /// again, where others wait too.
    pub(crate) fn wake_one(&mut self, now: Duration) -> Option<Duration> {
        if self.chance.is_none_or(|(_, since)| now >= since + CHANCE)
            && let Some((_, next)) = self.waiting().min()
        {
            self.chance = Some((next, now));
            self.wake(next);
        }
        let (_, since) = self.chance?;
        self.waiting().next().map(|_| since + CHANCE)
    }

    /// Wakes this consumer, if it waits for SETs.
    pub(crate) fn wake_holder(&mut self, id: ConsumerNo) {
        if self.waiting().any(|(_, consumer)| consumer == id) {
            self.wake(id);
        }
    }

    fn wake(&mut self, id: ConsumerNo) {
        if let Some((_, _, waker)) = self.get(id).and_then(|consumer| consumer.waits.take()) {
            waker.wake();
        }
    }

    /// Wakes all consumers, since something changed for all of them.
    pub(crate) fn wake_all(&mut self) {
        for (_, _, waker) in self.all.iter_mut().filter_map(|consumer| consumer.waits.take()) {
            waker.wake();
        }
    }

    /// Notes that a SET of this consumer was handed over.
    pub(crate) fn handed(&mut self, id: ConsumerNo) {
        if let Some(consumer) = self.get(id) {
            consumer.handed += 1;
        }
    }

    /// Notes that a SET that this consumer had handed over is settled or due again.
    pub(crate) fn came_back(&mut self, id: ConsumerNo) {
        let Some(consumer) = self.get(id) else { return };
        consumer.handed = consumer.handed.saturating_sub(1);
        if consumer.handed == 0 && consumer.waits.as_ref().is_some_and(|(_, what, _)| *what == For::Outcomes) {
            self.wake(id);
        }
    }

    /// Returns whether something that this consumer handed over is unsettled.
    pub(crate) fn owes_outcomes(&self, id: ConsumerNo) -> bool {
        self.all.iter().any(|consumer| consumer.id == id && consumer.handed > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    const MODE: DeliveryMode = DeliveryMode { order: Order::PerBatch, redelivery: Redelivery::WhenConsumerEnds };

    fn four() -> (Consumers, Vec<ConsumerNo>, Vec<Arc<Count>>) {
        let mut consumers = Consumers::default();
        let ids: Vec<ConsumerNo> = (0..4).map(|_| consumers.open(MODE)).collect();
        let counts: Vec<Arc<Count>> = ids.iter().map(|_| Arc::default()).collect();
        for (id, count) in ids.iter().zip(&counts) {
            consumers.wait(*id, For::Sets, &Waker::from(count.clone()));
        }
        (consumers, ids, counts)
    }

    fn woken(counts: &[Arc<Count>]) -> Vec<usize> {
        counts.iter().map(|count| count.0.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn one_is_woken_in_turn_and_its_chance_is_handed_on() {
        let (mut consumers, ids, counts) = four();
        let now = Duration::from_secs(1);
        assert_eq!(consumers.wake_one(now), Some(now + CHANCE));
        consumers.wake_one(now);
        assert_eq!(woken(&counts), [1, 0, 0, 0], "no storm");
        consumers.took(ids[0]);
        consumers.wake_one(now);
        assert_eq!(woken(&counts), [1, 1, 0, 0]);
        consumers.close(ids[1]);
        consumers.wake_one(now);
        assert_eq!(woken(&counts), [1, 1, 1, 0], "it went with its chance");
        consumers.wake_one(now + CHANCE);
        assert_eq!(woken(&counts), [1, 1, 1, 1], "the third is busy with its peer");
    }

    #[test]
    fn who_has_no_room_hears_of_the_end_alone() {
        let mut consumers = Consumers::default();
        let (count, id) = (Arc::<Count>::default(), consumers.open(MODE));
        consumers.wait(id, For::End, &Waker::from(count.clone()));
        consumers.wake_one(Duration::ZERO);
        assert!(!consumers.somebody_comes());
        assert_eq!(woken(std::slice::from_ref(&count)), [0]);
        consumers.wake_all();
        assert_eq!(woken(&[count]), [1]);
    }
}
