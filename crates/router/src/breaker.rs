//! The circuit breaker of one stream, which lets through nothing, one probe, or what its pace allows.

use std::time::Duration;

use setgate_delivery::{Class, Initiator, Profile};

use crate::{Config, pace::Pace};

/// The circuit breaker of one stream: closed, open until a time, or letting one probe through.
///
/// When closed, it lets through what the [`Pace`] of its channel allows: a thousand endpoints that turn out dead cost a
/// few SETs each, not a window each. Where channels share an endpoint, the windows that they share state its capacity,
/// and there is no pace.
#[derive(Debug)]
pub(crate) struct Breaker {
    state: State,
    /// Faults in a row, each with a back-off of its own.
    in_row: u32,
    /// Faults in a row that are the stream's own and do not heal by waiting; `own_since` is the time of the first.
    own_in_row: u32,
    own_since: Option<Duration>,
    /// True when the peer comes and asks: it is there, so it is never probed.
    is_asked: bool,
    /// The pace that bounds what is in flight while closed; `None` where the peer comes and asks, or shared windows
    /// state the capacity.
    pace: Option<Pace>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Open(Duration),
    Probing,
}

impl Breaker {
    /// Makes the breaker of a channel.
    pub(crate) fn of(profile: &Profile) -> Self {
        match (profile.initiator, &profile.endpoint) {
            (Initiator::Gateway, None) => Self::of_sender(),
            (Initiator::Gateway, Some(_)) => Self { pace: None, ..Self::of_sender() },
            (Initiator::Receiver, _) => Self::of_responder(),
        }
    }

    /// Makes the breaker of a channel that speaks first.
    pub(crate) fn of_sender() -> Self {
        let pace = Some(Pace::new());
        Self { state: State::Closed, in_row: 0, own_in_row: 0, own_since: None, is_asked: false, pace }
    }

    /// Makes the breaker of a channel whose peer comes and asks, and so is there when it does.
    pub(crate) fn of_responder() -> Self {
        Self { is_asked: true, pace: None, ..Self::of_sender() }
    }

    /// Returns how many SETs may leave now: as many as the pace allows, none, or one probe.
    pub(crate) fn allowance(&self, now: Duration, in_flight: usize) -> usize {
        match self.state {
            State::Closed => self.pace.map_or(usize::MAX, |pace| pace.window().saturating_sub(in_flight)),
            // A peer that comes by itself is not probed: only a fault on this side is waited for.
            State::Open(until) if now >= until && self.is_asked => usize::MAX,
            State::Open(until) if now >= until && in_flight == 0 => 1,
            State::Open(_) | State::Probing => 0,
        }
    }

    /// Notes that a SET leaves.
    pub(crate) fn left(&mut self) {
        if let State::Open(_) = self.state
            && !self.is_asked
        {
            self.state = State::Probing;
        }
    }

    /// Notes that the probe came back without a result, so that another may leave at once.
    pub(crate) fn unknown(&mut self, now: Duration) {
        if self.state == State::Probing {
            self.state = State::Open(now);
        }
    }

    /// Notes that the endpoint acknowledged a SET, or refused one for the SET's own sake: it is healthy.
    pub(crate) fn success(&mut self) {
        (self.state, self.in_row, self.own_in_row, self.own_since) = (State::Closed, 0, 0, None);
    }

    /// Notes that the endpoint acknowledged a SET that was handed over at `handed`.
    pub(crate) fn took(&mut self, handed: Duration, now: Duration) {
        self.success();
        if let Some(pace) = &mut self.pace {
            pace.took(handed, now);
        }
    }

    /// Notes that more SETs would leave if they were allowed to.
    pub(crate) fn limited(&mut self) {
        if let Some(pace) = &mut self.pace {
            pace.limited();
        }
    }

    /// Notes that the channel failed; returns the time at which the next probe may leave.
    pub(crate) fn fault(&mut self, now: Duration, class: Class, wait: impl FnOnce(u32) -> Duration) -> Duration {
        if let State::Open(until) = self.state
            && (now < until || !self.is_asked)
        {
            // Other SETs of the same volley report the same fault.
            return until;
        }
        self.in_row += 1;
        if let Some(pace) = &mut self.pace {
            pace.failed(now);
        }
        if class == Class::Configuration {
            self.own_in_row += 1;
            self.own_since.get_or_insert(now);
        } else {
            self.own_in_row = 0;
            self.own_since = None;
        }
        let until = now + wait(self.in_row);
        self.state = State::Open(until);
        until
    }

    /// Returns whether the stream has failed with permanent errors often and long enough to be paused.
    pub(crate) fn gives_up(&self, now: Duration, config: &Config) -> bool {
        self.own_in_row >= config.pause_after_faults
            && self.own_since.is_some_and(|since| now.saturating_sub(since) >= config.pause_after)
    }

    /// Returns the time at which the next probe may leave, if the breaker is open.
    pub(crate) fn opens_at(&self) -> Option<Duration> {
        match self.state {
            State::Open(until) => Some(until),
            State::Closed | State::Probing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::FIRST;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn lets_one_probe_through_and_closes_on_success() {
        let mut breaker = Breaker::of_sender();
        assert_eq!(breaker.allowance(SECOND, 1), FIRST - 1);
        let until = breaker.fault(SECOND, Class::Transient, |n| SECOND * n);
        assert_eq!(until, 2 * SECOND);
        assert_eq!(breaker.fault(SECOND, Class::Transient, |n| SECOND * n), until, "a volley is one fault");
        assert_eq!(breaker.allowance(SECOND, 0), 0);
        assert_eq!(breaker.allowance(2 * SECOND, 3), 0, "the volley is still in flight");
        assert_eq!(breaker.allowance(2 * SECOND, 0), 1);
        breaker.left();
        assert_eq!(breaker.allowance(2 * SECOND, 1), 0);
        assert_eq!(breaker.fault(3 * SECOND, Class::Transient, |n| SECOND * n), 5 * SECOND);
        breaker.left();
        breaker.success();
        assert_eq!(breaker.allowance(3 * SECOND, 0), 1, "it failed twice");
    }

    #[test]
    fn opens_up_step_by_step_for_those_it_calls_and_at_once_for_those_who_come() {
        let mut sender = Breaker::of_sender();
        for _ in 0..20 {
            sender.limited();
            sender.took(SECOND, SECOND + SECOND / 100);
        }
        assert!(sender.allowance(SECOND, 0) > FIRST);
        sender.fault(SECOND, Class::Transient, |_| SECOND);
        sender.left();
        sender.success();
        assert_eq!(sender.allowance(SECOND, 0), FIRST, "after a failure from the start");
        let mut responder = Breaker::of_responder();
        assert_eq!(responder.allowance(SECOND, 1000), usize::MAX);
        responder.success();
        assert_eq!(responder.allowance(SECOND, 0), usize::MAX);
        // A fault on this side is waited for, whatever is in flight.
        responder.fault(SECOND, Class::Transient, |_| SECOND);
        assert_eq!(responder.allowance(SECOND, 0), 0);
        assert_eq!(responder.allowance(2 * SECOND, 1000), usize::MAX);
    }

    #[test]
    fn gives_up_only_after_enough_permanent_errors_over_enough_time() {
        let config = Config::default();
        let mut breaker = Breaker::of_sender();
        let mut now = SECOND;
        for _ in 0..4 {
            now = breaker.fault(now, Class::Configuration, |_| 300 * SECOND);
            breaker.left();
        }
        assert!(!breaker.gives_up(now, &config));
        breaker.fault(now, Class::Configuration, |_| SECOND);
        assert!(breaker.gives_up(now, &config));
        breaker.left();
        breaker.fault(now, Class::Transient, |_| SECOND);
        assert!(!breaker.gives_up(now, &config), "an absent endpoint is waited for");
    }
}
