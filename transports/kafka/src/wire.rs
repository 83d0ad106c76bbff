//! The making of a record: key, headers, value and timestamp. Pure.
//!
//! Nothing of the subject is in a key or a header: the order key is a keyed hash.

use std::{borrow::Cow, sync::Arc};

use rdkafka::message::{Header, OwnedHeaders};
use setgate_delivery::{About, Facts, Json, SealedSet, Timestamp};

use crate::config::{CloudEvents, Key, RecordTime, Terms, Value};

pub(crate) mod verdict;

/// The `content-type` of a compact SET (RFC 8417 §7.1).
const SET: &str = "application/secevent+jwt";
/// The `content-type` of claims.
const JSON: &str = "application/json";
/// The `content-type` of a CloudEvent in structured mode (CloudEvents 1.0, Kafka protocol binding §3.3).
const STRUCTURED: &str = "application/cloudevents+json; charset=UTF-8";
/// The `type` of a CloudEvent whose events cannot be read, since the attribute must not be empty.
const NO_TYPE: &str = "urn:ietf:params:event";

/// The bytes that headers, key and envelope add to a SET, at most as a rule.
pub(crate) const OVERHEAD: usize = 4 << 10;

/// The form of one stream's records.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    value: Value,
    cloudevents: CloudEvents,
    key: Key,
    timestamp: RecordTime,
    stream: Arc<str>,
    issuer: Arc<str>,
}

/// A record without its topic.
pub(crate) struct Made<'a> {
    pub(crate) key: Option<Cow<'a, [u8]>>,
    pub(crate) headers: OwnedHeaders,
    pub(crate) value: Cow<'a, [u8]>,
    pub(crate) timestamp: Option<i64>,
}

impl Shape {
    pub(crate) fn new(terms: &Terms, about: &About) -> Self {
        Self {
            value: terms.value,
            cloudevents: terms.cloudevents,
            key: terms.key,
            timestamp: terms.timestamp,
            stream: about.stream.clone(),
            issuer: about.issuer.clone(),
        }
    }

    /// Makes the record of a SET.
    pub(crate) fn make<'a>(&'a self, set: &'a SealedSet) -> Made<'a> {
        let facts = set.envelope.facts();
        let iat = set.envelope.iat;
        Made {
            key: self.key(set, &facts),
            headers: self.headers(set, &facts),
            value: match self.cloudevents {
                CloudEvents::Structured => Cow::Owned(self.event(set, &facts)),
                CloudEvents::None | CloudEvents::Binary => Cow::Borrowed(&set.body),
            },
            timestamp: match self.timestamp {
                RecordTime::HandOver => None,
                // The time in whole seconds, as the token has it.
                RecordTime::Iat => i64::try_from(iat.as_seconds().saturating_mul(1000)).ok(),
            },
        }
    }

    fn key<'a>(&'a self, set: &SealedSet, facts: &Facts<'_>) -> Option<Cow<'a, [u8]>> {
        match self.key {
            Key::Subject => Some(Cow::Owned(format!("{:016x}", set.order.bits()).into_bytes())),
            Key::Stream => Some(Cow::Borrowed(self.stream.as_bytes())),
            Key::Txn => facts.txn.as_deref().map(|txn| Cow::Owned(txn.as_bytes().to_vec())),
            Key::None => None,
        }
    }

    fn headers(&self, set: &SealedSet, facts: &Facts<'_>) -> OwnedHeaders {
        let headers = OwnedHeaders::new_with_capacity(8);
        let content = match (self.cloudevents, self.value) {
            (CloudEvents::Structured, _) => STRUCTURED,
            (_, Value::Set) => SET,
            (_, Value::Claims) => JSON,
        };
        let mut headers = with(headers, "content-type", content);
        match self.cloudevents {
            CloudEvents::None => {
                headers = with(headers, "set_jti", set.jti.as_str());
                headers = with(headers, "set_iss", &self.issuer);
                for uri in &facts.events {
                    headers = with(headers, "set_event", uri);
                }
                headers = with(headers, "set_iat", &set.envelope.iat.as_seconds().to_string());
            }
            CloudEvents::Binary => {
                // Kafka protocol binding §3.2.3: `datacontenttype` is `content-type`, and there is no header of that
                // name.
                headers = with(headers, "ce_specversion", "1.0");
                headers = with(headers, "ce_id", set.jti.as_str());
                headers = with(headers, "ce_source", &self.issuer);
                headers = with(headers, "ce_type", kind(facts));
                if let Some(time) = time(set, facts) {
                    headers = with(headers, "ce_time", &time);
                }
            }
            CloudEvents::Structured => {}
        }
        headers = with(headers, "set_stream", &self.stream);
        if let Some(txn) = &facts.txn {
            headers = with(headers, "set_txn", txn);
        }
        headers
    }

    /// Returns a whole CloudEvent as JSON (CloudEvents 1.0, JSON format §3).
    fn event(&self, set: &SealedSet, facts: &Facts<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(set.body.len() + 512);
        out.extend_from_slice(b"{\"specversion\":\"1.0\",\"id\":");
        text(&mut out, set.jti.as_str());
        out.extend_from_slice(b",\"source\":");
        text(&mut out, &self.issuer);
        out.extend_from_slice(b",\"type\":");
        text(&mut out, kind(facts));
        if let Some(time) = time(set, facts) {
            out.extend_from_slice(b",\"time\":");
            text(&mut out, &time);
        }
        match self.value {
            Value::Claims => {
                out.extend_from_slice(b",\"datacontenttype\":\"application/json\",\"data\":");
                out.extend_from_slice(&set.body);
            }
            // JSON format §3.1.1: data that is no JSON is a string.
            Value::Set => {
                out.extend_from_slice(b",\"datacontenttype\":\"application/secevent+jwt\",\"data\":");
                text(&mut out, &String::from_utf8_lossy(&set.body));
            }
        }
        out.push(b'}');
        out
    }
}

/// Returns `delivery` as the API shows it: the stream's own terms, and nothing of where the cluster is.
pub(crate) fn publish(terms: &Terms, uri: &str) -> Json {
    let value = match terms.value {
        Value::Set => None,
        Value::Claims => Some(("value", "claims")),
    };
    let cloudevents = match terms.cloudevents {
        CloudEvents::None => None,
        CloudEvents::Binary => Some(("cloudevents", "binary")),
        CloudEvents::Structured => Some(("cloudevents", "structured")),
    };
    let key = match terms.key {
        Key::Subject => None,
        Key::Stream => Some(("key", "stream")),
        Key::Txn => Some(("key", "txn")),
        Key::None => Some(("key", "none")),
    };
    let timestamp = match terms.timestamp {
        RecordTime::HandOver => None,
        RecordTime::Iat => Some(("timestamp", "iat")),
    };
    let always = [("method", uri), ("cluster", &terms.cluster), ("topic", &terms.topic)];
    let all = always.into_iter().chain([value, cloudevents, key, timestamp].into_iter().flatten());
    all.map(|(name, value)| (name.to_owned(), Json::from(value))).collect()
}

fn with(headers: OwnedHeaders, key: &str, value: &str) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

fn kind<'a>(facts: &'a Facts<'_>) -> &'a str {
    facts.events.first().map_or(NO_TYPE, AsRef::as_ref)
}

/// Returns the time of the event, or else that of its issue, in the format of RFC 3339.
fn time(set: &SealedSet, facts: &Facts<'_>) -> Option<String> {
    let at: Timestamp = facts.toe.unwrap_or(set.envelope.iat);
    let at = jiff::Timestamp::from_millisecond(i64::try_from(at.as_millis()).ok()?).ok()?;
    Some(at.to_string())
}

fn text(out: &mut Vec<u8>, text: &str) {
    // A string is always JSON, and a vector always takes it.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests;
