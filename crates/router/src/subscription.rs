//! One stream as the router runs it: its lanes, its breaker, the SETs that are fetched, and their outcomes.

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

/// The most SETs that are skipped because their keys are blocked; scanning then stops until something moves.
const SKIPPED_MOST: usize = 16_384;
/// Failures of single SETs in a row, without one success, that count as a failure of the channel.
const LONE_FAILURES_OF_A_CHANNEL: u32 = 5;
/// The most order keys with a parked SET that are watched for later acknowledgements.
const PARKED_KEYS_MOST: usize = 10_000;

/// The approximate number of SETs in the lanes of all streams from which on each stream keeps only [`READY_LEAST`].
const READY_MOST: usize = 32_768;
/// SETs of one stream that stand in lanes when those of all streams are full.
const READY_LEAST: usize = 32;

/// The configuration in force for a stream; replaced whole when it changes.
pub(crate) struct Served {
    pub(crate) stream: Arc<Stream>,
    pub(crate) channel: Arc<dyn AnyChannel>,
    pub(crate) profile: Profile,
    pub(crate) seal: Arc<Seal>,
    /// The endpoint that it shares with other channels.
    pub(crate) endpoint: Option<Arc<Endpoint>>,
    /// The method's name, which labels metrics.
    pub(crate) method: &'static str,
    /// The version in which its filter last changed: older decisions are checked again at hand-over.
    pub(crate) filter_changed: Version,
    /// The number of changes of method or endpoint: of older hand-overs only acknowledgements and refusals count.
    pub(crate) generation: Generation,
}

/// The phase of a stream, which decides whether SETs may leave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Phase {
    Open,
    /// Only control SETs leave, such as the one that announces the pause.
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
    /// Room for SETs that are leased and unsettled, which every channel has without asking.
    own_window: setgate_delivery::Window,
}

/// A batch that a consumer fetched: its number and its SETs.
pub(crate) struct FetchedBatch {
    pub(crate) no: BatchNo,
    pub(crate) slots: Vec<(Slot, Jti)>,
}

/// The result of [`Subscription::lease`].
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

    /// Takes records that this stream is owed from the tail of the ledger.
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

    /// Queues control SETs that were owed when the gateway started.
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

    /// Does whatever the state calls for; this function alone decides when the subscription runs next. Every change of
    /// the state ends with a call of it.
    ///
    /// The function carries out what is due by now, wakes the consumer that is to fetch, starts a sender's channel,
    /// asks for a scan, and sets a timer for the next time at which something is due. Returns whether a consumer is on
    /// the way to fetch.
    pub(crate) fn wake(self: &Arc<Self>, state: &mut State) -> bool {
        // The time is read under the lock: what was left as due later, by an earlier reading, may be due by now.
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

    /// Wakes the consumer that is to fetch, or starts a sender's channel. Returns whether one is on the way, and when
    /// to do this again.
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
            // Control SETs do not linger.
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

    /// Sets a timer that wakes the subscription at this time at the latest.
    fn look_again(self: &Arc<Self>, state: &mut State, at: Duration) {
        if state.timed.is_none_or(|timed| at < timed) {
            state.timed = Some(at);
            self.shared.timers.at(at, self);
        }
    }

    /// Returns whether the shared endpoint is held and this stream may not try it now; the stream is woken when that
    /// changes.
    pub(super) fn is_refused(self: &Arc<Self>, state: &State, now: Duration) -> bool {
        state.endpoint.as_ref().is_some_and(|endpoint| endpoint.refuses(now, self))
    }

    /// Keeps the lanes of all streams together within bounds: when they are full, each keeps a few SETs.
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

    /// Wakes the subscription because a time has come, or because what it waited for elsewhere is healthy. Returns
    /// whether a consumer is on the way to fetch.
    pub(crate) fn tick(self: &Arc<Self>) -> bool {
        let mut state = self.state.lock();
        // Its timer may have fired.
        state.timed = None;
        self.wake(&mut state)
    }

    /// Notes that a sender's channel has ended.
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

    /// Notes that the receiver was seen.
    pub(crate) fn touch(self: &Arc<Self>) {
        let (now, wall) = self.times();
        let mut state = self.state.lock();
        state.presence.note(now, wall);
        self.wake(&mut state);
    }

    /// Returns whether the receiver has stayed away for longer than it may.
    pub(crate) fn is_abandoned(&self) -> bool {
        let now = self.shared.runtime.clock.monotonic();
        self.state.lock().abandoned_at().is_some_and(|at| at <= now)
    }

    /// Returns the monotonic time and the wall clock's.
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
            // A person looked at the stream: everything may be tried at once.
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
            // Outcomes of SETs that were fetched under the former delivery are not waited for: they might not come for
            // a day.
            let out = |(seq, leased): (&u64, &Leased)| leased.redelivery_at().map(|_| *seq);
            let mut out: Vec<u64> = state.in_flight.leased.iter().filter_map(out).collect();
            out.sort_unstable();
            self.due_again(&mut state, &out, self.shared.runtime.clock.monotonic());
        }
        if phase == Phase::Disabled {
            state.lanes.forget_all();
            state.scan.upto = state.scan.seen;
            // SETs that it is still owed, since it was only missing in the configuration, are found again when it is
            // enabled.
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

    /// Returns whether a channel still runs, or a SET is fetched that must be settled before the process ends.
    pub(crate) fn is_busy(&self) -> bool {
        let state = self.state.lock();
        // A SET that outlives its consumer outlives the process too: it may be acknowledged after a restart.
        let waits = |leased: &Leased| leased.handed.is_none() || leased.redelivery.is_none();
        state.running || !state.in_flight.ending.is_empty() || state.in_flight.leased.values().any(waits)
    }

    /// Forgets SETs before `below`, which a limit dropped.
    pub(crate) fn forget_below(self: &Arc<Self>, below: u64) {
        let mut state = self.state.lock();
        if let Some(again) = state.lanes.forget_below(below) {
            state.rewind(again);
        }
        self.wake(&mut state);
    }

    /// Returns whether a consumer that asked now would get something, or will as soon as the store has been read.
    pub(crate) fn has_due(&self) -> bool {
        if self.shared.is_halted() || self.own_window.core().room() == 0 {
            return false;
        }
        let now = self.shared.runtime.clock.monotonic();
        let state = self.state.lock();
        let reading = state.phase == Phase::Open && (state.scan.reading || state.scan.asked);
        state.fetchable(now) || reading && state.allowance(now) > 0
    }

    /// Returns the time until the next attempt, if everything waits.
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
