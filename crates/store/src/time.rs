//! The believed time of the store.

use std::time::Duration;

use serde::Serialize;
use setgate_set::Timestamp;

/// The time as the store knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// The believed time: that of the wall clock, or its last believed value plus the time that has passed since.
    pub now: Timestamp,
    /// The time for which the store has been running, over restarts of the process. It is a lower bound, so a wait
    /// measured by it is long enough.
    pub ran: Duration,
    /// True when the wall clock is suspect: nothing is destroyed, and no key begins to sign, by its age.
    pub suspect: bool,
}

/// The effect of an operator's confirmation that the wall clock is right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Confirmed {
    /// The seconds by which the clock was ahead of the believed time; 0 where it was believed.
    pub offset_seconds: i64,
    /// The seconds by which times of acceptance went back; 0 where they did not.
    pub went_back_seconds: u64,
}

/// A run of records whose times were held back, since the wall clock was suspect when they were accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeldBack {
    /// The first record.
    pub(crate) first: u64,
    /// The last record.
    pub(crate) last: u64,
    /// The believed times when the clock became suspect and just before it was believed again, between which the
    /// recorded times lie.
    pub(crate) times: (Timestamp, Timestamp),
    /// The time at which the clock was believed again; nothing recorded in the run is older.
    pub(crate) until: Timestamp,
}

/// The most runs that are remembered; older ones are merged.
const RUNS: usize = 64;

impl HeldBack {
    /// Adds a run. Forgets the runs of which neither a record nor anything with a lifetime of `longest` is kept any
    /// more.
    pub(crate) fn add(self, runs: &mut Vec<Self>, first_kept: u64, longest: Duration) {
        runs.retain(|run| run.last >= first_kept || self.until.since(run.until) < longest);
        runs.push(self);
        if runs.len() > RUNS {
            let oldest = runs.remove(0);
            if let Some(next) = runs.first_mut() {
                let times = (oldest.times.0.min(next.times.0), oldest.times.1.max(next.times.1));
                *next = Self { first: oldest.first, last: next.last, times, until: oldest.until.max(next.until) };
            }
        }
    }

    /// Returns the latest time at which something with the recorded time `at` can have been written.
    pub(crate) fn latest(runs: &[Self], at: Timestamp) -> Timestamp {
        let held = |run: &&Self| (run.times.0..=run.times.1).contains(&at);
        runs.iter().filter(held).map(|run| run.until).fold(at, Timestamp::max)
    }

    /// Returns the first record that may be as young as `when`, whatever its recorded time.
    pub(crate) fn first_since(runs: &[Self], when: Timestamp) -> Option<u64> {
        runs.iter().filter(|run| when < run.until).map(|run| run.first).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn what_is_kept_of_runs_is_bounded_and_never_less_careful() {
        let at = Timestamp::from_seconds;
        let mut runs = Vec::new();
        for number in 1..=100u64 {
            let times = (at(number), at(number));
            HeldBack { first: number * 10, last: number * 10 + 5, times, until: at(number) }.add(&mut runs, 1, DAY);
        }
        assert_eq!(runs.len(), RUNS);
        for number in 1..=100 {
            let found = HeldBack::first_since(&runs, at(number - 1)).unwrap();
            assert!(found <= number * 10, "run {number} counts as older than it is");
        }
        assert_eq!(HeldBack::first_since(&runs, at(100)), None);
        let next = HeldBack { first: 2000, last: 2001, times: (at(110), at(120)), until: at(100_000) };
        next.add(&mut runs, 1500, DAY);
        assert_eq!(runs.len(), 1, "nothing is kept of the others");
        for (said, latest) in [(109, 109), (110, 100_000), (120, 100_000), (121, 121)] {
            assert_eq!(HeldBack::latest(&runs, at(said)), at(latest));
        }
    }
}
