//! The ledger is cut into segments, which are dropped as a whole.

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
    /// Both of them.
    pub(crate) fn both(self) -> [Keyspace; 2] {
        [self.heads, self.bodies]
    }
}

/// A run of positions whose heads and bodies are stored, and one day dropped, together.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) id: u64,
    pub(crate) first: u64,
    /// Its last position, once it is closed.
    pub(crate) last: Option<u64>,
    /// When its last record was accepted; nothing where nobody knows. The row of an open segment does not say it.
    pub(crate) accepted_last: Option<Timestamp>,
    /// Bytes of its bodies.
    pub(crate) bytes: u64,
    /// Whether only what is still owed is left of it, among the held.
    pub(crate) condensed: bool,
    pub(crate) keyspaces: Option<SegmentKeyspaces>,
    /// The number in the names of its keyspaces: its own, or that of the segment that had them first.
    pub(crate) slot: u64,
    /// Whether its keyspaces were told to leave memory and journals.
    pub(crate) written_out: bool,
}

impl Segment {
    pub(crate) fn heads_name(slot: u64) -> String {
        format!("heads-{slot}")
    }

    pub(crate) fn bodies_name(slot: u64) -> String {
        format!("bodies-{slot}")
    }

    /// The key of its row in the table of segments.
    pub(crate) fn key(&self) -> Vec<u8> {
        [b"segment/".as_slice(), &self.id.to_be_bytes()].concat()
    }

    /// Its row in the table of segments.
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

    /// Reads its row; its keyspaces are opened by the caller.
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
            // Earlier versions made keyspaces for each segment and wrote nothing.
            slot: from.number().unwrap_or(id),
            keyspaces: None,
            written_out: false,
        })
    }
}
