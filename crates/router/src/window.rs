//! Room in the windows of a channel: taken for a batch, given back SET by SET, waited for.

use std::{sync::Arc, task::Context};

use setgate_delivery::Window;

/// Room taken for one batch in all windows of its channel; given back SET by SET.
#[derive(Debug, Default)]
pub(crate) struct Reservation {
    windows: Vec<Window>,
}

impl Reservation {
    /// Takes room in all windows, or in none.
    ///
    /// # Errors
    /// The window that has too little room.
    pub(crate) fn make(windows: Vec<Window>, sets: usize, bytes: usize) -> Result<Arc<Self>, Window> {
        for (at, window) in windows.iter().enumerate() {
            if !window.core().reserve(sets, bytes) {
                windows.iter().take(at).for_each(|taken| taken.core().give(sets, 1, bytes));
                return Err(window.clone());
            }
        }
        Ok(Arc::new(Self { windows }))
    }

    /// Gives back the room of one SET, which is settled or came back.
    pub(crate) fn give(&self, bytes: usize) {
        self.windows.iter().for_each(|window| window.core().give(1, 0, bytes));
    }
}

/// Room that many SETs give back together: each window is locked once, and a waiter is woken for all of it.
#[derive(Debug, Default)]
pub(crate) struct Returned(Vec<(Window, usize, usize)>);

impl Returned {
    pub(crate) fn add(&mut self, reservation: &Reservation, bytes: usize) {
        for window in &reservation.windows {
            match self.0.iter_mut().find(|(other, ..)| Arc::ptr_eq(other.core(), window.core())) {
                Some((_, sets, all)) => (*sets, *all) = (*sets + 1, *all + bytes),
                None => self.0.push((window.clone(), 1, bytes)),
            }
        }
    }
}

impl Drop for Returned {
    fn drop(&mut self) {
        for (window, sets, bytes) in self.0.drain(..) {
            window.core().give(sets, 0, bytes);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.windows.iter().for_each(|window| window.core().give(0, 1, 0));
    }
}

/// A consumer that waits for room in a window. A chance that comes too late is passed on to the next waiter.
#[derive(Debug, Default)]
pub(crate) struct Waiter(Option<(Window, u64)>);

impl Waiter {
    pub(crate) fn wait(&mut self, windows: &[Window], cx: &Context<'_>) {
        let Some(window) = windows.iter().find(|window| window.core().room() == 0) else {
            // There is room by now.
            cx.waker().wake_by_ref();
            return;
        };
        let waker = cx.waker().clone();
        let waiter = window.core().when_room(Arc::new(move || waker.wake_by_ref()));
        self.0 = Some((window.clone(), waiter));
        // Room may have come between the check and the wait.
        window.core().pass_on();
    }

    /// Waits until a window that has some room has enough of it.
    pub(crate) fn wait_to_fit(&mut self, window: &Window, sets: usize, bytes: usize, cx: &Context<'_>) {
        let waker = cx.waker().clone();
        match window.core().when_it_fits(sets, bytes, Arc::new(move || waker.wake_by_ref())) {
            Some(waiter) => self.0 = Some((window.clone(), waiter)),
            // There is enough by now.
            None => cx.waker().wake_by_ref(),
        }
    }

    pub(crate) fn waits(&self) -> bool {
        self.0.is_some()
    }

    /// Ends the wait. Returns the window of which room was announced in the meantime, if any.
    pub(crate) fn withdraw(&mut self) -> Option<Window> {
        self.0.take().filter(|(window, waiter)| !window.core().withdraw(*waiter)).map(|(window, _)| window)
    }

    pub(crate) fn give_up(&mut self) {
        if let Some((window, waiter)) = self.0.take()
            && !window.core().withdraw(waiter)
        {
            window.core().pass_on();
        }
    }
}
