//! A SET on its way through the lanes of one stream.

use set::Timestamp;
use store::Head;

/// An owed SET that stands in a lane or is drawn.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) head: Head,
    /// Attempts made.
    pub(crate) attempts: u32,
    /// Its token may lie in the seal cache.
    pub(crate) sealed_before: bool,
    /// What went wrong with it, if anything: most SETs never need the room.
    troubles: Option<Box<Troubles>>,
}

/// Failures of one SET.
#[derive(Clone, Debug, Default)]
pub(crate) struct Troubles {
    /// When the first attempt failed.
    pub(crate) first_failed: Option<Timestamp>,
    /// Failures of this SET alone, each with a success of another SET since the one before.
    pub(crate) lone_failures: u32,
    /// The stream's count of successes at the last of them.
    pub(crate) successes_then: u64,
}

impl Slot {
    pub(crate) fn new(head: Head) -> Self {
        Self { head, attempts: 0, sealed_before: false, troubles: None }
    }

    pub(crate) fn seq(&self) -> u64 {
        self.head.at.seq
    }

    /// When the first attempt failed.
    pub(crate) fn first_failed(&self) -> Option<Timestamp> {
        self.troubles.as_ref().and_then(|troubles| troubles.first_failed)
    }

    /// An attempt failed then, perhaps not the first.
    pub(crate) fn failed_at(&mut self, at: Timestamp) {
        self.troubles().first_failed.get_or_insert(at);
    }

    /// What went wrong, to be added to.
    pub(crate) fn troubles(&mut self) -> &mut Troubles {
        self.troubles.get_or_insert_default()
    }
}
