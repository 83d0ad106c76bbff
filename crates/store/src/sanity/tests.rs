use std::sync::{Arc, Mutex as Lock};

use setgate_clock::{BoxFuture, Clock, Uptime};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
const START: u64 = 1_700_000_000_000;

/// Clocks that are moved by hand: the wall clock, the monotonic one and that of the machine.
#[derive(Clone)]
struct Clocks(Arc<Lock<Hands>>);

#[derive(Clone, Copy)]
struct Hands {
    wall: u64,
    monotonic: Duration,
    uptime: Option<Uptime>,
}

impl Clock for Clocks {
    fn wall_millis(&self) -> u64 {
        self.0.lock().unwrap().wall
    }
    fn monotonic(&self) -> Duration {
        self.0.lock().unwrap().monotonic
    }
    fn uptime(&self) -> Option<Uptime> {
        self.0.lock().unwrap().uptime
    }
    fn sleep(&self, _: Duration) -> BoxFuture<()> {
        Box::pin(std::future::pending())
    }
}

impl Clocks {
    /// Creates the clocks of a machine that reports its uptime, or of one that does not.
    fn new(tells: bool) -> Self {
        let uptime = tells.then_some(Uptime { boot: 7, since: HOUR * 100 });
        Self(Arc::new(Lock::new(Hands { wall: START, monotonic: MINUTE, uptime })))
    }

    fn runtime(&self) -> Runtime {
        Runtime {
            clock: Arc::new(self.clone()),
            random: setgate_clock::manual::SeededRandom::new(1),
            tasks: Arc::new(setgate_clock::TokioTasks),
        }
    }

    fn pass(&self, by: Duration) {
        self.sleep_for(by);
        self.0.lock().unwrap().monotonic += by;
    }

    /// Lets the machine sleep: only the monotonic clock stands still.
    fn sleep_for(&self, by: Duration) {
        self.leap(i64::try_from(by.as_millis()).unwrap());
        if let Some(uptime) = &mut self.0.lock().unwrap().uptime {
            uptime.since += by;
        }
    }

    fn leap(&self, millis: i64) {
        let mut hands = self.0.lock().unwrap();
        hands.wall = hands.wall.saturating_add_signed(millis);
    }

    /// Starts another process, with `machine` after a restart of the machine.
    fn restart(&self, machine: bool) {
        let mut hands = self.0.lock().unwrap();
        hands.monotonic = Duration::ZERO;
        if let (Some(uptime), true) = (&mut hands.uptime, machine) {
            *uptime = Uptime { boot: uptime.boot + 1, since: MINUTE };
        }
    }
}

fn sanity(clocks: &Clocks, heard: Option<(Timestamp, Beat)>) -> Sanity {
    Sanity::new(&clocks.runtime(), HOUR, ClockObserved::default(), heard)
}

const YEAR: i64 = 365 * 24 * 3600 * 1000;

fn later(by: Duration) -> Timestamp {
    Timestamp::from_millis(START).plus(by)
}

#[test]
fn a_leap_is_suspect_and_time_goes_on_until_the_clock_is_back() {
    for tells in [true, false] {
        let clocks = Clocks::new(tells);
        let (runtime, sanity) = (clocks.runtime(), sanity(&clocks, None));
        assert!(!sanity.check(&runtime));
        clocks.leap(YEAR);
        clocks.pass(MINUTE);
        assert!(sanity.check(&runtime));
        assert_eq!(sanity.now(&runtime), later(MINUTE));
        clocks.leap(-YEAR);
        assert!(!sanity.check(&runtime));
        clocks.leap(-YEAR);
        assert!(sanity.check(&runtime));
        assert_eq!(sanity.now(&runtime), later(MINUTE));
        sanity.believe(&runtime);
        assert!(!sanity.check(&runtime));
        assert_eq!(sanity.now(&runtime).as_millis(), START + 60_000 - YEAR as u64);
    }
}

#[test]
fn a_leap_has_proved_itself_when_it_went_on_evenly_for_long_enough() {
    for leap in [YEAR, -YEAR, 3 * 3600 * 1000] {
        let clocks = Clocks::new(true);
        let (runtime, sanity) = (clocks.runtime(), sanity(&clocks, None));
        clocks.leap(leap);
        let left = |last| sanity.look(&runtime, last).suspect.unwrap().left;
        assert_eq!(left(Some(17)), HOUR);
        clocks.pass(MINUTE * 59);
        // Small corrections have no effect, another jump does.
        clocks.leap(900);
        assert_eq!(left(Some(18)), MINUTE);
        clocks.leap(5 * 60_000);
        assert_eq!(left(None), HOUR);
        clocks.pass(HOUR);
        assert_eq!(left(None), Duration::ZERO);
        assert_eq!(sanity.look(&runtime, None).suspect.unwrap().last, Some(17), "the last before the first jump");
    }
}

#[test]
fn a_clock_that_stands_still_does_not_go_evenly() {
    let clocks = Clocks::new(true);
    let (runtime, sanity) = (clocks.runtime(), sanity(&clocks, None));
    clocks.leap(YEAR);
    for _ in 0..240 {
        let left = sanity.look(&runtime, None).suspect.unwrap().left;
        assert!(left > MINUTE * 58, "{left:?}");
        clocks.pass(MINUTE / 2);
        clocks.leap(-30_000);
    }
    assert_eq!(sanity.observed.leaps.get(), 1, "it jumped once");
}

#[test]
fn a_machine_that_slept_is_told_from_a_leap() {
    let clocks = Clocks::new(true);
    let (runtime, sanity) = (clocks.runtime(), sanity(&clocks, None));
    clocks.sleep_for(HOUR * 9);
    assert!(!sanity.check(&runtime));
    assert_eq!(sanity.now(&runtime), later(HOUR * 9));
    clocks.leap(YEAR);
    assert!(sanity.check(&runtime));
}

#[test]
fn the_uptime_of_the_machine_tells_how_long_the_gateway_was_off() {
    let clocks = Clocks::new(true);
    let beat = sanity(&clocks, None).beat(&clocks.runtime());
    clocks.pass(HOUR * 50);
    clocks.restart(false);
    assert!(!sanity(&clocks, Some(beat)).check(&clocks.runtime()), "fifty hours went by, and the machine knows it");
    clocks.leap(YEAR);
    clocks.restart(false);
    let ahead = sanity(&clocks, Some(beat));
    assert!(ahead.check(&clocks.runtime()));
    assert_eq!(ahead.now(&clocks.runtime()), later(HOUR * 50), "what the clock must show");
}

#[test]
fn after_a_start_of_the_machine_a_clock_far_ahead_of_the_heartbeat_must_prove_itself() {
    for tells in [true, false] {
        let clocks = Clocks::new(tells);
        let mut beat = sanity(&clocks, None).beat(&clocks.runtime());
        clocks.leap(YEAR);
        // A process that is restarted again and again reaches the end of the wait as well.
        for round in 0..6 {
            clocks.restart(true);
            let (runtime, sanity) = (clocks.runtime(), sanity(&clocks, Some(beat)));
            let seen = sanity.look(&runtime, Some(round));
            assert_eq!(seen.now, later(MINUTE * 10 * round as u32), "time goes on from the heartbeat");
            let suspect = seen.suspect.unwrap();
            assert_eq!(suspect.left, HOUR - MINUTE * 10 * round as u32, "round {round}");
            assert_eq!(suspect.last, Some(0));
            clocks.pass(MINUTE * 10);
            beat = sanity.beat(&runtime);
        }
        clocks.restart(true);
        let (runtime, sanity) = (clocks.runtime(), sanity(&clocks, Some(beat)));
        assert_eq!(sanity.look(&runtime, None).suspect.unwrap().left, Duration::ZERO);
        sanity.believe(&runtime);
        assert!(!sanity.check(&runtime));
    }
}

#[test]
fn a_clock_that_was_put_elsewhere_while_the_gateway_was_off_begins_anew() {
    let clocks = Clocks::new(true);
    let beat = sanity(&clocks, None).beat(&clocks.runtime());
    clocks.leap(YEAR);
    clocks.restart(true);
    let suspect = sanity(&clocks, Some(beat));
    suspect.check(&clocks.runtime());
    clocks.pass(MINUTE * 50);
    let beat = suspect.beat(&clocks.runtime());
    for (moved, machine) in [(-YEAR / 2, true), (YEAR, false), (-2 * YEAR, true)] {
        let before = *clocks.0.lock().unwrap();
        clocks.leap(moved);
        clocks.restart(machine);
        let left = sanity(&clocks, Some(beat)).look(&clocks.runtime(), None).suspect.unwrap().left;
        assert_eq!(left, HOUR, "moved by {moved}");
        *clocks.0.lock().unwrap() = before;
    }
}

#[test]
fn a_clock_behind_the_heartbeat_is_suspect_until_it_caught_up() {
    let clocks = Clocks::new(false);
    let beat = Timestamp::from_millis(START).plus(HOUR * 5);
    let (runtime, sanity) = (clocks.runtime(), sanity(&clocks, Some((beat, Beat::default()))));
    assert!(sanity.check(&runtime));
    assert_eq!(sanity.now(&runtime), beat);
    clocks.leap(5 * 3600 * 1000);
    assert!(!sanity.check(&runtime));
}

#[test]
fn small_corrections_do_not_add_up_to_a_leap() {
    let clocks = Clocks::new(true);
    let (runtime, sanity) = (clocks.runtime(), sanity(&clocks, None));
    for _ in 0..10 {
        clocks.leap(1_800_000);
        assert!(!sanity.check(&runtime));
    }
}

#[test]
fn running_time_goes_on_over_restarts_and_counts_nothing_that_is_not_known() {
    let clocks = Clocks::new(true);
    let one = sanity(&clocks, None);
    clocks.pass(HOUR);
    let beat = one.beat(&clocks.runtime());
    assert_eq!(beat.1.ran, HOUR);
    clocks.pass(HOUR * 2);
    clocks.restart(false);
    let two = sanity(&clocks, Some(beat));
    assert_eq!(two.time(&clocks.runtime()).ran, HOUR * 3, "the machine was up");
    clocks.leap(YEAR);
    clocks.pass(MINUTE);
    assert_eq!(two.time(&clocks.runtime()).ran, HOUR * 3 + MINUTE, "the wall clock does not matter");
    let beat = two.beat(&clocks.runtime());
    clocks.pass(HOUR);
    clocks.restart(true);
    assert_eq!(
        sanity(&clocks, Some(beat)).time(&clocks.runtime()).ran,
        HOUR * 3 + MINUTE,
        "nobody knows how long it was off"
    );
}

#[test]
fn people_are_told_at_once_and_again_and_each_jump_is_counted() {
    let clocks = Clocks::new(true);
    let observed = ClockObserved::default();
    let (runtime, sanity) = (clocks.runtime(), Sanity::new(&clocks.runtime(), HOUR, observed.clone(), None));
    let warned = || sanity.watch.lock().suspect.as_ref().and_then(|suspect| suspect.warned_at);
    clocks.leap(2 * 3600 * 1000);
    sanity.check(&runtime);
    let first = warned();
    assert_eq!((observed.suspect.get(), observed.offset.get(), observed.leaps.get()), (1, 7200, 1));
    clocks.pass(MINUTE * 9);
    sanity.check(&runtime);
    assert_eq!(warned(), first);
    clocks.pass(MINUTE);
    sanity.check(&runtime);
    assert!(warned() > first);
    assert_eq!(observed.leaps.get(), 1, "told again, and counted once");
    let health = sanity.health(&runtime, Timestamp::default());
    assert_eq!((health.clock_offset_seconds, health.clock_believed_in_seconds), (7200, Some(3000)));
    assert!(health.clock_trouble.unwrap().contains("7200 s ahead of what it must show"));
    clocks.leap(-2 * 3600 * 1000);
    sanity.check(&runtime);
    assert_eq!((observed.suspect.get(), observed.offset.get(), observed.leaps.get()), (0, 0, 1));
}
