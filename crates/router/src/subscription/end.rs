//! The outcomes of fetched SETs: acknowledged, parked, dropped, or due again.

use std::{sync::Arc, time::Duration};

use setgate_delivery::{Attempt, Cause, Outcome, Verdict};
use setgate_set::{Jti, OrderKey, Receipt, Timestamp};
use setgate_store::{Head, Kind, Note, Rule, Settlement};
use setgate_stream::OnRefusal;

use super::{PARKED_KEYS_MOST, Phase, Served, State, Subscription, parts::Leased};
use crate::{
    decision::{Disposition, classify},
    number::LeaseNo,
    shared::Command,
    slot::Slot,
    window::Returned,
};

impl Subscription {
    /// Takes outcomes in any order: those of fetched SETs apply at once, those of others when the ledger has shown
    /// which SETs they are. Returns the number of fetched SETs that were ended.
    pub(crate) fn settle(self: &Arc<Self>, all: Vec<(Jti, Option<Attempt>, Outcome)>) -> usize {
        let mut ended = 0;
        let names = self.shared.store.names();
        let mut late = Vec::new();
        let (now, wall) = self.times();
        {
            let mut state = self.state.lock();
            let served = self.served.load();
            let mut settling = Settling { served: &served, now, wall, notes: Vec::with_capacity(all.len()) };
            state.lanes.tell(now);
            let (ends, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, _, outcome)| {
                // A SET that failed takes back everything that was fetched behind it, so SETs behind it that arrived
                // are settled first.
                matches!(outcome, Ok(_) | Err(Verdict::Refuse(_)))
            });
            state.in_flight.returned = Some(Returned::default());
            for (jti, attempt, outcome) in ends.into_iter().chain(others) {
                let Some(named) = names.read(&jti).filter(|named| named.stream == self.no) else { continue };
                let seq = named.at.seq;
                if state.in_flight.leased.get(&seq).is_some_and(|leased| leased.jti == jti) {
                    ended += usize::from(matches!(outcome, Ok(_) | Err(Verdict::Refuse(_))));
                    self.settle_one(&mut state, &mut settling, seq, (attempt, outcome));
                } else if matches!(outcome, Ok(_) | Err(Verdict::Refuse(_)))
                    && !state.in_flight.ending.contains(&seq)
                    && self.shared.store.is_owed(self.no, named.at)
                {
                    late.push((named, jti, outcome));
                }
            }
            if !settling.notes.is_empty() {
                // The notes are queued under the lock: a scan that begins after it must wait for these, or it finds the
                // SETs owed.
                self.shared.settler.note(settling.notes);
            }
            // The room is given back before anything is woken to fetch.
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

    /// Notes that hand-overs succeeded and that outcomes come later: channel and endpoint are healthy, whatever becomes
    /// of the SETs.
    pub(crate) fn reached(self: &Arc<Self>, sets: &[(Jti, Attempt)]) {
        let now = self.shared.runtime.clock.monotonic();
        let names = self.shared.store.names();
        let generation = self.served.load().generation;
        let mut state = self.state.lock();
        let State { in_flight, breaker, endpoint, .. } = &mut *state;
        for (jti, attempt) in sets {
            let Some(named) = names.read(jti).filter(|named| named.stream == self.no) else { continue };
            let Some(leased) = in_flight.leased.get_mut(&named.at.seq) else { continue };
            let Some(handed) = leased.handed.filter(|_| !leased.reached && leased.attempt == *attempt) else {
                continue;
            };
            if leased.jti != *jti || leased.generation != generation {
                continue;
            }
            leased.reached = true;
            in_flight.reached += 1;
            breaker.took(handed, now);
            if let Some(endpoint) = endpoint {
                endpoint.took();
            }
        }
        self.wake(&mut state);
    }

    /// Drops a fetched SET that must not leave any more, by a rule, and counts it.
    pub(crate) fn drop_by_rule(self: &Arc<Self>, lease: LeaseNo, rule: Rule) {
        let mut state = self.state.lock();
        if let Some(leased) = state.end_lease_if(lease) {
            // A probe that does not leave has no result, so another may leave.
            state.breaker.unknown(self.shared.runtime.clock.monotonic());
            state.in_flight.ending.insert(lease.seq);
            let settlement = Settlement { stream: self.no, at: leased.slot.head.at, note: Note::Dropped(rule) };
            self.shared.tell(Command::End(self.clone(), leased.slot, settlement));
        }
    }

    /// Parks a fetched SET that cannot be carried, without an attempt.
    pub(crate) fn park_unsent(self: &Arc<Self>, lease: LeaseNo, code: setgate_set::ErrorCode, text: &str) {
        let mut state = self.state.lock();
        if let Some(leased) = state.end_lease_if(lease) {
            // A probe that does not leave has no result, so another may leave.
            state.breaker.unknown(self.shared.runtime.clock.monotonic());
            self.park(&mut state, End::of(leased), code, text.into(), false);
        }
    }

    /// Settles acknowledgements and refusals of SETs that are not fetched: from before a restart, or of an attempt that
    /// timed out.
    ///
    /// The heads were read from the ledger; those whose boot does not match their `jti` were left out. The returned
    /// SETs stay in `ending` until the caller passes them to [`Subscription::visible`], once their settlement is
    /// visible in the store. Called once for each [`Command::Late`], whatever was found, since consumers wait for it.
    pub(crate) fn settle_late(self: &Arc<Self>, all: Vec<(Head, Jti, Outcome)>) -> Vec<u64> {
        let (now, wall) = self.times();
        let mut acknowledged = Vec::new();
        let mut state = self.state.lock();
        state.in_flight.late = state.in_flight.late.saturating_sub(1);
        let served = self.served.load();
        let mut settling = Settling { served: &served, now, wall, notes: Vec::with_capacity(all.len()) };
        let order = served.profile.order;
        for (head, jti, outcome) in all {
            let seq = head.at.seq;
            if state.in_flight.leased.contains_key(&seq) {
                // The SET was fetched again in between.
                self.settle_one(&mut state, &mut settling, seq, (None, outcome));
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
                    // A scan must not find it before the store shows the end.
                    state.in_flight.ending.insert(seq);
                    acknowledged.push(seq);
                    state.breaker.success();
                    state.endpoint_took();
                    Self::on_success(&mut state, wall, head.order, seq);
                    settling.notes.push(Settlement { stream: self.no, at: head.at, note: Note::Acknowledged(receipt) });
                }
                Disposition::Park { code, text, stream_fault } => {
                    let slot = if head.kind == Kind::Control {
                        let at = state.control.queue.iter().position(|slot| slot.seq() == seq);
                        let slot = at.and_then(|at| state.control.queue.remove(at));
                        // No control SET was out; this one counts as out until it has ended.
                        state.control.busy |= slot.is_some();
                        slot
                    } else {
                        state.lanes.remove(head.order, seq)
                    };
                    let slot = slot.unwrap_or_else(|| Slot::new(head));
                    let attempts = slot.attempts;
                    self.park(&mut state, End { slot, jti, attempts }, code, text, stream_fault);
                }
                _ => {}
            }
        }
        if !settling.notes.is_empty() {
            self.shared.settler.note(settling.notes);
        }
        if state.in_flight.late == 0 {
            state.consumers.wake_all();
        }
        self.wake(&mut state);
        acknowledged
    }

    /// Notes that the store shows the ends of these SETs, so that no scan finds them any more.
    pub(crate) fn visible(&self, seqs: &[u64]) {
        let mut state = self.state.lock();
        for seq in seqs {
            state.in_flight.ending.remove(seq);
        }
    }

    /// Notes that a SET was acknowledged, so that the stream is healthy.
    fn on_success(state: &mut State, wall: Timestamp, key: OrderKey, seq: u64) {
        state.streaks.fared.passed += 1;
        state.streaks.lone_failures = 0;
        state.streaks.parked = 0;
        state.shown.last_success = Some(wall);
        if let Some((_, last)) = state.parked_keys.last.get_mut(&key) {
            *last = seq.max(*last);
        }
    }

    pub(super) fn park(
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
            // The ledger is asked about keys that are forgotten here.
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

    /// Lets the lane of a SET go on once it is durable that the SET was parked or dropped.
    pub(crate) fn ended(self: &Arc<Self>, slot: &Slot) {
        let mut state = self.state.lock();
        state.in_flight.ending.remove(&slot.seq());
        state.finish(slot);
        self.wake(&mut state);
    }

    /// Returns whether a later SET of this order key was acknowledged; `None` where that was not seen here.
    pub(crate) fn acknowledged_after(&self, key: OrderKey, seq: u64) -> Option<bool> {
        let (from, last) = self.state.lock().parked_keys.last.get(&key).copied()?;
        if last > seq { Some(true) } else { (seq >= from).then_some(false) }
    }

    fn settle_one(
        self: &Arc<Self>,
        state: &mut State,
        settling: &mut Settling<'_>,
        seq: u64,
        (attempt, outcome): (Option<Attempt>, Outcome),
    ) {
        let served = settling.served;
        let Some(leased) = state.in_flight.leased.get(&seq) else { return };
        let disposition = classify(outcome, leased.order, served.endpoint.is_some());
        let is_end = matches!(disposition, Disposition::Acknowledge(_) | Disposition::Park { .. });
        let current = attempt.is_none_or(|attempt| attempt == leased.attempt) && leased.generation == served.generation;
        if !is_end && attempt.is_some_and(|attempt| attempt != leased.attempt) {
            return;
        }
        let Some(mut leased) = state.end_lease(seq) else { return };
        if let Some(settled) = &mut state.scan.settled_meanwhile {
            settled.insert(seq);
        }
        let disposition = if is_end || current { disposition } else { Disposition::Return };
        match disposition {
            Disposition::Acknowledge(receipt) => self.acknowledged(state, settling, &leased, receipt),
            Disposition::Park { code, text, stream_fault } => {
                state.shown.last_error = Some((settling.wall, Cause::new("refused", format!("{code}: {text}"))));
                if stream_fault {
                    // The endpoint answers, but the answer says nothing of other SETs: a probe that ends in this way
                    // must not be the last.
                    state.breaker.unknown(settling.now);
                } else {
                    state.breaker.success();
                }
                self.park(state, End::of(leased), code, text, stream_fault);
            }
            Disposition::RetrySet { after, cause } => {
                leased.slot.troubles().failed(state.streaks.fared);
                let tries = leased.attempt.0;
                self.failed_alone(state, settling, leased, tries, after, cause);
            }
            Disposition::RetryChannel { after, cause } => self.channel_failed(state, settling, leased, after, cause),
            Disposition::Halt { cause } => self.halted(state, settling, leased, cause),
            Disposition::Endpoint { after, cause, ours: false } => {
                self.endpoint_failed(state, settling, leased, after, cause);
            }
            Disposition::Endpoint { cause, ours: true, .. } => {
                self.endpoint_unusable(state, settling, leased, cause);
            }
            Disposition::Return => {
                state.breaker.unknown(settling.now);
                self.come_back(state, leased, None);
            }
        }
    }

    fn acknowledged(&self, state: &mut State, settling: &mut Settling<'_>, leased: &Leased, receipt: Receipt) {
        let &mut Settling { served, now, wall, .. } = settling;
        let head = &leased.slot.head;
        if leased.reached {
            // The duration of its hand-over is known already.
            state.breaker.success();
        } else {
            state.breaker.took(leased.handed.unwrap_or(now), now);
        }
        if leased.generation == served.generation {
            state.endpoint_took();
        }
        Self::on_success(state, wall, head.order, head.at.seq);
        state.finish(&leased.slot);
        self.shared.observed.delivered_after.observe(wall.since(head.accepted).as_secs_f64());
        settling.notes.push(Settlement { stream: self.no, at: head.at, note: Note::Acknowledged(receipt) });
    }
}

/// The facts that are read once for many reports, and the notes to write of them.
pub(super) struct Settling<'a> {
    /// The configuration in force.
    pub(super) served: &'a Served,
    pub(super) now: Duration,
    pub(super) wall: Timestamp,
    pub(super) notes: Vec<Settlement>,
}

/// A SET that has found its end.
pub(super) struct End {
    slot: Slot,
    jti: Jti,
    attempts: u32,
}

impl End {
    pub(super) fn of(leased: Leased) -> Self {
        Self { slot: leased.slot, jti: leased.jti, attempts: leased.attempt.0 }
    }
}
