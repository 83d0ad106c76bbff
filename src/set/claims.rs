//! The claims of a SET as the gateway writes them (set.md 3.5).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Jti, Timestamp};

/// The `aud` of a stream, in exactly the form its configuration has (set.md 8): a string or an array of strings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Audience {
    /// One value, written as a string.
    One(String),
    /// Values of one entity, written as an array (SSF 1.0 §4.1.8).
    Many(Vec<String>),
}

impl Audience {
    /// The values.
    #[must_use]
    pub fn values(&self) -> &[String] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}

impl Serialize for Audience {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(value) => value.serialize(to),
            Self::Many(values) => values.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(from)? {
            serde_json::Value::String(value) if !value.is_empty() => Ok(Self::One(value)),
            serde_json::Value::Array(values) if !values.is_empty() => values
                .into_iter()
                .map(|value| match value {
                    serde_json::Value::String(value) if !value.is_empty() => Ok(value),
                    _ => Err(serde::de::Error::custom("each audience is a non-empty string")),
                })
                .collect::<Result<_, _>>()
                .map(Self::Many),
            _ => Err(serde::de::Error::custom("an audience is a non-empty string, or an array of them")),
        }
    }
}

/// The payload of a SET: a pure function of issuer, `jti`, time of acceptance, audience and the record's body.
///
/// `iss` and `aud` come as JSON texts, made once per stream; `body` is the record's `{"events":…,"sub_id":…,"txn":…}`.
/// The members stand in a fixed order, so a SET that is sent again has the same payload byte for byte (`P3`).
/// There is no `sub` and no `exp` (SSF 1.0 §4.1.2, §4.1.7).
#[must_use]
pub fn payload(iss_json: &str, jti: &Jti, iat: Timestamp, aud_json: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + iss_json.len() + aud_json.len() + body.len());
    out.extend_from_slice(b"{\"iss\":");
    out.extend_from_slice(iss_json.as_bytes());
    out.extend_from_slice(b",\"jti\":\"");
    out.extend_from_slice(jti.as_str().as_bytes());
    out.extend_from_slice(b"\",\"iat\":");
    out.extend_from_slice(iat.as_seconds().to_string().as_bytes());
    out.extend_from_slice(b",\"aud\":");
    out.extend_from_slice(aud_json.as_bytes());
    out.push(b',');
    out.extend_from_slice(body.strip_prefix(b"{").unwrap_or(body));
    out
}

/// What all SETs of one event share, beside the token: for methods that put it in headers.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// When the event was accepted.
    pub iat: Timestamp,
    body: Bytes,
}

#[derive(Deserialize)]
struct Shared {
    txn: Option<String>,
    #[serde(default)]
    events: std::collections::BTreeMap<String, serde::de::IgnoredAny>,
}

impl Envelope {
    /// The envelope of a record's body.
    #[must_use]
    pub fn new(iat: Timestamp, body: Bytes) -> Self {
        Self { iat, body }
    }

    /// The event's `txn`. Read from the body when asked for.
    #[must_use]
    pub fn txn(&self) -> Option<String> {
        self.read()?.txn
    }

    /// The event URIs. Read from the body when asked for.
    #[must_use]
    pub fn events(&self) -> Vec<String> {
        self.read().map(|shared| shared.events.into_keys().collect()).unwrap_or_default()
    }

    fn read(&self) -> Option<Shared> {
        serde_json::from_slice(&self.body).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audience_keeps_its_form() {
        for text in [r#""a""#, r#"["a"]"#, r#"["a","b"]"#] {
            let audience: Audience = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&audience).unwrap(), text);
        }
        for text in [r#""""#, "[]", r#"["a",""]"#, r#"["a",1]"#, "null", "{}"] {
            assert!(serde_json::from_str::<Audience>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_envelope_reads_its_body() {
        let body = Bytes::from_static(br#"{"events":{"urn:b":{},"urn:a":{}},"sub_id":{},"txn":"t"}"#);
        let envelope = Envelope::new(Timestamp::default(), body);
        assert_eq!(envelope.txn().as_deref(), Some("t"));
        assert_eq!(envelope.events(), ["urn:a", "urn:b"]);
    }
}
