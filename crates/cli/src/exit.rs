//! The exit codes of the commands, and their failures.

use std::{fmt, process::ExitCode};

/// An exit code of the process. The numbers are part of the interface; `setgate --help` prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The action was done in full.
    Done,
    /// The action was tried and did not succeed.
    Failed,
    /// The command line or the configuration is wrong; no action was tried.
    Usage,
    /// The gateway, or the receiver's transmitter, cannot be reached.
    Unreachable,
    /// The credential is missing or was not accepted.
    Refused,
    /// The item that was named does not exist.
    Unknown,
    /// A part was done: some events were refused, some parked SETs could not be issued again, some of a store could not
    /// be exported.
    Partly,
    /// The store needs an operator: it is damaged, a copy, without its keys, or its disk fails. A restart does not
    /// help.
    Store,
    /// A key, token or certificate file of the gateway cannot be used: it is missing, is of another kind, or may be
    /// read by others.
    Secrets,
    /// The store is in use by another process. A restart helps when that process has ended.
    Locked,
    /// The address of a listener is in use or not available.
    Address,
    /// The file system of the store has no room for the action, which can be repeated as soon as there is some.
    Full,
}

impl Exit {
    /// The exit codes, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Unreachable,
        Self::Refused,
        Self::Unknown,
        Self::Partly,
        Self::Store,
        Self::Secrets,
        Self::Locked,
        Self::Address,
        Self::Full,
    ];

    /// Returns the number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Refused => 4,
            Self::Unknown => 5,
            Self::Partly => 6,
            Self::Store => 7,
            Self::Secrets => 8,
            Self::Locked => 9,
            Self::Address => 10,
            Self::Full => 11,
        }
    }

    /// Returns the meaning in words.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "all was done",
            Self::Failed => "it was tried and did not succeed",
            Self::Usage => "the command line or the configuration is wrong; nothing was tried",
            Self::Unreachable => "the gateway cannot be reached",
            Self::Refused => "the token is missing or was not accepted",
            Self::Unknown => "what was named does not exist",
            Self::Partly => "a part was done, the rest was refused",
            Self::Store => "the store needs an operator: damaged, a copy, without its keys, or its disk fails",
            Self::Secrets => "a key, token or certificate file cannot be used, or others may read it",
            Self::Locked => "the store is in use by another process",
            Self::Address => "a listener's address is taken, or not to be had",
            Self::Full => "the file system of the store has no room",
        }
    }

    /// Returns the text that ends the long help of `setgate`.
    #[must_use]
    pub fn table() -> String {
        let mut text = String::from("Exit codes:");
        for exit in Self::ALL {
            text.push_str(&format!("\n  {:<2} {}", exit.code(), exit.meaning()));
        }
        text
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The failure of a command: what happened, the exit code, and a remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code of the process.
    pub exit: Exit,
    /// The description of what happened.
    pub message: String,
    /// The action that helps.
    pub remedy: Option<String>,
}

impl Failure {
    /// Creates a failure without a remedy.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), remedy: None }
    }

    /// Creates the failure of an action that was tried and did not succeed.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Creates the failure of a command line or a configuration that is wrong.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Adds a remedy.
    #[must_use]
    pub fn remedy(mut self, what: impl Into<String>) -> Self {
        self.remedy = Some(what.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n  {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

/// The result of a command: an exit code, or a failure.
pub type Ended = Result<Exit, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_has_a_number_of_its_own() {
        let numbers: std::collections::BTreeSet<_> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert_eq!(numbers.len(), Exit::ALL.len());
        assert_eq!(Exit::Usage.code(), 2, "clap ends with 2 as well");
    }
}
