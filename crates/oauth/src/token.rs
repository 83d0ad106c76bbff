//! Opaque bearer tokens of 256 random bits, and the hashes by which they are known.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use setgate_net::Secret;
use subtle::ConstantTimeEq;

/// The kind of a token's holder. The prefix makes a leaked token recognisable, and keeps one kind from being tried as
/// the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A producer, which puts events in.
    Producer,
    /// A receiver, which comes for SETs.
    Receiver,
    /// The operator, who works at the admin listener.
    Admin,
}

impl TokenKind {
    /// Returns the first characters of every token of this kind.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Producer => "sgp_",
            Self::Receiver => "sgr_",
            Self::Admin => "sga_",
        }
    }

    /// Returns whether a text has the form of a token of this kind: its prefix, then 43 characters of base64url.
    #[must_use]
    pub fn fits(self, text: &str) -> bool {
        let mut bits = [0u8; 32];
        text.strip_prefix(self.prefix()).is_some_and(|rest| URL_SAFE_NO_PAD.decode_slice(rest, &mut bits) == Ok(32))
    }
}

/// A fresh token with its hash.
pub struct Minted {
    /// The token, which only its holder keeps: the gateway stores the hash.
    pub token: Secret<String>,
    /// The token's hash, for the configuration.
    pub hash: TokenHash,
}

/// Creates a token of 256 random bits.
#[must_use]
pub fn mint(kind: TokenKind, random: &dyn setgate_clock::Random) -> Minted {
    let mut bits = [0u8; 32];
    random.fill(&mut bits);
    let mut token = String::with_capacity(47);
    token.push_str(kind.prefix());
    URL_SAFE_NO_PAD.encode_string(bits, &mut token);
    Minted { hash: TokenHash::of(&token), token: Secret::new(token) }
}

/// The SHA-256 hash of a token, written `sha256:` and 64 hexadecimal digits.
///
/// A slow password hash would add nothing: 2^256 tokens cannot be tried, however cheap one guess is.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    const PREFIX: &'static str = "sha256:";

    /// Hashes a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        let mut hash = [0u8; 32];
        let digest = digest::digest(&digest::SHA256, token.as_bytes());
        hash.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
        Self(hash)
    }

    /// Returns the bytes, for an index.
    pub(crate) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Compares in constant time.
impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

/// The error for a text that is not the hash of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a token hash is `sha256:` and 64 hexadecimal digits, as `setgate producers new` and `setgate receivers new` print it"
)]
pub struct TokenHashError;

impl FromStr for TokenHash {
    type Err = TokenHashError;

    fn from_str(text: &str) -> Result<Self, TokenHashError> {
        let digits = text.strip_prefix(Self::PREFIX).ok_or(TokenHashError)?;
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(TokenHashError);
        }
        let mut hash = [0u8; 32];
        for (to, pair) in hash.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| TokenHashError)?;
            *to = u8::from_str_radix(pair, 16).map_err(|_| TokenHashError)?;
        }
        Ok(Self(hash))
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

impl Serialize for TokenHash {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use setgate_clock::manual::SeededRandom;

    use super::*;

    #[test]
    fn a_minted_token_has_its_kind_and_its_hash() {
        let random = SeededRandom::new(1);
        let minted = mint(TokenKind::Producer, &*random);
        let token = minted.token.expose();
        assert!(TokenKind::Producer.fits(token), "{token}");
        assert!(!TokenKind::Admin.fits(token) && !TokenKind::Receiver.fits(token));
        assert_eq!(TokenHash::of(token), minted.hash);
        assert_ne!(mint(TokenKind::Producer, &*random).hash, minted.hash);
    }

    #[test]
    fn the_hash_is_what_sha256sum_prints() {
        // printf %s abc | sha256sum
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(TokenHash::of("abc").to_string(), text);
        assert_eq!(text.parse(), Ok(TokenHash::of("abc")));
    }

    #[test]
    fn refuses_what_is_no_hash() {
        let long = format!("sha256:{}", "0".repeat(65));
        let odd = format!("sha256:{}", "+1".repeat(32));
        for text in ["", "sha256:", "sha256:00", "sgp_secret", long.as_str(), odd.as_str()] {
            assert_eq!(text.parse::<TokenHash>(), Err(TokenHashError), "{text}");
        }
    }

    #[test]
    fn a_token_that_is_no_base64_of_32_bytes_does_not_fit() {
        for text in
            ["", "sgp_", "sgp_short", "eyJhbGciOiJub25lIn0.e30.", "SGP_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]
        {
            assert!(!TokenKind::Producer.fits(text), "{text}");
        }
    }
}
