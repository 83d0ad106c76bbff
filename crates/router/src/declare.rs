//! `[[streams]]`: streams that the operator declares.

use std::{num::NonZeroU32, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Map, Value as Json};
use setgate_clock::duration;
use setgate_set::{Audience, Subject};
use setgate_stream::{Batching, DefaultSubjects, EventsWanted, OnRefusal, Retention, StreamId};

/// A stream of `[[streams]]` in the configuration.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    /// The stream's id: 1 to 128 characters of `A-Z a-z 0-9 - . _ ~`.
    pub id: StreamId,
    /// The issuer's URL, as in `[[issuers]]`.
    pub issuer: String,
    /// The `aud` of its SETs: a string, or an array when the values are one entity.
    pub audience: Audience,
    /// The events that are wanted: `"all"`, or event URIs.
    #[serde(default = "all", deserialize_with = "events")]
    pub events: EventsWanted,
    /// The subjects that belong to the stream at first: `"ALL"` or `"NONE"`.
    #[serde(default = "everyone")]
    pub default_subjects: DefaultSubjects,
    /// Subjects to add; with `NONE` nothing flows before one is added.
    #[serde(default)]
    pub add_subjects: Vec<Subject>,
    /// Subjects to leave out.
    #[serde(default)]
    pub remove_subjects: Vec<Subject>,
    /// The signing algorithm: `RS256`, `PS256`, `ES256` or `EdDSA`; without it the issuer's first.
    #[serde(default)]
    pub algorithm: Option<String>,
    /// The status: `"enabled"`, `"paused"` or `"disabled"`.
    #[serde(default)]
    pub status: DeclaredStatus,
    /// The delivery: `method` and the method's own terms.
    #[serde(deserialize_with = "delivery")]
    pub delivery: DeclaredDelivery,
    /// The operator's grant: what the stream is allowed beyond the method's defaults.
    #[serde(default = "empty")]
    pub grant: Json,
    /// The limits on how long and how much it may keep waiting.
    #[serde(default)]
    pub retention: DeclaredRetention,
    /// The number of SETs that leave together, and the time that they wait for each other.
    #[serde(default, deserialize_with = "batch")]
    pub batch: Batching,
    /// The time after which the stream is paused when its receiver, which comes and fetches, has not come: whole
    /// seconds (SSF 1.0 §8.1.1).
    #[serde(default, deserialize_with = "whole_seconds")]
    pub inactivity_timeout: Option<NonZeroU32>,
    /// The operator's description.
    #[serde(default)]
    pub description: Option<String>,
    /// The consequence of a refusal: `"continue"` or `"stop_key"`.
    #[serde(default)]
    pub on_refusal: OnRefusal,
    /// True to match complex subjects by the letter of SSF 1.0 §8.1.3.1, also without a member in common.
    #[serde(default)]
    pub match_by_the_letter: bool,
}

/// The status that the configuration asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeclaredStatus {
    /// Events are delivered.
    #[default]
    Enabled,
    /// Events are held.
    Paused,
    /// Events are neither delivered nor held.
    Disabled,
}

/// The member `delivery = { method = "…", … }`.
#[derive(Clone, Debug, PartialEq)]
pub struct DeclaredDelivery {
    /// The method's URI or name.
    pub method: String,
    /// The method's terms: all other members.
    pub terms: Json,
}

/// The member `retention = { age = "7d", sets = 1000000, budget_percent = 10 }`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredRetention {
    /// The longest age: `90s`, `15m`, `12h`, `7d`.
    #[serde(default, with = "setgate_clock::duration::optional")]
    pub age: Option<Duration>,
    /// The most SETs.
    pub sets: Option<u64>,
    /// The share of the store's budget in percent, 1 to 100.
    pub budget_percent: Option<u8>,
}

impl DeclaredRetention {
    pub(crate) fn or_default(&self) -> Retention {
        let default = Retention::default();
        Retention {
            age: self.age.unwrap_or(default.age),
            sets: self.sets.unwrap_or(default.sets),
            budget_percent: self.budget_percent.unwrap_or(default.budget_percent).clamp(1, 100),
        }
    }
}

fn all() -> EventsWanted {
    EventsWanted::All
}

fn everyone() -> DefaultSubjects {
    DefaultSubjects::All
}

fn empty() -> Json {
    Json::Object(Map::new())
}

fn events<'de, D: Deserializer<'de>>(from: D) -> Result<EventsWanted, D::Error> {
    match Json::deserialize(from)? {
        Json::String(word) if word == "all" => Ok(EventsWanted::All),
        Json::Array(uris) if !uris.is_empty() => uris
            .into_iter()
            .map(|uri| match uri {
                Json::String(uri) => Ok(uri),
                other => Err(D::Error::custom(format!("`events` lists event URIs; {other} is none"))),
            })
            .collect::<Result<_, _>>()
            .map(EventsWanted::Exact),
        _ => Err(D::Error::custom("`events` is \"all\" or a non-empty array of event URIs")),
    }
}

fn delivery<'de, D: Deserializer<'de>>(from: D) -> Result<DeclaredDelivery, D::Error> {
    let mut members = Map::deserialize(from)?;
    match members.remove("method") {
        Some(Json::String(method)) => Ok(DeclaredDelivery { method, terms: Json::Object(members) }),
        _ => Err(D::Error::custom("`delivery` needs a `method`, for example \"urn:ietf:rfc:8935\"")),
    }
}

/// The member `batch = { sets = 100, bytes = 262144, linger = "0ms" }`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeclaredBatch {
    #[serde(default)]
    sets: Option<NonZeroU32>,
    #[serde(default)]
    bytes: Option<NonZeroU32>,
    #[serde(default, with = "setgate_clock::duration")]
    linger: Duration,
}

fn batch<'de, D: Deserializer<'de>>(from: D) -> Result<Batching, D::Error> {
    let DeclaredBatch { sets, bytes, linger } = DeclaredBatch::deserialize(from)?;
    let most = Duration::from_millis(Batching::LINGER_MOST.into());
    if let Some(why) = duration::outside(linger, Duration::ZERO, most) {
        return Err(D::Error::custom(format!("`batch.linger`: {why}")));
    }
    Ok(Batching { sets, bytes, linger_ms: u32::try_from(linger.as_millis()).unwrap_or(Batching::LINGER_MOST) })
}

fn whole_seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<NonZeroU32>, D::Error> {
    let timeout = duration::deserialize(from)?;
    let seconds = u32::try_from(timeout.as_secs()).ok().filter(|_| timeout.subsec_nanos() == 0);
    seconds
        .and_then(NonZeroU32::new)
        .map(Some)
        .ok_or_else(|| D::Error::custom("`inactivity_timeout` is whole seconds, at least \"1s\""))
}
