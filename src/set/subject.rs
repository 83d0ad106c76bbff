//! Subject identifiers (RFC 9493, SSF 1.0 §3).

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The format of a simple subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// `account`.
    Account,
    /// `email`.
    Email,
    /// `iss_sub`.
    IssSub,
    /// `opaque`.
    Opaque,
    /// `phone_number`.
    PhoneNumber,
    /// `did`.
    Did,
    /// `uri`.
    Uri,
    /// `aliases`.
    Aliases,
    /// `jwt_id`.
    JwtId,
    /// `saml_assertion_id`.
    SamlAssertionId,
    /// `ip-addresses`.
    IpAddresses,
    /// `scim`.
    Scim,
    /// A proprietary format.
    Other(Box<str>),
}

/// Why a value is no subject identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {message}")]
pub struct SubjectError {
    /// JSON pointer below the subject.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
}

/// A simple subject: one identifier, or aliases of one entity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Simple {
    format: Format,
    value: Value,
    canonical: Box<str>,
}

/// A subject: simple, or complex (SSF 1.0 §3.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// One identifier.
    Simple(Simple),
    /// Members by name, in the order of names; all describe one principal.
    Complex(Vec<(Box<str>, Simple)>),
}
