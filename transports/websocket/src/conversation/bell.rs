//! Which part of a socket was woken: a socket waits for several things, and most wake-ups are of one of them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

/// What one part of a socket is polled with: it tells whether that part was woken, and wakes the socket's task.
pub(super) struct Bell {
    ring: Arc<Ring>,
    waker: Waker,
}

struct Ring {
    rang: AtomicBool,
    /// It stays when it is woken: a socket that was woken by one part does not tell the others anew.
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
        // Before the task is woken, so that it finds the ring.
        self.rang.store(true, Ordering::Release);
        if let Some(task) = &*self.task() {
            task.wake_by_ref();
        }
    }
}

impl Bell {
    /// A bell that has rung: the first look is owed.
    fn new() -> Self {
        let ring = Arc::new(Ring { rang: AtomicBool::new(true), task: Mutex::default() });
        Self { waker: Waker::from(ring.clone()), ring }
    }

    /// From now on this task is woken.
    fn wakes(&self, task: &Waker) {
        *self.ring.task() = Some(task.clone());
    }

    /// Whether it rang since it was asked last. Ask before the look, never after it: what rings meanwhile is kept.
    pub(super) fn rang_since_asked(&self) -> bool {
        self.rang() && self.ring.rang.swap(false, Ordering::AcqRel)
    }

    /// Whether it has rung, and nobody asked since.
    pub(super) fn rang(&self) -> bool {
        self.ring.rang.load(Ordering::Acquire)
    }

    /// Rings without waking: the next round looks again.
    pub(super) fn again(&self) {
        self.ring.rang.store(true, Ordering::Release);
    }

    /// What the part is polled with.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }
}

/// What wakes a socket, part by part: what did not ring is not looked at.
pub(super) struct Bells {
    /// The end of the credential, and the tick.
    pub(super) signals: Bell,
    /// The socket, in both directions.
    pub(super) io: Bell,
    /// The consumer.
    pub(super) subscription: Bell,
    /// Whom they wake.
    task: Option<Waker>,
}

impl Bells {
    pub(super) fn new() -> Self {
        Self { signals: Bell::new(), io: Bell::new(), subscription: Bell::new(), task: None }
    }

    /// From now on this task is woken.
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
