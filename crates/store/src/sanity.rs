//! The check whether the wall clock can be believed, used before anything is destroyed by age and before times are
//! recorded.
//!
//! The evidence is the pace of the wall clock relative to a clock that never jumps. That is the machine's uptime where
//! the system reports it, since it continues while the machine sleeps and over restarts of the process, and the
//! monotonic clock elsewhere.

use std::time::Duration;

use parking_lot::Mutex;
use setgate_clock::Runtime;
use setgate_set::Timestamp;

use crate::{Health, Time, observe::ClockObserved};

/// The largest jump of the wall clock that is believed.
pub(crate) const LEAP: Duration = Duration::from_secs(60 * 60);

/// The largest deviation of a suspect clock; beyond it the clock has jumped again and must prove itself anew.
const EVENLY: Duration = Duration::from_secs(60);

/// The interval between warnings about a suspect clock.
const REMIND: Duration = Duration::from_secs(10 * 60);

/// The watch over the wall clock.
///
/// A clock that jumped is suspect; time then continues from the last believed value, by the clock that never jumps. The
/// wall clock is believed again when it returns to that time, when it ran steadily for long enough, or when an operator
/// confirms it.
#[derive(Debug)]
pub(crate) struct Sanity {
    watch: Mutex<Watch>,
    /// The running time of the store at the last warning that times of acceptance are ahead.
    warned_ahead: Mutex<Option<Duration>>,
    /// The time for which a clock that jumped must run steadily before it is believed.
    steady: Duration,
    observed: ClockObserved,
}

#[derive(Debug)]
struct Watch {
    /// The believed time at `run`.
    believed: Duration,
    /// The reading of the clock that never jumps when the wall clock was last believed.
    run: Duration,
    /// The time for which the store had been running at `run`, as far as that is known.
    ran: Duration,
    suspect: Option<Suspect>,
}

/// A wall clock that is not where it must be.
#[derive(Debug)]
struct Suspect {
    /// The milliseconds by which it is ahead of the believed time.
    offset: i64,
    /// The offset when it began to run steadily. A slow drift changes `offset`, not this field.
    anchor: i64,
    /// The reading of the clock that never jumps at that moment.
    since: Duration,
    /// The time for which it had run steadily before this process began.
    before: Duration,
    /// The believed time when it became suspect.
    began: Timestamp,
    /// The last record that was accepted before.
    last: Option<u64>,
    warned_at: Option<Duration>,
}

/// The result of a look at the clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// The time to record.
    pub(crate) now: Timestamp,
    /// The time for which the store has been running, over restarts; a lower bound.
    pub(crate) ran: Duration,
    /// The wall clock, if it is suspect.
    pub(crate) suspect: Option<Strayed>,
}

/// A wall clock that is suspect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strayed {
    /// The time that it shows.
    pub(crate) wall: Timestamp,
    /// The milliseconds by which it is ahead of the believed time.
    pub(crate) offset: i64,
    /// The time for which it must still run steadily until it is believed.
    pub(crate) left: Duration,
    /// The believed time when it became suspect.
    pub(crate) began: Timestamp,
    /// The last record that was accepted before it became suspect.
    pub(crate) last: Option<u64>,
}

/// The evidence that is stored periodically for the next opening.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beat {
    /// The time for which the store has been running.
    pub(crate) ran: Duration,
    /// The start of the machine, and its uptime.
    pub(crate) uptime: Option<(u128, Duration)>,
    /// The state of a suspect clock.
    pub(crate) strayed: Option<StrayedBeat>,
}

/// The stored state of a suspect clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StrayedBeat {
    /// The time that it showed.
    pub(crate) wall: Timestamp,
    /// The time for which it had run steadily.
    pub(crate) steady: Duration,
    /// The believed time when it became suspect.
    pub(crate) began: Timestamp,
    /// The last record that was accepted before.
    pub(crate) last: Option<u64>,
}

/// Returns the reading of the clock that never jumps.
fn run(runtime: &Runtime) -> Duration {
    runtime.clock.uptime().map_or_else(|| runtime.clock.monotonic(), |uptime| uptime.since)
}

fn wall(runtime: &Runtime) -> Duration {
    Duration::from_millis(runtime.clock.wall_millis())
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn timestamp(at: Duration) -> Timestamp {
    Timestamp::from_millis(millis(at))
}

/// Returns the milliseconds by which `wall` is ahead.
fn ahead(wall: Duration, of: Duration) -> i64 {
    let part = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    if wall >= of { part(wall - of) } else { -part(of - wall) }
}

fn is_more(offset: i64, than: Duration) -> bool {
    offset.unsigned_abs() > millis(than)
}

impl Strayed {
    /// Returns the offset in whole seconds.
    pub(crate) fn seconds(&self) -> i64 {
        seconds(self.offset)
    }
}

fn seconds(offset: i64) -> i64 {
    offset.saturating_add(500).div_euclid(1000)
}

impl Sanity {
    /// Creates the watch. `heard` is the last heartbeat: the time that was believed then, and its evidence.
    ///
    /// Where the machine has been up since, its uptime determines what the wall clock must show now. Otherwise it is
    /// unknown how long the gateway was off: a clock that is more than an hour ahead of the heartbeat, or behind it, is
    /// suspect.
    pub(crate) fn new(
        runtime: &Runtime,
        steady: Duration,
        observed: ClockObserved,
        last_beat: Option<(Timestamp, Beat)>,
    ) -> Self {
        let (wall, run) = (wall(runtime), run(runtime));
        let (believed, beat) =
            last_beat.map_or((wall, Beat::default()), |(at, beat)| (Duration::from_millis(at.as_millis()), beat));
        let gap = match (runtime.clock.uptime(), beat.uptime) {
            (Some(now), Some((boot, then))) if now.boot == boot => now.since.checked_sub(then),
            _ => None,
        };
        let expected = believed + gap.unwrap_or_default();
        let offset = ahead(wall, expected);
        let suspect = is_more(offset, LEAP).then(|| {
            let strayed = beat.strayed.unwrap_or_default();
            let shown = Duration::from_millis(strayed.wall.as_millis());
            let went_on = match gap {
                Some(gap) => !is_more(ahead(wall, shown + gap), EVENLY),
                // It is unknown how long the gateway was off; the clock must at least not have gone back.
                None => ahead(shown, believed).signum() == offset.signum() && wall + EVENLY >= shown,
            };
            let before = if beat.strayed.is_some() && went_on {
                strayed.steady + gap.unwrap_or_default()
            } else {
                Duration::ZERO
            };
            let began = beat.strayed.map_or(timestamp(expected), |strayed| strayed.began);
            Suspect { offset, anchor: offset, since: run, before, began, last: strayed.last, warned_at: None }
        });
        let believed = if suspect.is_some() { expected } else { wall };
        let watch = Watch { believed, run, ran: beat.ran + gap.unwrap_or_default(), suspect };
        Self { watch: Mutex::new(watch), warned_ahead: Mutex::new(None), steady, observed }
    }

    /// Reads the clocks. `last` is the last record, if the caller knows it.
    pub(crate) fn look(&self, runtime: &Runtime, last: Option<u64>) -> Seen {
        let (wall, run) = (wall(runtime), run(runtime));
        let mut watch = self.watch.lock();
        let passed = run.saturating_sub(watch.run);
        let (expected, ran) = (watch.believed + passed, watch.ran + passed);
        let offset = ahead(wall, expected);
        self.observed.offset.set(if is_more(offset, LEAP) { seconds(offset) } else { 0 });
        if !is_more(offset, LEAP) {
            if watch.suspect.take().is_some() {
                self.observed.suspect.set(0);
                tracing::warn!("the wall clock is back where it must be: it is believed");
            }
            // Small corrections are followed, so that they never add up to a jump.
            (watch.believed, watch.run, watch.ran) = (wall, run, ran);
            return Seen { now: timestamp(wall), ran, suspect: None };
        }
        let fresh = Suspect {
            offset,
            anchor: offset,
            since: run,
            before: Duration::ZERO,
            began: timestamp(expected),
            last,
            warned_at: None,
        };
        let suspect = watch.suspect.get_or_insert(fresh);
        suspect.last = suspect.last.or(last);
        if is_more(offset.saturating_sub(suspect.anchor), EVENLY) {
            (suspect.anchor, suspect.since, suspect.before) = (offset, run, Duration::ZERO);
            if is_more(offset.saturating_sub(suspect.offset), EVENLY) {
                // This is another jump, not a clock that runs too fast or stands still.
                suspect.warned_at = None;
            }
        }
        suspect.offset = offset;
        let steady = suspect.before + run.saturating_sub(suspect.since);
        let left = self.steady.saturating_sub(steady);
        let strayed = Strayed { wall: timestamp(wall), offset, left, began: suspect.began, last: suspect.last };
        self.tell(suspect, run, left);
        Seen { now: timestamp(expected), ran, suspect: Some(strayed) }
    }

    /// Logs a warning, at once and then periodically.
    fn tell(&self, suspect: &mut Suspect, run: Duration, left: Duration) {
        if suspect.warned_at.is_some_and(|at| run < at + REMIND) {
            return;
        }
        if suspect.warned_at.is_none() {
            self.observed.leaps.inc();
        }
        self.observed.suspect.set(1);
        suspect.warned_at = Some(run);
        tracing::warn!(
            seconds_ahead = seconds(suspect.offset),
            believed_in_seconds = left.as_secs(),
            "the wall clock jumped and is not believed: new events get the time that has passed since, and nothing is destroyed by \
             age, until it has gone on evenly for long enough, or `setgate store confirm-clock` says that it is right"
        );
    }

    /// Returns the time to record: that of the wall clock, or its last believed value plus the time that has passed
    /// since.
    pub(crate) fn now(&self, runtime: &Runtime) -> Timestamp {
        self.look(runtime, None).now
    }

    /// Returns whether the clock is suspect now.
    pub(crate) fn check(&self, runtime: &Runtime) -> bool {
        self.look(runtime, None).suspect.is_some()
    }

    /// Returns the time of the store.
    pub(crate) fn time(&self, runtime: &Runtime) -> Time {
        let seen = self.look(runtime, None);
        Time { now: seen.now, ran: seen.ran, suspect: seen.suspect.is_some() }
    }

    /// Returns the health of the clock, with the fields of other parts at their defaults. `accepted` is the last time
    /// of acceptance.
    pub(crate) fn health(&self, runtime: &Runtime, accepted: Timestamp) -> Health {
        let seen = self.look(runtime, None);
        let ahead = accepted.since(seen.now);
        let trouble = match seen.suspect {
            Some(strayed) => {
                let (seconds, left) = (strayed.seconds(), strayed.left.as_secs());
                let (by, way) = (seconds.unsigned_abs(), if seconds < 0 { "behind" } else { "ahead of" });
                Some(format!(
                    "the wall clock is {by} s {way} what it must show: it is believed when it has gone on evenly for {left} s more, \
                     or at once with `setgate store confirm-clock`"
                ))
            }
            None => (ahead > EVENLY).then(|| {
                format!(
                    "events were accepted under a clock that was ahead: `iat` stands still until the clock has caught up, in {} s, \
                     or until `setgate store confirm-clock` lets it go back to the clock",
                    ahead.as_secs()
                )
            }),
        };
        Health {
            clock_suspect: seen.suspect.is_some(),
            clock_offset_seconds: seen.suspect.map_or(0, |strayed| strayed.seconds()),
            clock_believed_in_seconds: seen.suspect.map(|strayed| strayed.left.as_secs()),
            accepted_ahead_seconds: ahead.as_secs(),
            clock_trouble: trouble,
            ..Health::default()
        }
    }

    /// Reads the clocks for a writer. `last` is the last record, `accepted` its time.
    pub(crate) fn watch(&self, runtime: &Runtime, last: u64, accepted: Timestamp) -> Seen {
        let seen = self.look(runtime, Some(last));
        let ahead = if seen.suspect.is_none() { accepted.since(seen.now) } else { Duration::ZERO };
        self.observed.accepted_ahead.set(i64::try_from(ahead.as_secs()).unwrap_or(i64::MAX));
        let mut warned = self.warned_ahead.lock();
        if ahead <= EVENLY {
            *warned = None;
        } else if warned.is_none_or(|at| seen.ran >= at + REMIND) {
            *warned = Some(seen.ran);
            tracing::warn!(
                seconds = ahead.as_secs(),
                "events were accepted under a clock that was ahead: `iat` stands still until the clock has caught up, or until \
                 `setgate store confirm-clock` lets it go back to the clock"
            );
        }
        seen
    }

    /// Makes the wall clock believed from now on.
    pub(crate) fn believe(&self, runtime: &Runtime) {
        let (wall, run) = (wall(runtime), run(runtime));
        let mut watch = self.watch.lock();
        watch.ran = watch.ran + run.saturating_sub(watch.run);
        (watch.believed, watch.run, watch.suspect) = (wall, run, None);
        self.observed.suspect.set(0);
        self.observed.offset.set(0);
    }

    /// Returns the heartbeat for the next opening: the believed time and the evidence.
    pub(crate) fn beat(&self, runtime: &Runtime) -> (Timestamp, Beat) {
        let seen = self.look(runtime, None);
        let uptime = runtime.clock.uptime().map(|uptime| (uptime.boot, uptime.since));
        let strayed = seen.suspect.map(|strayed| StrayedBeat {
            wall: strayed.wall,
            steady: self.steady.saturating_sub(strayed.left),
            began: strayed.began,
            last: strayed.last,
        });
        (seen.now, Beat { ran: seen.ran, uptime, strayed })
    }
}

#[cfg(test)]
mod tests;
