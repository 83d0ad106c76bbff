//! Foreign key sets (RFC 7517 §5), within limits (hardening H42).

use std::sync::Arc;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
    RsaPublicKeyComponents,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::Value;

use crate::Algorithm;

/// The keys of one issuer that can verify SETs, parsed once.
#[derive(Debug)]
pub struct Jwks {
    keys: Vec<PublicKey>,
    ignored: Vec<IgnoredKey>,
}

/// A key of a set that is not used; the other keys are (RFC 7517 §5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoredKey {
    /// The key's `kid`, if it has one.
    pub kid: Option<String>,
    /// The reason why the key is not used.
    pub why: &'static str,
}

/// The reason why a text is not a key set.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwksError {
    /// The text is longer than [`Jwks::LONGEST`].
    #[error("key set longer than 64 KiB")]
    TooLong,
    /// The set has more than [`Jwks::MOST`] keys.
    #[error("key set with more than 32 keys")]
    TooMany,
    /// The text is not a JSON object with an array `keys`.
    #[error("not a JWK Set: {0}")]
    Malformed(#[source] Arc<serde_json::Error>),
}

/// A key with the algorithms it may verify.
#[derive(Debug)]
struct PublicKey {
    kid: Option<String>,
    /// The verifiers: one, or two for an RSA key that names no `alg`.
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<Value>,
}

/// The members of a key that are read; `jku`, `x5u` and `x5c` are not.
#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    n: Option<String>,
    e: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<Value>,
}

impl Jwks {
    /// The most bytes of a key set.
    pub const LONGEST: usize = 64 * 1024;
    /// The most keys of a key set.
    pub const MOST: usize = 32;

    /// Parses a key set. Keys that are symmetric, private, weak, of unknown curves or for other uses are left out and
    /// listed.
    ///
    /// # Errors
    /// [`JwksError`] when the set as a whole is not acceptable.
    pub fn parse(text: &[u8]) -> Result<Self, JwksError> {
        if text.len() > Self::LONGEST {
            return Err(JwksError::TooLong);
        }
        let raw: RawSet = serde_json::from_slice(text).map_err(|error| JwksError::Malformed(Arc::new(error)))?;
        if raw.keys.len() > Self::MOST {
            return Err(JwksError::TooMany);
        }
        let (mut keys, mut ignored) = (Vec::with_capacity(raw.keys.len()), Vec::new());
        for value in raw.keys {
            let kid = value.get("kid").and_then(Value::as_str).map(str::to_owned);
            match PublicKey::read(value) {
                Ok(key) => keys.push(key),
                Err(why) => ignored.push(IgnoredKey { kid, why }),
            }
        }
        Ok(Self { keys, ignored })
    }

    /// Returns the number of keys that can be used.
    #[must_use]
    pub fn usable(&self) -> usize {
        self.keys.len()
    }

    /// Returns the keys that are not used, with the reasons.
    #[must_use]
    pub fn ignored(&self) -> &[IgnoredKey] {
        &self.ignored
    }

    pub(crate) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Found<'_> {
        let mut fitting = self.keys.iter().filter(|key| kid.is_none() || key.kid.as_deref() == kid).peekable();
        if fitting.peek().is_none() {
            let why = self.ignored.iter().find(|key| kid.is_some() && key.kid.as_deref() == kid).map(|key| key.why);
            return why.map_or(Found::Unknown, Found::Unusable);
        }
        let mut verifiers = fitting.flat_map(|key| &key.verifiers).filter(|(serves, _)| *serves == algorithm);
        match (verifiers.next(), verifiers.next()) {
            (Some((_, key)), None) => Found::Key(key),
            (Some(_), Some(_)) => Found::Unusable("several keys fit and the token does not say which"),
            (None, _) => Found::Unusable("the key is for another algorithm"),
        }
    }
}

/// The result of a look-up.
pub(crate) enum Found<'a> {
    Key(&'a ParsedPublicKey),
    Unusable(&'static str),
    Unknown,
}

impl PublicKey {
    fn read(value: Value) -> Result<Self, &'static str> {
        let raw: RawKey = serde_json::from_value(value).map_err(|_| "not a JWK")?;
        if raw.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
            return Err("not for signatures (`use`)");
        }
        if raw.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
            return Err("not for verifying (`key_ops`)");
        }
        if raw.d.is_some() {
            return Err("a private key: it is known to everybody");
        }
        let pinned = match raw.alg.as_deref().map(str::parse::<Algorithm>) {
            None => None,
            Some(Ok(algorithm)) => Some(algorithm),
            Some(Err(_)) => return Err("for an algorithm that is not used for SETs (`alg`)"),
        };
        let verifiers = match raw.kty.as_str() {
            "RSA" => rsa(&raw)?,
            "EC" => vec![(Algorithm::Es256, p256(&raw)?)],
            "OKP" => vec![(Algorithm::EdDSA, ed25519(&raw)?)],
            "oct" => return Err("a symmetric key"),
            _ => return Err("of an unknown type (`kty`)"),
        };
        let verifiers: Vec<_> =
            verifiers.into_iter().filter(|(serves, _)| pinned.is_none_or(|pinned| pinned == *serves)).collect();
        if verifiers.is_empty() {
            return Err("`alg` and `kty` do not belong together");
        }
        Ok(Self { kid: raw.kid, verifiers })
    }
}

fn rsa(raw: &RawKey) -> Result<Vec<(Algorithm, ParsedPublicKey)>, &'static str> {
    let n = integer(raw.n.as_deref()).ok_or("RSA modulus missing or malformed")?;
    let e = integer(raw.e.as_deref()).ok_or("RSA exponent missing or malformed")?;
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) {
        return Err("an RSA key below 2048 or above 8192 bits");
    }
    if e.len() > 4 || e.last().is_none_or(|byte| byte % 2 == 0) || e == [1] {
        return Err("an RSA exponent that is even, 1, or 2^32 and more");
    }
    let parts = RsaPublicKeyComponents { n: n.as_slice(), e: e.as_slice() };
    let refused = |_| "an RSA key that does not parse";
    Ok(vec![
        (Algorithm::Rs256, parts.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).map_err(refused)?),
        (Algorithm::Ps256, parts.to_parsed_public_key(&RSA_PSS_2048_8192_SHA256).map_err(refused)?),
    ])
}

fn p256(raw: &RawKey) -> Result<ParsedPublicKey, &'static str> {
    if raw.crv.as_deref() != Some("P-256") {
        return Err("of a curve that is not used for SETs (`crv`)");
    }
    let (x, y) = (octets(raw.x.as_deref()), octets(raw.y.as_deref()));
    let (Some(x), Some(y)) = (x, y) else { return Err("EC coordinates missing or malformed") };
    let point = [[4].as_slice(), &x, &y].concat();
    ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).map_err(|_| "a point that is not on the curve")
}

fn ed25519(raw: &RawKey) -> Result<ParsedPublicKey, &'static str> {
    if raw.crv.as_deref() != Some("Ed25519") {
        return Err("of a curve that is not used for SETs (`crv`)");
    }
    let x = octets(raw.x.as_deref()).ok_or("OKP coordinate missing or malformed")?;
    ParsedPublicKey::new(&ED25519, x).map_err(|_| "an Ed25519 key that does not parse")
}

/// Decodes a Base64urlUInt (RFC 7518 §2). Leading zero bytes are accepted, although the standard forbids them.
fn integer(text: Option<&str>) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text?).ok()?;
    let start = bytes.iter().position(|byte| *byte != 0)?;
    bytes.get(start..).map(<[u8]>::to_vec)
}

/// Decodes a coordinate of exactly 32 bytes (RFC 7518 §6.2.1.2).
fn octets(text: Option<&str>) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(text?).ok()?.try_into().ok()
}
