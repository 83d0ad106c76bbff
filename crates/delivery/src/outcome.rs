//! The outcome of a hand-over, as a method reports it.

use std::{fmt, time::Duration};

use setgate_set::{ErrorCode, Receipt};

/// The number of a hand-over of one SET, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Attempt(pub u32);

/// The outcome of a hand-over: the acknowledgement, or the reason why there is none.
pub type Outcome = Result<Receipt, Verdict>;

/// The reason why a SET was not acknowledged, and what follows from it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Verdict {
    /// The peer or the network is unhealthy: the SET is tried again later.
    Retry {
        /// The part that is unhealthy.
        scope: Scope,
        /// The time for which the peer asked not to be called.
        after: Option<Duration>,
        /// The reason.
        cause: Cause,
    },
    /// The peer read the SET and refused it. The router decides by the code what follows.
    Refuse(Refusal),
    /// The failure needs the gateway's operator: the part stops.
    Halt {
        /// The part that stops.
        scope: Scope,
        /// The reason.
        cause: Cause,
    },
    /// The SET was not tried, or a batch was split: no attempt is counted, and no back-off follows.
    Return,
}

/// The part that a failure belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// This SET alone; others may still be delivered.
    Set,
    /// The stream's channel.
    Channel,
    /// The endpoint that an operator owns and many channels share ([`crate::Profile::endpoint`]); the channel, where it
    /// names none.
    ///
    /// The endpoint is held for all its channels until one SET of one of them is acknowledged. No stream is paused, no
    /// SET is given up, and a `Halt` counts no attempt.
    Endpoint,
}

/// A refusal as the peer worded it (RFC 8935 §2.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: ErrorCode,
    /// The peer's text for people.
    pub description: Option<Box<str>>,
    /// The text's language.
    pub language: Option<Box<str>>,
}

/// The kind of remedy that a failure needs. The [`Scope`] says whether the failure concerns one SET or all of its
/// channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Class {
    /// The failure passes with time: a peer that is absent, slow or overloaded recovers by itself, and the router waits
    /// for it without end.
    Transient,
    /// The failure needs a person: credentials, a wrong endpoint, TLS, or an answer that no receiver gives.
    ///
    /// The router pauses a stream whose channel fails in this way often and for long.
    Configuration,
}

/// A failure: a stable code for machines, a text for the operator, and the kind of remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The kind of remedy. The code that makes the cause sets it, so that no decision depends on the code or the text.
    pub class: Class,
    /// A stable code, for example `tls`, `timeout`, `http_503`. It labels metrics and is never free text.
    pub code: &'static str,
    /// The text for people, without secrets and without the paths of URLs.
    pub text: Box<str>,
}

impl Cause {
    /// Makes a cause that passes with time.
    #[must_use]
    pub fn new(code: &'static str, text: impl Into<Box<str>>) -> Self {
        Self::of(Class::Transient, code, text)
    }

    /// Makes a cause that needs a person.
    #[must_use]
    pub fn configuration(code: &'static str, text: impl Into<Box<str>>) -> Self {
        Self::of(Class::Configuration, code, text)
    }

    /// Makes a cause of this class.
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

/// The reason why a method or a channel cannot be made.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The terms or the grant are not acceptable.
    #[error("`delivery{pointer}`: {cause}")]
    Terms {
        /// The JSON pointer into `delivery`.
        pointer: String,
        /// The reason.
        cause: Cause,
    },
    /// The method's own section is wrong, or it cannot start.
    #[error("{0}")]
    Start(Cause),
    /// The method does not support the call.
    #[error("{0}")]
    Unsupported(&'static str),
}
