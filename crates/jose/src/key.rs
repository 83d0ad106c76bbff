//! Private keys, generated or imported.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    rsa::KeySize,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    Algorithm, JoseError, Signer,
    jwk::PublicJwk,
    pem::{self, Layout},
    signer::Secret,
};

/// The length of the modulus of a generated RSA key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RsaBits {
    /// 2048 bits.
    #[default]
    #[serde(rename = "2048")]
    Bits2048,
    /// 3072 bits.
    #[serde(rename = "3072")]
    Bits3072,
    /// 4096 bits.
    #[serde(rename = "4096")]
    Bits4096,
}

impl RsaBits {
    /// Returns the length in bits.
    #[must_use]
    pub const fn bits(self) -> u16 {
        match self {
            Self::Bits2048 => 2048,
            Self::Bits3072 => 3072,
            Self::Bits4096 => 4096,
        }
    }

    /// Returns the variant for a length in bits, if there is one.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Option<Self> {
        match bits {
            2048 => Some(Self::Bits2048),
            3072 => Some(Self::Bits3072),
            4096 => Some(Self::Bits4096),
            _ => None,
        }
    }

    const fn size(self) -> KeySize {
        match self {
            Self::Bits2048 => KeySize::Rsa2048,
            Self::Bits3072 => KeySize::Rsa3072,
            Self::Bits4096 => KeySize::Rsa4096,
        }
    }
}

/// A private key for one algorithm, parsed once and held.
///
/// Its private part is wiped on drop and never shown; it leaves the process only sealed ([`crate::Ring::seal`]).
pub struct Key {
    signer: Arc<Signer>,
    jwk: PublicJwk,
    bits: u16,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl Key {
    /// Generates a key; `bits` applies to RSA only. RSA takes up to seconds: call it where blocking is allowed.
    ///
    /// Its kid, a thumbprint, does not begin with `-`, because a command line would read it as an option.
    ///
    /// # Errors
    /// [`JoseError::Generate`] when the cryptographic library fails.
    pub fn generate(algorithm: Algorithm, bits: RsaBits) -> Result<Self, JoseError> {
        loop {
            let key = Self::generate_any(algorithm, bits)?;
            if !key.kid().starts_with('-') {
                return Ok(key);
            }
        }
    }

    fn generate_any(algorithm: Algorithm, bits: RsaBits) -> Result<Self, JoseError> {
        let failed = |_| JoseError::Generate(algorithm);
        match algorithm {
            Algorithm::Rs256 | Algorithm::Ps256 => {
                Self::of_rsa(algorithm, RsaKeyPair::generate(bits.size()).map_err(failed)?)
            }
            Algorithm::Es256 => Self::of_ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?),
            Algorithm::EdDSA => Self::of_ed(Ed25519KeyPair::generate().map_err(failed)?),
        }
    }

    /// Reads the private key in a PEM text: PKCS#8, PKCS#1 or SEC1, unencrypted.
    ///
    /// An RSA key is for RS256 unless `algorithm` is PS256. Accepted are RSA of 2048 to 4096 bits, P-256 and Ed25519.
    ///
    /// # Errors
    /// [`JoseError::Pem`], [`JoseError::Unacceptable`] or [`JoseError::WrongAlgorithm`], which say what is wrong with
    /// the key.
    pub fn import_pem(text: &str, algorithm: Option<Algorithm>) -> Result<Self, JoseError> {
        let (layout, der) = pem::private_key(text)?;
        let key = match layout {
            Layout::Pkcs8 => Self::from_pkcs8(&der, algorithm)?,
            Layout::Pkcs1 => {
                let pair = RsaKeyPair::from_der(&der).map_err(|_| UNACCEPTABLE)?;
                Self::of_rsa(rsa_algorithm(algorithm), pair)?
            }
            Layout::Sec1 => {
                let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, &der);
                Self::of_ec(pair.map_err(|_| UNACCEPTABLE)?)?
            }
        };
        match algorithm {
            Some(asked) if asked != key.algorithm() => Err(JoseError::WrongAlgorithm { asked, is: key.algorithm() }),
            _ => Ok(key),
        }
    }

    pub(crate) fn from_pkcs8(der: &[u8], algorithm: Option<Algorithm>) -> Result<Self, JoseError> {
        if let Ok(pair) = RsaKeyPair::from_pkcs8(der) {
            return Self::of_rsa(rsa_algorithm(algorithm), pair);
        }
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
            return Self::of_ec(pair);
        }
        Self::of_ed(Ed25519KeyPair::from_pkcs8(der).map_err(|_| UNACCEPTABLE)?)
    }

    fn of_rsa(algorithm: Algorithm, pair: RsaKeyPair) -> Result<Self, JoseError> {
        let bits = u16::try_from(pair.public_modulus_len() * 8).map_err(|_| UNACCEPTABLE)?;
        if !(2048..=4096).contains(&bits) {
            return Err(UNACCEPTABLE);
        }
        let public = pair.public_key();
        let exponent = public.exponent().big_endian_without_leading_zero();
        if exponent.len() > 4 {
            return Err(JoseError::Unacceptable("the RSA exponent is 2^32 or more"));
        }
        let jwk = PublicJwk::rsa(public.modulus().big_endian_without_leading_zero(), exponent);
        let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| UNACCEPTABLE)?;
        let pkcs8 = Zeroizing::new(der.as_ref().to_vec());
        Ok(Self::new(algorithm, jwk, bits, pkcs8, Secret::Rsa(pair)))
    }

    fn of_ec(pair: EcdsaKeyPair) -> Result<Self, JoseError> {
        let jwk = PublicJwk::p256(pair.public_key().as_ref()).ok_or(UNACCEPTABLE)?;
        let pkcs8 = Zeroizing::new(pair.to_pkcs8v1().map_err(|_| UNACCEPTABLE)?.as_ref().to_vec());
        Ok(Self::new(Algorithm::Es256, jwk, 256, pkcs8, Secret::Ec(pair)))
    }

    fn of_ed(pair: Ed25519KeyPair) -> Result<Self, JoseError> {
        let jwk = PublicJwk::ed25519(pair.public_key().as_ref());
        let pkcs8 = Zeroizing::new(pair.to_pkcs8v1().map_err(|_| UNACCEPTABLE)?.as_ref().to_vec());
        Ok(Self::new(Algorithm::EdDSA, jwk, 256, pkcs8, Secret::Ed(pair)))
    }

    fn new(algorithm: Algorithm, jwk: PublicJwk, bits: u16, pkcs8: Zeroizing<Vec<u8>>, secret: Secret) -> Self {
        let signer = Arc::new(Signer::new(jwk.thumbprint().into(), algorithm, secret));
        Self { signer, jwk, bits, pkcs8 }
    }

    /// Returns the key's `kid`, the RFC 7638 thumbprint.
    #[must_use]
    pub fn kid(&self) -> &str {
        self.signer.kid()
    }

    /// Returns the algorithm that the key signs with.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.signer.algorithm()
    }

    /// Returns the length of the modulus, or of the curve's field, in bits.
    #[must_use]
    pub fn bits(&self) -> u16 {
        self.bits
    }

    /// Returns the signer that holds the key.
    #[must_use]
    pub fn signer(&self) -> &Arc<Signer> {
        &self.signer
    }

    /// Returns the public JWK, as JSON.
    #[must_use]
    pub fn public_jwk(&self) -> String {
        self.jwk.json(self.kid(), self.algorithm())
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid()).field("algorithm", &self.algorithm()).finish_non_exhaustive()
    }
}

const UNACCEPTABLE: JoseError = JoseError::Unacceptable("RSA of 2048 to 4096 bits, P-256 or Ed25519 is expected");

fn rsa_algorithm(asked: Option<Algorithm>) -> Algorithm {
    if asked == Some(Algorithm::Ps256) { Algorithm::Ps256 } else { Algorithm::Rs256 }
}

#[cfg(test)]
mod tests;
