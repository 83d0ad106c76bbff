//! A feed over an in-memory queue that keeps the router's side of the contract and notes when a method breaks its own.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use parking_lot::Mutex;
use set::{Envelope, Jti, OrderKey, Timestamp};
use tokio::sync::watch;

use crate::{
    Attempt, Batch, Cause, Closed, Feed, Form, Lapse, Manner, Order, Outcome, Profile, SealedSet, Verdict, Want,
    spi::{Claim, FeedCore, TapCore},
};

/// Attempts after which a case is given up.
const HOPELESS: u32 = 100;

/// How a SET ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    Acknowledged,
    Refused(crate::Refusal),
    Halted(Cause),
}

#[derive(Clone, Debug, PartialEq)]
enum Stage {
    Waiting,
    /// Drawn by a tap, in a batch.
    Claimed {
        tap: u64,
        batch: u64,
    },
    Handed {
        tap: u64,
        batch: u64,
    },
    Settled(End),
}

struct Entry {
    jti: Jti,
    key: u64,
    body: Bytes,
    attempts: u32,
    stage: Stage,
}

struct Held {
    sets: usize,
    bytes: usize,
}

struct State {
    sets: Vec<Entry>,
    by_jti: HashMap<Jti, usize>,
    batches: HashMap<u64, Held>,
    numbers: u64,
    end: Option<Closed>,
    wakers: Vec<Waker>,
    wrongs: Vec<String>,
    stalled: Option<Cause>,
    stutter: bool,
    causes: BTreeMap<&'static str, usize>,
}

/// The bodies of so many SETs, as token and as claims, with their order keys in turn.
pub(super) fn owed(count: usize, keys: usize) -> Vec<([Bytes; 2], u64)> {
    let entry = |form, at| entry(form, at, at % keys.max(1));
    (0..count)
        .map(|at| ([entry(Form::Token, at).body, entry(Form::Claims, at).body], entry(Form::Token, at).key))
        .collect()
}

/// The simulated feed of one line.
#[derive(Clone)]
pub(super) struct Simulated(Arc<Shared>);

struct Shared {
    profile: Profile,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

impl Simulated {
    /// A feed that owes `count` SETs, of `keys` order keys in turn.
    pub(super) fn new(profile: Profile, count: usize, keys: usize) -> Self {
        let sets: Vec<_> = (0..count).map(|at| entry(profile.form, at, at % keys.max(1))).collect();
        let by_jti = sets.iter().enumerate().map(|(at, entry)| (entry.jti, at)).collect();
        let state = State {
            sets,
            by_jti,
            batches: HashMap::new(),
            numbers: 0,
            end: None,
            wakers: Vec::new(),
            wrongs: Vec::new(),
            stalled: None,
            stutter: false,
            causes: BTreeMap::new(),
        };
        Self(Arc::new(Shared { profile, state: Mutex::new(state), changes: watch::Sender::new(0) }))
    }

    pub(super) fn feed(&self) -> Feed {
        Feed::new(Arc::new(self.clone()))
    }

    /// From now on every draw is interrupted once before it gives anything.
    pub(super) fn stutter(&self) {
        self.0.state.lock().stutter = true;
    }

    /// Ends all taps with this.
    pub(super) fn end(&self, why: Closed) {
        self.change(|state| state.end = Some(why));
    }

    /// How each SET ended, in order; `None` for those that have not.
    pub(super) fn ends(&self) -> Vec<Option<End>> {
        let state = self.0.state.lock();
        let end = |entry: &Entry| match &entry.stage {
            Stage::Settled(end) => Some(end.clone()),
            _ => None,
        };
        state.sets.iter().map(end).collect()
    }

    /// Attempts of each SET.
    pub(super) fn attempts(&self) -> Vec<u32> {
        self.0.state.lock().sets.iter().map(|entry| entry.attempts).collect()
    }

    /// SETs that are handed over and not settled.
    pub(super) fn handed(&self) -> usize {
        self.counts().0
    }

    /// Ends when the feed is so.
    pub(super) async fn until(&self, so: impl Fn(&Self) -> bool) {
        // The sender is part of the feed, so there is always another change to wait for.
        let _ = self.0.changes.subscribe().wait_for(|_| so(self)).await;
    }

    /// Where the method broke the contract.
    pub(super) fn wrongs(&self) -> Vec<String> {
        self.0.state.lock().wrongs.clone()
    }

    /// Retries by cause, for the texts of failures.
    pub(super) fn causes(&self) -> BTreeMap<&'static str, usize> {
        self.0.state.lock().causes.clone()
    }

    /// Time passes: what was handed over and is not settled falls due again, if the line says so.
    pub(super) fn lapse(&self) {
        if matches!(self.0.profile.lapse, Lapse::After(_)) {
            self.back(|stage| matches!(stage, Stage::Handed { .. }));
        }
    }

    fn change<T>(&self, how: impl FnOnce(&mut State) -> T) -> T {
        let (result, wakers) = {
            let mut state = self.0.state.lock();
            (how(&mut state), std::mem::take(&mut state.wakers))
        };
        wakers.into_iter().for_each(Waker::wake);
        self.0.changes.send_modify(|changes| *changes += 1);
        result
    }

    /// Puts back what is in such a stage.
    fn back(&self, which: impl Fn(&Stage) -> bool) {
        self.change(|state| {
            for at in 0..state.sets.len() {
                if let Some(entry) = state.sets.get_mut(at)
                    && which(&entry.stage)
                {
                    let from = std::mem::replace(&mut entry.stage, Stage::Waiting);
                    let bytes = entry.body.len();
                    self.give(state, &from, bytes);
                }
            }
        });
    }

    /// Gives the windows back what a SET took.
    fn give(&self, state: &mut State, from: &Stage, bytes: usize) {
        let (Stage::Claimed { batch, .. } | Stage::Handed { batch, .. }) = from else { return };
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

    /// The SETs that tap `tap` may have now (the one rule of `Order`), within `want`, limits and windows.
    fn due(&self, state: &State, tap: u64, want: &Want) -> Vec<usize> {
        let profile = &self.0.profile;
        let room = profile.windows.iter().map(|window| window.core().room()).min().unwrap_or(usize::MAX);
        let most = want.sets.min(profile.limits.sets).min(room);
        let mut bytes = want.bytes.min(profile.limits.bytes);
        let mut blocked = std::collections::BTreeSet::new();
        let mut due = Vec::new();
        for (at, entry) in state.sets.iter().enumerate() {
            match &entry.stage {
                Stage::Settled(_) => {}
                Stage::Handed { tap: by, .. } if profile.order == Order::PerTap && *by == tap => {}
                Stage::Claimed { .. } | Stage::Handed { .. } => {
                    blocked.insert(entry.key);
                }
                Stage::Waiting => {
                    let cost = entry.body.len() + profile.limits.overhead;
                    if due.len() >= most || cost > bytes || blocked.contains(&entry.key) {
                        // What is left behind holds back its successors.
                        blocked.insert(entry.key);
                        continue;
                    }
                    if profile.order == Order::PerSet {
                        blocked.insert(entry.key);
                    }
                    bytes -= cost;
                    due.push(at);
                }
            }
        }
        due
    }
}

impl FeedCore for Simulated {
    fn tap(&self, _manner: Option<Manner>) -> Box<dyn TapCore> {
        let number = self.change(|state| {
            state.numbers += 1;
            state.numbers
        });
        Box::new(SimulatedTap { feed: self.clone(), number, interrupted: false })
    }

    fn settle(&self, all: Vec<(Jti, Option<Attempt>, Outcome)>) {
        self.change(|state| {
            for (jti, attempt, outcome) in all {
                self.settle_one(state, jti, attempt, outcome);
            }
        });
    }

    fn counts(&self) -> (usize, usize) {
        let state = self.0.state.lock();
        let count = |which: fn(&Stage) -> bool| state.sets.iter().filter(|entry| which(&entry.stage)).count();
        (
            count(|stage| matches!(stage, Stage::Handed { .. })),
            count(|stage| matches!(stage, Stage::Waiting | Stage::Claimed { .. })),
        )
    }

    fn stalled(&self, why: Option<Cause>) {
        self.0.state.lock().stalled = why;
    }
}

impl Simulated {
    fn settle_one(&self, state: &mut State, jti: Jti, attempt: Option<Attempt>, outcome: Outcome) {
        let Some(entry) = state.by_jti.get(&jti).and_then(|at| state.sets.get_mut(*at)) else { return };
        if matches!(entry.stage, Stage::Settled(_)) {
            return;
        }
        if entry.attempts == 0 {
            state.wrongs.push(format!("an outcome for {jti}, which was never handed over: {outcome:?}"));
            return;
        }
        if attempt.is_some_and(|attempt| attempt.0 == 0 || attempt.0 > entry.attempts) {
            state.wrongs.push(format!("an outcome for attempt {attempt:?} of {jti}, which has had {}", entry.attempts));
        }
        let current =
            matches!(entry.stage, Stage::Handed { .. }) && attempt.is_none_or(|attempt| attempt.0 == entry.attempts);
        let bytes = entry.body.len();
        let next = match outcome {
            Ok(receipt) => {
                if receipt != self.0.profile.receipt {
                    state
                        .wrongs
                        .push(format!("the line declares {:?} and reports {receipt:?}", self.0.profile.receipt));
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

struct SimulatedTap {
    feed: Simulated,
    number: u64,
    interrupted: bool,
}

impl TapCore for SimulatedTap {
    fn poll_next(&mut self, want: &Want, cx: &mut Context<'_>) -> Poll<Result<Batch, Closed>> {
        let mut guard = self.feed.0.state.lock();
        let state = &mut *guard;
        if state.stutter && !std::mem::replace(&mut self.interrupted, true) {
            // Whoever selects over this future and something else drops it here; the tap remembers.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.interrupted = false;
        if let Some(end) = &state.end {
            return Poll::Ready(Err(end.clone()));
        }
        if state.sets.iter().all(|entry| matches!(entry.stage, Stage::Settled(_))) {
            return Poll::Ready(Err(Closed::Idle));
        }
        let due = if want.sets == 0 { Vec::new() } else { self.feed.due(state, self.number, want) };
        let bytes = due.iter().filter_map(|at| state.sets.get(*at)).map(|entry| entry.body.len()).sum();
        if due.is_empty() || !self.take(due.len(), bytes, cx.waker()) {
            state.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        state.numbers += 1;
        let batch = state.numbers;
        state.batches.insert(batch, Held { sets: due.len(), bytes });
        let mut sets = Vec::with_capacity(due.len());
        for at in &due {
            let Some(entry) = state.sets.get_mut(*at) else { continue };
            entry.stage = Stage::Claimed { tap: self.number, batch };
            sets.push(SealedSet {
                jti: entry.jti,
                attempt: Attempt(entry.attempts + 1),
                body: entry.body.clone(),
                envelope: Arc::new(Envelope::new(Timestamp::from_seconds(1_700_000_000), Bytes::from_static(b"{}"))),
                order: OrderKey::from_bits(entry.key),
            });
        }
        drop(guard);
        let claim = SimulatedClaim { feed: self.feed.clone(), batch, begun: false };
        Poll::Ready(Ok(Batch::new(sets, false, Box::new(claim))))
    }

    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.feed.0.state.lock();
        let ours = |entry: &Entry| matches!(entry.stage, Stage::Handed { tap, .. } if tap == self.number);
        if !state.sets.iter().any(ours) {
            return Poll::Ready(());
        }
        state.wakers.push(cx.waker().clone());
        Poll::Pending
    }
}

impl SimulatedTap {
    /// Room in all windows, or in none.
    fn take(&self, sets: usize, bytes: usize, waker: &Waker) -> bool {
        let windows = &self.feed.0.profile.windows;
        for (at, window) in windows.iter().enumerate() {
            if !window.core().take(sets, bytes) {
                windows.iter().take(at).for_each(|window| window.core().give(sets, 1, bytes));
                let waker = waker.clone();
                window.core().when_room(Arc::new(move || waker.wake_by_ref()));
                return false;
            }
        }
        true
    }
}

impl Drop for SimulatedTap {
    fn drop(&mut self) {
        let (number, lapse) = (self.number, self.feed.0.profile.lapse);
        self.feed.back(|stage| match stage {
            Stage::Handed { tap, .. } => *tap == number && lapse == Lapse::WithTap,
            _ => false,
        });
    }
}

struct SimulatedClaim {
    feed: Simulated,
    batch: u64,
    begun: bool,
}

impl Claim for SimulatedClaim {
    fn handed_over(mut self: Box<Self>) {
        self.begun = true;
        let number = self.batch;
        self.feed.change(|state| {
            for entry in &mut state.sets {
                if let Stage::Claimed { tap, batch } = entry.stage
                    && batch == number
                {
                    entry.attempts += 1;
                    entry.stage = Stage::Handed { tap, batch };
                }
            }
            if state.end.is_some() {
                state.wrongs.push("a batch was handed over after its tap had ended".to_owned());
            }
        });
    }
}

impl Drop for SimulatedClaim {
    fn drop(&mut self) {
        if !self.begun {
            let number = self.batch;
            self.feed.back(|stage| matches!(stage, Stage::Claimed { batch, .. } if *batch == number));
        }
    }
}

/// The SET at a place: its body names it, and is unlike every other.
fn entry(form: Form, at: usize, key: usize) -> Entry {
    let jti = Jti::from_block(b't', (at as u128 + 1).to_be_bytes());
    let body = match form {
        Form::Token => format!("eyJ0eXAiOiJzZWNldmVudCtqd3QifQ.{jti}.c2lnbmF0dXJl"),
        Form::Claims => format!(r#"{{"jti":"{jti}"}}"#),
    };
    Entry { jti, key: key as u64, body: body.into(), attempts: 0, stage: Stage::Waiting }
}
