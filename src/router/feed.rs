//! One stream as the router runs it: its lanes, its breaker, what is drawn of it, and what became of that.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use delivery::{
    Attempt, Cause, Closed, Lapse, Outcome, Profile, Voice, Want,
    spi::{AnyLine, FeedCore, TapCore},
};
use parking_lot::Mutex;
use set::{Jti, OrderKey, Timestamp};
use store::{Attempted, Entry, Head, Kind, Note, Position, Rule, Settlement, StreamNo, Version};
use stream::{OnRefusal, Status, Stream};

use crate::{
    backoff::{Breaker, pause},
    batch::{StreamTap, Ticket, Wish},
    lane::{Lanes, Offered, Slot},
    seal::Seal,
    settle::{Judgement, judge},
    shared::{Command, Shared},
};

/// At most so many SETs are passed over because their keys are blocked; then scanning stops until something moves.
const PASSED_OVER_MOST: usize = 16_384;
/// Failures of single SETs in a row, without one success, that count as a failure of the line.
const LONE_FAILURES_OF_A_LINE: u32 = 5;

/// What is in force for a stream now; replaced whole when its configuration changes.
pub(crate) struct Served {
    pub(crate) stream: Arc<Stream>,
    pub(crate) line: Arc<dyn AnyLine>,
    pub(crate) profile: Profile,
    pub(crate) seal: Arc<Seal>,
    /// The version in which its filter last changed: older decisions are looked at again at hand-over.
    pub(crate) filter_changed: Version,
    /// Counts changes of method or endpoint: of older hand-overs only ends count.
    pub(crate) generation: u64,
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
pub(crate) struct Feed {
    pub(crate) no: StreamNo,
    pub(crate) shared: Arc<Shared>,
    pub(crate) served: ArcSwap<Served>,
    pub(crate) state: Mutex<State>,
    /// Room for SETs that are handed out and unsettled, which every line has without asking.
    own_window: delivery::Window,
}

pub(crate) struct State {
    pub(crate) lanes: Lanes,
    control: VecDeque<Slot>,
    control_busy: bool,
    pub(crate) claimed: HashMap<u64, Claimed>,
    /// Refused or given up, on the way into the store.
    parking: HashSet<u64>,
    breaker: Breaker,
    pub(crate) phase: Phase,
    wakers: HashMap<u64, Waker>,
    taps: u64,
    /// The line of a sender runs.
    running: bool,
    /// Everything owed up to here stands in a lane, is drawn, settled, or passed over.
    scan: u64,
    /// The tail has told of a SET here.
    seen: u64,
    scanning: bool,
    scan_asked: bool,
    rewind: Option<u64>,
    /// Settled while a scan read the store.
    settled_meanwhile: Option<HashSet<u64>>,
    attempted: HashMap<u64, Attempted>,
    successes: u64,
    lone_failures_in_row: u32,
    parked_in_row: u32,
    /// Of order keys with a parked SET, the last acknowledged position since: a re-issue must not overtake it unseen.
    parked_keys: HashMap<OrderKey, u64>,
    pub(crate) last_error: Option<(Timestamp, Cause)>,
    pub(crate) last_success: Option<Timestamp>,
    pub(crate) stalled: Option<Cause>,
}

/// A drawn SET.
pub(crate) struct Claimed {
    pub(crate) slot: Slot,
    pub(crate) jti: Jti,
    pub(crate) attempt: Attempt,
    pub(crate) tap: u64,
    pub(crate) handed_at: Option<Duration>,
    pub(crate) generation: u64,
    /// The sealed token, for a repeat.
    pub(crate) sealed: Option<Bytes>,
    pub(crate) ticket: Arc<Ticket>,
    pub(crate) bytes: usize,
}

/// What [`Feed::claim`] found.
pub(crate) enum Drawn {
    Slots(Vec<(Slot, Jti)>, Arc<Served>),
    Nothing,
    Closed(Closed),
}

impl Feed {
    pub(crate) fn new(no: StreamNo, shared: Arc<Shared>, served: Served, last: Position) -> Arc<Self> {
        let config = &shared.config;
        let phase = phase_of(&served.stream.status);
        let lanes = Lanes::new(served.profile.order, config.ready_set);
        let attempted = shared.store.attempts(no).into_iter().map(|(at, attempted)| (at.seq, attempted)).collect();
        let own_window = delivery::Window::of(config.handed_out_sets, usize::MAX, config.handed_out_bytes);
        let owes = shared.store.waiting(no) > 0;
        let state = State {
            lanes,
            control: VecDeque::new(),
            control_busy: false,
            claimed: HashMap::new(),
            parking: HashSet::new(),
            breaker: Breaker::default(),
            phase,
            wakers: HashMap::new(),
            taps: 0,
            running: false,
            scan: if owes { 0 } else { last.seq },
            seen: last.seq,
            scanning: false,
            scan_asked: false,
            rewind: None,
            settled_meanwhile: None,
            attempted,
            successes: 0,
            lone_failures_in_row: 0,
            parked_in_row: 0,
            parked_keys: HashMap::new(),
            last_error: None,
            last_success: None,
            stalled: None,
        };
        Arc::new(Self { no, shared, served: ArcSwap::from_pointee(served), state: Mutex::new(state), own_window })
    }

    /// The tail tells of records that this stream is owed.
    pub(crate) fn push(self: &Arc<Self>, entries: &[Entry]) {
        let mut state = self.state.lock();
        for entry in entries {
            let head = &entry.head;
            if head.kind == Kind::Control {
                if !state.knows_control(head.at.seq) {
                    state.control.push_back(Slot::new(head.clone()));
                }
                state.caught_up_to(head.at.seq);
                continue;
            }
            let caught_up = state.scan >= state.seen && !state.scanning;
            if caught_up && state.lanes.room() > 0 && head.at.seq > state.scan {
                state.lanes.offer(Slot::new(head.clone()), None);
                state.scan = head.at.seq;
            }
            state.seen = state.seen.max(head.at.seq);
        }
        self.stir(&mut state);
    }

    /// Control SETs that were owed when the gateway started.
    pub(crate) fn push_control(self: &Arc<Self>, heads: Vec<Head>) {
        let mut state = self.state.lock();
        for head in heads {
            if !state.knows_control(head.at.seq) {
                state.control.push_back(Slot::new(head));
            }
        }
        state.control.make_contiguous().sort_by_key(Slot::seq);
        self.stir(&mut state);
    }

    /// Wakes whoever draws, starts a sender's line, asks for a scan: whatever the state calls for.
    pub(crate) fn stir(self: &Arc<Self>, state: &mut State) {
        let now = self.shared.house.clock.monotonic();
        if !state.scanning && !state.scan_asked && state.wants_scan() {
            state.scan_asked = true;
            self.shared.tell(Command::Scan(self.clone()));
        }
        if !state.drawable(now) {
            return;
        }
        if state.wakers.is_empty() {
            if !state.running && self.served.load().profile.voice == Voice::Sender {
                state.running = true;
                self.shared.tell(Command::Run(self.clone()));
            }
            return;
        }
        state.wakers.drain().for_each(|(_, waker)| waker.wake());
    }

    /// A time has come: lanes that waited are due, an open breaker lets a probe through.
    pub(crate) fn tick(self: &Arc<Self>) {
        let now = self.shared.house.clock.monotonic();
        let mut state = self.state.lock();
        state.lanes.wake(now);
        if let Lapse::After(after) = self.served.load().profile.lapse {
            self.lapse(&mut state, now, after);
        }
        self.set_timer(&state);
        self.stir(&mut state);
    }

    /// Wishes to be woken when the next time comes; what is due already is in the hands of [`Feed::stir`].
    fn set_timer(self: &Arc<Self>, state: &State) {
        let now = self.shared.house.clock.monotonic();
        let due =
            [state.lanes.next_due(), state.breaker.opens_at()].into_iter().flatten().filter(|due| *due > now).min();
        if let Some(due) = due {
            self.shared.timers.at(due, self);
        }
    }

    /// Reads on in the store: places owed SETs into lanes until the ready set is full.
    pub(crate) async fn scan(self: Arc<Self>) {
        loop {
            let (from, rewound) = {
                let mut state = self.state.lock();
                state.scan_asked = false;
                if state.scanning || !state.wants_scan() {
                    return;
                }
                let rewound = state.rewind.take();
                if let Some(to) = rewound {
                    state.scan = state.scan.min(to);
                }
                state.scanning = true;
                state.settled_meanwhile = Some(HashSet::new());
                (state.scan, rewound.is_some())
            };
            if rewound {
                // What was settled must not be found again.
                self.shared.settler.flush().await;
            }
            let upto = self.shared.store.bounds().last.seq;
            let most = self.shared.config.ready_set.max(64);
            let read = self.shared.store.owed(self.no, Position::new(from), most).await;
            let mut state = self.state.lock();
            state.scanning = false;
            let settled = state.settled_meanwhile.take().unwrap_or_default();
            match read {
                Ok(heads) => {
                    let whole = heads.len() < most;
                    let before = state.scan;
                    self.place(&mut state, heads, &settled, whole.then_some(upto));
                    self.set_timer(&state);
                    self.stir(&mut state);
                    if state.scan == before || !state.wants_scan() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(stream = %self.served.load().stream.id, %error, "cannot read what is owed; trying again");
                    state.scan_asked = true;
                    let feed = self.clone();
                    let clock = self.shared.house.clock.clone();
                    drop(state);
                    self.shared.house.spawn("scan again", async move {
                        clock.sleep(Duration::from_secs(1)).await;
                        feed.shared.tell(Command::Scan(feed.clone()));
                    });
                    return;
                }
            }
        }
    }

    fn place(&self, state: &mut State, heads: Vec<Head>, settled: &HashSet<u64>, whole_up_to: Option<u64>) {
        let now = self.shared.house.clock.monotonic();
        let wall = Timestamp::from_millis(self.shared.house.clock.wall_millis());
        for head in heads {
            let seq = head.at.seq;
            let known = state.claimed.contains_key(&seq) || state.parking.contains(&seq) || settled.contains(&seq);
            if known || head.kind == Kind::Control {
                state.scan = state.scan.max(seq);
                continue;
            }
            if state.lanes.room() == 0 {
                if state.lanes.has_ready() {
                    return;
                }
                state.lanes.squeeze();
                if state.lanes.room() == 0 {
                    return;
                }
            }
            let mut slot = Slot::new(head);
            let due = state.attempted.get(&seq).map(|attempted| {
                slot.attempts = attempted.count;
                slot.first_failed = Some(attempted.first_failed);
                let wait = attempted.next_at.since(wall).min(Duration::from_secs(self.shared.config.backoff_most_s));
                let spread = self.shared.house.random.below(1000);
                now + wait + Duration::from_millis(spread)
            });
            if state.lanes.offer(slot, due) == Offered::Taken {
                state.attempted.remove(&seq);
            }
            state.scan = state.scan.max(seq);
        }
        if let Some(upto) = whole_up_to {
            state.scan = state.scan.max(upto);
        }
    }

    /// Claims what may leave now for a tap.
    pub(crate) fn claim(
        self: &Arc<Self>,
        tap: u64,
        generation: u64,
        want: &Want,
        wish: &mut Wish,
        cx: &mut Context<'_>,
    ) -> Drawn {
        let now = self.shared.house.clock.monotonic();
        let served = self.served.load_full();
        let mut state = self.state.lock();
        if generation != served.generation {
            return Drawn::Closed(Closed::Reconfigured);
        }
        if let Phase::Ending(closed) = &state.phase {
            return Drawn::Closed(closed.clone());
        }
        state.wakers.insert(tap, cx.waker().clone());
        if want.sets == 0 || self.shared.is_halted() {
            return Drawn::Nothing;
        }
        state.lanes.wake(now);
        if let Some(slot) = state.next_control(now) {
            state.wakers.remove(&tap);
            let ticket = Ticket::take(vec![], 1, 0).unwrap_or_default();
            let slots = self.enter(&mut state, vec![slot], tap, served.generation, &ticket);
            state.control_busy = true;
            state.breaker.left();
            return Drawn::Slots(slots, served);
        }
        let open = state.phase == Phase::Open;
        let allowance = if open { state.breaker.allowance(now, state.claimed.len()) } else { 0 };
        if allowance == 0 || !state.lanes.has_ready() {
            if !open && state.phase == Phase::Disabled && state.claimed.is_empty() {
                return Drawn::Closed(Closed::Disabled);
            }
            if served.profile.voice == Voice::Sender && state.claimed.is_empty() {
                state.wakers.remove(&tap);
                return Drawn::Closed(Closed::Idle);
            }
            return Drawn::Nothing;
        }
        let limits = served.profile.limits;
        let windows: Vec<_> = served.profile.windows.iter().chain([&self.own_window]).cloned().collect();
        let room = windows.iter().map(|window| window.core().room()).min().unwrap_or(usize::MAX);
        if room == 0 {
            wish.wait(&windows, cx);
            return Drawn::Nothing;
        }
        let most = [want.sets, limits.sets, room, allowance, served.seal.quantum()].into_iter().min().unwrap_or(1);
        let slots = state.lanes.draw(most, want.bytes.min(limits.bytes), limits.overhead);
        let bytes = slots.iter().map(|slot| slot.head.body_len as usize + limits.overhead).sum();
        let Some(ticket) = Ticket::take(windows.clone(), slots.len(), bytes) else {
            slots.into_iter().for_each(|slot| state.lanes.put_back(slot, None));
            wish.wait(&windows, cx);
            return Drawn::Nothing;
        };
        state.wakers.remove(&tap);
        state.breaker.left();
        let slots = self.enter(&mut state, slots, tap, served.generation, &ticket);
        if state.wants_scan() {
            self.stir(&mut state);
        }
        Drawn::Slots(slots, served)
    }

    fn enter(
        &self,
        state: &mut State,
        slots: Vec<Slot>,
        tap: u64,
        generation: u64,
        ticket: &Arc<Ticket>,
    ) -> Vec<(Slot, Jti)> {
        let names = self.shared.store.names();
        let overhead = self.served.load().profile.limits.overhead;
        slots
            .into_iter()
            .map(|slot| {
                let jti = names.jti(slot.head.at, self.no, slot.head.boot);
                let claimed = Claimed {
                    jti,
                    attempt: Attempt(slot.attempts + 1),
                    tap,
                    handed_at: None,
                    generation,
                    sealed: None,
                    ticket: ticket.clone(),
                    bytes: slot.head.body_len as usize + overhead,
                    slot: slot.clone(),
                };
                state.claimed.insert(slot.seq(), claimed);
                (slot, jti)
            })
            .collect()
    }

    /// The hand-over of these SETs begins.
    pub(crate) fn handed_over(self: &Arc<Self>, seqs: &[u64]) {
        let now = self.shared.house.clock.monotonic();
        let mut state = self.state.lock();
        for seq in seqs {
            if let Some(claimed) = state.claimed.get_mut(seq) {
                claimed.handed_at = Some(now);
            }
        }
        if let Lapse::After(after) = self.served.load().profile.lapse {
            self.shared.timers.at(now + after, self);
        }
    }

    /// These SETs were drawn and not handed over: it never happened.
    pub(crate) fn hand_back(self: &Arc<Self>, seqs: &[u64]) {
        let now = self.shared.house.clock.monotonic();
        let mut state = self.state.lock();
        for seq in seqs {
            if state.claimed.get(seq).is_some_and(|claimed| claimed.handed_at.is_none())
                && let Some(claimed) = state.claimed.remove(seq)
            {
                claimed.ticket.give(claimed.bytes);
                state.breaker.unknown(now);
                state.put_back(claimed.slot, None);
            }
        }
        self.stir(&mut state);
    }

    /// A drawn SET must not leave any more: dropped by a rule, counted.
    pub(crate) fn drop_by_rule(self: &Arc<Self>, seq: u64, rule: Rule) {
        let mut state = self.state.lock();
        if let Some(claimed) = state.claimed.remove(&seq) {
            claimed.ticket.give(claimed.bytes);
            state.finish(&claimed.slot);
            drop(state);
            self.shared.observed.dropped.get_or_create(&[("rule", rule_name(rule))]).inc();
            self.shared.tell(Command::Settle(Settlement {
                stream: self.no,
                at: claimed.slot.head.at,
                note: Note::Dropped(rule),
            }));
            self.stir(&mut self.state.lock());
        }
    }

    /// A drawn SET cannot be carried: parked without an attempt.
    pub(crate) fn park_unsent(self: &Arc<Self>, seq: u64, code: set::ErrorCode, text: &str) {
        let mut state = self.state.lock();
        if let Some(claimed) = state.claimed.remove(&seq) {
            self.park(&mut state, claimed, code, text.into(), false);
        }
    }

    /// Sealing or reading failed for the whole batch: everything goes back and the line waits.
    pub(crate) fn draw_failed(self: &Arc<Self>, seqs: &[u64], cause: Cause) {
        self.hand_back(seqs);
        let now = self.shared.house.clock.monotonic();
        let wall = Timestamp::from_millis(self.shared.house.clock.wall_millis());
        let mut state = self.state.lock();
        tracing::warn!(stream = %self.served.load().stream.id, cause = %cause, "cannot prepare SETs");
        let Shared { config, house, .. } = &*self.shared;
        state.breaker.fault(now, false, |failures| pause(config, &*house.random, failures));
        state.last_error = Some((wall, cause));
        self.set_timer(&state);
    }

    /// Drawn SETs whose time to be settled is over are due again.
    fn lapse(self: &Arc<Self>, state: &mut State, now: Duration, after: Duration) {
        let over: Vec<u64> = state
            .claimed
            .iter()
            .filter(|(_, claimed)| claimed.handed_at.is_some_and(|at| at + after <= now))
            .map(|(seq, _)| *seq)
            .collect();
        self.due_again(state, &over);
        if let Some(next) = state.claimed.values().filter_map(|claimed| claimed.handed_at).min() {
            self.shared.timers.at(next + after, self);
        }
    }

    fn due_again(self: &Arc<Self>, state: &mut State, seqs: &[u64]) {
        for seq in seqs {
            if let Some(mut claimed) = state.claimed.remove(seq) {
                claimed.ticket.give(claimed.bytes);
                claimed.slot.attempts = claimed.attempt.0;
                self.keep_sealed(&claimed);
                state.put_back(claimed.slot, None);
            }
        }
    }

    /// A tap is gone: what it drew is due again.
    pub(crate) fn tap_gone(self: &Arc<Self>, tap: u64) {
        let now = self.shared.house.clock.monotonic();
        let lapse = self.served.load().profile.lapse;
        let mut state = self.state.lock();
        state.wakers.remove(&tap);
        let of_tap = |handed: bool| {
            move |(seq, claimed): (&u64, &Claimed)| {
                (claimed.tap == tap && claimed.handed_at.is_some() == handed).then_some(*seq)
            }
        };
        let unsent: Vec<u64> = state.claimed.iter().filter_map(of_tap(false)).collect();
        let sent: Vec<u64> = state.claimed.iter().filter_map(of_tap(true)).collect();
        for seq in unsent {
            if let Some(claimed) = state.claimed.remove(&seq) {
                claimed.ticket.give(claimed.bytes);
                state.breaker.unknown(now);
                state.put_back(claimed.slot, None);
            }
        }
        if lapse == Lapse::WithTap {
            state.breaker.unknown(now);
            self.due_again(&mut state, &sent);
        }
        self.stir(&mut state);
    }

    /// A sender's line has ended.
    pub(crate) fn line_ended(self: &Arc<Self>, closed: &Closed) {
        let now = self.shared.house.clock.monotonic();
        let mut state = self.state.lock();
        state.running = false;
        if let Closed::Fault(cause) = closed {
            let wall = Timestamp::from_millis(self.shared.house.clock.wall_millis());
            let Shared { config, house, .. } = &*self.shared;
            state.breaker.fault(now, false, |failures| pause(config, &*house.random, failures));
            state.last_error = Some((wall, cause.clone()));
            self.set_timer(&state);
        }
        self.stir(&mut state);
    }

    /// An acknowledgement or refusal of a SET that is not drawn: from before a restart, or of an earlier attempt.
    ///
    /// `head` was read from the ledger and its boot matches the `jti`.
    pub(crate) fn settle_late(self: &Arc<Self>, head: &Head, receipt: set::Receipt) {
        let mut state = self.state.lock();
        if state.claimed.contains_key(&head.at.seq) || !self.shared.store.is_owed(self.no, head.at) {
            return;
        }
        if let Some(again) = state.lanes.withdraw(head.order, head.at.seq) {
            state.rewind(again);
        }
        if let Some(settled) = &mut state.settled_meanwhile {
            settled.insert(head.at.seq);
        }
        drop(state);
        self.acknowledged(receipt);
        self.shared.settler.note([Settlement { stream: self.no, at: head.at, note: Note::Acknowledged(receipt) }]);
    }

    fn acknowledged(&self, receipt: set::Receipt) {
        let receipt = match receipt {
            set::Receipt::Receiver => "receiver",
            set::Receipt::Carrier => "carrier",
        };
        self.shared.observed.acknowledged.get_or_create(&[("receipt", receipt)]).inc();
    }

    fn keep_sealed(&self, claimed: &Claimed) {
        if let Some(sealed) = &claimed.sealed {
            self.shared.cache.keep(claimed.jti, self.served.load().seal.keyring.generation(), sealed.clone());
        }
    }

    fn park(
        self: &Arc<Self>,
        state: &mut State,
        claimed: Claimed,
        code: set::ErrorCode,
        text: Box<str>,
        stream_fault: bool,
    ) {
        claimed.ticket.give(claimed.bytes);
        let seq = claimed.slot.seq();
        state.parking.insert(seq);
        state.parked_keys.entry(claimed.slot.head.order).or_default();
        state.parked_in_row += 1;
        let served = self.served.load();
        if served.stream.on_refusal == OnRefusal::StopKey {
            state.lanes.stop(claimed.slot.head.order);
        }
        tracing::warn!(stream = %served.stream.id, jti = %claimed.jti, code = %code, attempts = claimed.attempt.0, "parked a SET");
        self.shared.observed.parked.get_or_create(&[("code", code_label(&code))]).inc();
        if state.parked_in_row >= self.shared.config.pause_after_parked && state.phase == Phase::Open {
            self.shared.tell(Command::Pause(
                self.no,
                format!("{} SETs in a row were parked, the last with `{code}`", state.parked_in_row),
            ));
        }
        let note = Note::Parked { code, text, attempts: claimed.attempt.0, stream_fault };
        self.shared.tell(Command::Park(
            self.clone(),
            claimed.slot.clone(),
            Settlement { stream: self.no, at: claimed.slot.head.at, note },
        ));
    }

    /// A parked SET is durable: its lane goes on.
    pub(crate) fn parked(self: &Arc<Self>, slot: &Slot) {
        let mut state = self.state.lock();
        state.parking.remove(&slot.seq());
        state.finish(slot);
        self.stir(&mut state);
    }

    /// Lets a stopped order key go on.
    pub(crate) fn go_on(self: &Arc<Self>, key: OrderKey) {
        let mut state = self.state.lock();
        state.lanes.go_on(key);
        self.stir(&mut state);
    }

    /// Whether a later SET of this order key may have been acknowledged since this one was parked. What happened before a
    /// restart is not known, hence possible.
    pub(crate) fn acknowledged_after(&self, key: OrderKey, seq: u64) -> bool {
        self.state.lock().parked_keys.get(&key).is_none_or(|last| *last > seq)
    }

    /// Puts a new configuration in force.
    pub(crate) fn serve(self: &Arc<Self>, mut served: Served) {
        let before = self.served.load_full();
        let moved = before.stream.delivery != served.stream.delivery;
        served.generation = before.generation + u64::from(moved);
        let phase = phase_of(&served.stream.status);
        let order = served.profile.order;
        self.served.store(Arc::new(served));
        let mut state = self.state.lock();
        state.lanes.set_order(order);
        if phase == Phase::Open && state.phase != Phase::Open || moved {
            // A human looked at it: everything may be tried at once.
            state.breaker.success();
            state.parked_in_row = 0;
            state.lone_failures_in_row = 0;
            state.lanes.hurry();
        }
        if phase == Phase::Disabled {
            state.lanes.forget_all();
            state.scan = state.seen;
        }
        if !matches!(state.phase, Phase::Ending(_)) {
            state.phase = phase;
        }
        state.wakers.drain().for_each(|(_, waker)| waker.wake());
        self.stir(&mut state);
    }

    /// Ends every tap.
    pub(crate) fn end(&self, why: Closed) {
        let mut state = self.state.lock();
        state.phase = Phase::Ending(why);
        state.wakers.drain().for_each(|(_, waker)| waker.wake());
    }

    /// Whether a line still runs or something is drawn.
    pub(crate) fn is_busy(&self) -> bool {
        let state = self.state.lock();
        state.running || !state.claimed.is_empty() || !state.parking.is_empty()
    }

    /// SETs before `below` were dropped by a limit.
    pub(crate) fn forget_below(self: &Arc<Self>, below: u64) {
        let mut state = self.state.lock();
        if let Some(again) = state.lanes.forget_below(below) {
            state.rewind(again);
        }
        self.stir(&mut state);
    }

    /// When the next attempt is due, if everything waits.
    pub(crate) fn next_attempt(&self) -> Option<Duration> {
        let state = self.state.lock();
        let now = self.shared.house.clock.monotonic();
        if state.breaker.opens_at().is_none() && state.lanes.has_ready() {
            return None;
        }
        [state.breaker.opens_at(), state.lanes.next_due()].into_iter().flatten().max().map(|at| at.saturating_sub(now))
    }

    fn settle_one(
        self: &Arc<Self>,
        state: &mut State,
        seq: u64,
        attempt: Option<Attempt>,
        outcome: Outcome,
        notes: &mut Vec<Settlement>,
    ) {
        let Some(claimed) = state.claimed.get(&seq) else { return };
        let served = self.served.load();
        let judgement = judge(outcome, served.profile.order);
        let is_end = matches!(judgement, Judgement::Acknowledge(_) | Judgement::Park { .. });
        let current =
            attempt.is_none_or(|attempt| attempt == claimed.attempt) && claimed.generation == served.generation;
        if !is_end && attempt.is_some_and(|attempt| attempt != claimed.attempt) {
            return;
        }
        let Some(mut claimed) = state.claimed.remove(&seq) else { return };
        let Shared { config, house, observed, .. } = &*self.shared;
        let now = house.clock.monotonic();
        let wall = Timestamp::from_millis(house.clock.wall_millis());
        let at = claimed.slot.head.at;
        let judgement = if is_end || current { judgement } else { Judgement::Return };
        match judgement {
            Judgement::Acknowledge(receipt) => {
                claimed.ticket.give(claimed.bytes);
                state.breaker.success();
                state.successes += 1;
                state.lone_failures_in_row = 0;
                state.parked_in_row = 0;
                state.last_success = Some(wall);
                if let Some(last) = state.parked_keys.get_mut(&claimed.slot.head.order) {
                    *last = at.seq.max(*last);
                }
                state.finish(&claimed.slot);
                self.acknowledged(receipt);
                observed.delivered_after.observe(wall.since(claimed.slot.head.accepted).as_secs_f64());
                notes.push(Settlement { stream: self.no, at, note: Note::Acknowledged(receipt) });
            }
            Judgement::Park { code, text, stream_fault } => {
                state.last_error = Some((wall, Cause::new("refused", format!("{code}: {text}"))));
                if !stream_fault {
                    state.breaker.success();
                }
                self.park(state, claimed, code, text, stream_fault);
            }
            Judgement::RetrySet { after, cause } => {
                claimed.slot.attempts = claimed.attempt.0;
                claimed.slot.first_failed.get_or_insert(wall);
                state.lone_failures_in_row += 1;
                let others_passed = state.successes > claimed.slot.successes_then;
                if others_passed || claimed.slot.lone_failures == 0 {
                    claimed.slot.lone_failures += 1;
                    claimed.slot.successes_then = state.successes;
                }
                observed.failed.get_or_create(&[("cause", cause.code)]).inc();
                if claimed.slot.lone_failures >= config.poison_after {
                    let text =
                        format!("failed {} times while others passed; the last: {cause}", claimed.slot.lone_failures);
                    self.park(state, claimed, set::ErrorCode::Poison, text.into(), false);
                    return;
                }
                let wait = pause(config, &*house.random, claimed.slot.attempts)
                    .max(after.unwrap_or_default().min(config.retry_after_most()));
                if state.lone_failures_in_row >= LONE_FAILURES_OF_A_LINE {
                    state.breaker.fault(now, false, |failures| pause(config, &*house.random, failures));
                } else {
                    state.breaker.unknown(now);
                }
                state.last_error = Some((wall, cause));
                notes.push(self.retry(state, claimed, wall.plus(wait), Some(now + wait)));
            }
            Judgement::RetryLine { after, cause, own } => {
                claimed.slot.attempts = claimed.attempt.0;
                claimed.slot.first_failed.get_or_insert(wall);
                observed.failed.get_or_create(&[("cause", cause.code)]).inc();
                let until = state.breaker.fault(now, own, |failures| {
                    pause(config, &*house.random, failures)
                        .max(after.unwrap_or_default().min(config.retry_after_most()))
                });
                if state.breaker.gives_up(now, config) && state.phase == Phase::Open {
                    self.shared.tell(Command::Pause(
                        self.no,
                        format!("{} faults in a row, the last: {cause}", config.pause_after_faults),
                    ));
                }
                state.last_error = Some((wall, cause));
                notes.push(self.retry(state, claimed, wall.plus(until.saturating_sub(now)), None));
            }
            Judgement::Halt { cause } => {
                claimed.ticket.give(claimed.bytes);
                self.shared.tell(Command::Pause(self.no, cause.to_string()));
                state.breaker.fault(now, true, |failures| pause(config, &*house.random, failures));
                state.last_error = Some((wall, cause));
                state.put_back(claimed.slot, None);
            }
            Judgement::Return => {
                claimed.ticket.give(claimed.bytes);
                state.breaker.unknown(now);
                self.keep_sealed(&claimed);
                state.put_back(claimed.slot, None);
            }
        }
        if let Some(settled) = &mut state.settled_meanwhile {
            settled.insert(seq);
        }
    }

    /// Puts a failed SET back and says what to note of it. `due`: its own lane waits until then.
    fn retry(&self, state: &mut State, claimed: Claimed, next_at: Timestamp, due: Option<Duration>) -> Settlement {
        claimed.ticket.give(claimed.bytes);
        self.keep_sealed(&claimed);
        let attempted = Attempted {
            count: claimed.slot.attempts,
            first_failed: claimed.slot.first_failed.unwrap_or(next_at),
            next_at,
        };
        let at = claimed.slot.head.at;
        state.put_back(claimed.slot, due);
        Settlement { stream: self.no, at, note: Note::Attempt(attempted) }
    }
}

impl State {
    fn drawable(&self, now: Duration) -> bool {
        if !self.control.is_empty() && !self.control_busy {
            return self.breaker.allowance(now, self.claimed.len()) > 0;
        }
        match self.phase {
            Phase::Open => self.lanes.has_ready() && self.breaker.allowance(now, self.claimed.len()) > 0,
            Phase::Paused | Phase::Disabled | Phase::Ending(_) => false,
        }
    }

    fn wants_scan(&self) -> bool {
        let behind = self.seen > self.scan || self.rewind.is_some();
        // When all that stands in lanes waits for its time, others may find a place before it.
        let stuck = !self.lanes.has_ready() && self.claimed.is_empty();
        let room = self.lanes.queued() <= self.lanes.room() || stuck;
        behind && room && self.phase == Phase::Open && self.lanes.passed_over() < PASSED_OVER_MOST
    }

    fn knows_control(&self, seq: u64) -> bool {
        self.claimed.contains_key(&seq) || self.control.iter().any(|slot| slot.seq() == seq)
    }

    fn caught_up_to(&mut self, seq: u64) {
        if self.scan >= self.seen && !self.scanning {
            self.scan = self.scan.max(seq);
        }
        self.seen = self.seen.max(seq);
    }

    fn next_control(&mut self, now: Duration) -> Option<Slot> {
        if self.control_busy || self.breaker.allowance(now, self.claimed.len()) == 0 {
            return None;
        }
        self.control.pop_front()
    }

    /// A SET has found its end: its lane goes on.
    fn finish(&mut self, slot: &Slot) {
        if slot.head.kind == Kind::Control {
            self.control_busy = false;
        } else if let Some(again) = self.lanes.settled(slot.head.order) {
            self.rewind(again);
        }
    }

    fn put_back(&mut self, slot: Slot, due: Option<Duration>) {
        if slot.head.kind == Kind::Control {
            self.control_busy = false;
            self.control.push_front(slot);
        } else {
            self.lanes.put_back(slot, due);
        }
    }

    fn rewind(&mut self, to: u64) {
        let to = to.saturating_sub(1);
        self.rewind = Some(self.rewind.map_or(to, |other| other.min(to)));
    }
}

/// A feed behind an [`Arc`], as the contract wants it.
pub(crate) struct Core(pub(crate) Arc<Feed>);

impl FeedCore for Core {
    fn tap(&self) -> Box<dyn TapCore> {
        let generation = self.0.served.load().generation;
        let tap = {
            let mut state = self.0.state.lock();
            state.taps += 1;
            state.taps
        };
        Box::new(StreamTap::new(self.0.clone(), tap, generation))
    }

    fn settle(&self, all: Vec<(Jti, Option<Attempt>, Outcome)>) {
        let feed = &self.0;
        let names = feed.shared.store.names();
        let mut notes = Vec::with_capacity(all.len());
        {
            let mut state = feed.state.lock();
            for (jti, attempt, outcome) in all {
                let Some(named) = names.read(&jti).filter(|named| named.stream == feed.no) else { continue };
                if state.claimed.get(&named.at.seq).is_some_and(|claimed| claimed.jti == jti) {
                    feed.settle_one(&mut state, named.at.seq, attempt, outcome, &mut notes);
                } else if let Ok(receipt) = outcome {
                    feed.shared.tell(Command::Late(feed.clone(), named, receipt));
                }
            }
            feed.set_timer(&state);
            feed.stir(&mut state);
        }
        feed.shared.settler.note(notes);
    }

    fn counts(&self) -> (usize, usize) {
        let handed = self.0.state.lock().claimed.values().filter(|claimed| claimed.handed_at.is_some()).count();
        let waiting = usize::try_from(self.0.shared.store.waiting(self.0.no)).unwrap_or(usize::MAX);
        (handed, waiting.saturating_sub(handed))
    }

    fn stalled(&self, why: Option<Cause>) {
        self.0.state.lock().stalled = why;
    }
}

/// For [`TapCore::poll_settled`]: ready when nothing this tap handed over is unsettled.
pub(crate) fn poll_settled(feed: &Arc<Feed>, tap: u64, cx: &Context<'_>) -> Poll<()> {
    let mut state = feed.state.lock();
    if state.claimed.values().any(|claimed| claimed.tap == tap && claimed.handed_at.is_some()) {
        state.wakers.insert(tap, cx.waker().clone());
        Poll::Pending
    } else {
        Poll::Ready(())
    }
}

fn phase_of(status: &Status) -> Phase {
    match status {
        Status::Enabled => Phase::Open,
        Status::Paused { .. } => Phase::Paused,
        Status::Disabled { .. } => Phase::Disabled,
    }
}

pub(crate) fn rule_name(rule: Rule) -> &'static str {
    match rule {
        Rule::Disabled => "disabled",
        Rule::Deleted => "deleted",
        Rule::SubjectRemoved => "subject_removed",
        Rule::EventNotWanted => "event_not_wanted",
        Rule::TooOld => "too_old",
        Rule::TooMany => "too_many",
        Rule::TooLarge => "too_large",
        Rule::Lost => "lost",
    }
}

/// Codes label metrics only where they are known: a receiver cannot make series.
fn code_label(code: &set::ErrorCode) -> &'static str {
    match code {
        set::ErrorCode::InvalidRequest => "invalid_request",
        set::ErrorCode::InvalidKey => "invalid_key",
        set::ErrorCode::InvalidIssuer => "invalid_issuer",
        set::ErrorCode::InvalidAudience => "invalid_audience",
        set::ErrorCode::AuthenticationFailed => "authentication_failed",
        set::ErrorCode::AccessDenied => "access_denied",
        set::ErrorCode::InvalidState => "invalid_state",
        set::ErrorCode::TooLarge => "too_large",
        set::ErrorCode::Poison => "poison",
        _ => "other",
    }
}
