//! The segments of the ledger, which are dropped as a whole.

use fjall::Keyspace;
use setgate_set::Timestamp;

use crate::codec::{In, Out};

/// The keyspaces of one segment.
#[derive(Clone)]
pub(crate) struct SegmentKeyspaces {
    pub(crate) heads: Keyspace,
    pub(crate) bodies: Keyspace,
}

impl SegmentKeyspaces {
    /// Returns both keyspaces.
    pub(crate) fn both(self) -> [Keyspace; 2] {
        [self.heads, self.bodies]
    }
}

/// A run of positions whose heads and bodies are stored, and eventually dropped, together.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) id: u64,
    pub(crate) first: u64,
    /// The last position, once the segment is closed.
    pub(crate) last: Option<u64>,
    /// The time at which the last record was accepted, if it is known. The row of an open segment does not have it.
    pub(crate) accepted_last: Option<Timestamp>,
    /// The bytes of the bodies.
    pub(crate) bytes: u64,
    /// True when only the records that are still owed are left, among the held.
    pub(crate) condensed: bool,
    pub(crate) keyspaces: Option<SegmentKeyspaces>,
    /// The number in the names of the keyspaces: the segment's own, or that of the segment that had them first.
    pub(crate) slot: u64,
    /// True when the keyspaces were flushed from memory and journals.
    pub(crate) written_out: bool,
}

impl Segment {
    pub(crate) fn heads_name(slot: u64) -> String {
        format!("heads-{slot}")
    }

    pub(crate) fn bodies_name(slot: u64) -> String {
        format!("bodies-{slot}")
    }

    /// Returns the key of the segment's row in the table of segments.
    pub(crate) fn key(&self) -> Vec<u8> {
        [b"segment/".as_slice(), &self.id.to_be_bytes()].concat()
    }

    /// Returns the segment's row in the table of segments.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = Out::new(64);
        let accepted = self.accepted_last.map(Timestamp::as_millis).unwrap_or_default();
        for number in [self.id, self.first, self.last.unwrap_or_default(), accepted, self.bytes] {
            out.number(number);
        }
        out.byte(u8::from(self.condensed));
        if self.slot != self.id {
            out.number(self.slot);
        }
        out.sealed()
    }

    /// Reads the segment's row; the caller opens the keyspaces.
    pub(crate) fn read(value: &[u8]) -> Option<Self> {
        let mut from = In::sealed(value)?;
        let id = from.number()?;
        Some(Self {
            id,
            first: from.number()?,
            last: Some(from.number()?).filter(|last| *last != 0),
            accepted_last: Some(from.number()?).filter(|at| *at != 0).map(Timestamp::from_millis),
            bytes: from.number()?,
            condensed: from.byte()? == 1,
            // Earlier versions made keyspaces for each segment and wrote no slot.
            slot: from.number().unwrap_or(id),
            keyspaces: None,
            written_out: false,
        })
    }
}
