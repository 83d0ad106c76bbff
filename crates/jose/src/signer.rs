//! Signing with a held key.

use std::fmt;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{Algorithm, JoseError};

/// The private half of a key, parsed.
pub(crate) enum Secret {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// A held key that signs SETs: parsed once, with its header encoded once. Threads can share it.
pub struct Signer {
    kid: Box<str>,
    algorithm: Algorithm,
    /// The encoded header and the dot after it.
    header: Box<[u8]>,
    secret: Secret,
}

/// The length in bytes of the longest signature: RSA of 4096 bits.
const LONGEST_SIGNATURE: usize = 512;

impl Signer {
    pub(crate) fn new(kid: Box<str>, algorithm: Algorithm, secret: Secret) -> Self {
        // RFC 8417, 2.3 and SSF 1.0, 4.1.1: `typ` is always present. A thumbprint needs no escaping.
        let header = format!("{{\"alg\":\"{algorithm}\",\"kid\":\"{kid}\",\"typ\":\"secevent+jwt\"}}");
        let mut encoded = Vec::with_capacity(header.len() * 2);
        append(&mut encoded, header.as_bytes());
        encoded.push(b'.');
        Self { kid, algorithm, header: encoded.into(), secret }
    }

    /// Returns the `kid` of the key.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Returns the algorithm that the key signs with.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the length in bytes of the token that [`Signer::sign`] makes of a payload of `payload` bytes.
    #[must_use]
    pub fn token_length(&self, payload: usize) -> usize {
        self.header.len() + encoded_length(payload) + 1 + encoded_length(self.signature_length())
    }

    /// Signs `payload` and returns the compact JWS (RFC 7515 §7.1) with the header
    /// `{"alg":…,"kid":…,"typ":"secevent+jwt"}`.
    ///
    /// An RSA signature takes at least a quarter of a millisecond: sign on a pool, not on a reactor's thread.
    ///
    /// # Errors
    /// [`JoseError::Sign`] when the cryptographic library fails.
    pub fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, JoseError> {
        let mut token = Vec::with_capacity(self.token_length(payload.len()));
        token.extend_from_slice(&self.header);
        append(&mut token, payload);
        let mut buffer = [0u8; LONGEST_SIGNATURE];
        let length = self.sign_raw(&token, &mut buffer).ok_or_else(|| JoseError::Sign(self.kid.clone()))?;
        token.push(b'.');
        append(&mut token, buffer.get(..length).unwrap_or_default());
        Ok(token)
    }

    /// Returns the bare signature of a message, to forge tokens with.
    #[cfg(test)]
    pub(crate) fn signature_of(&self, message: &[u8]) -> Vec<u8> {
        let mut buffer = [0; LONGEST_SIGNATURE];
        let length = self.sign_raw(message, &mut buffer).unwrap();
        buffer[..length].to_vec()
    }

    fn signature_length(&self) -> usize {
        match &self.secret {
            Secret::Rsa(pair) => pair.public_modulus_len(),
            Secret::Ec(_) | Secret::Ed(_) => 64,
        }
    }

    /// Writes the signature of `message` to the front of `buffer` and returns its length.
    fn sign_raw(&self, message: &[u8], buffer: &mut [u8; LONGEST_SIGNATURE]) -> Option<usize> {
        let signature = match &self.secret {
            Secret::Rsa(pair) => {
                let padding = if self.algorithm == Algorithm::Ps256 { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                let room = buffer.get_mut(..pair.public_modulus_len())?;
                pair.sign(padding, &SystemRandom::new(), message, room).ok()?;
                return Some(room.len());
            }
            Secret::Ec(pair) => pair.sign(&SystemRandom::new(), message).ok()?,
            Secret::Ed(pair) => pair.try_sign(message).ok()?,
        };
        buffer.get_mut(..signature.as_ref().len())?.copy_from_slice(signature.as_ref());
        Some(signature.as_ref().len())
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("kid", &self.kid).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// Returns the length of the base64url of `bytes` bytes, without padding.
const fn encoded_length(bytes: usize) -> usize {
    (bytes * 4).div_ceil(3)
}

/// Appends the base64url of `bytes`; does not allocate when there is room.
fn append(to: &mut Vec<u8>, bytes: &[u8]) {
    let at = to.len();
    to.resize(at + encoded_length(bytes.len()), 0);
    let written = URL_SAFE_NO_PAD.encode_slice(bytes, to.get_mut(at..).unwrap_or_default());
    debug_assert_eq!(written, Ok(encoded_length(bytes.len())));
}
