//! One stream as the router runs it: its lanes, its breaker, what is fetched of it, and what became of that.

mod come_back;
mod consumers;
mod end;
mod failed;
mod hand_over;
mod lease;
#[cfg(test)]
mod neglect;
mod parts;
mod presence;
mod scan;
mod state;
mod stops;

pub(crate) use hand_over::poll_settled;
pub(crate) use lease::LeaseHolder;
pub(crate) use parts::State;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use setgate_delivery::{Class, Closed, Initiator, Order, Profile, spi::AnyChannel};
use setgate_set::{Jti, Timestamp};
use setgate_store::{Entry, Head, Kind, Position, StreamNo, Version};
use setgate_stream::Stream;

use self::parts::{Leased, Linger, inactivity, phase_of};
use crate::{
    backoff::pause,
    breaker::Breaker,
    endpoint::{Endpoint, Member},
    number::{BatchNo, Generation},
    seal::Seal,
    shared::{Command, Shared},
    slot::Slot,
};

/// At most so many SETs are skipped because their keys are blocked; then scanning stops until something moves.
const SKIPPED_MOST: usize = 16_384;
/// Failures of single SETs in a row, without one success, that count as a failure of the channel.
const LONE_FAILURES_OF_A_CHANNEL: u32 = 5;
/// Order keys with a parked SET that are watched for later acknowledgements.
const PARKED_KEYS_MOST: usize = 10_000;

/// SETs that stand in the lanes of all streams, about; then each stream keeps [`READY_LEAST`].
const READY_MOST: usize = 32_768;
/// SETs of one stream that stand in lanes when those of all streams are full.
const READY_LEAST: usize = 32;

/// What is in force for a stream now; replaced whole when its configuration changes.
pub(crate) struct Served {
    pub(crate) stream: Arc<Stream>,
    pub(crate) channel: Arc<dyn AnyChannel>,
    pub(crate) profile: Profile,
    pub(crate) seal: Arc<Seal>,
    /// What it shares with other channels.
    pub(crate) endpoint: Option<Arc<Endpoint>>,
    /// The method's name: it labels metrics.
    pub(crate) method: &'static str,
    /// The version in which its filter last changed: older decisions are looked at again at hand-over.
    pub(crate) filter_changed: Version,
    /// Counts changes of method or endpoint: of older hand-overs only ends count.
    pub(crate) generation: Generation,
}

/// Whether SETs may leave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Phase {
    Open,
    /// Only control SETs leave: the one that announces the pause.
    Paused,
    Disabled,
    Ending(Closed),
}

/// A stream as the router runs it.
pub(crate) struct Subscription {
    pub(crate) no: StreamNo,
    pub(crate) shared: Arc<Shared>,
    pub(crate) served: ArcSwap<Served>,
    pub(crate) state: Mutex<State>,
    /// Room for SETs that are handed out and unsettled, which every channel has without asking.
    own_window: setgate_delivery::Window,
}

/// What a consumer fetched: its number, and the SETs.
pub(crate) struct FetchedBatch {
    pub(crate) no: BatchNo,
    pub(crate) slots: Vec<(Slot, Jti)>,
}

/// What [`Subscription::lease`] found.
pub(crate) enum Fetched {
    Slots(FetchedBatch, Arc<Served>),
    Nothing,
    Closed(Closed),
}

impl Subscription {
    pub(crate) fn new(no: StreamNo, shared: Arc<Shared>, served: Served, last: Position) -> Arc<Self> {
        let own_window =
            setgate_delivery::Window::of(shared.config.in_flight_sets, usize::MAX, shared.config.in_flight_bytes);
        let state = State::new(no, &shared, &served, last);
        Arc::new(Self { no, shared, served: ArcSwap::from_pointee(served), state: Mutex::new(state), own_window })
    }

    /// The tail tells of records that this stream is owed.
    pub(crate) fn push(self: &Arc<Self>, entries: &[&Entry]) {
        let now = self.shared.runtime.clock.monotonic();
        let mut state = self.state.lock();
        state.lanes.tell(now);
        for entry in entries {
            let head = &entry.head;
            if head.kind == Kind::Control {
                if !state.knows_control(head.at.seq) {
                    state.control.queue.push_back(Slot::new(head.clone()));
                }
                state.caught_up_to(head.at.seq);
                continue;
            }
            if state.is_caught_up() && state.lanes.room() > 0 && head.at.seq > state.scan.upto {
                state.lanes.offer(Slot::new(head.clone()), None);
                state.scan.upto = head.at.seq;
            }
            state.scan.seen = state.scan.seen.max(head.at.seq);
        }
        self.wake(&mut state);
    }

    /// Control SETs that were owed when the gateway started.
    pub(crate) fn push_control(self: &Arc<Self>, heads: Vec<Head>) {
        let mut state = self.state.lock();
        for head in heads {
            if !state.knows_control(head.at.seq) {
                state.control.queue.push_back(Slot::new(head));
            }
        }
        state.control.queue.make_contiguous().sort_by_key(Slot::seq);
        self.wake(&mut state);
    }

    /// Whatever the state calls for; here alone it is decided when the subscription is looked at next. Whoever changes the state calls it last.
    ///
    /// What is due by now is done, who is to fetch is woken, a sender's channel is started, a scan is asked for, and a timer is set for
    /// the next time at which something is due. Tells whether somebody is on the way to fetch.
    pub(crate) fn wake(self: &Arc<Self>, state: &mut State) -> bool {
        // Read under the lock: what another time of day left as due later may be due by now.
        let now = self.shared.runtime.clock.monotonic();
        self.redeliver(state, now);
        state.lanes.wake(now);
        self.share(state);
        if state.absent_at().is_some_and(|at| at <= now) {
            state.presence.absence_logged = Some(now);
            self.shared.tell(Command::Abandoned(self.no));
        }
        if !state.scan.reading && !state.scan.asked && state.wants_scan() {
            state.scan.asked = true;
            self.shared.tell(Command::Scan(self.clone()));
        }
        let (comes, again) = self.rouse(state, now);
        if let Some(at) = [again, state.next_time(now)].into_iter().flatten().min() {
            self.look_again(state, at);
        }
        comes
    }

    /// Wakes who is to fetch, or starts a sender's channel. Tells whether somebody is on the way, and when to look at this again.
    fn rouse(self: &Arc<Self>, state: &mut State, now: Duration) -> (bool, Option<Duration>) {
        let mut again = None;
        if state.phase == Phase::Open {
            for consumer in state.lanes.holders() {
                match state.lingers(now, Some(consumer), usize::MAX, usize::MAX) {
                    Some(until) => again = Some(again.map_or(until, |other: Duration| other.min(until))),
                    None => state.consumers.wake_holder(consumer),
                }
            }
        }
        if self.shared.is_halted() || !state.would_fetch(now) || self.is_refused(state, now) {
            return (false, again);
        }
        let sooner = |at: Option<Duration>| [again, at].into_iter().flatten().min();
        if state.control_waits() {
            // Nothing stands in its way.
        } else if let Some(until) = state.lingers(now, None, usize::MAX, usize::MAX) {
            return (false, sooner(Some(until)));
        }
        if state.consumers.somebody_comes() {
            return (true, sooner(state.consumers.wake_one(now)));
        }
        if state.running || state.patient {
            return (false, again);
        }
        state.running = true;
        self.shared.tell(Command::Run(self.clone()));
        (true, again)
    }

    /// The subscription is woken at this time at the latest.
    fn look_again(self: &Arc<Self>, state: &mut State, at: Duration) {
        if state.timed.is_none_or(|timed| at < timed) {
            state.timed = Some(at);
            self.shared.timers.at(at, self);
        }
    }

    /// Whether what its channel shares with others is held and it is not its turn to try; it is told when that changes.
    pub(super) fn is_refused(self: &Arc<Self>, state: &State, now: Duration) -> bool {
        state.endpoint.as_ref().is_some_and(|endpoint| endpoint.refuses(now, self))
    }

    /// Keeps the lanes of all streams together within bounds: when they are full, each keeps a few.
    fn share(&self, state: &mut State) {
        let queued = state.lanes.queued();
        let before = std::mem::replace(&mut state.accounted, queued);
        let all = if queued >= before {
            self.shared.ready.fetch_add(queued - before, Ordering::Relaxed)
        } else {
            self.shared.ready.fetch_sub(before - queued, Ordering::Relaxed)
        };
        let own = self.shared.config.ready_sets;
        state.lanes.set_most(if all >= READY_MOST { own.min(READY_LEAST) } else { own });
    }

    /// A time has come, or what it waited for outside is well. Tells whether somebody is on the way to fetch.
    pub(crate) fn tick(self: &Arc<Self>) -> bool {
        let mut state = self.state.lock();
        // Its timer may have rung.
        state.timed = None;
        self.wake(&mut state)
    }

    /// A sender's channel has ended.
    pub(crate) fn channel_ended(self: &Arc<Self>, closed: &Closed) {
        let now = self.shared.runtime.clock.monotonic();
        let mut state = self.state.lock();
        state.running = false;
        if let Closed::Fault(cause) = closed {
            let wall = Timestamp::from_millis(self.shared.runtime.clock.wall_millis());
            let Shared { config, runtime, .. } = &*self.shared;
            state.breaker.fault(now, Class::Transient, |failures| pause(config, &*runtime.random, failures));
            state.shown.last_error = Some((wall, cause.clone()));
        }
        self.wake(&mut state);
    }

    /// The receiver shows itself.
    pub(crate) fn touch(self: &Arc<Self>) {
        let (now, wall) = self.times();
        let mut state = self.state.lock();
        state.presence.note(now, wall);
        self.wake(&mut state);
    }

    /// Whether the receiver has stayed away for longer than it may.
    pub(crate) fn is_abandoned(&self) -> bool {
        let now = self.shared.runtime.clock.monotonic();
        self.state.lock().abandoned_at().is_some_and(|at| at <= now)
    }

    /// The clock that never jumps, and the wall's.
    pub(crate) fn times(&self) -> (Duration, Timestamp) {
        let clock = &self.shared.runtime.clock;
        (clock.monotonic(), Timestamp::from_millis(clock.wall_millis()))
    }

    /// Puts a new configuration in force.
    pub(crate) fn serve(self: &Arc<Self>, mut served: Served) {
        let before = self.served.load_full();
        let moved = before.stream.delivery != served.stream.delivery;
        served.generation = if moved { before.generation.next() } else { before.generation };
        let phase = phase_of(&served.stream.status);
        let (initiator, breaker, endpoint) =
            (served.profile.initiator, Breaker::of(&served.profile), served.endpoint.clone());
        let (linger, inactivity) = (Linger::of(&served), inactivity(&served));
        let one_by_one = served.profile.order == Order::PerSet;
        self.served.store(Arc::new(served));
        let mut state = self.state.lock();
        if !one_by_one {
            state.parked_keys.one_by_one_from = u64::MAX;
        }
        let elsewhere = endpoint.as_ref().map(Arc::as_ptr) != before.endpoint.as_ref().map(Arc::as_ptr);
        if initiator != before.profile.initiator || endpoint.is_some() != before.endpoint.is_some() {
            state.patient = initiator == Initiator::Receiver;
            state.breaker = breaker;
        }
        if elsewhere {
            state.endpoint = endpoint.map(Member::of);
        }
        (state.linger, state.presence.inactivity) = (linger, inactivity);
        if phase == Phase::Open && state.phase != Phase::Open || moved {
            // A human looked at it: everything may be tried at once.
            let now = self.shared.runtime.clock.monotonic();
            state.breaker.success();
            if let Some(endpoint) = &state.endpoint {
                endpoint.retry_now(now, self.no);
            }
            state.streaks.parked = 0;
            state.streaks.lone_failures = 0;
            state.lanes.retry_now();
            state.presence.restart(now);
        }
        if moved {
            // What was fetched at the old place is not waited for: nobody may come back to it for a day.
            let out = |(seq, leased): (&u64, &Leased)| leased.redelivery_at().map(|_| *seq);
            let mut out: Vec<u64> = state.in_flight.leased.iter().filter_map(out).collect();
            out.sort_unstable();
            self.due_again(&mut state, &out, self.shared.runtime.clock.monotonic());
        }
        if phase == Phase::Disabled {
            state.lanes.forget_all();
            state.scan.upto = state.scan.seen;
            // What it is owed still, because the configuration forgot it only, is found again when it is enabled.
            state.rewind(0);
        }
        if !matches!(state.phase, Phase::Ending(_)) {
            state.phase = phase;
        }
        state.consumers.wake_all();
        self.wake(&mut state);
    }

    /// Ends every consumer.
    pub(crate) fn end(&self, why: Closed) {
        let mut state = self.state.lock();
        state.phase = Phase::Ending(why);
        state.consumers.wake_all();
    }

    /// Whether a channel still runs, or something is fetched that must be settled now or never.
    pub(crate) fn is_busy(&self) -> bool {
        let state = self.state.lock();
        // What outlives its consumer outlives the process too: it may be acknowledged after a restart.
        let waits = |leased: &Leased| leased.handed.is_none() || leased.redelivery.is_none();
        state.running || !state.in_flight.ending.is_empty() || state.in_flight.leased.values().any(waits)
    }

    /// SETs before `below` were dropped by a limit.
    pub(crate) fn forget_below(self: &Arc<Self>, below: u64) {
        let mut state = self.state.lock();
        if let Some(again) = state.lanes.forget_below(below) {
            state.rewind(again);
        }
        self.wake(&mut state);
    }

    /// Whether a consumer that asked now would get something, or will as soon as the store was read.
    pub(crate) fn has_due(&self) -> bool {
        if self.shared.is_halted() || self.own_window.core().room() == 0 {
            return false;
        }
        let now = self.shared.runtime.clock.monotonic();
        let state = self.state.lock();
        let reading = state.phase == Phase::Open && (state.scan.reading || state.scan.asked);
        state.fetchable(now) || reading && state.allowance(now) > 0
    }

    /// When the next attempt is due, if everything waits.
    pub(crate) fn next_attempt(&self) -> Option<Duration> {
        let state = self.state.lock();
        let now = self.shared.runtime.clock.monotonic();
        let opens = [state.breaker.opens_at(), state.endpoint.as_ref().and_then(|endpoint| endpoint.opens_at())];
        let opens = opens.into_iter().flatten().max();
        if opens.is_none() && state.lanes.has_ready() {
            return None;
        }
        [opens, state.lanes.next_due()].into_iter().flatten().max().map(|at| at.saturating_sub(now))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.timers.forget(self.no);
        self.shared.ready.fetch_sub(self.state.get_mut().accounted, Ordering::Relaxed);
    }
}
