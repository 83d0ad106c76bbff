//! The taps of one stream: how they hand over, who waits, and whose turn it is.

use std::{task::Waker, time::Duration};

use setgate_delivery::{DeliveryMode, Order, Redelivery};

use crate::number::TapNo;

/// A woken tap takes its chance within this time; after it another is woken too. A tap may be busy with its peer.
const CHANCE: Duration = Duration::from_millis(10);

/// What a tap waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// SETs.
    Sets,
    /// The end alone: its peer has no room.
    End,
    /// The outcomes of what it handed over.
    Outcomes,
}

#[derive(Debug)]
struct OneTap {
    id: TapNo,
    order: Order,
    redelivery: Redelivery,
    /// Handed over by it and unsettled.
    handed: u32,
    /// Since which turn it waits, for what, and how it is woken.
    waits: Option<(u64, For, Waker)>,
}

/// All taps of one stream. There are few: each is a request or a connection of one receiver.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    all: Vec<OneTap>,
    last: TapNo,
    turns: u64,
    /// The tap that was woken for what anybody may take, and when.
    chance: Option<(TapNo, Duration)>,
}

impl Taps {
    /// A new tap with a number of its own.
    pub(crate) fn open(&mut self, mode: DeliveryMode) -> TapNo {
        self.last = self.last.next();
        if self.all.len() < 4 {
            self.all.reserve_exact(1);
        }
        self.all.push(OneTap { id: self.last, order: mode.order, redelivery: mode.redelivery, handed: 0, waits: None });
        self.last
    }

    fn get(&mut self, id: TapNo) -> Option<&mut OneTap> {
        self.all.iter_mut().find(|tap| tap.id == id)
    }

    /// How the tap hands over; nothing when it is gone.
    pub(crate) fn mode(&self, id: TapNo) -> Option<DeliveryMode> {
        self.all
            .iter()
            .find(|tap| tap.id == id)
            .map(|tap| DeliveryMode { order: tap.order, redelivery: tap.redelivery })
    }

    /// It is gone. Tells how it handed over and whether something that it handed over is unsettled.
    pub(crate) fn close(&mut self, id: TapNo) -> Option<(DeliveryMode, bool)> {
        let at = self.all.iter().position(|tap| tap.id == id)?;
        let tap = self.all.swap_remove(at);
        if self.all.is_empty() {
            self.all = Vec::new();
        }
        self.took(id);
        Some((DeliveryMode { order: tap.order, redelivery: tap.redelivery }, tap.handed > 0))
    }

    /// It waits; its place in the queue stays when it waited for the same before.
    pub(crate) fn wait(&mut self, id: TapNo, what: For, waker: &Waker) {
        self.turns += 1;
        let turn = self.turns;
        if let Some(tap) = self.get(id) {
            match &mut tap.waits {
                Some((_, before, old)) if *before == what => old.clone_from(waker),
                waits => *waits = Some((turn, what, waker.clone())),
            }
        }
    }

    /// It waits no more, and its chance is used.
    pub(crate) fn took(&mut self, id: TapNo) {
        if self.chance.is_some_and(|(tap, _)| tap == id) {
            self.chance = None;
        }
        if let Some(tap) = self.get(id) {
            tap.waits = None;
        }
    }

    /// Whether the tap was woken for what anybody may take; then it has used its chance.
    pub(crate) fn use_chance(&mut self, id: TapNo) -> bool {
        let had = self.chance.is_some_and(|(tap, _)| tap == id);
        if had {
            self.chance = None;
        }
        had
    }

    /// Whether somebody waits for SETs, or was woken for them.
    pub(crate) fn somebody_comes(&self) -> bool {
        self.chance.is_some() || self.waiting().next().is_some()
    }

    /// Whether a tap was woken and has not come yet.
    #[cfg(test)]
    pub(crate) fn is_called(&self) -> bool {
        self.chance.is_some()
    }

    fn waiting(&self) -> impl Iterator<Item = (u64, TapNo)> {
        self.all.iter().filter_map(|tap| match tap.waits {
            Some((turn, For::Sets, _)) => Some((turn, tap.id)),
            _ => None,
        })
    }

    /// Wakes the tap that waits longest for SETs, unless one is on its way. Tells when to look again, where others wait too.
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

    /// Wakes this tap, if it waits for SETs.
    pub(crate) fn wake_holder(&mut self, id: TapNo) {
        if self.waiting().any(|(_, tap)| tap == id) {
            self.wake(id);
        }
    }

    fn wake(&mut self, id: TapNo) {
        if let Some((_, _, waker)) = self.get(id).and_then(|tap| tap.waits.take()) {
            waker.wake();
        }
    }

    /// Wakes all: something changed for everybody.
    pub(crate) fn wake_all(&mut self) {
        for (_, _, waker) in self.all.iter_mut().filter_map(|tap| tap.waits.take()) {
            waker.wake();
        }
    }

    /// A SET of this tap was handed over.
    pub(crate) fn handed(&mut self, id: TapNo) {
        if let Some(tap) = self.get(id) {
            tap.handed += 1;
        }
    }

    /// A SET that this tap had handed over is settled or due again.
    pub(crate) fn came_back(&mut self, id: TapNo) {
        let Some(tap) = self.get(id) else { return };
        tap.handed = tap.handed.saturating_sub(1);
        if tap.handed == 0 && tap.waits.as_ref().is_some_and(|(_, what, _)| *what == For::Outcomes) {
            self.wake(id);
        }
    }

    /// Whether something that this tap handed over is unsettled.
    pub(crate) fn owes_outcomes(&self, id: TapNo) -> bool {
        self.all.iter().any(|tap| tap.id == id && tap.handed > 0)
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

    fn four() -> (Taps, Vec<TapNo>, Vec<Arc<Count>>) {
        let mut taps = Taps::default();
        let ids: Vec<TapNo> = (0..4).map(|_| taps.open(MODE)).collect();
        let counts: Vec<Arc<Count>> = ids.iter().map(|_| Arc::default()).collect();
        for (id, count) in ids.iter().zip(&counts) {
            taps.wait(*id, For::Sets, &Waker::from(count.clone()));
        }
        (taps, ids, counts)
    }

    fn woken(counts: &[Arc<Count>]) -> Vec<usize> {
        counts.iter().map(|count| count.0.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn one_is_woken_in_turn_and_its_chance_is_handed_on() {
        let (mut taps, ids, counts) = four();
        let now = Duration::from_secs(1);
        assert_eq!(taps.wake_one(now), Some(now + CHANCE));
        taps.wake_one(now);
        assert_eq!(woken(&counts), [1, 0, 0, 0], "no storm");
        taps.took(ids[0]);
        taps.wake_one(now);
        assert_eq!(woken(&counts), [1, 1, 0, 0]);
        taps.close(ids[1]);
        taps.wake_one(now);
        assert_eq!(woken(&counts), [1, 1, 1, 0], "it went with its chance");
        taps.wake_one(now + CHANCE);
        assert_eq!(woken(&counts), [1, 1, 1, 1], "the third is busy with its peer");
    }

    #[test]
    fn who_has_no_room_hears_of_the_end_alone() {
        let mut taps = Taps::default();
        let (count, id) = (Arc::<Count>::default(), taps.open(MODE));
        taps.wait(id, For::End, &Waker::from(count.clone()));
        taps.wake_one(Duration::ZERO);
        assert!(!taps.somebody_comes());
        assert_eq!(woken(std::slice::from_ref(&count)), [0]);
        taps.wake_all();
        assert_eq!(woken(&[count]), [1]);
    }
}
