//! A simulated subscription over an in-memory queue, which keeps the router's side of the contract and notes when a
//! method breaks its own.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    task::Waker,
};

use bytes::Bytes;
use parking_lot::Mutex;
use setgate_set::Jti;
use tokio::sync::watch;

use crate::{
    Attempt, Cause, Closed, DeliveryMode, Form, Initiator, Order, Outcome, Profile, Redelivery, Refusal, Subscription,
    Verdict, Want,
    spi::{ConsumerCore, SubscriptionCore, WindowCore},
};

mod consumer;

use consumer::SimulatedConsumer;

/// Attempts after which a case is given up.
const HOPELESS: u32 = 100;

/// The end of a SET.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// The peer or a broker acknowledged it.
    Acknowledged,
    /// The peer refused it.
    Refused(Refusal),
    /// The method halted.
    Halted(Cause),
}

#[derive(Clone, Debug, PartialEq)]
enum Stage {
    Waiting,
    /// A consumer fetched it in a batch.
    Leased {
        consumer: u64,
        batch: u64,
    },
    Handed {
        consumer: u64,
        batch: u64,
        redelivery: Redelivery,
    },
    Settled(End),
}

struct Entry {
    jti: Jti,
    key: u64,
    body: Bytes,
    attempts: u32,
    /// True once a consumer has fetched it: from then on a final outcome counts.
    fetched: bool,
    stage: Stage,
}

struct Held {
    sets: usize,
    bytes: usize,
}

/// A consumer that waits; the first in the list has waited longest.
struct Waiter {
    holder: LeaseHolder,
    want: Want,
    waker: Waker,
    /// True when a full window will wake it.
    called: bool,
}

/// The properties of a consumer that the rules of order look at.
#[derive(Clone, Copy)]
struct LeaseHolder {
    number: u64,
    mode: DeliveryMode,
}

#[derive(Default)]
struct State {
    sets: Vec<Entry>,
    by_jti: HashMap<Jti, usize>,
    batches: HashMap<u64, Held>,
    numbers: u64,
    consumers: BTreeSet<u64>,
    waiting: Vec<Waiter>,
    /// Consumers that were woken for a SET and have neither polled since nor been dropped.
    called: BTreeSet<u64>,
    /// Wakers of consumers that wait until what they handed over is settled.
    settling: Vec<Waker>,
    end: Option<Closed>,
    paused: bool,
    stutter: bool,
    retry_now: bool,
    wrongs: Vec<String>,
    unknown: usize,
    reached: usize,
    most: usize,
    causes: BTreeMap<&'static str, usize>,
}

/// Returns the bodies of `count` SETs, as token and as claims, with their order keys in turn.
pub(super) fn owed(count: usize, keys: usize, padding: usize) -> Vec<([Bytes; 2], u64)> {
    let entry = |form, at| entry(form, at, at % keys.max(1), padding);
    (0..count)
        .map(|at| ([entry(Form::Token, at).body, entry(Form::Claims, at).body], entry(Form::Token, at).key))
        .collect()
}

/// The simulated subscription of one channel: it acts towards a method as the router does, without store, keys and
/// time.
///
/// The suite drives it; tests of a method's own wire may do so too.
#[derive(Clone)]
pub struct Simulated(Arc<Shared>);

struct Shared {
    profile: Profile,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

impl Simulated {
    /// Makes a subscription that owes `count` SETs, of `keys` order keys in turn.
    #[must_use]
    pub fn new(profile: Profile, count: usize, keys: usize) -> Self {
        Self::padded(profile, count, keys, 0)
    }

    /// Makes a subscription whose SETs are `padding` bytes longer.
    #[must_use]
    pub fn padded(profile: Profile, count: usize, keys: usize, padding: usize) -> Self {
        let sets: Vec<_> = (0..count).map(|at| entry(profile.form, at, at % keys.max(1), padding)).collect();
        let by_jti = sets.iter().enumerate().map(|(at, entry)| (entry.jti, at)).collect();
        let state = State { sets, by_jti, ..State::default() };
        Self(Arc::new(Shared { profile, state: Mutex::new(state), changes: watch::Sender::new(0) }))
    }

    /// Returns the subscription as the method sees it.
    #[must_use]
    pub fn subscription(&self) -> Subscription {
        Subscription::new(Arc::new(self.clone()))
    }

    /// Returns the number of SETs that were reported as reached before any outcome of them came.
    #[must_use]
    pub fn reached(&self) -> usize {
        self.0.state.lock().reached
    }

    /// Returns the ids of the SETs, in order.
    #[must_use]
    pub fn ids(&self) -> Vec<Jti> {
        self.0.state.lock().sets.iter().map(|entry| entry.jti).collect()
    }

    /// Returns the bodies of the SETs, in order.
    #[must_use]
    pub fn bodies(&self) -> Vec<Bytes> {
        self.0.state.lock().sets.iter().map(|entry| entry.body.clone()).collect()
    }

    /// Interrupts each call for a batch once, from now on, before it returns anything.
    pub fn stutter(&self) {
        self.0.state.lock().stutter = true;
    }

    /// Lets SETs that were handed over time out, from now on, as soon as a batch is asked for and nothing else is due.
    pub fn retry_now(&self) {
        self.change(|state| state.retry_now = true);
    }

    /// Pauses or resumes the stream: a paused one gives nothing, and its consumers wait.
    pub fn pause(&self, paused: bool) {
        self.change(|state| state.paused = paused);
    }

    /// Ends all consumers with this reason, later ones included.
    pub fn end(&self, why: Closed) {
        self.change(|state| state.end = Some(why));
    }

    /// Lets time pass: SETs that were handed over and are not settled fall due again, if their consumer's redelivery
    /// says so.
    pub fn redeliver(&self) {
        self.change(|state| self.redeliver_all(state));
    }

    /// Returns the end of each SET, in order; `None` for those that have not ended.
    #[must_use]
    pub fn ends(&self) -> Vec<Option<End>> {
        let state = self.0.state.lock();
        let end = |entry: &Entry| match &entry.stage {
            Stage::Settled(end) => Some(end.clone()),
            _ => None,
        };
        state.sets.iter().map(end).collect()
    }

    /// Returns the number of hand-overs of each SET.
    #[must_use]
    pub fn attempts(&self) -> Vec<u32> {
        self.0.state.lock().sets.iter().map(|entry| entry.attempts).collect()
    }

    /// Returns the number of SETs that are handed over and not settled.
    #[must_use]
    pub fn handed(&self) -> usize {
        self.counts().0
    }

    /// Returns the numbers of the consumers that exist; later ones have higher numbers.
    #[must_use]
    pub fn consumers(&self) -> Vec<u64> {
        self.0.state.lock().consumers.iter().copied().collect()
    }

    /// Returns the number of consumers that wait for SETs.
    #[must_use]
    pub fn waiters(&self) -> usize {
        self.0.state.lock().waiting.iter().filter(|waiter| waiter.want.sets > 0).count()
    }

    /// Returns whether a new consumer would be given something now.
    #[must_use]
    pub fn has_free(&self) -> bool {
        let mode = DeliveryMode { order: self.0.profile.order, redelivery: self.0.profile.redelivery };
        let state = self.0.state.lock();
        !self.due(&state, LeaseHolder { number: u64::MAX, mode }, &Want::ALL).is_empty()
    }

    /// Returns the most SETs that one consumer held at once: in one batch, or in all where its SETs go back when it
    /// ends.
    #[must_use]
    pub fn most(&self) -> usize {
        self.0.state.lock().most
    }

    /// Returns the number of outcomes for ids that this subscription does not know; they are ignored.
    #[must_use]
    pub fn unknown(&self) -> usize {
        self.0.state.lock().unknown
    }

    /// Waits until the condition holds.
    pub async fn until(&self, so: impl Fn(&Self) -> bool) {
        // The sender is part of the subscription, so there is always another change to wait for.
        let _ = self.0.changes.subscribe().wait_for(|_| so(self)).await;
    }

    /// Waits until every SET is settled.
    pub async fn until_settled(&self) {
        self.until(|subscription| subscription.0.state.lock().is_settled()).await;
    }

    /// Returns the breaches of the contract by the method.
    #[must_use]
    pub fn wrongs(&self) -> Vec<String> {
        self.0.state.lock().wrongs.clone()
    }

    /// Returns the number of retries by cause, for the texts of failures.
    #[must_use]
    pub fn causes(&self) -> BTreeMap<&'static str, usize> {
        self.0.state.lock().causes.clone()
    }

    fn change<T>(&self, how: impl FnOnce(&mut State) -> T) -> T {
        let (result, wakers) = {
            let mut state = self.0.state.lock();
            (how(&mut state), self.whom_to_wake(&mut state))
        };
        self.tell(wakers);
        result
    }

    fn tell(&self, wakers: Vec<Waker>) {
        wakers.into_iter().for_each(Waker::wake);
        self.0.changes.send_modify(|changes| *changes += 1);
    }

    /// Returns the wakers to call: all of them at the end; otherwise that of one waiting consumer that would be given
    /// something, and never of more consumers than SETs wait. A consumer that is called and takes less, or nothing, or
    /// is dropped, passes the chance on, since each of these is a change.
    fn whom_to_wake(&self, state: &mut State) -> Vec<Waker> {
        let mut wakers = std::mem::take(&mut state.settling);
        if state.end.is_some() || (self.0.profile.initiator == Initiator::Gateway && state.is_settled()) {
            wakers.extend(state.waiting.drain(..).map(|waiter| waiter.waker));
            return wakers;
        }
        let sets = state.sets.iter().filter(|entry| entry.stage == Stage::Waiting).count();
        if state.called.len() < sets {
            let next = state.waiting.iter().position(|waiter| !self.due(state, waiter.holder, &waiter.want).is_empty());
            if let Some(waiter) = next.map(|place| state.waiting.remove(place)) {
                state.called.insert(waiter.holder.number);
                wakers.push(waiter.waker);
            } else if sets > 0 {
                state.waiting.iter_mut().for_each(|waiter| self.call_when_room(waiter));
            }
        }
        wakers
    }

    /// Queues a waiter at a full window: others may hold its room, or it may be shut for a while.
    fn call_when_room(&self, waiter: &mut Waiter) {
        let full = self.0.profile.windows.iter().find(|window| window.core().room() == 0);
        if let (Some(window), false) = (full, waiter.called) {
            waiter.called = true;
            wake_when_it_fits(window.core(), 1, 0, &waiter.waker);
        }
    }

    /// Puts back the SETs in the stages that `which` selects; returns their number.
    fn put_back(&self, state: &mut State, which: impl Fn(&Stage) -> bool) -> usize {
        let mut count = 0;
        for at in 0..state.sets.len() {
            if let Some(entry) = state.sets.get_mut(at)
                && which(&entry.stage)
            {
                let from = std::mem::replace(&mut entry.stage, Stage::Waiting);
                let bytes = entry.body.len();
                self.give(state, &from, bytes);
                count += 1;
            }
        }
        count
    }

    fn redeliver_all(&self, state: &mut State) -> usize {
        self.put_back(state, |stage| matches!(stage, Stage::Handed { redelivery: Redelivery::After(_), .. }))
    }

    /// Gives the windows back the room that a SET took.
    fn give(&self, state: &mut State, from: &Stage, bytes: usize) {
        let (Stage::Leased { batch, .. } | Stage::Handed { batch, .. }) = from else { return };
        let Some(held) = state.batches.get_mut(batch) else { return };
        held.sets -= 1;
        held.bytes -= bytes;
        let last = held.sets == 0;
        if last {
            state.batches.remove(batch);
        }
        for window in &self.0.profile.windows {
            window.core().give(1, usize::from(last), bytes);
        }
    }

    /// Returns the SETs that a consumer may have now (the rule of its `Order`), within `want`, limits and windows.
    fn due(&self, state: &State, holder: LeaseHolder, want: &Want) -> Vec<usize> {
        if state.paused {
            return Vec::new();
        }
        let profile = &self.0.profile;
        let room = profile.windows.iter().map(|window| window.core().room()).min().unwrap_or(usize::MAX);
        let most = want.sets.min(profile.limits.sets).min(room);
        let mut bytes = want.bytes.min(profile.limits.bytes);
        let order = holder.mode.order;
        let mut blocked = BTreeSet::new();
        let mut due = Vec::new();
        for (at, entry) in state.sets.iter().enumerate() {
            match &entry.stage {
                Stage::Settled(_) => {}
                Stage::Handed { consumer, .. } if order == Order::PerConsumer && *consumer == holder.number => {}
                Stage::Leased { .. } | Stage::Handed { .. } => {
                    blocked.insert(entry.key);
                }
                Stage::Waiting => {
                    let cost = entry.body.len() + profile.limits.overhead;
                    // A SET larger than all that is wanted travels alone, as in the router.
                    let fits = cost <= bytes || due.is_empty();
                    if due.len() >= most || !fits || blocked.contains(&entry.key) {
                        // A SET that is left behind holds back its successors.
                        blocked.insert(entry.key);
                        continue;
                    }
                    if order == Order::PerSet {
                        blocked.insert(entry.key);
                    }
                    bytes = bytes.saturating_sub(cost);
                    due.push(at);
                }
            }
        }
        due
    }

    fn settle_one(&self, state: &mut State, jti: Jti, attempt: Option<Attempt>, outcome: Outcome) {
        let Some(entry) = state.by_jti.get(&jti).and_then(|at| state.sets.get_mut(*at)) else {
            state.unknown += 1;
            return;
        };
        if matches!(entry.stage, Stage::Settled(_)) {
            return;
        }
        if !entry.fetched {
            state.wrongs.push(format!("an outcome for {jti}, which no consumer ever fetched: {outcome:?}"));
            return;
        }
        // A lease has the attempt number that its hand-over will have.
        let leased = matches!(entry.stage, Stage::Leased { .. });
        let last = entry.attempts + u32::from(leased);
        if attempt.is_some_and(|attempt| attempt.0 == 0 || attempt.0 > last) {
            state.wrongs.push(format!("an outcome for attempt {attempt:?} of {jti}, which has had {}", entry.attempts));
        }
        let current =
            matches!(entry.stage, Stage::Handed { .. }) && attempt.is_none_or(|attempt| attempt.0 == entry.attempts);
        let bytes = entry.body.len();
        let next = match outcome {
            Ok(receipt) => {
                let declared = self.0.profile.receipt;
                if receipt != declared {
                    state.wrongs.push(format!("the channel declares {declared:?} and reports {receipt:?}"));
                }
                Stage::Settled(End::Acknowledged)
            }
            Err(Verdict::Refuse(refusal)) => Stage::Settled(End::Refused(refusal)),
            Err(_) if !current => return,
            Err(Verdict::Halt { cause, .. }) => Stage::Settled(End::Halted(cause)),
            Err(Verdict::Return) => {
                entry.attempts -= 1;
                Stage::Waiting
            }
            Err(Verdict::Retry { cause, .. }) => {
                *state.causes.entry(cause.code).or_default() += 1;
                if entry.attempts > HOPELESS && state.end.is_none() {
                    state.wrongs.push(format!("{jti} has failed {HOPELESS} times: {cause}"));
                    state.end = Some(Closed::Fault(cause));
                }
                Stage::Waiting
            }
        };
        let from = std::mem::replace(&mut entry.stage, next);
        self.give(state, &from, bytes);
    }
}

impl State {
    fn is_settled(&self) -> bool {
        self.sets.iter().all(|entry| matches!(entry.stage, Stage::Settled(_)))
    }
}

impl SubscriptionCore for Simulated {
    fn consumer(&self, mode: Option<DeliveryMode>) -> Box<dyn ConsumerCore> {
        let profile = &self.0.profile;
        let mode = mode.unwrap_or(DeliveryMode { order: profile.order, redelivery: profile.redelivery });
        let number = self.change(|state| {
            state.numbers += 1;
            state.consumers.insert(state.numbers);
            state.numbers
        });
        Box::new(SimulatedConsumer::new(self.clone(), LeaseHolder { number, mode }))
    }

    fn settle(&self, all: Vec<(Jti, Option<Attempt>, Outcome)>) -> usize {
        let settled =
            |state: &State| state.sets.iter().filter(|entry| matches!(entry.stage, Stage::Settled(_))).count();
        let before = settled(&self.0.state.lock());
        for (jti, attempt, outcome) in all {
            self.change(|state| self.settle_one(state, jti, attempt, outcome));
        }
        settled(&self.0.state.lock()).saturating_sub(before)
    }

    fn counts(&self) -> (usize, usize) {
        let state = self.0.state.lock();
        let count = |which: fn(&Stage) -> bool| state.sets.iter().filter(|entry| which(&entry.stage)).count();
        (
            count(|stage| matches!(stage, Stage::Handed { .. })),
            count(|stage| matches!(stage, Stage::Waiting | Stage::Leased { .. })),
        )
    }

    fn reached(&self, sets: &[(Jti, Attempt)]) {
        self.change(|state| {
            for (jti, _) in sets {
                match state.by_jti.get(jti).and_then(|at| state.sets.get(*at)).map(|entry| &entry.stage) {
                    Some(Stage::Handed { .. }) => state.reached += 1,
                    // Its outcome or its timeout came first.
                    Some(Stage::Settled(_) | Stage::Waiting) => {}
                    _ => state.wrongs.push(format!("the peer is said to have {jti}, which was not handed over")),
                }
            }
        });
    }

    fn stalled(&self, _: Option<Cause>) {}

    fn has_due(&self) -> bool {
        self.has_free()
    }

    fn is_paused(&self) -> bool {
        self.0.state.lock().paused
    }
}

/// Queues `waker` at a window. The waiter that is woken may be gone or want nothing any more, so the next is woken,
/// too.
fn wake_when_it_fits(window: &Arc<WindowCore>, sets: usize, bytes: usize, waker: &Waker) {
    let (own, next) = (waker.clone(), Arc::downgrade(window));
    let wake = Arc::new(move || {
        own.wake_by_ref();
        if let Some(next) = next.upgrade() {
            pass_on(&next);
        }
    });
    // Others may have given room back since the window was checked.
    if window.when_it_fits(sets, bytes, wake).is_none() {
        waker.wake_by_ref();
    }
}

thread_local! {
    /// Set while this thread passes a chance on: true once the woken waiter wants it to be passed on again.
    static PASSING: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Passes the chance on until no waiter or no room is left, in a loop, so that thousands of waiters are not thousands
/// of calls deep.
fn pass_on(window: &WindowCore) {
    if PASSING.get().is_some() {
        PASSING.set(Some(true));
        return;
    }
    loop {
        PASSING.set(Some(false));
        window.pass_on();
        if PASSING.replace(None) != Some(true) {
            return;
        }
    }
}

/// Makes the SET at an index; its body names it and differs from every other.
fn entry(form: Form, at: usize, key: usize, padding: usize) -> Entry {
    let jti = Jti::from_block(b't', (at as u128 + 1).to_be_bytes());
    let padding = "x".repeat(padding);
    let body = match form {
        Form::Token => format!("eyJ0eXAiOiJzZWNldmVudCtqd3QifQ.{jti}{padding}.c2lnbmF0dXJl"),
        Form::Claims => format!(r#"{{"jti":"{jti}{padding}"}}"#),
    };
    Entry { jti, key: key as u64, body: body.into(), attempts: 0, fetched: false, stage: Stage::Waiting }
}

#[cfg(test)]
mod tests;
