//! The pace of one sender's stream: how many SETs are in flight at most, grown and shrunk by outcome and latency.
//!
//! By Little's law the rate at which a window delivers is its size divided by its latency. A larger window is kept when
//! it delivers more, a smaller one when it delivers as much. A failure starts the window again from a few, with half
//! its former size as the ceiling.

use std::time::Duration;

/// SETs that leave at first, and again after a failure.
pub(crate) const FIRST: usize = 4;
/// The latency up to which a hand-over indicates no congestion: many at once take longer for other reasons too, also on
/// the gateway's side.
const QUICK: Duration = Duration::from_millis(10);
/// Rounds without a trial after a fruitless one.
const REST: u32 = 16;
/// The fewest hand-overs of which a mean is made.
const SAMPLES_LEAST: usize = 8;

/// The window of a sender's stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    window: usize,
    /// The size below which the window doubles: that of the last failure or fruitless trial.
    ceiling: usize,
    /// The time since which the window has this size; hand-overs from before say nothing about it.
    since: Duration,
    samples: usize,
    sum: Duration,
    /// Hand-overs still to be ignored, since the window was being filled.
    skip: usize,
    /// True when the last round was slow.
    slow: bool,
    /// True when more SETs would have left.
    limited: bool,
    /// The size that the present one is compared with, and its mean latency.
    trial: Option<(usize, Duration)>,
    /// The mean latency that is taken for the peer's own.
    usual: Option<Duration>,
    rest: u32,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self {
            window: FIRST,
            ceiling: usize::MAX,
            since: Duration::ZERO,
            samples: 0,
            sum: Duration::ZERO,
            skip: 0,
            slow: false,
            limited: false,
            trial: None,
            usual: None,
            rest: 0,
        }
    }

    /// Returns the most SETs that may be in flight.
    pub(crate) fn window(&self) -> usize {
        self.window
    }

    /// Notes that more SETs would leave if the window were larger.
    pub(crate) fn limited(&mut self) {
        self.limited = true;
    }

    /// Notes that the peer or the way to it failed.
    pub(crate) fn failed(&mut self, now: Duration) {
        let ceiling = (self.window / 2).max(1);
        *self = Self { window: ceiling.min(FIRST), ceiling, since: now, ..Self::new() };
    }

    /// Notes that a SET that was handed over at `handed` was acknowledged at `now`.
    pub(crate) fn took(&mut self, handed: Duration, now: Duration) {
        if handed < self.since {
            return;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        self.samples += 1;
        self.sum += now.saturating_sub(handed);
        if self.samples < self.window.max(SAMPLES_LEAST) {
            return;
        }
        let mean = self.sum / u32::try_from(self.samples).unwrap_or(u32::MAX);
        let limited = std::mem::take(&mut self.limited);
        (self.samples, self.sum) = (0, Duration::ZERO);
        if let Some((before, then)) = self.trial.take()
            && !self.is_worth_it(before, then, mean)
        {
            // A smaller window delivered less: the peer alone has become slower.
            self.usual = Some(if before > self.window { then } else { self.usual.unwrap_or(then) });
            self.ceiling = before;
            self.resize(before, now);
            self.rest = REST;
            return;
        }
        let usual = self.usual.map_or(mean, |usual| usual.min(mean));
        self.usual = Some(usual);
        let slow = mean > QUICK.max(usual * 2) && self.window > 1;
        if std::mem::replace(&mut self.slow, slow) != slow && slow {
            // The round in which it became slow is not evidence enough; the next one is.
            return;
        }
        if slow {
            self.slow = false;
            self.trial = Some((self.window, mean));
            self.ceiling = self.window * 3 / 4;
            self.resize(self.ceiling.max(1), now);
        } else if self.rest > 0 {
            self.rest -= 1;
        } else if limited {
            self.trial = Some((self.window, mean));
            let larger = if self.window < self.ceiling {
                self.window.saturating_mul(2).min(self.ceiling)
            } else {
                self.window + (self.window / 4).max(1)
            };
            self.resize(larger, now);
        }
    }

    /// Returns whether the present window is better than the one before.
    fn is_worth_it(&self, before: usize, then: Duration, mean: Duration) -> bool {
        let delivered = |window: usize, mean: Duration| window as f64 / mean.as_secs_f64().max(1e-9);
        let gain = delivered(self.window, mean) / delivered(before, then);
        let growth = self.window as f64 / before as f64;
        if growth > 1.0 { mean <= QUICK || gain >= 1.0 + (growth - 1.0) / 4.0 } else { gain >= 0.9 }
    }

    fn resize(&mut self, window: usize, now: Duration) {
        self.skip = self.window.min(window);
        self.window = window;
        self.since = now;
        self.limited = false;
    }
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use super::*;

    /// Plays a receiver with a backlog before it. Returns the window at the end, and the number of SETs after which it
    /// was first larger than the limit.
    fn play(
        pace: &mut Pace,
        now: &mut Duration,
        limit: usize,
        sets: usize,
        latency: impl Fn(usize) -> Duration,
    ) -> (usize, Option<usize>) {
        let mut flying = BinaryHeap::new();
        let mut full = None;
        for done in 0..sets {
            while flying.len() < pace.window().min(limit) {
                let takes = latency(flying.len() + 1);
                flying.push(Reverse((*now + takes, *now)));
            }
            if pace.window() <= limit {
                pace.limited();
            } else {
                full = full.or(Some(done));
            }
            let Some(Reverse((at, handed))) = flying.pop() else { break };
            *now = at;
            pace.took(handed, at);
        }
        (pace.window(), full)
    }

    fn knee(base: u64, knee: usize) -> impl Fn(usize) -> Duration {
        move |flying| Duration::from_millis(base).mul_f64((flying as f64 / knee as f64).max(1.0))
    }

    #[test]
    fn finds_the_knee_of_a_receiver_that_slows_down() {
        for (base, at) in [(20, 6), (20, 24), (50, 40), (200, 3), (200, 100)] {
            let (mut pace, mut now) = (Pace::new(), Duration::from_secs(1));
            let (window, _) = play(&mut pace, &mut now, 1000, 60_000, knee(base, at));
            assert!((at / 2..=2 * at).contains(&window), "{base} ms, knee at {at}: {window}");
        }
    }

    #[test]
    fn reaches_the_limit_of_a_fast_receiver_quickly() {
        // The gateway's own side takes 25 µs for each SET in flight.
        for latency in [Duration::from_millis(1), Duration::from_millis(40)] {
            let (mut pace, mut now) = (Pace::new(), Duration::from_secs(1));
            let own = |flying: usize| latency + Duration::from_micros(25) * u32::try_from(flying).unwrap();
            let (_, full) = play(&mut pace, &mut now, 64, 10_000, own);
            assert!(full.is_some_and(|sets| sets < 400), "{latency:?}: {full:?}");
        }
    }

    #[test]
    fn follows_a_receiver_that_loses_its_strength_and_finds_it_again() {
        let (mut pace, mut now) = (Pace::new(), Duration::from_secs(1));
        let (window, _) = play(&mut pace, &mut now, 1000, 30_000, knee(20, 32));
        assert!((16..=64).contains(&window), "{window}");
        let (window, _) = play(&mut pace, &mut now, 1000, 30_000, knee(20, 8));
        assert!((4..=16).contains(&window), "{window}");
        let (window, _) = play(&mut pace, &mut now, 1000, 60_000, knee(20, 32));
        assert!((16..=64).contains(&window), "{window}");
    }

    #[test]
    fn a_receiver_that_is_merely_slower_keeps_its_window() {
        let (mut pace, mut now) = (Pace::new(), Duration::from_secs(1));
        play(&mut pace, &mut now, 32, 10_000, |_| Duration::from_millis(20));
        play(&mut pace, &mut now, 32, 10_000, |_| Duration::from_millis(200));
        assert!(pace.window() >= 24, "{}", pace.window());
    }

    #[test]
    fn a_failure_starts_again_from_a_few_and_many_leave_one() {
        let (mut pace, mut now) = (Pace::new(), Duration::from_secs(1));
        play(&mut pace, &mut now, 64, 5000, |_| Duration::from_millis(1));
        let before = pace.window();
        pace.failed(now);
        assert_eq!((pace.window(), pace.ceiling), (FIRST, before / 2));
        (0..5).for_each(|_| pace.failed(now));
        assert_eq!(pace.window(), 1);
        let (_, full) = play(&mut pace, &mut now, 64, 5000, |_| Duration::from_millis(1));
        assert!(full.is_some(), "it recovers");
    }
}
