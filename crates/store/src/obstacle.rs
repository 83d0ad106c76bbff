//! The reasons why a store accepts no events, and their remedies, shared by the log, the listeners and the commands.

use std::fmt;

use serde::{Serialize, Serializer};

/// The reason why no event is accepted now.
///
/// [`fmt::Display`] writes it with its figures, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// The store was opened as a copy.
    Copy,
    /// Only the reserve is left on the file system.
    Reserve {
        /// The bytes that are free.
        free: u64,
        /// The bytes that are kept free.
        reserve: u64,
    },
    /// The store uses all the bytes that it may use.
    Budget {
        /// The bytes that it uses.
        bytes: u64,
        /// The bytes that it may use.
        budget: u64,
    },
    /// A write failed; the store is being opened again.
    Reopening {
        /// The failure.
        why: String,
        /// True when the file system has no space left.
        full: bool,
    },
    /// The store cannot repair itself; the process ends.
    Failed {
        /// The failure.
        why: String,
    },
    /// The store was closed.
    Closed,
}

impl Obstacle {
    /// Returns the name for programs: the option whose limit is reached, or the state.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Copy => "store_is_a_copy",
            Self::Reserve { .. } => "store.reserve_bytes",
            Self::Budget { .. } => "store.budget_bytes",
            Self::Reopening { full: true, .. } => "store_disk_full",
            Self::Reopening { full: false, .. } => "store_reopening",
            Self::Failed { .. } => "store_failed",
            Self::Closed => "shutting_down",
        }
    }

    /// The names of all obstacles, for metrics that show each of them.
    pub const NAMES: [&str; 7] = [
        "store_is_a_copy",
        "store.reserve_bytes",
        "store.budget_bytes",
        "store_disk_full",
        "store_reopening",
        "store_failed",
        "shutting_down",
    ];

    /// Returns the text for producers, without figures and internals.
    #[must_use]
    pub const fn summary(&self) -> &'static str {
        match self {
            Self::Copy => "the gateway's store is a copy, and takes nothing in before `setgate store adopt`",
            Self::Reserve { .. } => {
                "the gateway's disk has only its reserve left; it takes events again as receivers acknowledge"
            }
            Self::Budget { .. } => {
                "the gateway's store has reached its budget; it takes events again as receivers acknowledge"
            }
            Self::Reopening { full: true, .. } => "the gateway's disk is full, and its store waits for room",
            Self::Reopening { full: false, .. } => "the gateway's store is being opened again",
            Self::Failed { .. } => "the gateway's store has failed",
            Self::Closed => "the gateway is shutting down",
        }
    }

    /// Returns the advice to the operator.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Copy => {
                "if this copy shall deliver and the original never again: stop the gateway, `setgate store adopt`, start it"
            }
            Self::Reserve { .. } => {
                "free room on the file system of the store, fix or delete streams whose receivers do not acknowledge, or lower `store.reserve_bytes`"
            }
            Self::Budget { .. } => {
                "fix or delete streams whose receivers do not acknowledge (`setgate streams list`), or raise `store.budget_bytes`"
            }
            Self::Reopening { full: true, .. } => {
                "free room on the file system of the store; it opens by itself as soon as there is some"
            }
            Self::Reopening { full: false, .. } => "it opens by itself; if it does not, the process ends and says why",
            Self::Failed { .. } => "look at the disk, then at `setgate store check`",
            Self::Closed => "start the gateway",
        }
    }

    /// Returns whether the obstacle may pass by itself: false for a copy and for a failed store.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        !matches!(self, Self::Copy | Self::Failed { .. })
    }

    /// Returns whether the obstacle stops delivery as well.
    #[must_use]
    pub const fn stops_delivery(&self) -> bool {
        !matches!(self, Self::Reserve { .. } | Self::Budget { .. })
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copy => f.write_str("the store was opened as a copy and waits for `setgate store adopt`"),
            Self::Reserve { free, reserve } => {
                write!(f, "{free} bytes are free on the file system of the store, and its reserve is {reserve}")
            }
            Self::Budget { bytes, budget } => {
                write!(f, "the store takes {bytes} bytes, and its budget is {budget}")
            }
            Self::Reopening { why, full: true } => {
                write!(f, "the file system of the store is full; it opens again as soon as there is room ({why})")
            }
            Self::Reopening { why, full: false } => {
                write!(f, "the store is being opened again after a failed write ({why})")
            }
            Self::Failed { why } => write!(f, "the store has failed: {why}"),
            Self::Closed => f.write_str("the store is closed"),
        }
    }
}

impl Serialize for Obstacle {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_obstacle_has_a_name_of_its_own_and_says_what_to_do() {
        let why = || "x".to_owned();
        let all = [
            Obstacle::Copy,
            Obstacle::Reserve { free: 1, reserve: 2 },
            Obstacle::Budget { bytes: 2, budget: 1 },
            Obstacle::Reopening { why: why(), full: true },
            Obstacle::Reopening { why: why(), full: false },
            Obstacle::Failed { why: why() },
            Obstacle::Closed,
        ];
        assert_eq!(all.each_ref().map(Obstacle::name), Obstacle::NAMES);
        for one in &all {
            assert!(!one.remedy().is_empty() && !one.summary().contains(|digit: char| digit.is_ascii_digit()), "{one}");
        }
        assert!(Obstacle::Copy.remedy().contains("setgate store adopt") && !Obstacle::Copy.may_pass());
    }
}
