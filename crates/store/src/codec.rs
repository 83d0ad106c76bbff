//! The encoding of records: version first, checksum last, position inside.

use std::sync::Arc;

use bytes::Bytes;
use setgate_set::{OrderKey, Timestamp};

use crate::{
    Attempted, Boot, Head, IssuerNo, Kind, Position, ProducerNo, Rule, StoreError, StreamNo, Streams, Tally, Version,
    state::{Clear, End, Ended, Ops},
};

/// The version in the first byte of every value.
pub(crate) const VERSION: u8 = 1;

/// The most streams that are written as a list; more become a bitmap.
const LISTED: u64 = 16;

/// A value that is being written.
pub(crate) struct Out(Vec<u8>);

impl Out {
    /// Creates a value that begins with the version.
    pub(crate) fn new(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.push(VERSION);
        Self(bytes)
    }

    pub(crate) fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn fixed(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Writes a number in groups of seven bits, the lowest first.
    pub(crate) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.number(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    pub(crate) fn streams(&mut self, value: &Streams) {
        if value.len() <= LISTED {
            self.byte(0);
            self.number(value.len());
            let mut before = 0;
            for stream in value {
                self.number(u64::from(stream - before));
                before = stream;
            }
        } else {
            self.byte(1);
            self.number(value.serialized_size() as u64);
            // Writing to a vector cannot fail.
            let _ = value.serialize_into(&mut self.0);
        }
    }

    pub(crate) fn checksum(&self) -> u32 {
        crc32c::crc32c(&self.0)
    }

    pub(crate) fn raw(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }

    /// Returns the value with its checksum.
    pub(crate) fn sealed(mut self) -> Vec<u8> {
        let sum = self.checksum();
        self.0.extend_from_slice(&sum.to_be_bytes());
        self.0
    }
}

/// A value that is being read. Every step returns `None` where the bytes end too early.
pub(crate) struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    /// Checks version and checksum and returns the reader at the byte after the version.
    pub(crate) fn sealed(value: &'a [u8]) -> Option<Self> {
        let (inside, sum) = value.split_at_checked(value.len().checked_sub(4)?)?;
        let fits = crc32c::crc32c(inside).to_be_bytes() == *sum && inside.first() == Some(&VERSION);
        fits.then(|| Self(inside.get(1..).unwrap_or_default()))
    }

    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(crate) fn fixed(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    pub(crate) fn streams(&mut self) -> Option<Streams> {
        match self.byte()? {
            0 => {
                let count = self.number()?;
                let mut streams = Streams::new();
                let mut before = 0u32;
                for _ in 0..count {
                    before = before.checked_add(self.small()?)?;
                    streams.insert(before);
                }
                Some(streams)
            }
            1 => Streams::deserialize_from(self.bytes()?).ok(),
            _ => None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the bytes that are left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }
}

/// Returns the error of a value that cannot be decoded.
pub(crate) fn damaged(what: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("{what} does not read back as it was written").into())
}

/// Encodes a head with its targets. `before` is the chain of the head before; the new chain, a checksum over this head
/// and all before it, is returned as well.
pub(crate) fn write_head(head: &Head, targets: &Streams, before: u32) -> (Vec<u8>, u32) {
    let mut out = Out::new(96);
    out.fixed(head.at.seq);
    out.number(head.boot.0);
    match head.kind {
        Kind::Intake => out.byte(0),
        Kind::Control => out.byte(1),
        Kind::Reissue { of } => {
            out.byte(2);
            out.number(of.seq);
        }
    }
    out.number(u64::from(head.issuer.0));
    out.number(u64::from(head.producer.0));
    out.number(head.config.0);
    out.number(head.accepted.as_millis());
    out.fixed(head.order.bits());
    out.number(u64::from(head.body_len));
    out.streams(targets);
    let chain = crc32c::crc32c_append(before, &out.0);
    out.raw(&chain.to_be_bytes());
    (out.sealed(), chain)
}

/// A head as it was written.
pub(crate) struct WrittenHead {
    pub(crate) head: Head,
    pub(crate) targets: Arc<Streams>,
    /// The checksum over this head and all before it.
    pub(crate) chain: u32,
    /// The checksum of this head alone, from which the chain follows if that of the head before is known.
    inside: u32,
    length: usize,
}

impl WrittenHead {
    /// Returns whether this head follows one with the chain `before`.
    pub(crate) fn follows(&self, before: u32) -> bool {
        crc32c::crc32c_combine(before, self.inside, self.length) == self.chain
    }
}

/// Reads a head that must be at `seq`.
pub(crate) fn read_head(seq: u64, value: &[u8]) -> Result<WrittenHead, StoreError> {
    parse_head(seq, value).ok_or_else(|| damaged(format_args!("the head of record {seq}")))
}

fn parse_head(seq: u64, value: &[u8]) -> Option<WrittenHead> {
    let mut from = In::sealed(value)?;
    if from.fixed()? != seq {
        return None;
    }
    let boot = Boot(from.number()?);
    let kind = match from.byte()? {
        0 => Kind::Intake,
        1 => Kind::Control,
        2 => Kind::Reissue { of: Position::new(from.number()?) },
        _ => return None,
    };
    let head = Head {
        at: Position::new(seq),
        boot,
        kind,
        issuer: IssuerNo(from.small()?),
        producer: ProducerNo(from.small()?),
        config: Version(from.number()?),
        accepted: Timestamp::from_millis(from.number()?),
        order: OrderKey::from_bits(from.fixed()?),
        body_len: from.small()?,
    };
    let targets = Arc::new(from.streams()?);
    let chain = u32::from_be_bytes(from.take(4)?.try_into().ok()?);
    let length = value.len().checked_sub(8)?;
    let inside = crc32c::crc32c(value.get(..length)?);
    from.is_empty().then_some(WrittenHead { head, targets, chain, inside, length })
}

/// Encodes a body: version, position, checksum, bytes.
pub(crate) fn write_body(seq: u64, body: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(body.len() + 13);
    value.push(VERSION);
    value.extend_from_slice(&seq.to_be_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&value), body);
    value.extend_from_slice(&sum.to_be_bytes());
    value.extend_from_slice(body);
    value
}

/// Reads a body that must be at `seq`.
pub(crate) fn read_body(seq: u64, value: &[u8]) -> Result<Bytes, StoreError> {
    let parse = || {
        let (front, rest) = value.split_at_checked(9)?;
        let (sum, body) = rest.split_at_checked(4)?;
        let place = front.get(1..)? == seq.to_be_bytes() && front.first() == Some(&VERSION);
        let whole = crc32c::crc32c_append(crc32c::crc32c(front), body).to_be_bytes() == *sum;
        (place && whole).then(|| Bytes::copy_from_slice(body))
    };
    parse().ok_or_else(|| damaged(format_args!("the body of record {seq}")))
}

impl Rule {
    /// Returns the stored number of the rule.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Disabled => 0,
            Self::Deleted => 1,
            Self::SubjectRemoved => 2,
            Self::EventNotWanted => 3,
            Self::TooOld => 4,
            Self::TooMany => 5,
            Self::TooLarge => 6,
            Self::Lost => 7,
        }
    }

    pub(crate) fn numbered(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Disabled,
            1 => Self::Deleted,
            2 => Self::SubjectRemoved,
            3 => Self::EventNotWanted,
            4 => Self::TooOld,
            5 => Self::TooMany,
            6 => Self::TooLarge,
            7 => Self::Lost,
            _ => return None,
        })
    }
}

impl End {
    fn number(self) -> u8 {
        match self {
            Self::Receiver => 0,
            Self::Broker => 1,
            Self::Parked => 2,
            Self::Dropped(rule) => 16 + rule.number(),
        }
    }

    fn numbered(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Receiver,
            1 => Self::Broker,
            2 => Self::Parked,
            dropped => Self::Dropped(Rule::numbered(dropped.checked_sub(16)?)?),
        })
    }
}

/// Encodes a delta, grouped by position: many streams that ended the same record are one small bitmap.
pub(crate) fn write_delta(ops: &Ops) -> Vec<u8> {
    let mut out = Out::new(32 + ops.ended.len() * 8);
    let mut ended: Vec<_> = ops.ended.iter().map(|e| (e.seq, e.how.number(), e.stream.0)).collect();
    ended.sort_unstable();
    let groups = ended.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1));
    out.number(groups.clone().count() as u64);
    let mut before = 0;
    for group in groups {
        let Some((seq, how, _)) = group.first().copied() else { continue };
        out.number(seq - before);
        before = seq;
        out.byte(how);
        let mut streams: Streams = group.iter().map(|(.., stream)| *stream).collect();
        streams.optimize();
        out.streams(&streams);
    }
    out.number(ops.attempts.len() as u64);
    for (stream, seq, attempted) in &ops.attempts {
        out.number(u64::from(stream.0));
        out.number(*seq);
        write_attempt(&mut out, attempted);
    }
    out.number(ops.clears.len() as u64);
    for clear in &ops.clears {
        out.number(u64::from(clear.stream.0));
        out.number(clear.below);
        out.byte(clear.rule.number());
        out.byte(u8::from(clear.mark));
    }
    out.sealed()
}

/// Reads a delta.
pub(crate) fn read_delta(number: u64, value: &[u8]) -> Result<Ops, StoreError> {
    parse_delta(value).ok_or_else(|| damaged(format_args!("delta {number}")))
}

fn parse_delta(value: &[u8]) -> Option<Ops> {
    let mut from = In::sealed(value)?;
    let mut ops = Ops::default();
    let mut seq = 0u64;
    for _ in 0..from.number()? {
        seq = seq.checked_add(from.number()?)?;
        let how = End::numbered(from.byte()?)?;
        ops.ended.extend(from.streams()?.into_iter().map(|stream| Ended { stream: StreamNo(stream), seq, how }));
    }
    for _ in 0..from.number()? {
        ops.attempts.push((StreamNo(from.small()?), from.number()?, read_attempt(&mut from)?));
    }
    for _ in 0..from.number()? {
        ops.clears.push(Clear {
            stream: StreamNo(from.small()?),
            below: from.number()?,
            rule: Rule::numbered(from.byte()?)?,
            mark: from.byte()? == 1,
        });
    }
    from.is_empty().then_some(ops)
}

fn write_attempt(out: &mut Out, attempted: &Attempted) {
    out.number(u64::from(attempted.count));
    out.number(attempted.first_failed.as_millis());
    out.number(attempted.next_at.as_millis());
}

fn read_attempt(from: &mut In<'_>) -> Option<Attempted> {
    Some(Attempted {
        count: from.small()?,
        first_failed: Timestamp::from_millis(from.number()?),
        next_at: Timestamp::from_millis(from.number()?),
    })
}

/// Encodes what one stream is owed of 65,536 positions, with the attempts made.
pub(crate) fn write_chunk<'a>(owed: &Streams, attempts: impl Iterator<Item = (u64, &'a Attempted)>) -> Vec<u8> {
    let mut out = Out::new(owed.serialized_size() + 16);
    out.streams(owed);
    for (seq, attempted) in attempts {
        out.number(seq);
        write_attempt(&mut out, attempted);
    }
    out.sealed()
}

/// Reads a chunk.
pub(crate) fn read_chunk(value: &[u8]) -> Option<(Streams, Vec<(u64, Attempted)>)> {
    let mut from = In::sealed(value)?;
    let owed = from.streams()?;
    let mut attempts = Vec::new();
    while !from.is_empty() {
        attempts.push((from.number()?, read_attempt(&mut from)?));
    }
    Some((owed, attempts))
}

/// Encodes the row of a stream's cursor: the counts, the drop limit, and which of the owed are control records.
pub(crate) fn write_cursor<'a>(
    tally: &Tally,
    dropped_through: u64,
    control: impl ExactSizeIterator<Item = &'a u64>,
) -> Vec<u8> {
    let mut out = Out::new(64);
    for number in [
        tally.owed,
        tally.acknowledged_receiver,
        tally.acknowledged_broker,
        tally.parked,
        tally.waiting,
        dropped_through,
    ] {
        out.number(number);
    }
    out.number(tally.dropped.len() as u64);
    for (rule, count) in &tally.dropped {
        out.byte(rule.number());
        out.number(*count);
    }
    out.number(control.len() as u64);
    for seq in control {
        out.number(*seq);
    }
    out.sealed()
}

/// Reads the row of a stream's cursor.
pub(crate) fn read_cursor(value: &[u8]) -> Option<(Tally, u64, Vec<u64>)> {
    let mut from = In::sealed(value)?;
    let mut tally = Tally {
        owed: from.number()?,
        acknowledged_receiver: from.number()?,
        acknowledged_broker: from.number()?,
        parked: from.number()?,
        waiting: from.number()?,
        ..Tally::default()
    };
    let dropped_through = from.number()?;
    for _ in 0..from.number()? {
        tally.dropped.insert(Rule::numbered(from.byte()?)?, from.number()?);
    }
    let control = (0..from.number()?).map(|_| from.number()).collect::<Option<_>>()?;
    from.is_empty().then_some((tally, dropped_through, control))
}
