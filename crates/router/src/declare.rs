//! `[[streams]]`: streams that the operator declares.

use std::{num::NonZeroU32, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Map, Value as Json};
use setgate_set::{Audience, Subject};
use setgate_stream::{Batching, DefaultSubjects, EventsWanted, OnRefusal, Retention, StreamId};

/// A stream of `[[streams]]` in the configuration.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    /// The stream's id: 1 to 128 of `A-Z a-z 0-9 - . _ ~`.
    pub id: StreamId,
    /// The issuer's URL, as in `[[issuers]]`.
    pub issuer: String,
    /// The `aud` of its SETs: a string, or an array when the values are one entity.
    pub audience: Audience,
    /// `"all"`, or event URIs.
    #[serde(default = "all", deserialize_with = "events")]
    pub events: EventsWanted,
    /// `"ALL"` or `"NONE"`.
    #[serde(default = "everyone")]
    pub default_subjects: DefaultSubjects,
    /// Subjects to add; with `NONE` nothing flows before one is.
    #[serde(default)]
    pub add_subjects: Vec<Subject>,
    /// Subjects to leave out.
    #[serde(default)]
    pub remove_subjects: Vec<Subject>,
    /// `RS256`, `PS256`, `ES256` or `EdDSA`; without it the issuer's first.
    #[serde(default)]
    pub algorithm: Option<String>,
    /// `"enabled"`, `"paused"` or `"disabled"`.
    #[serde(default)]
    pub status: DeclaredStatus,
    /// `method` and the method's own terms.
    #[serde(deserialize_with = "delivery")]
    pub delivery: DeclaredDelivery,
    /// The operator's grant: what the stream is allowed beyond the method's defaults.
    #[serde(default = "empty")]
    pub grant: Json,
    /// How long and how much it may keep waiting.
    #[serde(default)]
    pub retention: DeclaredRetention,
    /// How many SETs leave together, and how long they wait for each other.
    #[serde(default, deserialize_with = "batch")]
    pub batch: Batching,
    /// Pause the stream when its receiver, who comes and fetches, has not come for so many seconds (SSF 1.0 §8.1.1).
    #[serde(default)]
    pub inactivity_timeout_seconds: Option<NonZeroU32>,
    /// The operator's description.
    #[serde(default)]
    pub description: Option<String>,
    /// `"continue"` or `"stop_key"`.
    #[serde(default)]
    pub on_refusal: OnRefusal,
    /// Match complex subjects by the letter of SSF 1.0 §8.1.3.1, also without a member in common.
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

/// `delivery = { method = "…", … }`.
#[derive(Clone, Debug, PartialEq)]
pub struct DeclaredDelivery {
    /// The method's URI or name.
    pub method: String,
    /// The method's terms: all other members.
    pub terms: Json,
}

/// `retention = { age = "7d", sets = 1000000, budget_percent = 10 }`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredRetention {
    /// `90s`, `15m`, `12h`, `7d`.
    #[serde(default, deserialize_with = "age")]
    pub age: Option<Duration>,
    /// The number of SETs.
    pub sets: Option<u64>,
    /// Percent of the store's budget, 1 to 100.
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

fn batch<'de, D: Deserializer<'de>>(from: D) -> Result<Batching, D::Error> {
    let batch = Batching::deserialize(from)?;
    if batch.linger_ms > Batching::LINGER_MOST {
        return Err(D::Error::custom(format!("`batch.linger_ms` is at most {}", Batching::LINGER_MOST)));
    }
    Ok(batch)
}

fn age<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    let wrong =
        || D::Error::custom(format!("`{text}` is no age: a number with s, m, h or d is expected, for example \"7d\""));
    let unit = text.chars().last().ok_or_else(wrong)?;
    let number: u64 = text.strip_suffix(unit).and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    Ok(Some(Duration::from_secs(number.saturating_mul(seconds))))
}
