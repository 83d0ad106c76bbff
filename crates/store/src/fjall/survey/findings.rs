//! The results of a survey: what is kept, what is given up, and why.

use std::collections::BTreeMap;

use serde::Serialize;
use setgate_set::Jti;

use crate::{Position, StreamNo};

/// A run of positions of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// The first position.
    pub from: Position,
    /// The last position.
    pub to: Position,
}

/// The counts of what can be read and would be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReadableCounts {
    /// The events whose head can be read.
    pub events: u64,
    /// The events whose body can be read.
    pub bodies: u64,
    /// The deliveries owed.
    pub deliveries: u64,
    /// The streams that have a cursor.
    pub streams: u64,
    /// The parked SETs.
    pub parked: u64,
    /// The control-plane records.
    pub records: u64,
    /// The idempotency keys.
    pub ids: u64,
}

/// A parked SET that is given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostParked {
    /// The stream.
    pub stream: StreamNo,
    /// The position of its record.
    pub at: Position,
    /// The `jti`, where its row can be read.
    pub jti: Option<Jti>,
}

/// The counts of what is missing or cannot be read, and would be given up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GivenUp {
    /// The accepted events whose head is lost, so that not all streams that were owed them are known.
    pub events: Vec<Stretch>,
    /// The number of these events.
    pub event_count: u64,
    /// The commits whose settlements are lost.
    pub commits: u64,
    /// The deliveries, by stream, that are known to be owed and cannot be made: they count as dropped by the rule
    /// `lost`.
    pub deliveries: BTreeMap<StreamNo, u64>,
    /// The parked SETs, by stream.
    pub parked: BTreeMap<StreamNo, u64>,
    /// The parked SETs individually, in order.
    pub parked_sets: Vec<LostParked>,
    /// The control-plane records, by key.
    pub records: Vec<String>,
    /// The changes of control-plane records that were promised and are not found.
    pub changes: u64,
    /// The idempotency keys that are known to be lost.
    pub ids: u64,
}

impl GivenUp {
    /// Returns whether nothing would be given up.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// The findings of the survey of a closed store: what it holds, and what of it cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// The last record found.
    pub last: Position,
    /// The last record that was promised, if the watermark can be read.
    pub promised: Option<Position>,
    /// The part that would be kept.
    pub kept: ReadableCounts,
    /// The part that would be given up.
    pub given_up: GivenUp,
    /// The deliveries, by stream, that may have been settled and are owed again, since their settlement is lost.
    pub again: BTreeMap<StreamNo, u64>,
    /// The reason why the store's identity is unknown, if it is. The identity is then written anew, and the store
    /// counts as a copy until it is adopted.
    pub identity: Option<String>,
    /// The parts that cannot be read or do not fit, in words.
    pub unreadable: Vec<String>,
}

impl Findings {
    /// Returns whether everything can be read and everything that was promised exists.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.unreadable.is_empty() && self.given_up.is_nothing() && self.again.is_empty()
    }
}
