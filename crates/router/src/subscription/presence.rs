//! The presence of a stream's receiver, where it is the receiver that comes.

use std::time::Duration;

use setgate_set::Timestamp;

/// The time at which a receiver was last present; it is present while it has a consumer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Presence {
    last: Option<Timestamp>,
    /// The monotonic time since which it is away; at first the time at which the stream was put in force.
    since: Duration,
    here: usize,
    /// The time without a session after which the stream is paused.
    pub(super) inactivity: Option<Duration>,
    /// The time at which its absence was last reported.
    pub(super) absence_logged: Option<Duration>,
}

impl Presence {
    pub(crate) fn new(now: Duration, inactivity: Option<Duration>) -> Self {
        Self { last: None, since: now, here: 0, inactivity, absence_logged: None }
    }

    /// Notes that the receiver was seen.
    pub(crate) fn note(&mut self, now: Duration, wall: Timestamp) {
        self.last = Some(wall);
        self.since = now;
    }

    /// Notes that the receiver came; it stays until [`Presence::leave`].
    pub(crate) fn come(&mut self, now: Duration, wall: Timestamp) {
        self.note(now, wall);
        self.here += 1;
    }

    /// Notes that the receiver left.
    pub(crate) fn leave(&mut self, now: Duration, wall: Timestamp) {
        self.note(now, wall);
        self.here = self.here.saturating_sub(1);
    }

    /// Returns the time at which it will have been away for longer than it may; `None` while it is present.
    pub(crate) fn over_at(&self) -> Option<Duration> {
        let timeout = self.inactivity?;
        (self.here == 0).then(|| self.since + timeout)
    }

    /// Starts its time anew although it was not present, since the stream was resumed.
    pub(crate) fn restart(&mut self, now: Duration) {
        self.since = now;
    }

    /// Returns the time at which it was last present, if it ever was; `now` while it is.
    pub(crate) fn last(&self, now: Timestamp) -> Option<Timestamp> {
        if self.here > 0 { Some(now) } else { self.last }
    }
}
