//! What can go wrong with our own keys.

use std::time::Duration;

use crate::Algorithm;

/// Why a key cannot be made, imported, rotated, revoked or used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoseError {
    /// The text is no PEM with one unencrypted private key.
    #[error("not a PEM private key: {0}")]
    Pem(&'static str),
    /// The key is of a kind or size that is not used for SETs.
    #[error("key not acceptable: {0}")]
    Unacceptable(&'static str),
    /// The key cannot serve the algorithm that was asked for.
    #[error("a key for {is} cannot serve {asked}")]
    WrongAlgorithm {
        /// What was asked for.
        asked: Algorithm,
        /// What the key can do.
        is: Algorithm,
    },
    /// The cryptographic library could not make a key.
    #[error("could not generate a key for {0}")]
    Generate(Algorithm),
    /// The cryptographic library could not sign.
    #[error("could not sign with key {0}")]
    Sign(Box<str>),
    /// The ring has this key already.
    #[error("key {0} is in the ring already")]
    Known(Box<str>),
    /// The key was revoked and stays so.
    #[error("key {0} was revoked and cannot come back")]
    Revoked(Box<str>),
    /// The ring has no such key.
    #[error("there is no key {0}")]
    UnknownKid(Box<str>),
    /// There is nothing to rotate.
    #[error("there is no key for {0}: generate one first")]
    NoKey(Algorithm),
    /// Another key waits until receivers can know it (hardening H49).
    #[error("key {kid} was published shortly before and does not sign yet: wait {} s, or force", wait.as_secs())]
    TooSoon {
        /// The key that waits.
        kid: Box<str>,
        /// How long it still waits.
        wait: Duration,
    },
}
