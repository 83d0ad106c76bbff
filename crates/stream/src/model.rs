//! The configuration of a stream (SSF 1.0 §8.1.1), as the gateway keeps it.

use std::{collections::BTreeSet, fmt, num::NonZeroU32, str::FromStr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use setgate_set::{Audience, Timestamp};

use crate::{Roster, Status};

/// The public id of a stream: 1 to 128 URL-unreserved characters (SSF 1.0 §8.1.1), but not `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(Arc<str>);

/// The text is not a stream id.
#[derive(Clone, Debug, thiserror::Error)]
#[error("a stream id has 1 to 128 characters of A-Z a-z 0-9 - . _ ~")]
pub struct StreamIdError;

impl StreamId {
    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the text as a shared string.
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
    /// The stream's number, which is allocated once and never reused. Targets, cursors and `jti` refer to it.
    pub no: u32,
    /// The public id.
    pub id: StreamId,
    /// The issuer's URL, byte for byte as configured.
    #[serde(with = "shared")]
    pub issuer: Arc<str>,
    /// The `aud` of the stream's SETs. It cannot be changed while SETs wait.
    pub audience: Audience,
    /// The delivery method with its terms and grant.
    pub delivery: Delivery,
    /// The event types that the stream wants.
    pub events: EventsWanted,
    /// The default for subjects that were neither added nor removed (SSF 1.0 §7.1).
    pub default_subjects: DefaultSubjects,
    /// The subjects that were added or removed.
    pub roster: Roster,
    /// The JWS algorithm of the stream's SETs: `RS256`, `PS256`, `ES256` or `EdDSA`.
    pub algorithm: String,
    /// The status.
    pub status: Status,
    /// The owner, which declared the stream.
    pub owner: Owner,
    /// The description for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The limits of the SETs that wait for the stream.
    pub retention: Retention,
    /// The effect of a refusal on later SETs of the same order key.
    #[serde(default)]
    pub on_refusal: OnRefusal,
    /// The matching of complex subjects by the letter of SSF 1.0 §8.1.3.1; by default they match only with a member in
    /// common.
    #[serde(default)]
    pub match_by_the_letter: bool,
    /// The number of SETs that are sent together, and how long they wait for each other.
    #[serde(default, skip_serializing_if = "Batching::is_default")]
    pub batch: Batching,
    /// The seconds without a request after which a receiver that fetches its SETs is considered gone and the stream is
    /// paused (SSF 1.0 §8.1.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inactivity_timeout_seconds: Option<NonZeroU32>,
    /// The time at which the stream was created.
    pub created: Timestamp,
}

/// The delivery of a stream: the method's URI, the receiver's terms and the operator's grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    /// The method's URI or name.
    pub method: String,
    /// The method's terms: the members of `delivery` other than `method`. Secret ones are encrypted at rest.
    pub terms: Json,
    /// The operator's grant, such as ceilings and allowed networks.
    #[serde(default)]
    pub grant: Json,
}

/// The event types that a stream wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventsWanted {
    /// Every type that the issuer sends.
    All,
    /// The listed URIs, compared as exact strings.
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

/// The default for subjects that were neither added nor removed (SSF 1.0 §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DefaultSubjects {
    /// Events about all subjects are sent.
    #[serde(rename = "ALL")]
    All,
    /// Events about added subjects only are sent.
    #[serde(rename = "NONE")]
    None,
}

/// The owner of a stream, which declared it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// The operator, in the configuration.
    Operator,
    /// A receiver's client, through the API.
    Client(String),
}

/// The limits of the SETs that wait for a stream. The oldest are dropped first, and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// The greatest age of a waiting SET.
    pub age: Duration,
    /// The most waiting SETs.
    pub sets: u64,
    /// The share of the store's budget, in percent.
    pub budget_percent: u8,
}

impl Default for Retention {
    fn default() -> Self {
        Self { age: Duration::from_secs(7 * 24 * 3600), sets: 1_000_000, budget_percent: 10 }
    }
}

/// The limits of one batch of a stream's SETs, within those of its method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batching {
    /// The most SETs in one batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sets: Option<NonZeroU32>,
    /// The most bytes in one batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<NonZeroU32>,
    /// The longest time that a SET waits for others to be sent with it, in milliseconds.
    #[serde(default)]
    pub linger_ms: u32,
}

impl Batching {
    /// The longest linger, in milliseconds.
    pub const LINGER_MOST: u32 = 10_000;

    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the longest time that a SET waits for others, capped at [`Batching::LINGER_MOST`].
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
    /// The lane stops until the refused SET has been issued again or dropped.
    StopKey,
}

/// Serde functions for shared strings.
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
