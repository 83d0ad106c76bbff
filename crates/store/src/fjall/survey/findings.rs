//! What a survey tells: what is kept, what is given up, and why.

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
    /// Events of which the head reads.
    pub events: u64,
    /// Events of which the body reads.
    pub bodies: u64,
    /// Deliveries owed.
    pub deliveries: u64,
    /// Streams that have a cursor.
    pub streams: u64,
    /// Parked SETs.
    pub parked: u64,
    /// Control-plane records.
    pub records: u64,
    /// Idempotency keys.
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
    /// Accepted events of which the head is lost and nobody knows all the streams that were owed them.
    pub events: Vec<Stretch>,
    /// The number of these events.
    pub event_count: u64,
    /// Commits of which the settlements are lost.
    pub commits: u64,
    /// Deliveries, by stream, that are known to be owed and cannot be made: they count as dropped by the rule `lost`.
    pub deliveries: BTreeMap<StreamNo, u64>,
    /// Parked SETs, by stream.
    pub parked: BTreeMap<StreamNo, u64>,
    /// The parked SETs one by one, in order.
    pub parked_sets: Vec<LostParked>,
    /// Control-plane records, by key.
    pub records: Vec<String>,
    /// Changes of the control-plane records that were promised and are not found.
    pub changes: u64,
    /// Idempotency keys that are known to be lost.
    pub ids: u64,
}

impl GivenUp {
    /// Returns whether nothing would be given up.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// The findings of a look through a closed store: what it holds and what of it cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// The last record found.
    pub last: Position,
    /// The last record that was promised, if the watermark says so.
    pub promised: Option<Position>,
    /// The part that would be kept.
    pub kept: ReadableCounts,
    /// The part that would be given up.
    pub given_up: GivenUp,
    /// Deliveries, by stream, that may have been settled and are owed again, since what settled them is lost.
    pub again: BTreeMap<StreamNo, u64>,
    /// The reason why nobody knows which store this is, if so. Its identity is then written anew, and it counts as a
    /// copy until it is adopted.
    pub identity: Option<String>,
    /// The parts that cannot be read, or do not fit, in words.
    pub unreadable: Vec<String>,
}

impl Findings {
    /// Returns whether everything can be read and everything that was promised is there.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.unreadable.is_empty() && self.given_up.is_nothing() && self.again.is_empty()
    }
}
