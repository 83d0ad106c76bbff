//! The endpoints that an operator owns and many channels share: when one fails, all its channels wait, and one SET at a
//! time probes whether it is healthy.
//!
//! The lock of an endpoint is taken under that of a subscription, and no subscription is touched under it.
//! Subscriptions that are refused stand in a queue, each once; the timer invites them one by one when a probe may
//! leave, and a command wakes all of them when the endpoint is healthy.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use setgate_clock::{Backoff, Jitter};
use setgate_delivery::Cause;
use setgate_store::StreamNo;

use crate::{
    backoff::pause,
    hash::Set,
    shared::{Command, Shared},
    subscription::Subscription,
};

/// The time within which an invited stream sends the probe; after it the next is invited too.
const CHANCE: Duration = Duration::from_millis(250);
/// The step by which the wait before the next probe grows with each probe in a row that comes back untried, after the
/// first.
const UNTRIED: Duration = Duration::from_millis(50);
/// The least wait after a fault that waiting does not fix.
const OURS_LEAST: Duration = Duration::from_secs(10);
/// The least time between two alarms: an endpoint that fails and heals by turns would fill the log.
const ALARM_EVERY: Duration = Duration::from_secs(10);

/// The side whose fault it is that an endpoint fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The endpoint is unhealthy or unreachable; the duration is the time for which it asked not to be called.
    Theirs(Duration),
    /// The gateway's side is at fault: a person must fix it.
    Ours,
}

/// An endpoint that many channels share.
pub(crate) struct Endpoint {
    name: Arc<str>,
    shared: Weak<Shared>,
    /// True while it is held; read before the lock is taken.
    held: AtomicBool,
    /// The number of streams that it serves.
    channels: AtomicUsize,
    gauge: Gauge,
    holds: Counter,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hold: Option<Hold>,
    /// Streams that have SETs for it, in the order in which they were refused; each once.
    waiting: VecDeque<Weak<Subscription>>,
    known: Set<StreamNo>,
    /// The number of probes made so far.
    probes: u64,
    /// The time of the last alarm to the operator.
    last_alarm: Option<Duration>,
}

struct Hold {
    cause: Cause,
    since: Duration,
    /// The time before which no SET leaves; then one does.
    until: Duration,
    /// Faults in a row.
    in_row: u32,
    /// The number of the probe that is out.
    probe: Option<u64>,
    /// Streams that were invited to send the next probe.
    invited: Set<StreamNo>,
    /// The time until which the last of them is waited for.
    chance: Duration,
    /// Probes in a row that came back untried.
    untried: u32,
    alarmed: bool,
}

/// The reason why a stream waits for its endpoint.
pub(crate) struct Held {
    pub(crate) cause: Cause,
    pub(crate) since: Duration,
    /// The time of the next probe; `None` while a probe is out.
    pub(crate) until: Option<Duration>,
}

impl Endpoint {
    pub(crate) fn new(name: Arc<str>, shared: &Arc<Shared>) -> Arc<Self> {
        let label = label(&name);
        Arc::new(Self {
            name,
            shared: Arc::downgrade(shared),
            held: AtomicBool::new(false),
            channels: AtomicUsize::new(0),
            gauge: shared.observed.endpoint_held.get_or_create(&label).clone(),
            holds: shared.observed.endpoint_holds.get_or_create(&label).clone(),
            state: Mutex::default(),
        })
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns how many SETs of a stream may leave now: all, none, or one probe.
    pub(crate) fn allowance(&self, now: Duration, no: StreamNo) -> usize {
        if self.is_open() {
            return usize::MAX;
        }
        self.state.lock().allowance(now, no)
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.held.load(Ordering::Acquire)
    }

    /// Returns whether this stream must wait; if so it is queued, and woken once when it may try.
    pub(crate) fn refuses(&self, now: Duration, subscription: &Arc<Subscription>) -> bool {
        if self.is_open() {
            return false;
        }
        let mut state = self.state.lock();
        if state.allowance(now, subscription.no) > 0 {
            return false;
        }
        if state.known.insert(subscription.no) {
            state.waiting.push_back(Arc::downgrade(subscription));
        }
        true
    }

    /// Returns the right to send the one SET that may leave while the endpoint is held, and `None` when it is open.
    ///
    /// # Errors
    /// [`NotNow`] when it is another stream's turn.
    pub(crate) fn leave(self: &Arc<Self>, now: Duration, no: StreamNo) -> Result<Option<Probe>, NotNow> {
        if self.is_open() {
            return Ok(None);
        }
        let mut state = self.state.lock();
        if state.allowance(now, no) == 0 {
            return Err(NotNow);
        }
        let State { hold: Some(hold), probes, .. } = &mut *state else { return Ok(None) };
        *probes += 1;
        hold.probe = Some(*probes);
        hold.invited.clear();
        hold.chance = now;
        Ok(Some(Probe { endpoint: self.clone(), no: *probes }))
    }

    /// Returns whether a fetched SET may still leave.
    pub(crate) fn lets_pass(&self, probe: Option<&Probe>) -> bool {
        self.is_open()
            || self
                .state
                .lock()
                .hold
                .as_ref()
                .is_none_or(|hold| probe.is_some_and(|probe| hold.probe == Some(probe.no)))
    }

    /// Notes that the endpoint failed for a SET, and returns the time at which the next probe may leave. Other SETs of
    /// the same volley report the same fault.
    pub(crate) fn failed(
        self: &Arc<Self>,
        now: Duration,
        probe: Option<&Probe>,
        fault: Fault,
        cause: &Cause,
    ) -> Duration {
        let Some(shared) = self.shared.upgrade() else { return now };
        let mut state = self.state.lock();
        let first = state.hold.is_none();
        let hold = state.hold.get_or_insert_with(|| Hold {
            cause: cause.clone(),
            since: now,
            until: now,
            in_row: 0,
            probe: None,
            invited: Set::default(),
            chance: now,
            untried: 0,
            alarmed: false,
        });
        if hold.cause != *cause {
            hold.cause = cause.clone();
        }
        let probed = probe.is_some_and(|probe| hold.probe == Some(probe.no));
        if !first && !probed {
            return hold.until;
        }
        hold.probe = None;
        hold.untried = 0;
        hold.in_row += 1;
        hold.until = now + wait(&shared, fault, hold.in_row);
        let until = hold.until;
        self.held.store(true, Ordering::Release);
        state.alarm(now, self);
        if first {
            self.gauge.set(1);
            self.holds.inc();
        }
        drop(state);
        shared.timers.at_endpoint(until, self);
        until
    }

    /// Notes that the endpoint acknowledged a SET and so is healthy, and wakes the streams that wait.
    pub(crate) fn took(&self) {
        if self.is_open() {
            return;
        }
        let Some(shared) = self.shared.upgrade() else { return };
        let (hold, waiting) = {
            let mut state = self.state.lock();
            self.held.store(false, Ordering::Release);
            self.gauge.set(0);
            state.known.clear();
            (state.hold.take(), std::mem::take(&mut state.waiting))
        };
        let Some(hold) = hold else { return };
        if hold.alarmed {
            let held = shared.runtime.clock.monotonic().saturating_sub(hold.since);
            tracing::info!(endpoint = %self.name, held_seconds = held.as_secs(), waiting = waiting.len(), "the endpoint is well again");
        }
        if !waiting.is_empty() {
            shared.tell(Command::Wake(waiting.into()));
        }
    }

    /// Lets this stream probe the endpoint at once, since a person looked at it.
    pub(crate) fn retry_now(self: &Arc<Self>, now: Duration, no: StreamNo) {
        if self.is_open() {
            return;
        }
        let mut state = self.state.lock();
        let Some(hold) = &mut state.hold else { return };
        hold.until = hold.until.min(now);
        hold.in_row = 0;
        hold.invited.insert(no);
        hold.chance = now + CHANCE;
        drop(state);
        if let Some(shared) = self.shared.upgrade() {
            shared.timers.at_endpoint(now, self);
        }
    }

    /// Notes that a probe came back without a result, so that another may leave.
    fn untried(self: &Arc<Self>, no: u64) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut state = self.state.lock();
        let Some(hold) = state.hold.as_mut().filter(|hold| hold.probe == Some(no)) else { return };
        hold.probe = None;
        let now = shared.runtime.clock.monotonic();
        hold.until = now + UNTRIED * hold.untried.min(20);
        hold.untried += 1;
        let until = hold.until;
        drop(state);
        shared.timers.at_endpoint(until, self);
    }

    /// Invites the streams in the queue to send the probe, the longest waiting one first, until one of them takes up
    /// the invitation; called when the time of a probe has come.
    pub(crate) fn tick(self: &Arc<Self>, now: Duration) {
        let Some(shared) = self.shared.upgrade() else { return };
        loop {
            let next = {
                let mut state = self.state.lock();
                let Some(hold) = state.hold.as_ref().filter(|hold| hold.probe.is_none()) else { return };
                let from = hold.until.max(hold.chance);
                if now < from {
                    shared.timers.at_endpoint(from, self);
                    return;
                }
                state.invite(now + CHANCE)
            };
            // When no stream waits, one that comes by itself may try.
            let Some(subscription) = next else { return };
            if subscription.tick() {
                shared.timers.at_endpoint(now + CHANCE, self);
                return;
            }
            if let Some(hold) = &mut self.state.lock().hold {
                hold.chance = now;
            }
        }
    }

    /// Returns the reason for which it is held, and until when, if it is held.
    pub(crate) fn held(&self) -> Option<Held> {
        if self.is_open() {
            return None;
        }
        let state = self.state.lock();
        let hold = state.hold.as_ref()?;
        let until = hold.probe.is_none().then_some(hold.until);
        Some(Held { cause: hold.cause.clone(), since: hold.since, until })
    }

    /// Returns the time at which the next probe may leave, while it is held and none is out.
    pub(crate) fn opens_at(&self) -> Option<Duration> {
        self.held()?.until
    }

    /// Returns whether this stream stands in its queue.
    #[cfg(test)]
    pub(crate) fn knows(&self, no: StreamNo) -> bool {
        self.state.lock().known.contains(&no)
    }

    /// Returns the number of streams in its queue.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }
}

fn label(name: &str) -> [(&'static str, String); 1] {
    [("endpoint", name.to_owned())]
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // No stream is served by it any more.
        self.gauge.set(0);
    }
}

impl State {
    fn allowance(&self, now: Duration, no: StreamNo) -> usize {
        match &self.hold {
            None => usize::MAX,
            Some(hold) if now < hold.until || hold.probe.is_some() => 0,
            Some(hold) => usize::from(self.waiting.is_empty() || hold.invited.contains(&no)),
        }
    }

    /// Invites the next waiting stream that still exists to send the probe; others wait for it until `chance` only.
    fn invite(&mut self, chance: Duration) -> Option<Arc<Subscription>> {
        while let Some(subscription) = self.waiting.pop_front() {
            if let (Some(subscription), Some(hold)) = (subscription.upgrade(), &mut self.hold) {
                self.known.remove(&subscription.no);
                hold.invited.insert(subscription.no);
                hold.chance = chance;
                return Some(subscription);
            }
        }
        // The numbers that are left are of streams that are gone.
        self.known.clear();
        None
    }

    /// Alarms the operator, once for each hold.
    fn alarm(&mut self, now: Duration, endpoint: &Endpoint) {
        let Some(hold) = self.hold.as_mut().filter(|hold| !hold.alarmed) else { return };
        if self.last_alarm.is_some_and(|last| now < last + ALARM_EVERY) {
            return;
        }
        hold.alarmed = true;
        self.last_alarm = Some(now);
        let streams = endpoint.channels.load(Ordering::Relaxed);
        tracing::error!(
            endpoint = %endpoint.name,
            cause = %setgate_telemetry::clean(&hold.cause.to_string(), 512),
            streams,
            "the endpoint fails; its streams wait and one SET at a time tries it"
        );
    }
}

/// Returns the time for which nothing leaves after this many faults in a row.
fn wait(shared: &Shared, fault: Fault, in_row: u32) -> Duration {
    let Shared { config, runtime, .. } = shared;
    match fault {
        Fault::Theirs(asked) => pause(config, &*runtime.random, in_row).max(asked),
        Fault::Ours => {
            let most = config.backoff_max;
            let least = OURS_LEAST.min(most);
            let ceiling = Backoff::new(least, most).wait(in_row.saturating_add(1), Jitter::None);
            let spread = u64::try_from(ceiling.saturating_sub(least).as_millis()).unwrap_or(u64::MAX);
            least + Duration::from_millis(runtime.random.below(spread))
        }
    }
}

/// The error when an endpoint is held and the probe is not this stream's to send.
#[derive(Debug)]
pub(crate) struct NotNow;

/// The right to send the one SET that leaves while an endpoint is held. When it is dropped without a result, it passes
/// to another stream.
pub(crate) struct Probe {
    endpoint: Arc<Endpoint>,
    no: u64,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.endpoint.untried(self.no);
    }
}

/// The membership of a stream in an endpoint, counted while it lasts.
pub(crate) struct Member(Arc<Endpoint>);

impl Member {
    pub(crate) fn of(endpoint: Arc<Endpoint>) -> Self {
        endpoint.channels.fetch_add(1, Ordering::Relaxed);
        Self(endpoint)
    }
}

impl std::ops::Deref for Member {
    type Target = Arc<Endpoint>;

    fn deref(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.channels.fetch_sub(1, Ordering::Relaxed);
    }
}
