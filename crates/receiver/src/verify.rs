//! Verification of a received SET, in the steps of the README (RFC 8417 §3, RFC 8935 §2, RFC 7519 §7.2, SSF 1.0 §4.1).

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};
use setgate_clock::Clock;
use setgate_delivery::{ErrorCode, Refusal};
use setgate_jose::{Token, VerifyError};
use setgate_set::JsonLimits;

use crate::{
    Trust, definition, subject,
    trust::{IssuerState, Known},
};

/// The demands of a receiver on a SET.
#[derive(Clone)]
pub struct Verify {
    trust: Arc<Trust>,
    audiences: Vec<String>,
    skew: Duration,
    clock: Arc<dyn Clock>,
}

/// A SET that was verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// The SET's `jti`, unique with its issuer.
    pub jti: String,
    /// The SET's issuer.
    pub iss: String,
    /// The `txn`, which all SETs of one event share; a number of an older transmitter as text.
    pub txn: Option<String>,
    /// The `kid` of the key that verified it.
    pub kid: Option<String>,
    /// The algorithm that verified it.
    pub algorithm: setgate_jose::Algorithm,
    /// The SET's claims.
    pub claims: Map<String, Value>,
    /// The critical member of the subject that is not understood, if there is one: the SET is to be acknowledged and
    /// discarded (SSF 1.0 §3.6).
    pub discard: Option<String>,
}

/// The reasons why a SET was not accepted.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum NotTaken {
    /// The SET is not acceptable.
    Refused(Refusal),
    /// The metadata or keys of the issuer are not there; the SET may be acceptable later.
    NotNow {
        /// The time after which to try again.
        after: Duration,
        /// The reason in words.
        why: String,
    },
}

/// The time after which a transmitter is asked to come back while its metadata or keys are not there.
const LATER: Duration = Duration::from_secs(1);
/// The most bytes of a `jti`.
const LONGEST_JTI: usize = 1024;

impl Verify {
    /// The time by which `iat` may be ahead of the receiver's clock, by default.
    pub const SKEW: Duration = Duration::from_secs(60);

    /// Creates the demands: an issuer that is trusted, and one of these audiences, or any when the list is empty.
    #[must_use]
    pub fn new(trust: Arc<Trust>, audiences: Vec<String>, skew: Duration, clock: Arc<dyn Clock>) -> Self {
        Self { trust, audiences, skew, clock }
    }

    /// Verifies a compact token. No claim is believed before the signature is verified.
    ///
    /// # Errors
    /// [`NotTaken::Refused`] with the code of its step; [`NotTaken::NotNow`] while the issuer's metadata or keys are
    /// not there.
    pub async fn check(&self, token: &[u8]) -> Result<Taken, NotTaken> {
        let token = Token::parse(token).map_err(|error| unverified(&error))?;
        let claims = match setgate_set::parse_json(token.unverified_payload(), &JsonLimits::default()) {
            Ok(Value::Object(claims)) => claims,
            Ok(_) => return Err(invalid("the payload is no JSON object")),
            Err(error) => return Err(invalid(format!("the payload is no I-JSON: {error}"))),
        };
        // Step 4: `iss` is read without being believed, to know whose keys to use.
        let iss = text(&claims, "iss").ok_or_else(|| invalid("`iss` is missing or no text"))?;
        let known = match self.trust.issuer_state(iss) {
            IssuerState::Known(known) => known,
            IssuerState::Stranger => return Err(refused(ErrorCode::InvalidIssuer, "the issuer is not trusted here")),
            IssuerState::NotYet => return Err(not_now("the issuer's metadata is not there yet")),
        };
        self.check_signature(&token, &known).await?;
        self.check_audience(&claims)?;
        self.check_envelope(&claims)?;
        check_events(&claims)?;
        let sub_id = claims.get("sub_id").ok_or_else(|| invalid("`sub_id` is missing"))?;
        subject::check(sub_id).map_err(|why| invalid(format!("`sub_id`: {why}")))?;
        let discard = subject::not_understood(sub_id, &known.critical).map(str::to_owned);
        let (header, iss) = (token.header(), iss.to_owned());
        let jti = text(&claims, "jti").unwrap_or_default().to_owned();
        let txn = claims.get("txn").and_then(txn);
        Ok(Taken { jti, iss, txn, kid: header.kid.clone(), algorithm: header.alg, claims, discard })
    }

    /// Takes steps 5 and 6. When the key is not in the kept key set, the set is fetched again, at most once a minute.
    async fn check_signature(&self, token: &Token<'_>, known: &Known) -> Result<(), NotTaken> {
        let fetcher = self.trust.fetcher();
        let allowed = self.trust.allowed();
        let no_keys = |error: setgate_discovery::FetchError| not_now(error.to_string());
        let keys = fetcher.keys(&known.keys).await.map_err(no_keys)?;
        let mut result = token.check(&keys.set, allowed);
        if result == Err(VerifyError::UnknownKey) {
            let newer = fetcher.keys_after(&known.keys, &keys).await.map_err(no_keys)?;
            result = token.check(&newer.set, allowed);
        }
        result.map_err(|error| unverified(&error))
    }

    /// Takes step 7, the audience.
    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), NotTaken> {
        let ours = |value: &str| self.audiences.is_empty() || self.audiences.iter().any(|audience| audience == value);
        let found = match claims.get("aud") {
            None => return Err(refused(ErrorCode::InvalidAudience, "`aud` is missing")),
            Some(Value::String(one)) => ours(one),
            Some(Value::Array(many)) if !many.is_empty() && many.iter().all(Value::is_string) => {
                many.iter().filter_map(Value::as_str).any(ours)
            }
            Some(_) => return Err(invalid("`aud` is no text and no array of texts")),
        };
        if found { Ok(()) } else { Err(refused(ErrorCode::InvalidAudience, "none of `aud` is this receiver")) }
    }

    /// Takes step 8, for the envelope.
    fn check_envelope(&self, claims: &Map<String, Value>) -> Result<(), NotTaken> {
        if text(claims, "jti").is_none_or(|jti| jti.is_empty() || jti.len() > LONGEST_JTI) {
            return Err(invalid("`jti` is missing, no text, empty or longer than 1024 bytes"));
        }
        let iat = claims.get("iat").and_then(Value::as_f64).filter(|iat| *iat >= 0.0);
        let iat = iat.ok_or_else(|| invalid("`iat` is missing or no NumericDate"))?;
        let latest = Duration::from_millis(self.clock.wall_millis()).saturating_add(self.skew);
        if iat > latest.as_secs_f64() {
            return Err(invalid("`iat` lies in the future"));
        }
        if claims.get("toe").is_some_and(|toe| !toe.is_number()) {
            return Err(invalid("`toe` is no NumericDate"));
        }
        if claims.get("txn").is_some_and(|value| txn(value).is_none()) {
            return Err(invalid("`txn` is no text"));
        }
        // The claims are forbidden, so that no SET can pass for an ID token or access token (SSF 1.0 §4.1.2, §4.1.7).
        for forbidden in ["exp", "sub"] {
            if claims.contains_key(forbidden) {
                return Err(invalid(format!("`{forbidden}` must not be there")));
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Verify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verify").field("trust", &self.trust).field("audiences", &self.audiences).finish_non_exhaustive()
    }
}

/// Takes step 8 for the events, and step 10.
fn check_events(claims: &Map<String, Value>) -> Result<(), NotTaken> {
    let events = claims.get("events").and_then(Value::as_object).filter(|events| !events.is_empty());
    for (uri, payload) in events.ok_or_else(|| invalid("`events` is missing, no object or empty"))? {
        let payload = payload.as_object().ok_or_else(|| invalid("the payload of an event is no object"))?;
        definition::check(uri, payload).map_err(invalid)?;
    }
    Ok(())
}

/// Turns a verification error into a refusal. `typ`, `crit` and a malformed token are faults of the SET; all other
/// errors are a matter of keys, bad signatures included.
fn unverified(error: &VerifyError) -> NotTaken {
    let code = match error {
        VerifyError::Malformed(_) | VerifyError::WrongType | VerifyError::Critical => ErrorCode::InvalidRequest,
        _ => ErrorCode::InvalidKey,
    };
    refused(code, error.to_string())
}

fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    claims.get(name).and_then(Value::as_str)
}

/// Reads a `txn`, which older drafts print as a number.
fn txn(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn invalid(why: impl Into<Box<str>>) -> NotTaken {
    refused(ErrorCode::InvalidRequest, why)
}

pub(crate) fn refused(code: ErrorCode, why: impl Into<Box<str>>) -> NotTaken {
    NotTaken::Refused(refusal(code, why))
}

pub(crate) fn refusal(code: ErrorCode, why: impl Into<Box<str>>) -> Refusal {
    Refusal { code, description: Some(why.into()), language: Some("en".into()) }
}

fn not_now(why: impl Into<String>) -> NotTaken {
    NotTaken::NotNow { after: LATER, why: why.into() }
}

#[cfg(test)]
mod tests;
