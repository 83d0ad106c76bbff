//! The planner, which turns units into changes. Each unit is decided against the visible state and the units before it
//! in the same group.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use setgate_set::Timestamp;

use crate::{
    Appended, Boot, Done, Entry, Fence, Head, IssuerNo, Key, Kind, Names, NewEvent, Note, Once, Parked, Position,
    ProducerNo, Put, Rule, Settlement, StoreError, StreamNo, Streams, Unit, Version,
    state::{Clear, End, Ended, Numbers, Ops, State},
};

/// The longest kept text of a refusal, in bytes (hardening H50).
const LONGEST_TEXT: usize = 512;

/// A record about to be written.
#[derive(Clone, Debug)]
pub(crate) struct Fresh {
    pub(crate) entry: Entry,
    pub(crate) body: Bytes,
    pub(crate) once: Option<Once>,
}

/// A parked SET with what is needed to issue it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ParkedRow {
    pub(crate) parked: Parked,
    pub(crate) issuer: IssuerNo,
    pub(crate) producer: ProducerNo,
    pub(crate) bytes: u64,
}

/// The event that an idempotency key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdempotencyRecord {
    pub(crate) seq: u64,
    pub(crate) digest: [u8; 16],
    pub(crate) txn: Box<str>,
}

/// The reads that planning needs.
pub(crate) trait Lookup {
    /// Returns the event that has this idempotency key.
    fn once(&self, producer: ProducerNo, key: &[u8; 16]) -> Result<Option<IdempotencyRecord>, StoreError>;
    /// Returns a parked SET, body included.
    fn parked(&self, stream: StreamNo, seq: u64) -> Result<Option<ParkedRow>, StoreError>;
    /// Returns a record. The body is `None` if it is lost.
    fn record(&self, seq: u64) -> Result<Option<(Head, Option<Bytes>)>, StoreError>;
}

/// The changes that a group of units makes.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) records: Vec<Fresh>,
    pub(crate) ops: Ops,
    /// The parked SETs to write, or to remove where the value is `None`.
    pub(crate) rows: BTreeMap<(StreamNo, u64), Option<ParkedRow>>,
    /// The changes of the number and bytes of parked SETs, by stream.
    pub(crate) parked: Vec<(StreamNo, i64, i64)>,
    pub(crate) puts: BTreeMap<Key, (Version, Option<Bytes>)>,
    pub(crate) version: Option<Version>,
    pub(crate) membership: Option<Version>,
    pub(crate) numbers: Option<Numbers>,
}

impl Plan {
    /// Returns whether the plan changes nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.only_ops()
    }

    /// Returns whether the plan changes nothing but deltas.
    pub(crate) fn only_ops(&self) -> bool {
        self.records.is_empty()
            && self.rows.is_empty()
            && self.puts.is_empty()
            && self.version.is_none()
            && self.numbers.is_none()
    }

    /// Makes the changes visible. Returns the number of deliveries that each clear dropped.
    pub(crate) fn apply(&self, state: &mut State) -> Vec<usize> {
        for fresh in &self.records {
            state.record(&fresh.entry);
        }
        let counts = state.deltas(&self.ops);
        for (stream, count, bytes) in &self.parked {
            state.parked(*stream, *count, *bytes);
        }
        state.version = self.version.unwrap_or(state.version);
        state.membership = self.membership.unwrap_or(state.membership);
        state.numbers = self.numbers.unwrap_or(state.numbers);
        counts
    }
}

/// An answer that may depend on the count of a clear.
#[derive(Debug)]
pub(crate) enum Answer {
    Known(Done),
    /// [`Done::Retained`] with the count of the clear that has this index.
    Cleared(usize),
}

impl Answer {
    /// Returns the answer, once the plan is applied.
    pub(crate) fn done(self, counts: &[usize]) -> Done {
        match self {
            Self::Known(done) => done,
            Self::Cleared(index) => Done::Retained(counts.get(index).copied().unwrap_or_default()),
        }
    }
}

/// A planner of one group.
pub(crate) struct Planner<'a> {
    state: &'a State,
    lookup: &'a dyn Lookup,
    names: &'a Names,
    boot: Boot,
    fence: Fence,
    /// The recorded time of acceptance, which is never earlier than that of the record before.
    accepted: Timestamp,
    now: Timestamp,
    next: u64,
    version: Version,
    membership: Version,
    numbers: Numbers,
    ended: HashSet<(StreamNo, u64)>,
    cleared: HashMap<StreamNo, u64>,
    once: HashMap<[u8; 16], IdempotencyRecord>,
    plan: Plan,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(
        state: &'a State,
        lookup: &'a dyn Lookup,
        names: &'a Names,
        boot: Boot,
        fence: Fence,
        now: Timestamp,
    ) -> Self {
        Self {
            lookup,
            names,
            boot,
            fence,
            accepted: now.max(state.last_accepted),
            now,
            next: state.last + 1,
            version: state.version,
            membership: state.membership,
            numbers: state.numbers,
            ended: HashSet::new(),
            cleared: HashMap::new(),
            once: HashMap::new(),
            plan: Plan::default(),
            state,
        }
    }

    /// Returns the changes of the group.
    pub(crate) fn finish(self) -> Plan {
        self.plan
    }

    /// Plans one unit.
    pub(crate) fn unit(&mut self, unit: &Unit) -> Result<Answer, StoreError> {
        let fence = match unit {
            Unit::Settle { fence, .. }
            | Unit::Reissue { fence, .. }
            | Unit::Discard { fence, .. }
            | Unit::Retain { fence, .. } => Some(*fence),
            Unit::Append { .. } | Unit::Configure { .. } | Unit::Allocate { .. } => None,
        };
        if fence.is_some_and(|fence| fence != self.fence) {
            return Ok(Answer::Known(Done::Fenced));
        }
        let done = match unit {
            Unit::Append { events } => {
                Done::Appended(events.iter().map(|event| self.append(event)).collect::<Result<_, _>>()?)
            }
            Unit::Settle { what, .. } => {
                let mut news = 0;
                for settlement in what {
                    news += usize::from(self.settle(settlement)?);
                }
                Done::Settled(news)
            }
            Unit::Reissue { stream, of, .. } => Done::Reissued(self.reissue(*stream, *of)?),
            Unit::Discard { what, .. } => {
                let mut gone = 0;
                for (stream, at) in what {
                    match self.unpark(*stream, at.seq) {
                        // An unreadable row stays, and does not block the others.
                        Err(StoreError::Corrupt(_)) => {}
                        row => gone += usize::from(row?.is_some()),
                    }
                }
                Done::Discarded(gone)
            }
            Unit::Configure { change, expect, membership, drop_through, notice } => {
                self.configure(change, *expect, *membership, drop_through, notice)
            }
            Unit::Allocate { space } => {
                let number = self.numbers.of(*space);
                *number = number.checked_add(1).ok_or_else(|| StoreError::Unavailable("no numbers are left".into()))?;
                let given = *number;
                self.plan.numbers = Some(self.numbers);
                Done::Allocated(given)
            }
            Unit::Retain { stream, below, rule, .. } => {
                let index = self.plan.ops.clears.len();
                self.clear(Clear { stream: *stream, below: below.seq.min(self.next), rule: *rule, mark: false });
                return Ok(Answer::Cleared(index));
            }
        };
        Ok(Answer::Known(done))
    }

    fn append(&mut self, event: &NewEvent) -> Result<Appended, StoreError> {
        if event.config < self.membership {
            return Ok(Appended::Stale { now: self.membership });
        }
        let Some(once) = &event.once else { return Ok(self.write(event.clone())) };
        let kept = match self.once.get(&once.key) {
            Some(kept) => Some(kept.clone()),
            None => self.lookup.once(event.producer, &once.key)?,
        };
        Ok(match kept {
            None => {
                self.once
                    .insert(once.key, IdempotencyRecord { seq: self.next, digest: once.digest, txn: once.txn.clone() });
                self.write(event.clone())
            }
            Some(kept) if kept.digest == once.digest => Appended::Repeat { at: Position::new(kept.seq), txn: kept.txn },
            Some(kept) => Appended::Conflict { at: Position::new(kept.seq) },
        })
    }

    fn write(&mut self, event: NewEvent) -> Appended {
        let at = Position::new(self.next);
        self.next += 1;
        let head = Head {
            at,
            boot: self.boot,
            kind: event.kind,
            issuer: event.issuer,
            producer: event.producer,
            config: event.config,
            accepted: self.accepted,
            order: event.order,
            body_len: u32::try_from(event.body.len()).unwrap_or(u32::MAX),
        };
        let entry = Entry { head, targets: event.targets };
        self.plan.records.push(Fresh { entry, body: event.body, once: event.once });
        Appended::New { at, accepted: self.accepted }
    }

    /// Returns whether the delivery is still owed after the earlier units of the group.
    fn is_owed(&self, stream: StreamNo, seq: u64) -> bool {
        self.state.is_owed(stream, seq)
            && !self.ended.contains(&(stream, seq))
            && self.cleared.get(&stream).is_none_or(|below| seq >= *below)
    }

    fn settle(&mut self, settlement: &Settlement) -> Result<bool, StoreError> {
        let Settlement { stream, at, note } = settlement;
        let (stream, at) = (*stream, *at);
        if !self.is_owed(stream, at.seq) {
            return Ok(false);
        }
        let how = match note {
            Note::Attempt(attempted) => {
                self.plan.ops.attempts.push((stream, at.seq, *attempted));
                return Ok(false);
            }
            Note::Acknowledged(receipt) => (*receipt).into(),
            Note::Dropped(rule) => End::Dropped(*rule),
            Note::Parked { code, text, attempts, stream_fault } => match self.lookup.record(at.seq)? {
                Some((head, Some(body))) => {
                    let text = clipped(text).into();
                    let (code, attempts, stream_fault) = (code.clone(), *attempts, *stream_fault);
                    let jti = self.names.jti(at, stream, head.boot);
                    let (accepted, order) = (head.accepted, head.order);
                    let bytes = body.len() as u64;
                    let parked = Parked {
                        stream,
                        at,
                        jti,
                        parked_at: self.now,
                        accepted,
                        code,
                        text,
                        attempts,
                        stream_fault,
                        order,
                        body,
                    };
                    let row = ParkedRow { parked, issuer: head.issuer, producer: head.producer, bytes };
                    self.plan.rows.insert((stream, at.seq), Some(row));
                    self.plan.parked.push((stream, 1, i64::try_from(bytes).unwrap_or_default()));
                    End::Parked
                }
                // A SET without its body could never be issued again: it is lost, and counted as such.
                _ => End::Dropped(Rule::Lost),
            },
        };
        self.ended.insert((stream, at.seq));
        self.plan.ops.ended.push(Ended { stream, seq: at.seq, how });
        Ok(true)
    }

    fn clear(&mut self, clear: Clear) {
        let below = self.cleared.entry(clear.stream).or_default();
        *below = clear.below.max(*below);
        self.plan.ops.clears.push(clear);
    }

    fn unpark(&mut self, stream: StreamNo, seq: u64) -> Result<Option<ParkedRow>, StoreError> {
        let row = match self.plan.rows.get(&(stream, seq)) {
            Some(row) => row.clone(),
            None => self.lookup.parked(stream, seq)?,
        };
        if let Some(row) = &row {
            self.plan.rows.insert((stream, seq), None);
            self.plan.parked.push((stream, -1, -i64::try_from(row.bytes).unwrap_or_default()));
        }
        Ok(row)
    }

    fn reissue(&mut self, stream: StreamNo, of: Position) -> Result<Option<Position>, StoreError> {
        let Some(row) = self.unpark(stream, of.seq)? else { return Ok(None) };
        let event = NewEvent {
            kind: Kind::Reissue { of },
            issuer: row.issuer,
            producer: row.producer,
            // The event was not decided anew: what was removed or narrowed since is checked again before delivery.
            config: Version::default(),
            order: row.parked.order,
            targets: Arc::new(Streams::from([stream.0])),
            body: row.parked.body,
            once: None,
        };
        let at = Position::new(self.next);
        self.write(event);
        Ok(Some(at))
    }

    fn configure(
        &mut self,
        change: &[Put],
        expect: Option<Version>,
        membership: bool,
        drop_through: &[(StreamNo, Rule)],
        notice: &[NewEvent],
    ) -> Done {
        if expect.is_some_and(|expect| expect != self.version) {
            return Done::Outdated(self.version);
        }
        self.version = Version(self.version.0 + 1);
        self.plan.version = Some(self.version);
        if membership {
            self.membership = self.version;
            self.plan.membership = Some(self.version);
        }
        for Put { key, value } in change {
            self.plan.puts.insert(key.clone(), (self.version, value.clone()));
        }
        for (stream, rule) in drop_through {
            self.clear(Clear { stream: *stream, below: self.next, rule: *rule, mark: true });
        }
        let mut notices = Vec::with_capacity(notice.len());
        for event in notice {
            notices.push(Position::new(self.next));
            self.write(NewEvent { config: self.version, ..event.clone() });
        }
        Done::Configured { version: self.version, notices }
    }
}

/// Returns the text, cut to the length that is kept.
fn clipped(text: &str) -> &str {
    let mut end = text.len().min(LONGEST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Lookup for Nothing {
        fn once(&self, _: ProducerNo, _: &[u8; 16]) -> Result<Option<IdempotencyRecord>, StoreError> {
            Ok(None)
        }
        fn parked(&self, _: StreamNo, _: u64) -> Result<Option<ParkedRow>, StoreError> {
            Ok(None)
        }
        fn record(&self, _: u64) -> Result<Option<(Head, Option<Bytes>)>, StoreError> {
            Ok(None)
        }
    }

    #[test]
    fn a_stale_event_is_told_of_the_change_of_membership_and_of_nothing_later() {
        let (state, names) = (State::default(), Names::new(b'a', &[7; Names::SECRET]));
        let fence = Fence { epoch: 1 };
        let mut planner = Planner::new(&state, &Nothing, &names, Boot(1), fence, Timestamp::default());
        let configure = |membership| Unit::Configure {
            change: Vec::new(),
            expect: None,
            membership,
            drop_through: Vec::new(),
            notice: Vec::new(),
        };
        let event = NewEvent {
            kind: Kind::Intake,
            issuer: IssuerNo(1),
            producer: ProducerNo(1),
            config: Version(0),
            order: setgate_set::OrderKey::from_bits(1),
            targets: Arc::default(),
            body: Bytes::new(),
            once: None,
        };
        // A stream changes; then a key is rotated, a change whose version no router publishes.
        for unit in [configure(true), configure(false)] {
            planner.unit(&unit).unwrap();
        }
        let answer = planner.unit(&Unit::Append { events: vec![event] }).unwrap();
        let Answer::Known(Done::Appended(appended)) = answer else { panic!("{answer:?}") };
        assert_eq!(appended, [Appended::Stale { now: Version(1) }]);
    }
}
