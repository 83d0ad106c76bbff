//! What a method reports of a hand-over.

use std::{fmt, time::Duration};

use setgate_set::{ErrorCode, Receipt};

/// The number of a hand-over of one SET, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Attempt(pub u32);

/// Acknowledged, or why not.
pub type Outcome = Result<Receipt, Verdict>;

/// Why a SET was not taken, and what to do next.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Verdict {
    /// The peer or the network is unhealthy: try later.
    Retry {
        /// What is unhealthy.
        scope: Scope,
        /// When the peer asked to be tried again.
        after: Option<Duration>,
        /// What happened.
        cause: Cause,
    },
    /// The peer read it and said no; the router has the table of codes.
    Refuse(Refusal),
    /// Ours to fix: tell a human.
    Halt {
        /// What must stop.
        scope: Scope,
        /// What happened.
        cause: Cause,
    },
    /// Not tried, or split: no attempt counted, no back-off.
    Return,
}

/// What a failure is a failure of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// This SET; others may pass.
    Set,
    /// The stream's line.
    Line,
    /// What an operator owns and many lines share ([`crate::Profile::endpoint`]); of a line that names none, the line. It is held for
    /// all its lines until one SET of one of them was acknowledged; no stream is paused, and no SET given up. A `Halt` counts
    /// no attempt.
    Endpoint,
}

/// A refusal as the peer worded it (RFC 8935 §2.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: ErrorCode,
    /// Its text for people.
    pub description: Option<Box<str>>,
    /// The text's language.
    pub language: Option<Box<str>>,
}

/// What fixes a failure. Whether it concerns one SET or all of its line is told by the [`Scope`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Class {
    /// Time fixes it: what is absent, slow or overloaded comes back by itself, and is waited for without end.
    Transient,
    /// A human fixes it: credentials, a wrong endpoint, TLS, an answer that no receiver gives. A stream whose line fails so
    /// often and for long is paused.
    Configuration,
}

/// What happened: a stable code for machines, a text for the operator, and what fixes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// What fixes it; set where the cause is made, so that nobody reads the code to decide.
    pub class: Class,
    /// For example `tls`, `timeout`, `http_503`. Never free text: it labels metrics.
    pub code: &'static str,
    /// For people; no secrets, no URLs with paths.
    pub text: Box<str>,
}

impl Cause {
    /// A cause that time fixes.
    #[must_use]
    pub fn new(code: &'static str, text: impl Into<Box<str>>) -> Self {
        Self::of(Class::Transient, code, text)
    }

    /// A cause that a human fixes.
    #[must_use]
    pub fn configuration(code: &'static str, text: impl Into<Box<str>>) -> Self {
        Self::of(Class::Configuration, code, text)
    }

    /// A cause of this class.
    #[must_use]
    pub fn of(class: Class, code: &'static str, text: impl Into<Box<str>>) -> Self {
        Self { class, code, text: text.into() }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.code)
    }
}

/// Why a method or a line cannot be made.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The terms or the grant are not acceptable.
    #[error("`delivery{pointer}`: {cause}")]
    Terms {
        /// JSON pointer into `delivery`.
        pointer: String,
        /// Why.
        cause: Cause,
    },
    /// The method's own section is wrong, or it cannot start.
    #[error("{0}")]
    Start(Cause),
    /// The method cannot do that.
    #[error("{0}")]
    Unsupported(&'static str),
}
