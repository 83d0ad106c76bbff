//! The configuration of a stream (SSF 1.0 §8.1.1), as the gateway keeps it.

use std::{collections::BTreeSet, fmt, num::NonZeroU32, str::FromStr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use setgate_set::{Audience, Timestamp};

use crate::{Roster, Status};

/// The public id of a stream: 1 to 128 URL-unreserved characters (SSF 1.0 §8.1.1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(Arc<str>);

/// The text is no stream id.
#[derive(Clone, Debug, thiserror::Error)]
#[error("a stream id has 1 to 128 characters of A-Z a-z 0-9 - . _ ~")]
pub struct StreamIdError;

impl StreamId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl FromStr for StreamId {
    type Err = StreamIdError;

    fn from_str(text: &str) -> Result<Self, StreamIdError> {
        let fits =
            (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
        if fits && text != "." && text != ".." { Ok(Self(text.into())) } else { Err(StreamIdError) }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamId({})", self.0)
    }
}

impl Serialize for StreamId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for StreamId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A stream as the gateway keeps it: a control-plane record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// The stream's number: allocated once, never used again. Targets, cursors and `jti` use it.
    pub no: u32,
    /// The public id.
    pub id: StreamId,
    /// The issuer's URL, byte for byte as configured.
    #[serde(with = "shared")]
    pub issuer: Arc<str>,
    /// The `aud` of its SETs. It cannot be changed while SETs wait.
    pub audience: Audience,
    /// The delivery: method, terms and grant.
    pub delivery: Delivery,
    /// The event types that the stream wants.
    pub events: EventsWanted,
    /// The default for subjects that nobody added or removed (SSF 1.0 §7.1).
    pub default_subjects: DefaultSubjects,
    /// Subjects that were added or removed.
    pub roster: Roster,
    /// The JWS algorithm of its SETs: `RS256`, `PS256`, `ES256` or `EdDSA`.
    pub algorithm: String,
    /// The status.
    pub status: Status,
    /// The owner: who declared the stream.
    pub owner: Owner,
    /// The description for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// How long and how much it may keep waiting.
    pub retention: Retention,
    /// The effect of a refusal on later SETs of the same order key.
    #[serde(default)]
    pub on_refusal: OnRefusal,
    /// Complex subjects match only with a member in common, unless the operator wants the letter of SSF 1.0 §8.1.3.1.
    #[serde(default)]
    pub match_by_the_letter: bool,
    /// How many SETs leave together, and how long they wait for each other.
    #[serde(default, skip_serializing_if = "Batching::is_default")]
    pub batch: Batching,
    /// A receiver that comes and fetches, and has not come for so many seconds, is given up: the stream is paused (SSF 1.0 §8.1.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inactivity_timeout_seconds: Option<NonZeroU32>,
    /// The time at which the stream was made.
    pub created: Timestamp,
}

/// The delivery of a stream: the method's URI, the receiver's terms, the operator's grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    /// The method's URI or name.
    pub method: String,
    /// The method's terms: the members of `delivery` beside `method`. Secret ones are encrypted at rest.
    pub terms: Json,
    /// The operator's grant: ceilings, allowed networks.
    #[serde(default)]
    pub grant: Json,
}

/// The event types that a stream wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventsWanted {
    /// All types that the issuer sends.
    All,
    /// These URIs, compared as exact strings.
    Exact(BTreeSet<String>),
}

impl EventsWanted {
    /// Returns whether an event of this type is wanted.
    #[must_use]
    pub fn wants(&self, event: &str) -> bool {
        match self {
            Self::All => true,
            Self::Exact(uris) => uris.contains(event),
        }
    }
}

/// The default for subjects that nobody added or removed (SSF 1.0 §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DefaultSubjects {
    /// Events about all subjects are sent.
    #[serde(rename = "ALL")]
    All,
    /// Events about added subjects only are sent.
    #[serde(rename = "NONE")]
    None,
}

/// The owner of a stream: who declared it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// The operator, in the configuration.
    Operator,
    /// A receiver's client, through the API.
    Client(String),
}

/// How long and how much a stream may keep waiting; the oldest are dropped first, counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Age of a waiting SET.
    pub age: Duration,
    /// Number of waiting SETs.
    pub sets: u64,
    /// Share of the store's budget, in percent.
    pub budget_percent: u8,
}

impl Default for Retention {
    fn default() -> Self {
        Self { age: Duration::from_secs(7 * 24 * 3600), sets: 1_000_000, budget_percent: 10 }
    }
}

/// How many SETs of a stream leave together: never more than its method carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batching {
    /// SETs at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sets: Option<NonZeroU32>,
    /// Bytes at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<NonZeroU32>,
    /// How long a SET waits for others to leave with it, in milliseconds.
    #[serde(default)]
    pub linger_ms: u32,
}

impl Batching {
    /// The longest linger in milliseconds.
    pub const LINGER_MOST: u32 = 10_000;

    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// How long a SET waits for others.
    #[must_use]
    pub fn linger(&self) -> Duration {
        Duration::from_millis(self.linger_ms.min(Self::LINGER_MOST).into())
    }
}

/// The effect of a refusal on later SETs of the same order key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRefusal {
    /// The lane goes on: a refusal settles.
    #[default]
    Continue,
    /// The lane stops until the refused SET was issued again or dropped.
    StopKey,
}

/// Shared texts as JSON strings.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(from).map(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_id_has_unreserved_characters_only() {
        for good in ["a", "f67e39a0a4d34d56b3aa1bc4cff0069f", "A.b-c_d~e", "..."] {
            assert_eq!(good.parse::<StreamId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "a b", "a%41", "ä", &"x".repeat(129)] {
            assert!(bad.parse::<StreamId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn event_types_compare_as_exact_strings() {
        let wanted = EventsWanted::Exact(["urn:a".to_owned()].into());
        assert!(wanted.wants("urn:a") && !wanted.wants("URN:a") && !wanted.wants("urn:a/"));
        assert!(EventsWanted::All.wants("urn:b"));
    }
}
