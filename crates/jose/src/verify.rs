//! The verification of compact tokens (RFC 7515 §5.2).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use crate::{Algorithm, AllowedAlgorithms, Jwks, jwks::Found};

/// The JOSE header of a token. Members that carry keys or name where to fetch them (`jwk`, `jku`, `x5c`, `x5u`) are
/// never read (hardening H42).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The algorithm.
    pub alg: Algorithm,
    /// The `kid` of the key.
    pub kid: Option<String>,
}

/// A parsed token whose signature is not verified yet.
#[derive(Debug)]
pub struct Token<'a> {
    header: Header,
    signed: &'a [u8],
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// A token whose signature was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The token's header.
    pub header: Header,
    /// The token's payload, decoded.
    pub payload: Vec<u8>,
}

/// The reason why a token is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The token is not a compact serialisation with three parts (RFC 7515 §7.1).
    #[error("not a compact JWS: {0}")]
    Malformed(&'static str),
    /// The token is encrypted (five parts), and there is no key for it.
    #[error("the token is encrypted")]
    Encrypted,
    /// The header's `typ` is missing or another one (SSF 1.0 §4.1.1).
    #[error("`typ` is not secevent+jwt")]
    WrongType,
    /// The header has `crit`; no extension is understood (RFC 7515 §4.1.11).
    #[error("the header has `crit`")]
    Critical,
    /// The algorithm is not on the list for this issuer.
    #[error("the algorithm is not allowed")]
    AlgorithmNotAllowed,
    /// The key set has no such key, which may be newer than the set.
    #[error("the key is not in the key set")]
    UnknownKey,
    /// The key is in the set and must not be used for this.
    #[error("the key cannot be used: {0}")]
    UnusableKey(&'static str),
    /// The signature is wrong.
    #[error("the signature does not verify")]
    BadSignature,
}

#[derive(Deserialize)]
struct RawHeader {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    #[serde(default)]
    crit: Presence,
}

/// The presence of a member, whatever its value, even `null`.
#[derive(Default)]
struct Presence(bool);

impl<'de> Deserialize<'de> for Presence {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(from).map(|_| Self(true))
    }
}

/// The most bytes of an encoded header.
const LONGEST_HEADER: usize = 8 * 1024;

impl<'a> Token<'a> {
    /// Parses a token and checks everything in its header that needs no key.
    ///
    /// # Errors
    /// [`VerifyError`], except [`VerifyError::UnknownKey`] and the variants after it.
    pub fn parse(token: &'a [u8]) -> Result<Self, VerifyError> {
        let mut parts = token.split(|byte| *byte == b'.');
        let (Some(header), Some(payload), Some(signature)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(VerifyError::Malformed("it has not three parts"));
        };
        match parts.count() {
            0 => {}
            2 => return Err(VerifyError::Encrypted),
            _ => return Err(VerifyError::Malformed("it has not three parts")),
        }
        if header.len() > LONGEST_HEADER {
            return Err(VerifyError::Malformed("the header is longer than 8 KiB"));
        }
        let signed = token.get(..header.len() + 1 + payload.len()).unwrap_or_default();
        let header = read_header(&decode(header, "the header is not base64url")?)?;
        let payload = decode(payload, "the payload is not base64url")?;
        let signature = decode(signature, "the signature is not base64url")?;
        Ok(Self { header, signed, payload, signature })
    }

    /// Returns the header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Returns the payload, **not verified**; it may be used only to find out whose keys to request.
    #[must_use]
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// Verifies the signature. The key is found by `kid`; without one, exactly one key of the set must fit.
    ///
    /// # Errors
    /// [`VerifyError::AlgorithmNotAllowed`], [`VerifyError::UnknownKey`] (worth fetching the set again),
    /// [`VerifyError::UnusableKey`] or [`VerifyError::BadSignature`].
    pub fn check(&self, keys: &Jwks, allowed: AllowedAlgorithms) -> Result<(), VerifyError> {
        if !allowed.allows(self.header.alg) {
            return Err(VerifyError::AlgorithmNotAllowed);
        }
        match keys.find(self.header.kid.as_deref(), self.header.alg) {
            Found::Key(key) => key.verify_sig(self.signed, &self.signature).map_err(|_| VerifyError::BadSignature),
            Found::Unusable(why) => Err(VerifyError::UnusableKey(why)),
            Found::Unknown => Err(VerifyError::UnknownKey),
        }
    }
}

/// Parses a token and verifies it.
///
/// # Errors
/// Those of [`Token::parse`] and [`Token::check`].
pub fn verify(token: &[u8], keys: &Jwks, allowed: AllowedAlgorithms) -> Result<Verified, VerifyError> {
    let token = Token::parse(token)?;
    token.check(keys, allowed)?;
    Ok(Verified { header: token.header, payload: token.payload })
}

fn decode(part: &[u8], wrong: &'static str) -> Result<Vec<u8>, VerifyError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| VerifyError::Malformed(wrong))
}

fn read_header(json: &[u8]) -> Result<Header, VerifyError> {
    // A derived struct rejects the members it knows when they occur twice.
    let raw: RawHeader = serde_json::from_slice(json)
        .map_err(|_| VerifyError::Malformed("the header is no JSON object with a text `alg`"))?;
    if raw.crit.0 {
        return Err(VerifyError::Critical);
    }
    // RFC 7515, 4.1.9: the comparison ignores case, and `application/` may be left out.
    let typ = raw.typ.ok_or(VerifyError::WrongType)?.to_ascii_lowercase();
    if typ.strip_prefix("application/").unwrap_or(&typ) != "secevent+jwt" {
        return Err(VerifyError::WrongType);
    }
    let alg = raw.alg.parse().map_err(|_| VerifyError::AlgorithmNotAllowed)?;
    Ok(Header { alg, kid: raw.kid })
}

#[cfg(test)]
mod tests;
