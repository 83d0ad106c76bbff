//! The status machine of a stream (SSF 1.0 §8.1.2.1).

use serde::{Deserialize, Serialize};
use setgate_set::Timestamp;

/// The reason why a stream is not enabled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The operator asked for it.
    Operator(String),
    /// The receiver asked for it.
    Receiver(String),
    /// The endpoint failed too often. `setgate streams resume` enables the stream once the endpoint is repaired.
    Fault(String),
    /// The receiver made no request for longer than the inactivity timeout (SSF 1.0 §8.1.1).
    Inactive(String),
    /// The configuration no longer declares the stream (hardening H15). It keeps its cursor until it is deleted.
    AbsentFromConfiguration,
}

impl Reason {
    /// Returns the reason as a text for people.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Operator(text) | Self::Receiver(text) | Self::Fault(text) | Self::Inactive(text) => text,
            Self::AbsentFromConfiguration => "absent from configuration",
        }
    }
}

/// The status of a stream (SSF 1.0 §8.1.2.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The stream is delivered.
    Enabled,
    /// The stream is not delivered; events are held.
    Paused {
        /// The time of the change.
        at: Timestamp,
        /// The reason.
        why: Reason,
    },
    /// The stream is not delivered; events are not held.
    Disabled {
        /// The time of the change.
        at: Timestamp,
        /// The reason.
        why: Reason,
    },
}

/// The stream has this status already, or cannot change to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream is {from} and cannot become {to}")]
pub struct InvalidTransition {
    /// The present status.
    pub from: &'static str,
    /// The requested status.
    pub to: &'static str,
}

impl Status {
    /// Returns the name of the status in SSF 1.0 §8.1.2.1.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Paused { .. } => "paused",
            Self::Disabled { .. } => "disabled",
        }
    }

    /// Returns the reason, or `None` when the stream is enabled.
    #[must_use]
    pub fn why(&self) -> Option<&Reason> {
        match self {
            Self::Enabled => None,
            Self::Paused { why, .. } | Self::Disabled { why, .. } => Some(why),
        }
    }

    /// Pauses the stream: delivery stops, and SETs that are due are kept.
    ///
    /// # Errors
    /// Returns [`InvalidTransition`] when the stream is not enabled: a disabled stream holds nothing that a pause could
    /// keep.
    pub fn pause(self, at: Timestamp, why: Reason) -> Result<Self, InvalidTransition> {
        match self {
            Self::Enabled => Ok(Self::Paused { at, why }),
            Self::Paused { .. } | Self::Disabled { .. } => Err(InvalidTransition { from: self.word(), to: "paused" }),
        }
    }

    /// Disables the stream: delivery stops, and SETs that are due are dropped.
    ///
    /// # Errors
    /// Returns [`InvalidTransition`] when the stream is disabled already.
    pub fn disable(self, at: Timestamp, why: Reason) -> Result<Self, InvalidTransition> {
        match self {
            Self::Enabled | Self::Paused { .. } => Ok(Self::Disabled { at, why }),
            Self::Disabled { .. } => Err(InvalidTransition { from: self.word(), to: "disabled" }),
        }
    }

    /// Enables the stream: delivery resumes.
    ///
    /// # Errors
    /// Returns [`InvalidTransition`] when the stream is enabled already.
    pub fn enable(self) -> Result<Self, InvalidTransition> {
        match self {
            Self::Paused { .. } | Self::Disabled { .. } => Ok(Self::Enabled),
            Self::Enabled => Err(InvalidTransition { from: "enabled", to: "enabled" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why() -> Reason {
        Reason::Operator("maintenance".into())
    }

    #[test]
    fn moves_only_along_the_machine() {
        let at = Timestamp::from_seconds(1);
        let paused = Status::Enabled.pause(at, why()).unwrap();
        assert_eq!(paused.word(), "paused");
        assert!(paused.clone().pause(at, why()).is_err());
        assert_eq!(paused.clone().enable(), Ok(Status::Enabled));
        let disabled = paused.disable(at, why()).unwrap();
        assert!(disabled.clone().disable(at, why()).is_err());
        assert!(disabled.clone().pause(at, why()).is_err());
        assert_eq!(disabled.enable(), Ok(Status::Enabled));
        assert!(Status::Enabled.enable().is_err());
    }
}
