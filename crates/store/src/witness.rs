//! The notification of a witness about each change of deliveries, once, when it becomes visible. Deliveries are counted
//! here only.

use std::{collections::HashMap, fmt};

use setgate_set::{ErrorCode, Receipt};

use crate::{
    Kind, Rule, StreamNo,
    plan::Plan,
    state::{End, State},
};

/// The reason why deliveries are owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// A producer put an event in.
    Event,
    /// The gateway announced a change of a stream (verification, stream-updated).
    Control,
    /// A parked SET was issued again.
    Reissue,
    /// The deliveries were owed when the witness was registered, or appeared when the store was opened again.
    Before,
}

/// The end of deliveries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The deliveries were acknowledged, with the party that did it.
    Acknowledged(Receipt),
    /// The deliveries were parked, with the code.
    Parked(ErrorCode),
    /// The deliveries were dropped by a rule.
    Dropped(Rule),
}

/// A change of deliveries. Over all facts, the owed deliveries are the sum of those that ended and those that wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// Deliveries that became owed, with their origin and number.
    Owed(Origin, u64),
    /// Deliveries of a stream that ended, with their end and number.
    Ended(StreamNo, Ending, u64),
}

/// A witness of deliveries, for counters.
///
/// The store calls it while it is locked, so it must be quick and must not call the store.
pub trait Witness: Send + Sync + fmt::Debug {
    /// Receives the facts that became visible together, and the number of deliveries that wait now.
    fn saw(&self, facts: &[Fact], waiting: u64);
}

impl Plan {
    /// Returns the facts that became visible with the plan; `counts` is the result of [`Plan::apply`].
    pub(crate) fn facts(&self, counts: &[usize]) -> Vec<Fact> {
        let mut owed = HashMap::new();
        for fresh in &self.records {
            let origin = match fresh.entry.head.kind {
                Kind::Intake => Origin::Event,
                Kind::Control => Origin::Control,
                Kind::Reissue { .. } => Origin::Reissue,
            };
            *owed.entry(origin).or_insert(0) += fresh.entry.targets.len();
        }
        let mut ends = HashMap::new();
        for ended in &self.ops.ended {
            let ending = match ended.how {
                End::Receiver => Ending::Acknowledged(Receipt::Receiver),
                End::Broker => Ending::Acknowledged(Receipt::Broker),
                End::Dropped(rule) => Ending::Dropped(rule),
                End::Parked => Ending::Parked(match self.rows.get(&(ended.stream, ended.seq)) {
                    Some(Some(row)) => row.parked.code.clone(),
                    _ => unknown(),
                }),
            };
            *ends.entry((ended.stream, ending)).or_insert(0) += 1;
        }
        for (clear, gone) in self.ops.clears.iter().zip(counts) {
            *ends.entry((clear.stream, Ending::Dropped(clear.rule))).or_insert(0) += *gone as u64;
        }
        facts(owed, ends)
    }
}

impl State {
    /// Returns the deliveries that are owed when a witness is registered.
    pub(crate) fn before(&self) -> [Fact; 1] {
        [Fact::Owed(Origin::Before, self.waiting)]
    }

    /// Returns the number of deliveries that a stream was ever owed, and the counts of their ends.
    fn ends(&self, stream: StreamNo) -> (u64, HashMap<Ending, u64>) {
        let Some(tally) = self.cursors.get(&stream).map(|cursor| &cursor.tally) else { return Default::default() };
        let mut ends = HashMap::from([
            (Ending::Acknowledged(Receipt::Receiver), tally.acknowledged_receiver),
            (Ending::Acknowledged(Receipt::Broker), tally.acknowledged_broker),
            (Ending::Parked(unknown()), tally.parked),
        ]);
        ends.extend(tally.dropped.iter().map(|(rule, count)| (Ending::Dropped(*rule), *count)));
        (tally.owed, ends)
    }

    /// Returns the facts that are visible in this state and were not in `before`, after the store was opened again. An
    /// end that was seen and is undone counts as owed once more.
    pub(crate) fn since(&self, before: &Self) -> Vec<Fact> {
        let (mut again, mut ends) = (0, HashMap::new());
        // The cursor of a deleted stream may be gone by now; none of its ends is undone.
        let gone = before.cursors.iter().filter(|(no, cursor)| !self.cursors.contains_key(no) && !cursor.is_over());
        for stream in self.cursors.keys().chain(gone.map(|(no, _)| no)) {
            let (owed_then, then) = before.ends(*stream);
            let (owed_now, mut now) = self.ends(*stream);
            again += owed_now.saturating_sub(owed_then);
            for (ending, seen) in then {
                let count = now.entry(ending).or_default();
                again += seen.saturating_sub(*count);
                *count = count.saturating_sub(seen);
            }
            ends.extend(now.into_iter().map(|(ending, count)| ((*stream, ending), count)));
        }
        facts(HashMap::from([(Origin::Before, again)]), ends)
    }
}

/// Returns the code of a SET that was parked before its row could be read.
fn unknown() -> ErrorCode {
    ErrorCode::Other("unknown".into())
}

fn facts(owed: HashMap<Origin, u64>, ends: HashMap<(StreamNo, Ending), u64>) -> Vec<Fact> {
    let owed = owed.into_iter().filter(|(_, count)| *count > 0).map(|(origin, count)| Fact::Owed(origin, count));
    let ends = ends.into_iter().filter(|(_, count)| *count > 0);
    owed.chain(ends.map(|((stream, ending), count)| Fact::Ended(stream, ending, count))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        Boot, Entry, Head, IssuerNo, Position, ProducerNo, Streams, Version,
        state::{Ended, Ops},
    };

    fn owing(records: u64) -> State {
        let mut state = State::default();
        for seq in 1..=records {
            let head = Head {
                at: Position::new(seq),
                boot: Boot(1),
                kind: Kind::Intake,
                issuer: IssuerNo(1),
                producer: ProducerNo(1),
                config: Version(0),
                accepted: setgate_set::Timestamp::from_millis(seq),
                order: setgate_set::OrderKey::from_bits(1),
                body_len: 1,
            };
            state.record(&Entry { head, targets: Arc::new(Streams::from([1, 2])) });
        }
        state
    }

    fn end(state: &mut State, stream: u32, seq: u64, how: End) {
        let ended = vec![Ended { stream: StreamNo(stream), seq, how }];
        state.deltas(&Ops { ended, ..Ops::default() });
    }

    /// A write in doubt took place and an acknowledgement was lost: the sums of the reported facts are right
    /// nevertheless.
    #[test]
    fn what_an_opening_brings_and_takes_is_told() {
        let (mut before, mut after) = (owing(3), owing(5));
        end(&mut before, 1, 1, End::Receiver);
        end(&mut before, 1, 2, End::Receiver);
        end(&mut after, 1, 2, End::Receiver);
        end(&mut after, 2, 1, End::Dropped(Rule::TooOld));
        let facts = after.since(&before);
        let owed: u64 =
            facts.iter().map(|fact| if let Fact::Owed(Origin::Before, count) = fact { *count } else { 0 }).sum();
        assert_eq!(owed, 4 + 1, "two records of two streams, and one that came back");
        let ends: Vec<_> = facts.iter().filter(|fact| matches!(fact, Fact::Ended(..))).collect();
        assert_eq!(ends, [&Fact::Ended(StreamNo(2), Ending::Dropped(Rule::TooOld), 1)]);
        // The invariant is: owed 6 + 5 = acknowledged 2 + dropped 1 + waiting.
        assert_eq!(after.waiting, 6 + 5 - 2 - 1);
        assert!(before.since(&before).is_empty());
    }
}
