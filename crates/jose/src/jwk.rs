//! The public half of one of the gateway's own keys, as JWK.

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::Algorithm;

/// The members of a public JWK, in base64url (RFC 7518 §6, RFC 8037 §2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PublicJwk {
    Rsa { n: String, e: String },
    P256 { x: String, y: String },
    Ed25519 { x: String },
}

impl PublicJwk {
    pub(crate) fn rsa(n: &[u8], e: &[u8]) -> Self {
        Self::Rsa { n: URL_SAFE_NO_PAD.encode(n), e: URL_SAFE_NO_PAD.encode(e) }
    }

    /// Creates the JWK of an uncompressed point: 4, x, y.
    pub(crate) fn p256(point: &[u8]) -> Option<Self> {
        let (&[4], coordinates) = point.split_first_chunk()? else { return None };
        let (x, y) = coordinates.split_at_checked(32).filter(|(_, y)| y.len() == 32)?;
        Some(Self::P256 { x: URL_SAFE_NO_PAD.encode(x), y: URL_SAFE_NO_PAD.encode(y) })
    }

    pub(crate) fn ed25519(x: &[u8]) -> Self {
        Self::Ed25519 { x: URL_SAFE_NO_PAD.encode(x) }
    }

    /// Returns the members that the thumbprint covers, in the order of RFC 7638 §3.2.
    fn required(&self) -> String {
        match self {
            Self::Rsa { n, e } => format!("\"e\":\"{e}\",\"kty\":\"RSA\",\"n\":\"{n}\""),
            Self::P256 { x, y } => format!("\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"{x}\",\"y\":\"{y}\""),
            Self::Ed25519 { x } => format!("\"crv\":\"Ed25519\",\"kty\":\"OKP\",\"x\":\"{x}\""),
        }
    }

    /// Returns the `kid`, the SHA-256 thumbprint of the key (RFC 7638 §3, RFC 8037 §2).
    pub(crate) fn thumbprint(&self) -> String {
        let input = format!("{{{}}}", self.required());
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, input.as_bytes()))
    }

    /// Returns the JWK as it is published.
    pub(crate) fn json(&self, kid: &str, algorithm: Algorithm) -> String {
        format!("{{{},\"kid\":\"{kid}\",\"use\":\"sig\",\"alg\":\"{algorithm}\"}}", self.required())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_thumbprint_of_rfc_7638_3_1() {
        let n = concat!(
            "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMst",
            "n64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajr",
            "n1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        );
        let jwk = PublicJwk::Rsa { n: n.into(), e: "AQAB".into() };
        assert_eq!(jwk.thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn has_the_thumbprint_of_rfc_8037_a_3() {
        let jwk = PublicJwk::Ed25519 { x: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo".into() };
        assert_eq!(jwk.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }
}
