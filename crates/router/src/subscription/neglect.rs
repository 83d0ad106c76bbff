//! A check for tests that a stream with something due is running, queued or timed.

use std::{fmt::Write as _, time::Duration};

use super::{
    State, Subscription,
    parts::{InFlight, Scan},
};

impl Subscription {
    /// Describes what is due here although nothing is on the way to it and no timer will wake it; called when all tasks
    /// are at rest.
    pub(crate) fn neglected(&self) -> Option<String> {
        let now = self.shared.runtime.clock.monotonic();
        let timer = self.shared.timers.scheduled(self.no);
        let served = self.served.load();
        let full = served.profile.windows.iter().chain([&self.own_window]).any(|window| window.core().room() == 0);
        let halted = self.shared.is_halted();
        let mut state = self.state.lock();
        let why = state.neglected(now, timer, halted, full)?;
        Some(format!("stream {}: {why}; {}", self.no, state.debug(now, timer)))
    }
}

impl State {
    fn neglected(&mut self, now: Duration, timer: Option<Duration>, halted: bool, full: bool) -> Option<&'static str> {
        let untimed = |at: Option<Duration>| at.is_some_and(|at| timer.is_none_or(|timer| timer > at));
        if untimed(self.lanes.next_due()) {
            return Some("a lane waits for a time at which nobody looks");
        }
        if untimed(self.in_flight.redeliveries.first().map(|(at, _)| *at)) {
            return Some("what was handed over times out and nobody looks");
        }
        if untimed(self.absent_at()) {
            return Some("nobody notices that the receiver stays away");
        }
        if untimed(self.breaker.opens_at().filter(|at| *at > now)) {
            return Some("its breaker opens and nobody looks");
        }
        if self.wants_scan() && !self.scan.reading && !self.scan.asked {
            return Some("it is to be read on in the store and nobody does");
        }
        if halted || self.in_flight.late > 0 || !self.would_fetch(now) {
            return None;
        }
        if self.allowance(now) == 0 {
            let queued = self.endpoint.as_ref().is_some_and(|endpoint| endpoint.knows(self.no));
            // A batch that was lingering when the endpoint failed is tried when its linger time is over.
            let lingers = timer.is_some_and(|timer| timer <= now + self.linger.wait);
            return (!queued && !lingers).then_some("its endpoint is held and it does not stand in the queue");
        }
        let lingers = !self.control_waits()
            && self
                .lingers(now, None, usize::MAX, usize::MAX)
                .is_some_and(|until| timer.is_some_and(|timer| timer <= until));
        if lingers || self.consumers.is_called() {
            return None;
        }
        if self.consumers.somebody_comes() {
            return (!full).then_some("somebody waits for SETs, and SETs wait for somebody");
        }
        (!self.running && !self.patient).then_some("nobody fetches")
    }

    /// Describes the state for a test that fails, with the monotonic time, on which its times are.
    pub(crate) fn debug(&self, now: Duration, timer: Option<Duration>) -> String {
        let Self { breaker, consumers, running, in_flight: InFlight { ending, .. }, .. } = self;
        let Scan { upto, seen, reading, asked, rewind, .. } = &self.scan;
        let mut text = format!(
            "now {now:?} timer {timer:?} due {:?} redeliveries {:?} absent {:?} in flight {} handed {} {breaker:?} {consumers:?}",
            self.lanes.next_due(),
            self.in_flight.redeliveries.first(),
            self.absent_at(),
            self.in_flight.leased.len(),
            self.in_flight.handed,
        );
        let _ = write!(
            text,
            " scan {upto} of {seen} ({reading}, asked {asked}) rewind {rewind:?} running {running} ending {ending:?} lanes {} ready {}",
            self.lanes.queued(),
            self.lanes.has_ready()
        );
        text
    }
}
