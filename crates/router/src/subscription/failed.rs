//! The failures of fetched SETs: when a failed SET is due again, and what of its stream waits with it.

use std::{sync::Arc, time::Duration};

use setgate_delivery::{Cause, Class, Initiator};
use setgate_set::{ErrorCode, Timestamp};
use setgate_store::{Attempted, Note, Settlement};

use super::{
    LONE_FAILURES_OF_A_CHANNEL, Phase, State, Subscription,
    end::{End, Settling},
    parts::Leased,
};
use crate::{
    backoff::pause,
    endpoint::Fault,
    shared::{Command, Shared},
};

impl Subscription {
    /// Handles a SET that failed while others pass: it waits, the longer the more often it was tried, or is given up,
    /// and its channel goes on.
    pub(super) fn failed_alone(
        self: &Arc<Self>,
        state: &mut State,
        settling: &mut Settling<'_>,
        mut leased: Leased,
        tries: u32,
        after: Option<Duration>,
        cause: Cause,
    ) {
        let &mut Settling { served, now, wall, .. } = settling;
        let Shared { config, runtime, .. } = &*self.shared;
        self.count_failure(settling, &mut leased, &cause);
        let lone_failures = leased.slot.troubles().lone_failures;
        if lone_failures >= config.poison_after {
            // The SET may have been the probe, so another one may leave.
            state.breaker.unknown(now);
            let text = format!("failed {lone_failures} times while others passed; the last: {cause}");
            self.park(state, End::of(leased), ErrorCode::Poison, text.into(), false);
            return;
        }
        state.streaks.lone_failures += 1;
        let wait = pause(config, &*runtime.random, tries).max(after.unwrap_or_default().min(config.retry_after_max));
        if state.streaks.lone_failures >= LONE_FAILURES_OF_A_CHANNEL && served.profile.initiator == Initiator::Gateway {
            state.breaker.fault(now, cause.class, |failures| pause(config, &*runtime.random, failures));
            self.pause_if_hopeless(state, now, &cause);
        } else {
            state.breaker.unknown(now);
        }
        state.shown.last_error = Some((wall, cause));
        settling.notes.push(self.retry(state, leased, wall.plus(wait), Some(now + wait)));
    }

    /// Handles a failure of the channel: all of its stream waits, unless it was this SET alone that failed.
    pub(super) fn channel_failed(
        self: &Arc<Self>,
        state: &mut State,
        settling: &mut Settling<'_>,
        mut leased: Leased,
        after: Option<Duration>,
        cause: Cause,
    ) {
        if state.is_this_set(&mut leased) {
            let tries = leased.slot.troubles().lone_failures;
            self.failed_alone(state, settling, leased, tries, after, cause);
            return;
        }
        let &mut Settling { served, now, wall, .. } = settling;
        let Shared { config, runtime, .. } = &*self.shared;
        self.count_failure(settling, &mut leased, &cause);
        let after = after.unwrap_or_default().min(config.retry_after_max);
        if served.profile.initiator == Initiator::Receiver {
            // A receiver that comes and asks is there: the SET waits for as long as the receiver asked, and no other
            // does.
            state.shown.last_error = Some((wall, cause));
            let due = (!after.is_zero()).then(|| now + after);
            settling.notes.push(self.retry(state, leased, wall.plus(after), due));
            return;
        }
        let until =
            state.breaker.fault(now, cause.class, |failures| pause(config, &*runtime.random, failures).max(after));
        self.pause_if_hopeless(state, now, &cause);
        state.shown.last_error = Some((wall, cause));
        settling.notes.push(self.retry(state, leased, wall.plus(until.saturating_sub(now)), None));
    }

    /// Pauses a stream that needs a person, at once.
    pub(super) fn halted(self: &Arc<Self>, state: &mut State, settling: &Settling<'_>, leased: Leased, cause: Cause) {
        let Shared { config, runtime, .. } = &*self.shared;
        self.shared.tell(Command::Pause(self.no, cause.to_string()));
        let fault = |failures| pause(config, &*runtime.random, failures);
        state.breaker.fault(settling.now, Class::Configuration, fault);
        state.shown.last_error = Some((settling.wall, cause));
        self.come_back(state, leased, None);
    }

    /// Handles a failure of the shared endpoint: all its channels wait, unless it was this SET alone that failed.
    pub(super) fn endpoint_failed(
        self: &Arc<Self>,
        state: &mut State,
        settling: &mut Settling<'_>,
        mut leased: Leased,
        after: Option<Duration>,
        cause: Cause,
    ) {
        let &mut Settling { now, wall, .. } = settling;
        let after = after.unwrap_or_default().min(self.shared.config.retry_after_max);
        let until = hold(state, &leased, now, Fault::Theirs(after), &cause);
        let wait = until.saturating_sub(now);
        if state.is_this_set(&mut leased) {
            let tries = leased.slot.troubles().lone_failures;
            self.failed_alone(state, settling, leased, tries, Some(wait), cause);
            return;
        }
        // The failure says nothing of the channel.
        state.breaker.unknown(now);
        self.count_failure(settling, &mut leased, &cause);
        state.shown.last_error = Some((wall, cause));
        settling.notes.push(self.retry(state, leased, wall.plus(wait), None));
    }

    /// Handles a failure of the shared endpoint that needs a person: all its channels wait, and no attempt is counted.
    pub(super) fn endpoint_unusable(
        self: &Arc<Self>,
        state: &mut State,
        settling: &Settling<'_>,
        leased: Leased,
        cause: Cause,
    ) {
        hold(state, &leased, settling.now, Fault::Ours, &cause);
        // The failure says nothing of the channel.
        state.breaker.unknown(settling.now);
        self.observe_failure(settling, &cause);
        state.shown.last_error = Some((settling.wall, cause));
        self.come_back(state, leased, None);
    }

    /// Counts a failed attempt, in the SET and in the metrics.
    fn count_failure(&self, settling: &Settling<'_>, leased: &mut Leased, cause: &Cause) {
        leased.slot.attempts = leased.attempt.0;
        leased.slot.failed_at(settling.wall);
        self.observe_failure(settling, cause);
    }

    fn observe_failure(&self, settling: &Settling<'_>, cause: &Cause) {
        let labels = [("method", settling.served.method), ("cause", cause.code)];
        self.shared.observed.failed.get_or_create(&labels).inc();
    }

    /// Pauses a stream that has failed with permanent errors often and long enough.
    fn pause_if_hopeless(&self, state: &State, now: Duration, cause: &Cause) {
        let config = &self.shared.config;
        if state.breaker.gives_up(now, config) && state.phase == Phase::Open {
            let why = format!("{} faults in a row, the last: {cause}", config.pause_after_faults);
            self.shared.tell(Command::Pause(self.no, why));
        }
    }

    /// Puts a failed SET back and returns the note of it. With `due` its own lane waits until then.
    fn retry(&self, state: &mut State, leased: Leased, next_at: Timestamp, due: Option<Duration>) -> Settlement {
        let attempted = Attempted {
            count: leased.slot.attempts,
            first_failed: leased.slot.first_failed().unwrap_or(next_at),
            next_at,
        };
        let at = leased.slot.head.at;
        self.come_back(state, leased, due);
        Settlement { stream: self.no, at, note: Note::Attempt(attempted) }
    }
}

/// Holds the endpoint after a fault. Returns the time at which the next SET may try it.
fn hold(state: &State, leased: &Leased, now: Duration, fault: Fault, cause: &Cause) -> Duration {
    let endpoint = state.endpoint.as_ref();
    endpoint.map_or(now, |endpoint| endpoint.failed(now, leased.probe.as_ref(), fault, cause))
}
