//! Whether the wall clock can be believed: what destroys by age asks here first.

use std::time::Duration;

use clock::House;
use parking_lot::Mutex;
use set::Timestamp;

/// A jump of the wall clock by more than this, against the monotonic clock, is not believed.
const LEAP: Duration = Duration::from_secs(60 * 60);

/// A clock that was ahead at the opening is believed after it went on evenly for so long.
const PROBATION: Duration = Duration::from_secs(60 * 60);

/// Watches the wall clock.
///
/// A clock that jumped is suspect until it is back where the monotonic clock says it must be, or an operator confirms it.
/// At the opening it is compared with the last heartbeat: behind it, it is suspect until it has caught up; more than an hour
/// ahead of it, which may be nothing but downtime, it is suspect for an hour in which people are told.
#[derive(Debug)]
pub(crate) struct Sanity(Mutex<Anchor>);

#[derive(Debug)]
struct Anchor {
    /// What the wall clock showed when it was last believed.
    wall: Duration,
    monotonic: Duration,
    suspect: bool,
    /// Until when a clock that was ahead at the opening is on probation.
    probation: Option<Duration>,
}

impl Sanity {
    /// Starts to watch; `heartbeat` is what the wall clock showed when the store was last written.
    pub(crate) fn new(house: &House, heartbeat: Option<Timestamp>) -> Self {
        let wall = Duration::from_millis(house.clock.wall_millis());
        let monotonic = house.clock.monotonic();
        let seen = heartbeat.map_or(wall, |heartbeat| Duration::from_millis(heartbeat.as_millis()));
        let behind = wall + LEAP < seen;
        let ahead = wall > seen + LEAP;
        Self(Mutex::new(Anchor {
            wall: if behind { seen } else { wall },
            monotonic,
            suspect: behind || ahead,
            probation: ahead.then(|| monotonic + PROBATION),
        }))
    }

    /// The time to write down: the wall clock's, or where it is not believed, what the monotonic clock makes of the last believed.
    pub(crate) fn now(&self, house: &House) -> Timestamp {
        let anchor = self.looked(house);
        let expected = anchor.wall + house.clock.monotonic().saturating_sub(anchor.monotonic);
        let wall = Duration::from_millis(house.clock.wall_millis());
        let believed = if anchor.suspect && anchor.probation.is_none() { expected } else { wall };
        Timestamp::from_millis(u64::try_from(believed.as_millis()).unwrap_or(u64::MAX))
    }

    /// Whether the clock is suspect now.
    pub(crate) fn check(&self, house: &House) -> bool {
        self.looked(house).suspect
    }

    /// An operator says that the clock is right.
    pub(crate) fn confirm(&self, house: &House) {
        let mut anchor = self.0.lock();
        *anchor = Anchor {
            wall: Duration::from_millis(house.clock.wall_millis()),
            monotonic: house.clock.monotonic(),
            suspect: false,
            probation: None,
        };
    }

    fn looked(&self, house: &House) -> parking_lot::MutexGuard<'_, Anchor> {
        let mut anchor = self.0.lock();
        let wall = Duration::from_millis(house.clock.wall_millis());
        let monotonic = house.clock.monotonic();
        let expected = anchor.wall + monotonic.saturating_sub(anchor.monotonic);
        if wall.abs_diff(expected) > LEAP {
            anchor.suspect = true;
            anchor.probation = None;
            return anchor;
        }
        if anchor.probation.is_some_and(|until| monotonic >= until) || anchor.probation.is_none() {
            anchor.suspect = false;
            anchor.probation = None;
        }
        if !anchor.suspect {
            // Small corrections are followed, so that they never add up to a leap.
            (anchor.wall, anchor.monotonic) = (wall, monotonic);
        }
        anchor
    }
}

#[cfg(test)]
mod tests {
    use clock::manual::{ManualClock, house};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_leap_is_suspect_until_the_clock_is_back() {
        let clock = ManualClock::at(1_000_000_000);
        let house = house(clock.clone(), 1);
        let sanity = Sanity::new(&house, None);
        assert!(!sanity.check(&house));
        clock.advance(HOUR * 2);
        assert!(sanity.check(&house));
        assert_eq!(sanity.now(&house), Timestamp::from_millis(1_000_000_000));
        clock.set(1_000_000_000);
        assert!(!sanity.check(&house));
        clock.set(1_000);
        assert!(sanity.check(&house));
        sanity.confirm(&house);
        assert!(!sanity.check(&house));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_behind_the_heartbeat_is_suspect_until_it_caught_up() {
        let clock = ManualClock::at(1_000_000_000);
        let house = house(clock.clone(), 1);
        let beat = Timestamp::from_millis(2_000_000_000);
        let sanity = Sanity::new(&house, Some(beat));
        assert!(sanity.check(&house));
        assert_eq!(sanity.now(&house), beat);
        clock.set(2_000_000_000);
        assert!(!sanity.check(&house));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_far_ahead_of_the_heartbeat_is_suspect_for_an_hour() {
        let clock = ManualClock::at(9_000_000_000);
        let house = house(clock.clone(), 1);
        let sanity = Sanity::new(&house, Some(Timestamp::from_millis(1_000_000_000)));
        assert!(sanity.check(&house));
        tokio::time::advance(HOUR + Duration::from_secs(1)).await;
        clock.advance(HOUR + Duration::from_secs(1));
        assert!(!sanity.check(&house));
    }

    #[tokio::test(start_paused = true)]
    async fn small_corrections_do_not_add_up_to_a_leap() {
        let clock = ManualClock::at(1_000_000_000);
        let house = house(clock.clone(), 1);
        let sanity = Sanity::new(&house, None);
        for _ in 0..10 {
            clock.advance(HOUR / 2);
            assert!(!sanity.check(&house));
        }
    }
}
