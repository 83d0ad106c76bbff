//! Errors of this gateway's own keys.

use std::time::Duration;

use crate::Algorithm;

/// The reason why a key cannot be generated, imported, rotated, revoked or used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoseError {
    /// The text is not PEM with one unencrypted private key.
    #[error("not a PEM private key: {0}")]
    Pem(&'static str),
    /// The key is of a kind or size that is not used for SETs.
    #[error("key not acceptable: {0}")]
    Unacceptable(&'static str),
    /// The key cannot serve the requested algorithm.
    #[error("a key for {is} cannot serve {asked}")]
    WrongAlgorithm {
        /// The requested algorithm.
        asked: Algorithm,
        /// The algorithm of the key.
        is: Algorithm,
    },
    /// The cryptographic library could not generate a key.
    #[error("could not generate a key for {0}")]
    Generate(Algorithm),
    /// The cryptographic library could not sign.
    #[error("could not sign with key {0}")]
    Sign(Box<str>),
    /// The ring has this key already.
    #[error("key {0} is in the ring already")]
    Known(Box<str>),
    /// The key was revoked and cannot come back.
    #[error("key {0} was revoked and cannot come back")]
    Revoked(Box<str>),
    /// The ring has no such key.
    #[error("there is no key {0}")]
    UnknownKid(Box<str>),
    /// The ring has no key of the algorithm to rotate.
    #[error("there is no key for {0}: generate one first")]
    NoKey(Algorithm),
    /// A *next* key still waits until receivers can know it (hardening H49).
    #[error("key {kid} was published shortly before and does not sign yet: wait {} s, or force", wait.as_secs())]
    TooSoon {
        /// The key that waits.
        kid: Box<str>,
        /// The time that it still waits.
        wait: Duration,
    },
}
