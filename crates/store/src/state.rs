//! The visible state of cursors and counters, in memory, which readers query without disk access.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use roaring::{RoaringBitmap, RoaringTreemap};
use setgate_set::{Receipt, Timestamp};

use crate::{Attempted, Entry, Kind, Position, Rule, Space, StreamNo, Tally, Version, time::HeldBack};

/// The way in which a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Receiver,
    Broker,
    Parked,
    Dropped(Rule),
}

impl From<Receipt> for End {
    fn from(receipt: Receipt) -> Self {
        match receipt {
            Receipt::Receiver => Self::Receiver,
            Receipt::Broker => Self::Broker,
        }
    }
}

/// The end of one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) stream: StreamNo,
    pub(crate) seq: u64,
    pub(crate) how: End,
}

/// The drop of everything that a stream is owed below a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clear {
    pub(crate) stream: StreamNo,
    pub(crate) below: u64,
    pub(crate) rule: Rule,
    /// True when the cursor records the position as `dropped_through`.
    pub(crate) mark: bool,
}

/// The deltas of a group. Ends, attempts and clears of one value commute, since each was planned as a change.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ops {
    pub(crate) ended: Vec<Ended>,
    pub(crate) attempts: Vec<(StreamNo, u64, Attempted)>,
    pub(crate) clears: Vec<Clear>,
}

impl Ops {
    pub(crate) fn len(&self) -> usize {
        self.ended.len() + self.attempts.len() + self.clears.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.ended.append(&mut other.ended);
        self.attempts.append(&mut other.attempts);
        self.clears.append(&mut other.clears);
    }
}

/// The cursor of one stream.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    /// The positions that are owed and not settled.
    pub(crate) owed: RoaringTreemap,
    /// The owed positions that hold control records.
    pub(crate) control: BTreeSet<u64>,
    pub(crate) attempts: BTreeMap<u64, Attempted>,
    pub(crate) tally: Tally,
    pub(crate) dropped_through: u64,
    pub(crate) parked_now: u64,
    pub(crate) parked_bytes: u64,
    /// The chunks (position >> 16) that changed since they were last written.
    pub(crate) dirty: RoaringBitmap,
}

impl Cursor {
    /// Returns whether the stream was deleted and nothing of it is left, so that its cursor is no longer needed.
    pub(crate) fn is_over(&self) -> bool {
        self.owed.is_empty() && self.parked_now == 0 && self.tally.dropped.contains_key(&Rule::Deleted)
    }

    fn touch(&mut self, seq: u64) {
        self.dirty.insert(chunk(seq));
    }

    fn forget(&mut self, seq: u64) {
        self.touch(seq);
        if !self.control.is_empty() {
            self.control.remove(&seq);
        }
        if !self.attempts.is_empty() {
            self.attempts.remove(&seq);
        }
    }

    fn end(&mut self, seq: u64, how: End) -> bool {
        if !self.owed.remove(seq) {
            return false;
        }
        self.forget(seq);
        let tally = &mut self.tally;
        tally.waiting -= 1;
        match how {
            End::Receiver => tally.acknowledged_receiver += 1,
            End::Broker => tally.acknowledged_broker += 1,
            End::Parked => tally.parked += 1,
            End::Dropped(rule) => *tally.dropped.entry(rule).or_default() += 1,
        }
        true
    }

    fn clear(&mut self, clear: &Clear) -> usize {
        if clear.rule == Rule::Deleted {
            // The entry is made even where nothing waited: it marks the stream as deleted.
            self.tally.dropped.entry(Rule::Deleted).or_default();
        }
        let gone: Vec<u64> = self.owed.iter().take_while(|seq| *seq < clear.below).collect();
        for seq in &gone {
            self.end(*seq, End::Dropped(clear.rule));
        }
        if clear.mark {
            self.dropped_through = self.dropped_through.max(clear.below.saturating_sub(1));
        }
        gone.len()
    }
}

/// Returns the chunk of a position.
pub(crate) fn chunk(seq: u64) -> u32 {
    u32::try_from(seq >> 16).unwrap_or(u32::MAX)
}

/// The visible state.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) cursors: HashMap<StreamNo, Cursor>,
    /// The streams whose cursor changed since it was last written.
    pub(crate) dirty: RoaringBitmap,
    /// The lowest kept position.
    pub(crate) first: u64,
    /// The last position.
    pub(crate) last: u64,
    pub(crate) last_accepted: Timestamp,
    /// The records whose times were held back.
    pub(crate) held_back: Vec<HeldBack>,
    pub(crate) version: Version,
    /// The version of the last change of membership.
    pub(crate) membership: Version,
    pub(crate) numbers: Numbers,
    pub(crate) waiting: u64,
    pub(crate) parked: u64,
}

/// The last number allocated in each space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) stream: u32,
    pub(crate) issuer: u32,
    pub(crate) producer: u32,
}

impl Numbers {
    /// Returns the last number allocated in a space.
    pub(crate) fn of(&mut self, space: Space) -> &mut u32 {
        match space {
            Space::Stream => &mut self.stream,
            Space::Issuer => &mut self.issuer,
            Space::Producer => &mut self.producer,
        }
    }
}

impl State {
    fn touched(&mut self, stream: StreamNo) -> &mut Cursor {
        self.dirty.insert(stream.0);
        self.cursors.entry(stream).or_default()
    }

    /// Adds a record, which is owed to its targets from now on.
    pub(crate) fn record(&mut self, entry: &Entry) {
        let seq = entry.head.at.seq;
        for stream in entry.targets.iter() {
            let cursor = self.touched(StreamNo(stream));
            cursor.owed.insert(seq);
            cursor.touch(seq);
            cursor.tally.owed += 1;
            cursor.tally.waiting += 1;
            if entry.head.kind == Kind::Control {
                cursor.control.insert(seq);
            }
        }
        self.waiting += entry.targets.len();
        self.last = seq;
        self.last_accepted = entry.head.accepted;
    }

    /// Applies deltas and skips those whose delivery is not owed. Returns the number of deliveries that each clear
    /// dropped.
    pub(crate) fn deltas(&mut self, ops: &Ops) -> Vec<usize> {
        for ended in &ops.ended {
            if let Some(cursor) = self.cursors.get_mut(&ended.stream)
                && cursor.end(ended.seq, ended.how)
            {
                self.dirty.insert(ended.stream.0);
                self.waiting -= 1;
            }
        }
        for (stream, seq, attempted) in &ops.attempts {
            if let Some(cursor) = self.cursors.get_mut(stream)
                && cursor.owed.contains(*seq)
            {
                cursor.attempts.insert(*seq, *attempted);
                cursor.touch(*seq);
                self.dirty.insert(stream.0);
            }
        }
        let mut counts = Vec::with_capacity(ops.clears.len());
        for clear in &ops.clears {
            let gone = self.touched(clear.stream).clear(clear);
            self.waiting -= gone as u64;
            counts.push(gone);
        }
        counts
    }

    /// Counts SETs that were parked (positive) or are no longer parked (negative).
    pub(crate) fn parked(&mut self, stream: StreamNo, count: i64, bytes: i64) {
        let cursor = self.cursors.entry(stream).or_default();
        cursor.parked_now = cursor.parked_now.saturating_add_signed(count);
        cursor.parked_bytes = cursor.parked_bytes.saturating_add_signed(bytes);
        self.parked = self.parked.saturating_add_signed(count);
    }

    pub(crate) fn is_owed(&self, stream: StreamNo, seq: u64) -> bool {
        self.cursors.get(&stream).is_some_and(|cursor| cursor.owed.contains(seq))
    }

    /// Returns the first positions that a stream is owed after `after`.
    pub(crate) fn owed(&self, stream: StreamNo, after: u64, max: usize) -> Vec<u64> {
        let Some(cursor) = self.cursors.get(&stream) else { return Vec::new() };
        let mut all = cursor.owed.iter();
        all.advance_to(after.saturating_add(1));
        all.take(max).collect()
    }

    pub(crate) fn nth_newest(&self, stream: StreamNo, n: u64) -> Option<Position> {
        let owed = &self.cursors.get(&stream)?.owed;
        let index = owed.len().checked_sub(n)?.checked_sub(1)?;
        owed.select(index).map(Position::new)
    }

    pub(crate) fn attempts(&self, stream: StreamNo) -> Vec<(Position, Attempted)> {
        let Some(cursor) = self.cursors.get(&stream) else { return Vec::new() };
        cursor.attempts.iter().map(|(seq, attempted)| (Position::new(*seq), *attempted)).collect()
    }
}
