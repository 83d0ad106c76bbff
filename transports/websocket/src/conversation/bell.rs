//! Wake-ups of a socket by part: a socket waits for several things, and most wake-ups concern one of them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

/// The bell of one part of a socket. Its waker records that the part was woken, and wakes the socket's task.
pub(super) struct Bell {
    ring: Arc<Ring>,
    waker: Waker,
}

struct Ring {
    rang: AtomicBool,
    /// The socket's task, which stays registered when it is woken, so that the other parts need not register again.
    task: Mutex<Option<Waker>>,
}

impl Ring {
    fn task(&self) -> MutexGuard<'_, Option<Waker>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Set before the task is woken, so that the task finds it.
        self.rang.store(true, Ordering::Release);
        if let Some(task) = &*self.task() {
            task.wake_by_ref();
        }
    }
}

impl Bell {
    /// Creates a bell that has rung, since the first look is due.
    fn new() -> Self {
        let ring = Arc::new(Ring { rang: AtomicBool::new(true), task: Mutex::default() });
        Self { waker: Waker::from(ring.clone()), ring }
    }

    /// Sets the task that is woken from now on.
    fn wakes(&self, task: &Waker) {
        *self.ring.task() = Some(task.clone());
    }

    /// Returns whether the bell rang since the last call. Call it before the look, never after it: a ring in between is
    /// kept.
    pub(super) fn rang_since_asked(&self) -> bool {
        self.rang() && self.ring.rang.swap(false, Ordering::AcqRel)
    }

    /// Returns whether the bell has rung and was not asked since.
    pub(super) fn rang(&self) -> bool {
        self.ring.rang.load(Ordering::Acquire)
    }

    /// Rings without waking the task, so that the next round looks again.
    pub(super) fn again(&self) {
        self.ring.rang.store(true, Ordering::Release);
    }

    /// Returns the waker to poll the part with.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }
}

/// The bells of a socket; a part whose bell did not ring is not polled.
pub(super) struct Bells {
    /// The bell for the end of the credential and for the tick.
    pub(super) signals: Bell,
    /// The bell for the socket, in both directions.
    pub(super) io: Bell,
    /// The bell for the consumer.
    pub(super) subscription: Bell,
    /// The task that the bells wake.
    task: Option<Waker>,
}

impl Bells {
    pub(super) fn new() -> Self {
        Self { signals: Bell::new(), io: Bell::new(), subscription: Bell::new(), task: None }
    }

    /// Sets the task that is woken from now on.
    pub(super) fn wake(&mut self, task: &Waker) {
        if self.task.as_ref().is_some_and(|known| known.will_wake(task)) {
            return;
        }
        for bell in [&self.signals, &self.io, &self.subscription] {
            bell.wakes(task);
        }
        self.task = Some(task.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn each_ring_wakes_the_task_though_it_registered_once() {
        let (bell, count) = (Bell::new(), Arc::<Count>::default());
        assert!(bell.rang_since_asked(), "the first look is owed");
        bell.wakes(&Waker::from(count.clone()));
        for woken in 1..=3 {
            assert!(!bell.rang_since_asked());
            bell.waker().wake_by_ref();
            assert!(bell.rang() && bell.rang_since_asked());
            assert_eq!(count.0.load(Ordering::Relaxed), woken);
        }
        bell.again();
        assert!(bell.rang_since_asked());
        assert_eq!(count.0.load(Ordering::Relaxed), 3, "again does not wake");
    }
}
