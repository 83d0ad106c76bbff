//! A clock that moves only when a test moves it.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{BoxFuture, Clock};

/// A clock for tests with real sockets: wall time, monotonic time and all timers stand still until
/// [`MockClock::advance`].
///
/// Tokio's paused time advances by itself as soon as only sockets are waited for; this clock never does.
#[derive(Debug)]
pub struct MockClock {
    start: u64,
    passed: watch::Sender<Duration>,
}

impl MockClock {
    /// Creates a clock that shows `wall_millis`.
    #[must_use]
    pub fn at(wall_millis: u64) -> Arc<Self> {
        Arc::new(Self { start: wall_millis, passed: watch::Sender::new(Duration::ZERO) })
    }

    /// Moves the clock forward and wakes the sleepers whose time has come.
    pub fn advance(&self, by: Duration) {
        self.passed.send_modify(|passed| *passed += by);
    }
}

impl Clock for MockClock {
    fn wall_millis(&self) -> u64 {
        self.start + u64::try_from(self.monotonic().as_millis()).unwrap_or_default()
    }

    fn monotonic(&self) -> Duration {
        *self.passed.borrow()
    }

    fn sleep(&self, how_long: Duration) -> BoxFuture<()> {
        let mut passed = self.passed.subscribe();
        let until = self.monotonic() + how_long;
        Box::pin(async move {
            // A dropped clock wakes no sleeper.
            if passed.wait_for(|passed| *passed >= until).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wakes_who_slept_long_enough_and_nobody_else() {
        let clock = MockClock::at(1000);
        let (short, long) = (tokio::spawn(clock.sleep(Duration::from_secs(1))), clock.sleep(Duration::from_secs(2)));
        clock.advance(Duration::from_millis(1999));
        assert!(short.await.is_ok());
        tokio::select! {
            biased;
            () = long => panic!("it slept too short"),
            () = std::future::ready(()) => {}
        }
        assert_eq!((clock.wall_millis(), clock.monotonic()), (2999, Duration::from_millis(1999)));
    }
}
