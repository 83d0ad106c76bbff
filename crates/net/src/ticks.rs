//! The runtime's clock as a timer for the HTTP library.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};
use setgate_clock::{BoxFuture, Clock};

/// A [`Timer`] that runs on the runtime's clock.
#[derive(Clone)]
pub(crate) struct Ticks {
    clock: Arc<dyn Clock>,
    /// A moment as the library's [`Instant`] and, the same one, as the runtime's monotonic time.
    zero: (Instant, Duration),
}

impl Ticks {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let zero = (tokio::time::Instant::now().into_std(), clock.monotonic());
        Self { clock, zero }
    }
}

impl Timer for Ticks {
    fn sleep(&self, how_long: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(Nap(Mutex::new(self.clock.sleep(how_long))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(deadline.saturating_duration_since(self.now()))
    }

    fn now(&self) -> Instant {
        let (instant, passed) = self.zero;
        instant + self.clock.monotonic().saturating_sub(passed)
    }
}

/// A sleep behind a mutex, because the library requires `Sync`; the mutex is never locked.
struct Nap(Mutex<BoxFuture<()>>);

impl Future for Nap {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(cx)
    }
}

impl Sleep for Nap {}
