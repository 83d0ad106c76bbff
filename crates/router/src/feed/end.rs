//! What became of a drawn SET: acknowledged, parked, dropped, or due again.

use std::{sync::Arc, time::Duration};

use setgate_delivery::{Attempt, Cause, Class, Outcome, Verdict, Voice};
use setgate_set::{Jti, OrderKey, Timestamp};
use setgate_store::{Attempted, Head, Kind, Note, Rule, Settlement};
use setgate_stream::OnRefusal;

use super::{Feed, LONE_FAILURES_OF_A_LINE, PARKED_KEYS_MOST, Phase, Served, State, parts::Claimed};
use crate::{
    backoff::pause,
    batch::Returned,
    decision::{Disposition, classify},
    endpoint::Fault,
    number::ClaimNo,
    shared::{Command, Shared},
    slot::Slot,
};

impl Feed {
    /// Outcomes in any order: of SETs that are drawn at once, of others when the ledger has told what they are.
    /// Tells how many that are drawn found their end.
    pub(crate) fn settle(self: &Arc<Self>, all: Vec<(Jti, Option<Attempt>, Outcome)>) -> usize {
        let mut ended = 0;
        let names = self.shared.store.names();
        let mut notes = Vec::with_capacity(all.len());
        let mut late = Vec::new();
        let times = self.times();
        {
            let mut state = self.state.lock();
            let served = self.served.load();
            state.lanes.tell(times.0);
            let (ends, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, _, outcome)| {
                // What failed takes back all that was drawn behind it: what of that has arrived is settled first.
                matches!(outcome, Ok(_) | Err(Verdict::Refuse(_)))
            });
            state.in_flight.returned = Some(Returned::default());
            for (jti, attempt, outcome) in ends.into_iter().chain(others) {
                let Some(named) = names.read(&jti).filter(|named| named.stream == self.no) else { continue };
                let seq = named.at.seq;
                if state.in_flight.claimed.get(&seq).is_some_and(|claimed| claimed.jti == jti) {
                    ended += usize::from(matches!(outcome, Ok(_) | Err(Verdict::Refuse(_))));
                    self.settle_one(&mut state, (&served, times), seq, (attempt, outcome), &mut notes);
                } else if matches!(outcome, Ok(_) | Err(Verdict::Refuse(_)))
                    && !state.in_flight.ending.contains(&seq)
                    && self.shared.store.is_owed(self.no, named.at)
                {
                    late.push((named, jti, outcome));
                }
            }
            if !notes.is_empty() {
                // Under the lock: a scan that begins behind it must wait for these, or it finds them owed.
                self.shared.settler.note(notes);
            }
            // Given back before anybody is woken to draw.
            state.in_flight.returned = None;
            // A request may settle and ask for more at once: its answer must not hold what it settles.
            state.in_flight.late += usize::from(!late.is_empty());
            self.wake(&mut state);
        }
        if !late.is_empty() {
            self.shared.tell(Command::Late(self.clone(), late));
        }
        ended
    }

    /// Hand-overs have ended well, and outcomes come later: line and endpoint are well, whatever becomes of the SETs.
    pub(crate) fn reached(self: &Arc<Self>, sets: &[(Jti, Attempt)]) {
        let now = self.shared.runtime.clock.monotonic();
        let names = self.shared.store.names();
        let generation = self.served.load().generation;
        let mut state = self.state.lock();
        let State { in_flight, breaker, endpoint, .. } = &mut *state;
        for (jti, attempt) in sets {
            let Some(named) = names.read(jti).filter(|named| named.stream == self.no) else { continue };
            let Some(claimed) = in_flight.claimed.get_mut(&named.at.seq) else { continue };
            let Some(handed) = claimed.handed.filter(|_| !claimed.reached && claimed.attempt == *attempt) else {
                continue;
            };
            if claimed.jti != *jti || claimed.generation != generation {
                continue;
            }
            claimed.reached = true;
            in_flight.reached += 1;
            breaker.took(handed, now);
            if let Some(endpoint) = endpoint {
                endpoint.took();
            }
        }
        self.wake(&mut state);
    }

    /// A drawn SET must not leave any more: dropped by a rule, counted.
    pub(crate) fn drop_by_rule(self: &Arc<Self>, claim: ClaimNo, rule: Rule) {
        let mut state = self.state.lock();
        if let Some(claimed) = state.unclaim_if(claim) {
            // A probe that does not leave tells nothing: another one may.
            state.breaker.unknown(self.shared.runtime.clock.monotonic());
            state.in_flight.ending.insert(claim.seq);
            let settlement = Settlement { stream: self.no, at: claimed.slot.head.at, note: Note::Dropped(rule) };
            self.shared.tell(Command::End(self.clone(), claimed.slot, settlement));
        }
    }

    /// A drawn SET cannot be carried: parked without an attempt.
    pub(crate) fn park_unsent(self: &Arc<Self>, claim: ClaimNo, code: setgate_set::ErrorCode, text: &str) {
        let mut state = self.state.lock();
        if let Some(claimed) = state.unclaim_if(claim) {
            // A probe that does not leave tells nothing: another one may.
            state.breaker.unknown(self.shared.runtime.clock.monotonic());
            self.park(&mut state, End::of(claimed), code, text.into(), false);
        }
    }

    /// Acknowledgements and refusals of SETs that are not drawn: from before a restart, or of an attempt that timed out.
    ///
    /// The heads were read from the ledger; those whose boot does not match their `jti` were left out. What is in `ending` when
    /// this returns is to be let go with [`Feed::visible`] once its settlement is visible in the store. Called once for each
    /// [`Command::Late`], whatever was found: taps wait for it.
    pub(crate) fn settle_late(self: &Arc<Self>, all: Vec<(Head, Jti, Outcome)>) -> Vec<u64> {
        let mut notes = Vec::with_capacity(all.len());
        let mut acknowledged = Vec::new();
        let times = self.times();
        let mut state = self.state.lock();
        state.in_flight.late = state.in_flight.late.saturating_sub(1);
        let served = self.served.load();
        let order = served.profile.order;
        for (head, jti, outcome) in all {
            let seq = head.at.seq;
            if state.in_flight.claimed.contains_key(&seq) {
                // It was drawn again in between.
                self.settle_one(&mut state, (&served, times), seq, (None, outcome), &mut notes);
                continue;
            }
            if state.in_flight.ending.contains(&seq) || !self.shared.store.is_owed(self.no, head.at) {
                continue;
            }
            match classify(outcome, order, false) {
                Disposition::Acknowledge(receipt) => {
                    if head.kind == Kind::Control {
                        state.control.queue.retain(|slot| slot.seq() != seq);
                    } else if let Some(again) = state.lanes.withdraw(head.order, seq) {
                        state.rewind(again);
                    }
                    // A scan must not find it before the store knows.
                    state.in_flight.ending.insert(seq);
                    acknowledged.push(seq);
                    state.breaker.success();
                    state.endpoint_took();
                    Self::well(&mut state, times.1, head.order, seq);
                    notes.push(Settlement { stream: self.no, at: head.at, note: Note::Acknowledged(receipt) });
                }
                Disposition::Park { code, text, stream_fault } => {
                    let slot = if head.kind == Kind::Control {
                        let at = state.control.queue.iter().position(|slot| slot.seq() == seq);
                        let slot = at.and_then(|at| state.control.queue.remove(at));
                        // Nothing was out: when it has ended, nothing is.
                        state.control.busy |= slot.is_some();
                        slot
                    } else {
                        state.lanes.take(head.order, seq)
                    };
                    let slot = slot.unwrap_or_else(|| Slot::new(head));
                    let attempts = slot.attempts;
                    self.park(&mut state, End { slot, jti, attempts }, code, text, stream_fault);
                }
                _ => {}
            }
        }
        if !notes.is_empty() {
            self.shared.settler.note(notes);
        }
        if state.in_flight.late == 0 {
            state.taps.wake_all();
        }
        self.wake(&mut state);
        acknowledged
    }

    /// The store shows what became of these: no scan finds them any more.
    pub(crate) fn visible(&self, seqs: &[u64]) {
        let mut state = self.state.lock();
        for seq in seqs {
            state.in_flight.ending.remove(seq);
        }
    }

    /// A SET was taken: the stream is well.
    fn well(state: &mut State, wall: Timestamp, key: OrderKey, seq: u64) {
        state.streaks.fared.passed += 1;
        state.streaks.lone_failures = 0;
        state.streaks.parked = 0;
        state.shown.last_success = Some(wall);
        if let Some((_, last)) = state.parked_keys.last.get_mut(&key) {
            *last = seq.max(*last);
        }
    }

    fn park(
        self: &Arc<Self>,
        state: &mut State,
        end: End,
        code: setgate_set::ErrorCode,
        text: Box<str>,
        stream_fault: bool,
    ) {
        let End { slot, jti, attempts } = end;
        let seq = slot.seq();
        state.in_flight.ending.insert(seq);
        if state.parked_keys.last.len() >= PARKED_KEYS_MOST {
            // Of a forgotten key the ledger is asked.
            state.parked_keys.last.clear();
        }
        if seq >= state.parked_keys.one_by_one_from {
            state.parked_keys.last.entry(slot.head.order).or_insert((seq, 0));
        }
        state.streaks.parked += 1;
        let served = self.served.load();
        if served.stream.on_refusal == OnRefusal::StopKey {
            state.lanes.stop(slot.head.order, seq);
        }
        tracing::warn!(stream = %served.stream.id, jti = %jti, code = %code, attempts, "parked a SET");
        if state.streaks.parked >= self.shared.config.pause_after_parked && state.phase == Phase::Open {
            self.shared.tell(Command::Pause(
                self.no,
                format!("{} SETs in a row were parked, the last with `{code}`", state.streaks.parked),
            ));
        }
        let note = Note::Parked { code, text, attempts, stream_fault };
        let settlement = Settlement { stream: self.no, at: slot.head.at, note };
        self.shared.tell(Command::End(self.clone(), slot, settlement));
    }

    /// That a SET was parked or dropped is durable: its lane goes on.
    pub(crate) fn ended(self: &Arc<Self>, slot: &Slot) {
        let mut state = self.state.lock();
        state.in_flight.ending.remove(&slot.seq());
        state.finish(slot);
        self.wake(&mut state);
    }

    /// Whether a later SET of this order key was acknowledged; nothing, where that was not seen here.
    pub(crate) fn acknowledged_after(&self, key: OrderKey, seq: u64) -> Option<bool> {
        let (from, last) = self.state.lock().parked_keys.last.get(&key).copied()?;
        if last > seq { Some(true) } else { (seq >= from).then_some(false) }
    }

    /// What is in force and the times are read once for many reports.
    fn settle_one(
        self: &Arc<Self>,
        state: &mut State,
        (served, times): (&Served, (Duration, Timestamp)),
        seq: u64,
        (attempt, outcome): (Option<Attempt>, Outcome),
        notes: &mut Vec<Settlement>,
    ) {
        let (now, wall) = times;
        let Some(claimed) = state.in_flight.claimed.get(&seq) else { return };
        let responder = served.profile.voice == Voice::Responder;
        let disposition = classify(outcome, claimed.order, served.endpoint.is_some());
        let is_end = matches!(disposition, Disposition::Acknowledge(_) | Disposition::Park { .. });
        let current =
            attempt.is_none_or(|attempt| attempt == claimed.attempt) && claimed.generation == served.generation;
        if !is_end && attempt.is_some_and(|attempt| attempt != claimed.attempt) {
            return;
        }
        let Some(mut claimed) = state.unclaim(seq) else { return };
        if let Some(settled) = &mut state.scan.settled_meanwhile {
            settled.insert(seq);
        }
        let Shared { config, runtime, observed, .. } = &*self.shared;
        let at = claimed.slot.head.at;
        let disposition = if is_end || current { disposition } else { Disposition::Return };
        match disposition {
            Disposition::Acknowledge(receipt) => {
                if claimed.reached {
                    // How long its hand-over took is known already.
                    state.breaker.success();
                } else {
                    state.breaker.took(claimed.handed.unwrap_or(now), now);
                }
                if claimed.generation == served.generation {
                    state.endpoint_took();
                }
                Self::well(state, wall, claimed.slot.head.order, seq);
                state.finish(&claimed.slot);
                observed.delivered_after.observe(wall.since(claimed.slot.head.accepted).as_secs_f64());
                notes.push(Settlement { stream: self.no, at, note: Note::Acknowledged(receipt) });
            }
            Disposition::Park { code, text, stream_fault } => {
                state.shown.last_error = Some((wall, Cause::new("refused", format!("{code}: {text}"))));
                if stream_fault {
                    // The endpoint answers, and says nothing of the others: a probe that ends so must not be the last.
                    state.breaker.unknown(now);
                } else {
                    state.breaker.success();
                }
                self.park(state, End::of(claimed), code, text, stream_fault);
            }
            Disposition::RetrySet { after, cause } => {
                claimed.slot.troubles().failed(state.streaks.fared);
                let tries = claimed.attempt.0;
                self.failed_alone(state, served, claimed, times, (tries, after, cause), notes);
            }
            Disposition::RetryLine { after, cause } => {
                if state.is_this_set(&mut claimed) {
                    let tries = claimed.slot.troubles().lone_failures;
                    self.failed_alone(state, served, claimed, times, (tries, after, cause), notes);
                    return;
                }
                claimed.slot.attempts = claimed.attempt.0;
                claimed.slot.failed_at(wall);
                observed.failed.get_or_create(&[("method", served.method), ("cause", cause.code)]).inc();
                let after = after.unwrap_or_default().min(config.retry_after_most());
                if responder {
                    // Who comes and asks is there: the SET waits as long as it was told to, and no other does.
                    state.shown.last_error = Some((wall, cause));
                    let due = (!after.is_zero()).then(|| now + after);
                    notes.push(self.retry(state, claimed, wall.plus(after), due));
                    return;
                }
                let until = state
                    .breaker
                    .fault(now, cause.class, |failures| pause(config, &*runtime.random, failures).max(after));
                self.pause_if_hopeless(state, now, &cause);
                state.shown.last_error = Some((wall, cause));
                notes.push(self.retry(state, claimed, wall.plus(until.saturating_sub(now)), None));
            }
            Disposition::Halt { cause } => {
                self.shared.tell(Command::Pause(self.no, cause.to_string()));
                state.breaker.fault(now, Class::Configuration, |failures| pause(config, &*runtime.random, failures));
                state.shown.last_error = Some((wall, cause));
                self.come_back(state, claimed, None);
            }
            Disposition::Endpoint { after, cause, ours } => {
                let after = after.unwrap_or_default().min(config.retry_after_most());
                let fault = if ours { Fault::Ours } else { Fault::Theirs(after) };
                let until = state
                    .endpoint
                    .as_ref()
                    .map_or(now, |endpoint| endpoint.failed(now, claimed.probe.as_ref(), fault, &cause));
                if !ours && state.is_this_set(&mut claimed) {
                    let (tries, after) = (claimed.slot.troubles().lone_failures, until.saturating_sub(now));
                    self.failed_alone(state, served, claimed, times, (tries, Some(after), cause), notes);
                    return;
                }
                // It says nothing of the line.
                state.breaker.unknown(now);
                observed.failed.get_or_create(&[("method", served.method), ("cause", cause.code)]).inc();
                state.shown.last_error = Some((wall, cause));
                if ours {
                    self.come_back(state, claimed, None);
                } else {
                    claimed.slot.attempts = claimed.attempt.0;
                    claimed.slot.failed_at(wall);
                    notes.push(self.retry(state, claimed, wall.plus(until.saturating_sub(now)), None));
                }
            }
            Disposition::Return => {
                state.breaker.unknown(now);
                self.come_back(state, claimed, None);
            }
        }
    }

    /// A SET failed while others pass: it waits for its time, the longer the oftener it was tried, or is given up, and its line
    /// goes on.
    fn failed_alone(
        self: &Arc<Self>,
        state: &mut State,
        served: &Served,
        mut claimed: Claimed,
        (now, wall): (Duration, Timestamp),
        (tries, after, cause): (u32, Option<Duration>, Cause),
        notes: &mut Vec<Settlement>,
    ) {
        let Shared { config, runtime, observed, .. } = &*self.shared;
        claimed.slot.attempts = claimed.attempt.0;
        claimed.slot.failed_at(wall);
        observed.failed.get_or_create(&[("method", served.method), ("cause", cause.code)]).inc();
        let lone_failures = claimed.slot.troubles().lone_failures;
        if lone_failures >= config.poison_after {
            // It may have been the probe: another one may leave.
            state.breaker.unknown(now);
            let text = format!("failed {lone_failures} times while others passed; the last: {cause}");
            self.park(state, End::of(claimed), setgate_set::ErrorCode::Poison, text.into(), false);
            return;
        }
        state.streaks.lone_failures += 1;
        let wait = pause(config, &*runtime.random, tries).max(after.unwrap_or_default().min(config.retry_after_most()));
        if state.streaks.lone_failures >= LONE_FAILURES_OF_A_LINE && served.profile.voice == Voice::Sender {
            state.breaker.fault(now, cause.class, |failures| pause(config, &*runtime.random, failures));
            self.pause_if_hopeless(state, now, &cause);
        } else {
            state.breaker.unknown(now);
        }
        state.shown.last_error = Some((wall, cause));
        notes.push(self.retry(state, claimed, wall.plus(wait), Some(now + wait)));
    }

    /// Pauses a stream that failed by its own fault often and long enough.
    fn pause_if_hopeless(&self, state: &State, now: Duration, cause: &Cause) {
        let config = &self.shared.config;
        if state.breaker.gives_up(now, config) && state.phase == Phase::Open {
            let why = format!("{} faults in a row, the last: {cause}", config.pause_after_faults);
            self.shared.tell(Command::Pause(self.no, why));
        }
    }

    /// Puts a failed SET back and says what to note of it. `due`: its own lane waits until then.
    fn retry(&self, state: &mut State, claimed: Claimed, next_at: Timestamp, due: Option<Duration>) -> Settlement {
        let attempted = Attempted {
            count: claimed.slot.attempts,
            first_failed: claimed.slot.first_failed().unwrap_or(next_at),
            next_at,
        };
        let at = claimed.slot.head.at;
        self.come_back(state, claimed, due);
        Settlement { stream: self.no, at, note: Note::Attempt(attempted) }
    }
}

/// A SET that has found its end.
struct End {
    slot: Slot,
    jti: Jti,
    attempts: u32,
}

impl End {
    fn of(claimed: Claimed) -> Self {
        Self { slot: claimed.slot, jti: claimed.jti, attempts: claimed.attempt.0 }
    }
}
