//! The waits between retries.

use std::time::Duration;

use crate::Random;

/// An exponential backoff: the wait doubles with each failure in a row, up to a maximum. The caller counts the
/// failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    most: Duration,
}

/// The part of a wait that is random, so that callers that failed together do not retry together.
#[derive(Clone, Copy)]
pub enum Jitter<'a> {
    /// The wait is not random, for a single caller.
    None,
    /// The second half of the wait is random.
    Half(&'a dyn Random),
    /// The whole wait but one millisecond is random.
    Full(&'a dyn Random),
}

impl Backoff {
    /// Creates a backoff whose waits grow from `first` to `most`; where `first` is longer, every wait is `most`.
    #[must_use]
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most }
    }

    /// Returns the wait after this number of failures in a row, counted from 1. Jitter makes it shorter, never longer,
    /// in whole milliseconds.
    #[must_use]
    pub fn wait(self, failures: u32, jitter: Jitter<'_>) -> Duration {
        let longest = self.first.saturating_mul(1 << failures.saturating_sub(1).min(31)).min(self.most);
        let millis = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        match jitter {
            Jitter::None => longest,
            Jitter::Half(random) => Duration::from_millis(millis - random.below(millis / 2 + 1)),
            Jitter::Full(random) => Duration::from_millis(1 + random.below(millis)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manual::SeededRandom;

    const SECOND: Duration = Duration::from_secs(1);
    const BACKOFF: Backoff = Backoff::new(SECOND, Duration::from_secs(300));

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits = [1, 2, 3, 9, 10, 33, u32::MAX].map(|failures| BACKOFF.wait(failures, Jitter::None).as_secs());
        assert_eq!(waits, [1, 2, 4, 256, 300, 300, 300]);
        assert_eq!(BACKOFF.wait(0, Jitter::None), SECOND, "nothing failed yet");
        let endless = Backoff::new(SECOND, Duration::MAX);
        assert_eq!(endless.wait(u32::MAX, Jitter::None), SECOND * (1 << 31));
        assert_eq!(Backoff::new(3 * SECOND, SECOND).wait(1, Jitter::None), SECOND);
    }

    #[test]
    fn jitter_shortens_a_wait_and_leaves_some_of_it() {
        let random = SeededRandom::new(1);
        for failures in 1..40 {
            let longest = BACKOFF.wait(failures, Jitter::None);
            let half = BACKOFF.wait(failures, Jitter::Half(&*random));
            assert!(half >= longest / 2 && half <= longest, "{failures}: {half:?}");
            let full = BACKOFF.wait(failures, Jitter::Full(&*random));
            assert!(full > Duration::ZERO && full <= longest, "{failures}: {full:?}");
        }
        assert_eq!(Backoff::new(Duration::ZERO, SECOND).wait(1, Jitter::Half(&*random)), Duration::ZERO);
    }
}
