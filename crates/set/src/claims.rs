//! The claims of a SET as the gateway writes them.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, IgnoredAny, MapAccess, Visitor},
};

use crate::{Jti, Timestamp};

/// The `aud` of a stream, in exactly the form of its configuration: a string or an array of strings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Audience {
    /// A single value, written as a string.
    One(String),
    /// Several values of one entity, written as an array (SSF 1.0 §4.1.8).
    Many(Vec<String>),
}

impl Audience {
    /// Returns the values.
    #[must_use]
    pub fn values(&self) -> &[String] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}

impl Serialize for Audience {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(value) => value.serialize(to),
            Self::Many(values) => values.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(from)? {
            serde_json::Value::String(value) if !value.is_empty() => Ok(Self::One(value)),
            serde_json::Value::Array(values) if !values.is_empty() => values
                .into_iter()
                .map(|value| match value {
                    serde_json::Value::String(value) if !value.is_empty() => Ok(value),
                    _ => Err(de::Error::custom("each audience is a non-empty string")),
                })
                .collect::<Result<_, _>>()
                .map(Self::Many),
            _ => Err(de::Error::custom("an audience is a non-empty string, or an array of them")),
        }
    }
}

/// Returns the payload of a SET, a pure function of issuer, `jti`, time of acceptance, audience and the record's body.
///
/// `iss` and `aud` are JSON texts, made once per stream; `body` is the record's `{"events":…,"sub_id":…,"txn":…}`. The
/// members stand in a fixed order, so a SET that is sent again has the same payload byte for byte (`P3`). There is no
/// `sub` and no `exp` (SSF 1.0 §4.1.2, §4.1.7).
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

/// The facts that all SETs of one event share, apart from the token, for methods that put them in headers.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The time of acceptance.
    pub iat: Timestamp,
    body: Bytes,
}

/// The facts that an event states, apart from the payloads of its event types.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts<'a> {
    /// The `txn`.
    pub txn: Option<Cow<'a, str>>,
    /// The event URIs, in their order.
    pub events: Vec<Cow<'a, str>>,
    /// The time at which the change happened, if the event states it (RFC 8417 §2.2).
    pub toe: Option<Timestamp>,
}

impl Envelope {
    /// Creates the envelope of a record's body.
    #[must_use]
    pub fn new(iat: Timestamp, body: Bytes) -> Self {
        Self { iat, body }
    }

    /// Reads all facts that methods put in headers, in one pass over the body. A body that cannot be read gives no
    /// facts.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Returns the event's `txn`, which is read from the body on each call.
    #[must_use]
    pub fn txn(&self) -> Option<String> {
        self.facts().txn.map(Cow::into_owned)
    }

    /// Returns the event URIs, which are read from the body on each call.
    #[must_use]
    pub fn events(&self) -> Vec<String> {
        self.facts().events.into_iter().map(Cow::into_owned).collect()
    }
}

/// A string that is borrowed where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}

/// The names of an object's members, in their order.
struct Names<'a>(Vec<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Names<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names<'de>, A::Error> {
        let mut names = Vec::new();
        while let Some((Text(name), _)) = map.next_entry::<Text<'de>, IgnoredAny>()? {
            names.push(name);
        }
        Ok(Names(names))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Facts<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Shared<'a> {
            #[serde(borrow)]
            txn: Option<Text<'a>>,
            #[serde(borrow)]
            events: Option<Names<'a>>,
            toe: Option<f64>,
        }
        let shared = Shared::deserialize(from)?;
        Ok(Self {
            txn: shared.txn.map(|Text(txn)| txn),
            events: shared.events.map(|Names(names)| names).unwrap_or_default(),
            toe: shared.toe.and_then(date),
        })
    }
}

/// Returns the point in time of a NumericDate (RFC 7519 §2), or `None` when it is out of range.
fn date(seconds: f64) -> Option<Timestamp> {
    let millis = (seconds * 1000.0).round();
    // Beyond 2^53 a double is no longer exact, and no date lies there.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked before")]
    let whole = millis as u64;
    (0.0..9_007_199_254_740_992.0).contains(&millis).then(|| Timestamp::from_millis(whole))
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
        let body = Bytes::from_static(br#"{"events":{"urn:b":{},"urn:\u0061":{}},"sub_id":{},"toe":1.5,"txn":"t"}"#);
        let envelope = Envelope::new(Timestamp::default(), body);
        assert_eq!(envelope.txn().as_deref(), Some("t"));
        assert_eq!(envelope.events(), ["urn:b", "urn:a"]);
        assert_eq!(envelope.facts().toe, Some(Timestamp::from_millis(1500)));
        for unread in ["", "{", r#"{"txn":1}"#, "[]", "{}"] {
            let envelope = Envelope::new(Timestamp::default(), Bytes::from_static(unread.as_bytes()));
            assert_eq!(envelope.facts(), Facts::default(), "{unread}");
        }
        for (toe, due) in [("-1", None), ("1e300", None), ("0", Some(0)), ("1700000000", Some(1_700_000_000_000))] {
            let body = Bytes::from(format!(r#"{{"toe":{toe}}}"#));
            let facts = Envelope::new(Timestamp::default(), body).facts().toe;
            assert_eq!(facts, due.map(Timestamp::from_millis), "{toe}");
        }
    }
}
