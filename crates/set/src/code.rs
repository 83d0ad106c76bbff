//! The error codes of the registry "Security Event Token Error Codes" (RFC 8935 §2.4, SSF 1.0 §8.1.4.1).

use std::{borrow::Cow, fmt};

/// The code with which a peer says why it did not accept a SET.
///
/// The registry is open: a code that is not in it is kept as [`ErrorCode::Other`], cut to 64 bytes (hardening H50).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The body is not a SET, or a payload violates its event's definition.
    InvalidRequest,
    /// A key used to sign or encrypt is not acceptable.
    InvalidKey,
    /// The issuer is not valid for this recipient.
    InvalidIssuer,
    /// The audience is not the recipient.
    InvalidAudience,
    /// The recipient could not authenticate the transmitter.
    AuthenticationFailed,
    /// The transmitter may not send this SET to this recipient.
    AccessDenied,
    /// The `state` of a verification event is not the expected one.
    InvalidState,
    /// The SET is larger than the method can carry; a code of setgate.
    TooLarge,
    /// The SET failed again and again while others of its stream passed; a code of setgate.
    Poison,
    /// Any other code.
    Other(Box<str>),
}

impl ErrorCode {
    /// The longest code that is kept, in bytes.
    pub const LONGEST: usize = 64;

    /// Reads a code from the wire; names of older drafts become those of today.
    #[must_use]
    pub fn from_wire(text: &str) -> Self {
        match text {
            "invalid_request" | "jwtParse" | "jwtHdr" | "json" | "setParse" | "setData" | "setType" => {
                Self::InvalidRequest
            }
            "invalid_key" | "jwtCrypto" | "jwtCypto" | "jws" | "jwe" => Self::InvalidKey,
            "invalid_issuer" | "jwtIss" => Self::InvalidIssuer,
            "invalid_audience" | "jwtAud" => Self::InvalidAudience,
            "authentication_failed" => Self::AuthenticationFailed,
            "access_denied" => Self::AccessDenied,
            "invalid_state" => Self::InvalidState,
            "too_large" => Self::TooLarge,
            "poison" => Self::Poison,
            other => {
                let mut end = other.len().min(Self::LONGEST);
                while !other.is_char_boundary(end) {
                    end -= 1;
                }
                Self::Other(other.get(..end).unwrap_or_default().into())
            }
        }
    }

    /// Returns the code as it is written on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidKey => "invalid_key",
            Self::InvalidIssuer => "invalid_issuer",
            Self::InvalidAudience => "invalid_audience",
            Self::AuthenticationFailed => "authentication_failed",
            Self::AccessDenied => "access_denied",
            Self::InvalidState => "invalid_state",
            Self::TooLarge => "too_large",
            Self::Poison => "poison",
            Self::Other(text) => text,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for ErrorCode {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self::from_wire(&Cow::<'de, str>::deserialize(from)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_registered_code_as_it_writes_it() {
        let codes = [
            ErrorCode::InvalidRequest,
            ErrorCode::InvalidKey,
            ErrorCode::InvalidIssuer,
            ErrorCode::InvalidAudience,
            ErrorCode::AuthenticationFailed,
            ErrorCode::AccessDenied,
            ErrorCode::InvalidState,
            ErrorCode::TooLarge,
            ErrorCode::Poison,
        ];
        for code in codes {
            assert_eq!(ErrorCode::from_wire(code.as_str()), code);
            let json = serde_json::to_string(&code).unwrap();
            assert_eq!(serde_json::from_str::<ErrorCode>(&json).unwrap(), code);
        }
    }

    #[test]
    fn reads_the_names_of_older_drafts() {
        for (old, code) in [
            ("jwtCrypto", ErrorCode::InvalidKey),
            ("jwtIss", ErrorCode::InvalidIssuer),
            ("jwtAud", ErrorCode::InvalidAudience),
            ("setParse", ErrorCode::InvalidRequest),
        ] {
            assert_eq!(ErrorCode::from_wire(old), code, "{old}");
        }
    }

    #[test]
    fn cuts_a_foreign_code_at_a_character() {
        let long = format!("{}ä", "x".repeat(63));
        assert_eq!(ErrorCode::from_wire(&long).as_str(), "x".repeat(63));
        assert_eq!(ErrorCode::from_wire("vendor_specific").as_str(), "vendor_specific");
    }
}
