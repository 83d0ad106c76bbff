//! The back-off of a stream: the wait before its next attempt.

use std::time::Duration;

use setgate_clock::{Backoff, Jitter, Random};

use crate::Config;

/// Returns the wait after the `failures`-th failure in a row: full jitter, doubling, capped.
pub(crate) fn pause(config: &Config, random: &dyn Random, failures: u32) -> Duration {
    let first = config.backoff_initial.max(Duration::from_millis(1));
    let most = config.backoff_max.max(first);
    Backoff::new(first, most).wait(failures, Jitter::Full(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_bounded_and_doubles() {
        let random = setgate_clock::manual::SeededRandom::new(1);
        let config = Config::default();
        for failures in 1..40 {
            let ceiling = Duration::from_millis(1000u64.saturating_mul(1 << (failures - 1).min(20)).min(300_000));
            let wait = pause(&config, &*random, failures);
            assert!(wait > Duration::ZERO && wait <= ceiling, "{failures}: {wait:?}");
        }
    }
}
