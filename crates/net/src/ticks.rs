//! The runtime's clock, for the timers of the HTTP library.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};
use setgate_clock::{BoxFuture, Clock};

/// Tells the library the time.
#[derive(Clone)]
pub(crate) struct Ticks {
    clock: Arc<dyn Clock>,
    /// One moment, as the library and as the runtime names it.
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

/// A sleep that can be shared, as the library wants it; it never is.
struct Nap(Mutex<BoxFuture<()>>);

impl Future for Nap {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(cx)
    }
}

impl Sleep for Nap {}
