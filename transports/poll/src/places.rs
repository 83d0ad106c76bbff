//! The polls that wait at one stream: at most four, of which a further one ends the oldest (hardening H43).

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The most polls of one stream that wait for SETs.
const WAITING: usize = 4;
/// The most polls of one stream that no longer wait and are answered with a delay.
const LINGERING: usize = 12;

/// The waiting polls of one stream.
#[derive(Clone, Default)]
pub(crate) struct Places(Arc<Shared>);

#[derive(Default)]
struct Shared {
    waiting: Mutex<Queue>,
    lingering: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    numbers: u64,
    polls: VecDeque<(u64, oneshot::Sender<()>)>,
}

impl Places {
    /// Takes a place among the waiting polls; the oldest one is ended when all are in use.
    pub(crate) fn enter(&self) -> WaitingPlace {
        let (end, ended) = oneshot::channel();
        let mut queue = self.0.waiting.lock();
        if queue.polls.len() >= WAITING
            && let Some((_, oldest)) = queue.polls.pop_front()
        {
            // The oldest may have left by itself.
            let _ = oldest.send(());
        }
        queue.numbers += 1;
        let number = queue.numbers;
        queue.polls.push_back((number, end));
        WaitingPlace { places: self.clone(), number, ended }
    }

    /// Takes a place among the polls whose answer is delayed, if one is free.
    pub(crate) fn linger(&self) -> Option<Lingering> {
        let lingering = Lingering(self.clone());
        // The value decrements the count when it is dropped, also when it is one too many.
        (self.0.lingering.fetch_add(1, Ordering::Relaxed) < LINGERING).then_some(lingering)
    }

    #[cfg(test)]
    fn count(&self) -> (usize, usize) {
        (self.0.waiting.lock().polls.len(), self.0.lingering.load(Ordering::Relaxed))
    }
}

/// The place of a poll that waits.
pub(crate) struct WaitingPlace {
    places: Places,
    number: u64,
    ended: oneshot::Receiver<()>,
}

impl WaitingPlace {
    /// Returns `Ready` when a newer poll has taken the place.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.ended).poll(cx).map(|_| ())
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        self.places.0.waiting.lock().polls.retain(|(number, _)| *number != self.number);
    }
}

/// The place of a poll whose answer is delayed.
pub(crate) struct Lingering(Places);

impl Drop for Lingering {
    fn drop(&mut self) {
        self.0.0.lingering.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_ended(place: &mut WaitingPlace) -> bool {
        place.poll_ended(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn a_fifth_poll_ends_the_oldest_and_no_other() {
        let places = Places::default();
        let mut first: Vec<_> = (0..WAITING).map(|_| places.enter()).collect();
        assert!(!first.iter_mut().any(is_ended));
        let mut fifth = places.enter();
        let ended: Vec<_> = first.iter_mut().map(is_ended).collect();
        assert_eq!(ended, [true, false, false, false]);
        assert!(!is_ended(&mut fifth));
        assert_eq!(places.count().0, WAITING);
        // A poll that left by itself makes room.
        first.pop();
        let _sixth = places.enter();
        assert!(!is_ended(first.get_mut(1).unwrap()));
        drop((first, fifth));
        assert_eq!(places.count().0, 1);
    }

    #[test]
    fn so_many_linger_and_no_more() {
        let places = Places::default();
        let all: Vec<_> = (0..20).map(|_| places.linger()).collect();
        assert_eq!(all.iter().flatten().count(), LINGERING);
        assert_eq!(places.count().1, LINGERING);
        drop(all);
        assert_eq!(places.count().1, 0);
    }
}
