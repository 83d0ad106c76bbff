//! Whether the receiver of a stream shows itself, where it is the receiver who comes.

use std::time::Duration;

use setgate_set::Timestamp;

/// When a receiver was here last. A consumer that stands is a receiver that is here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Presence {
    last: Option<Timestamp>,
    /// On the clock that never jumps; at first when the stream was put in force.
    since: Duration,
    here: usize,
    /// After so long without a session the stream is paused.
    pub(super) inactivity: Option<Duration>,
    /// When it was told last that the receiver stays away.
    pub(super) absence_logged: Option<Duration>,
}

impl Presence {
    pub(crate) fn new(now: Duration, inactivity: Option<Duration>) -> Self {
        Self { last: None, since: now, here: 0, inactivity, absence_logged: None }
    }

    /// The receiver shows itself.
    pub(crate) fn note(&mut self, now: Duration, wall: Timestamp) {
        self.last = Some(wall);
        self.since = now;
    }

    /// It comes and stays until [`Presence::leave`].
    pub(crate) fn come(&mut self, now: Duration, wall: Timestamp) {
        self.note(now, wall);
        self.here += 1;
    }

    /// It goes.
    pub(crate) fn leave(&mut self, now: Duration, wall: Timestamp) {
        self.note(now, wall);
        self.here = self.here.saturating_sub(1);
    }

    /// When it will have been away for longer than it may; never while it is here.
    pub(crate) fn over_at(&self) -> Option<Duration> {
        let timeout = self.inactivity?;
        (self.here == 0).then(|| self.since + timeout)
    }

    /// Its time begins anew, though it was not here: the stream was resumed.
    pub(crate) fn restart(&mut self, now: Duration) {
        self.since = now;
    }

    /// When it was here last, if ever; `now` while it is.
    pub(crate) fn last(&self, now: Timestamp) -> Option<Timestamp> {
        if self.here > 0 { Some(now) } else { self.last }
    }
}
