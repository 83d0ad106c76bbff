//! The second check of signatures and claims, with a library that the gateway does not use (hardening H47, H57).

use bytes::Bytes;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header, jwk::JwkSet};
use serde_json::Value;

use crate::{BenchError, child::AUDIENCE};

/// Verifies kept SETs against the published key set, and returns their number.
///
/// # Errors
/// [`BenchError::Miscounted`] when one of them is not what a receiver may accept.
pub(crate) fn samples(tokens: &[Bytes], jwks: &[u8], issuer: &str) -> Result<usize, BenchError> {
    let keys: JwkSet =
        serde_json::from_slice(jwks).map_err(|error| BenchError::Failed(format!("the published key set: {error}")))?;
    for token in tokens {
        one(token, &keys, issuer)
            .map_err(|why| BenchError::Miscounted(format!("no figure: a delivered SET is not valid: {why}")))?;
    }
    Ok(tokens.len())
}

/// Checks kept claims that were handed over without a signature, and returns their number.
///
/// # Errors
/// [`BenchError::Miscounted`] when one of them is not what a receiver may accept.
#[cfg(feature = "kafka")]
pub(crate) fn bare(all: &[Bytes], issuer: &str) -> Result<usize, BenchError> {
    for claims in all {
        let parsed = serde_json::from_slice::<Value>(claims).map_err(|error| error.to_string());
        let checked = parsed.and_then(|claims| {
            if claims.get("iss").and_then(Value::as_str) != Some(issuer) {
                return Err("it is of another issuer".into());
            }
            check(&claims)
        });
        checked.map_err(|why| BenchError::Miscounted(format!("no figure: delivered claims are not valid: {why}")))?;
    }
    Ok(all.len())
}

fn one(token: &[u8], keys: &JwkSet, issuer: &str) -> Result<(), String> {
    let text = |error: jsonwebtoken::errors::Error| error.to_string();
    let header = decode_header(token).map_err(text)?;
    if header.typ.as_deref() != Some("secevent+jwt") {
        return Err("its type is not secevent+jwt".into());
    }
    let kid = header.kid.ok_or("it names no key")?;
    let key = keys.find(&kid).ok_or("its key is not published")?;
    let mut rules = Validation::new(header.alg);
    // RFC 8417 §2.2: a SET has no expiry.
    rules.required_spec_claims.clear();
    rules.validate_exp = false;
    rules.set_issuer(&[issuer]);
    rules.validate_aud = false;
    let key = DecodingKey::from_jwk(key).map_err(text)?;
    let claims = decode::<Value>(token, &key, &rules).map_err(text)?.claims;
    check(&claims)
}

fn check(claims: &Value) -> Result<(), String> {
    // Streams with an audience of their own have one below it.
    let audience = claims.get("aud").and_then(Value::as_str).and_then(|aud| aud.strip_prefix(AUDIENCE));
    if !audience.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        return Err("it is for another audience".into());
    }
    for claim in ["jti", "iat", "txn", "events", "sub_id", "iss", "aud"] {
        if claims.get(claim).is_none() {
            return Err(format!("it has no `{claim}`"));
        }
    }
    for claim in ["sub", "exp"] {
        if claims.get(claim).is_some() {
            return Err(format!("it has `{claim}`"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use setgate_jose::{Algorithm, Key, RsaBits};

    use super::*;
    use crate::event;

    #[test]
    fn takes_what_the_crate_signs_and_nothing_that_was_touched() {
        let lines = event::Maker::new("test", 1).lines(1);
        let claims = event::claims(&lines, "https://idp.example").unwrap().remove(0);
        for algorithm in Algorithm::ALL {
            let key = Key::generate(algorithm, RsaBits::default()).unwrap();
            let jwks = format!("{{\"keys\":[{}]}}", key.public_jwk());
            let token = Bytes::from(key.signer().sign(&claims).unwrap());
            let check = |token: &Bytes, issuer: &str| samples(std::slice::from_ref(token), jwks.as_bytes(), issuer);
            assert_eq!(check(&token, "https://idp.example").unwrap(), 1);
            assert!(check(&token, "https://other.example").is_err());
            let mut touched = token.to_vec();
            let at = touched.len() - 20;
            touched[at] = if touched[at] == b'A' { b'B' } else { b'A' };
            assert!(check(&touched.into(), "https://idp.example").is_err());
        }
    }
}
