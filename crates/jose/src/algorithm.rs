//! The supported signature algorithms.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A JWS algorithm that signs SETs (RFC 7518 §3.1, RFC 8037 §3.1).
///
/// The type has no other values: `none`, symmetric algorithms and SHA-1 cannot be expressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256, which the CAEP interoperability profile §2.6 demands.
    #[serde(rename = "RS256")]
    Rs256,
    /// RSASSA-PSS with SHA-256.
    #[serde(rename = "PS256")]
    Ps256,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    EdDSA,
}

/// The error for a text that names no supported algorithm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no algorithm for SETs: use RS256, PS256, ES256 or EdDSA")]
pub struct UnknownAlgorithm(pub String);

impl Algorithm {
    /// Every algorithm, in the order in which key sets list them.
    pub const ALL: [Self; 4] = [Self::Rs256, Self::Ps256, Self::Es256, Self::EdDSA];

    /// Returns the name that JOSE headers use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::EdDSA => "EdDSA",
        }
    }

    /// Returns whether the algorithm uses RSA keys.
    #[must_use]
    pub const fn is_rsa(self) -> bool {
        matches!(self, Self::Rs256 | Self::Ps256)
    }

    pub(crate) const fn place(self) -> usize {
        match self {
            Self::Rs256 => 0,
            Self::Ps256 => 1,
            Self::Es256 => 2,
            Self::EdDSA => 3,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, UnknownAlgorithm> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == text)
            .ok_or_else(|| UnknownAlgorithm(text.chars().take(32).collect()))
    }
}

/// The algorithms that a verifier accepts of one issuer, so that a token never chooses alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowedAlgorithms([bool; 4]);

impl AllowedAlgorithms {
    /// Every supported algorithm.
    pub const ALL: Self = Self([true; 4]);

    /// Creates a list of these algorithms and no other.
    #[must_use]
    pub fn only(algorithms: &[Algorithm]) -> Self {
        Self(Algorithm::ALL.map(|algorithm| algorithms.contains(&algorithm)))
    }

    /// Returns whether the algorithm is allowed.
    #[must_use]
    pub fn allows(self, algorithm: Algorithm) -> bool {
        let [rs256, ps256, es256, eddsa] = self.0;
        match algorithm {
            Algorithm::Rs256 => rs256,
            Algorithm::Ps256 => ps256,
            Algorithm::Es256 => es256,
            Algorithm::EdDSA => eddsa,
        }
    }
}

impl Default for AllowedAlgorithms {
    fn default() -> Self {
        Self::ALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_in_text_and_json() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
            assert_eq!(serde_json::to_string(&algorithm).unwrap(), format!("\"{algorithm}\""));
            assert_eq!(serde_json::from_str::<Algorithm>(&format!("\"{algorithm}\"")).unwrap(), algorithm);
        }
    }

    #[test]
    fn none_and_symmetric_algorithms_have_no_name() {
        for text in ["none", "None", "HS256", "RS1", "rs256", "ES384", ""] {
            assert!(text.parse::<Algorithm>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_list_allows_what_it_names_alone() {
        let list = AllowedAlgorithms::only(&[Algorithm::Rs256, Algorithm::EdDSA]);
        let allowed: Vec<_> = Algorithm::ALL.into_iter().filter(|one| list.allows(*one)).collect();
        assert_eq!(allowed, [Algorithm::Rs256, Algorithm::EdDSA]);
    }
}
