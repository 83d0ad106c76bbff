//! What became of a drawn SET: acknowledged, parked, dropped, or due again.

use std::{sync::Arc, time::Duration};

use delivery::{Attempt, Cause, Outcome};
use set::{OrderKey, Timestamp};
use store::{Attempted, Head, Note, Rule, Settlement};
use stream::OnRefusal;

use super::{Claimed, Feed, LONE_FAILURES_OF_A_LINE, PARKED_KEYS_MOST, Phase, State};
use crate::{
    backoff::pause,
    lane::Slot,
    settle::{Judgement, judge},
    shared::{Command, Shared},
};

impl Feed {
    /// A drawn SET must not leave any more: dropped by a rule, counted.
    pub(crate) fn drop_by_rule(self: &Arc<Self>, seq: u64, rule: Rule) {
        let mut state = self.state.lock();
        if let Some(claimed) = state.claimed.remove(&seq) {
            claimed.ticket.give(claimed.bytes);
            state.ending.insert(seq);
            let labels = [("method", self.served.load().method), ("rule", rule_name(rule))];
            self.shared.observed.dropped.get_or_create(&labels).inc();
            let settlement = Settlement { stream: self.no, at: claimed.slot.head.at, note: Note::Dropped(rule) };
            self.shared.tell(Command::End(self.clone(), claimed.slot, settlement));
        }
    }

    /// A drawn SET cannot be carried: parked without an attempt.
    pub(crate) fn park_unsent(self: &Arc<Self>, seq: u64, code: set::ErrorCode, text: &str) {
        let mut state = self.state.lock();
        if let Some(claimed) = state.claimed.remove(&seq) {
            self.park(&mut state, claimed, code, text.into(), false);
        }
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
        self.shared
            .observed
            .acknowledged
            .get_or_create(&[("method", self.served.load().method), ("receipt", receipt)])
            .inc();
    }

    pub(super) fn keep_sealed(&self, claimed: &Claimed) {
        if let Some((generation, sealed)) = &claimed.sealed {
            // The generation it was sealed in, not that of now: a key may have been revoked while it was handed over.
            self.shared.cache.keep(claimed.jti, *generation, sealed.clone());
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
        state.ending.insert(seq);
        if state.parked_keys.len() >= PARKED_KEYS_MOST {
            // Of a forgotten key it is not known what was acknowledged since, hence possible.
            state.parked_keys.clear();
        }
        state.parked_keys.entry(claimed.slot.head.order).or_default();
        state.parked_in_row += 1;
        let served = self.served.load();
        if served.stream.on_refusal == OnRefusal::StopKey {
            state.lanes.stop(claimed.slot.head.order);
        }
        tracing::warn!(stream = %served.stream.id, jti = %claimed.jti, code = %code, attempts = claimed.attempt.0, "parked a SET");
        self.shared.observed.parked.get_or_create(&[("method", served.method), ("code", code_label(&code))]).inc();
        if state.parked_in_row >= self.shared.config.pause_after_parked && state.phase == Phase::Open {
            self.shared.tell(Command::Pause(
                self.no,
                format!("{} SETs in a row were parked, the last with `{code}`", state.parked_in_row),
            ));
        }
        let note = Note::Parked { code, text, attempts: claimed.attempt.0, stream_fault };
        self.shared.tell(Command::End(
            self.clone(),
            claimed.slot.clone(),
            Settlement { stream: self.no, at: claimed.slot.head.at, note },
        ));
    }

    /// That a SET was parked or dropped is durable: its lane goes on.
    pub(crate) fn ended(self: &Arc<Self>, slot: &Slot) {
        let mut state = self.state.lock();
        state.ending.remove(&slot.seq());
        state.finish(slot);
        self.stir(&mut state);
    }

    /// Whether a later SET of this order key may have been acknowledged since this one was parked. What happened before a
    /// restart is not known, hence possible.
    pub(crate) fn acknowledged_after(&self, key: OrderKey, seq: u64) -> bool {
        self.state.lock().parked_keys.get(&key).is_none_or(|last| *last > seq)
    }

    pub(super) fn settle_one(
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
                observed.failed.get_or_create(&[("method", served.method), ("cause", cause.code)]).inc();
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
                observed.failed.get_or_create(&[("method", served.method), ("cause", cause.code)]).inc();
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
