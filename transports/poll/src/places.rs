//! Who waits at one stream: at most four polls; a further one ends the oldest (hardening H43).

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

/// Polls of one stream that wait for SETs.
const WAITING: usize = 4;
/// Polls of one stream that have stopped waiting and get their answer a little later.
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
    /// A place among those who wait; the oldest gives way when there is none.
    pub(crate) fn enter(&self) -> WaitingPlace {
        let (end, ended) = oneshot::channel();
        let mut queue = self.0.waiting.lock();
        if queue.polls.len() >= WAITING
            && let Some((_, oldest)) = queue.polls.pop_front()
        {
            // It may have left by itself.
            let _ = oldest.send(());
        }
        queue.numbers += 1;
        let number = queue.numbers;
        queue.polls.push_back((number, end));
        WaitingPlace { places: self.clone(), number, ended }
    }

    /// A place among those whose answer lingers, if there is one.
    pub(crate) fn linger(&self) -> Option<Lingering> {
        let lingering = Lingering(self.clone());
        // The value counts itself out, also when it is one too many.
        (self.0.lingering.fetch_add(1, Ordering::Relaxed) < LINGERING).then_some(lingering)
    }

    #[cfg(test)]
    fn count(&self) -> (usize, usize) {
        (self.0.waiting.lock().polls.len(), self.0.lingering.load(Ordering::Relaxed))
    }
}

/// One who waits.
pub(crate) struct WaitingPlace {
    places: Places,
    number: u64,
    ended: oneshot::Receiver<()>,
}

impl WaitingPlace {
    /// Ready when a newer poll has taken the place.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.ended).poll(cx).map(|_| ())
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        self.places.0.waiting.lock().polls.retain(|(number, _)| *number != self.number);
    }
}

/// One whose answer lingers.
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
        // One that left by itself makes room.
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
