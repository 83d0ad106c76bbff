//! The options of the method: the operator's section, the grant of a stream, the terms of a stream, and what a source names.

mod validate;

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use setgate_delivery::{Options, Secret};

pub(crate) use validate::{in_cluster, is_loopback};

/// `[methods.kafka]`: the clusters that streams and sources may name. Without any, the method is not offered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Section {
    /// The clusters, by name.
    pub clusters: BTreeMap<String, ClusterSection>,
}

impl Options for Section {}

/// `[methods.kafka.clusters.NAME]`: one cluster. The brokers that it advertises are dialled as they are, past the address guard: that is
/// why only the operator names clusters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSection {
    /// Brokers to begin with, `HOST:PORT` each.
    pub bootstrap: Vec<String>,
    /// TLS to the brokers; without it and with `allow_plaintext` only, nothing is encrypted.
    #[serde(default)]
    pub tls: Option<TlsSection>,
    /// How the gateway tells who it is.
    #[serde(default)]
    pub sasl: Option<SaslSection>,
    /// Whether a cluster without TLS may lie elsewhere than on this machine.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// Records under way at once, of all streams together, 1 to 1,000,000.
    #[serde(default = "in_flight")]
    pub in_flight: usize,
    /// Bytes of records under way at once, of all streams together, 1 MiB to 1 GiB.
    #[serde(default = "in_flight_bytes")]
    pub in_flight_bytes: usize,
    /// How long records wait for others to travel with them, 0s to 1s.
    #[serde(default = "linger", with = "setgate_delivery::duration")]
    pub linger: Duration,
    /// After which a record that no broker has acknowledged is tried again later, 5s to 10m.
    #[serde(default = "timeout", with = "setgate_delivery::duration")]
    pub timeout: Duration,
    /// How records are compressed: "none", "gzip", "snappy", "lz4" or "zstd". SETs are base64 of signed bytes: only zstd gains something.
    #[serde(default)]
    pub compression: Compression,
    /// Bytes of the largest record that is sent, 1 KiB to 64 MiB; not more than the smallest `max.message.bytes` of the topics.
    #[serde(default = "record_bytes")]
    pub record_bytes: usize,
    /// Topics that are not there are made with this shape; without it they are not made.
    #[serde(default)]
    pub create_topics: Option<TopicShape>,
    /// The time between two readings of the client's figures for the metrics, at most 1h; 0s: none.
    #[serde(default = "statistics_interval", with = "setgate_delivery::duration")]
    pub statistics_interval: Duration,
    /// Further properties of librdkafka by name. Those that would break a promise are refused.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}

const fn in_flight() -> usize {
    10_000
}
const fn in_flight_bytes() -> usize {
    64 << 20
}
const fn linger() -> Duration {
    Duration::from_millis(5)
}
const fn timeout() -> Duration {
    Duration::from_secs(60)
}
const fn record_bytes() -> usize {
    1_000_000
}
const fn statistics_interval() -> Duration {
    Duration::from_secs(10)
}

/// TLS to the brokers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSection {
    /// Certificate authorities, as PEM; without them the system's.
    pub ca_pem: Option<String>,
    /// The client certificate to show, with its chain, as PEM.
    pub certificate_pem: Option<String>,
    /// The client certificate's key, as PEM.
    pub key_pem: Option<Secret<String>>,
}

/// How the gateway tells a cluster who it is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, tag = "mechanism")]
pub enum SaslSection {
    /// Name and password in clear: within TLS only.
    #[serde(rename = "PLAIN")]
    Plain(Password),
    /// RFC 7677 with SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256(Password),
    /// RFC 5802 with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512(Password),
    /// A bearer token (RFC 7628), got by client credentials (RFC 6749 §4.4).
    #[serde(rename = "OAUTHBEARER")]
    OauthBearer(TokenSection),
}

/// A name and its password.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Password {
    /// The name.
    pub username: String,
    /// The password.
    pub password: Secret<String>,
}

/// Where tokens come from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSection {
    /// The token endpoint (RFC 6749 §3.2).
    pub token_endpoint: String,
    /// Who asks.
    pub client_id: String,
    /// With which secret, by HTTP Basic (RFC 6749 §2.3.1).
    pub client_secret: Secret<String>,
    /// The scope to ask for.
    #[serde(default)]
    pub scope: Option<String>,
    /// The audience to ask for, where the authorization server wants one.
    #[serde(default)]
    pub audience: Option<String>,
}

/// How records are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// What a topic is like that is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicShape {
    /// Partitions, 1 to 10,000.
    pub partitions: i32,
    /// Copies of each, 1 to 15.
    pub replication: i32,
}

/// The operator's word on one stream or client: which topics it may name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grant {
    /// By cluster, the prefixes of topics. A stream that the operator declared and that has no such list may name any.
    pub topics: BTreeMap<String, Vec<String>>,
}

impl Options for Grant {}

/// What a stream says in `delivery` beside `method`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// The cluster, by the operator's name.
    pub cluster: String,
    /// The topic.
    pub topic: String,
    /// What the value of a record is.
    #[serde(default)]
    pub value: Value,
    /// Whether it travels as a CloudEvent.
    #[serde(default)]
    pub cloudevents: CloudEvents,
    /// What the key of a record is.
    #[serde(default)]
    pub key: Key,
    /// What the timestamp of a record is.
    #[serde(default)]
    pub timestamp: RecordTime,
}

impl Options for Terms {}

/// What the value of a record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Value {
    /// The compact SET, signed: `application/secevent+jwt`.
    #[default]
    Set,
    /// Its claims as JSON, not signed: `application/json`.
    Claims,
}

/// Whether a record is a CloudEvent (CloudEvents 1.0, Kafka protocol binding §3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CloudEvents {
    /// It is none.
    #[default]
    None,
    /// Attributes in headers, the data is the value.
    Binary,
    /// The whole event is the value.
    Structured,
}

/// What the key of a record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Key {
    /// The order key, a keyed hash of the subject: 16 hexadecimal digits. Order per subject is order in a partition.
    #[default]
    Subject,
    /// The stream's id: everything in one partition.
    Stream,
    /// The event's `txn`.
    Txn,
    /// None: spread over partitions.
    None,
}

/// What the timestamp of a record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordTime {
    /// When it is handed over: a topic's retention counts from there.
    #[default]
    HandOver,
    /// The SET's `iat`: retention may delete at once what waited long.
    Iat,
}

/// What a source of kind `kafka` names in `from`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct From {
    /// The cluster, by the operator's name.
    pub cluster: String,
    /// The topics; all partitions of each.
    pub topics: Vec<String>,
    /// The consumer group.
    pub group: String,
    /// What the records are.
    #[serde(default)]
    pub format: Format,
    /// By what a record is known when it comes again.
    #[serde(default)]
    pub identity: KnownBy,
    /// The topic that takes records which are no acceptable events, with `err` and `description` headers; without it they are parked.
    #[serde(default)]
    pub error_topic: Option<String>,
    /// Where a group begins that has no offset yet.
    #[serde(default)]
    pub start: Start,
    /// Records that are taken together, 1 to 10,000.
    #[serde(default = "batch")]
    pub batch: usize,
}

const fn batch() -> usize {
    500
}

/// What the records of a source are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// CloudEvents where the headers say so, else the JSON of intake.
    #[default]
    Auto,
    /// The JSON of intake.
    Json,
    /// CloudEvents, binary or structured, with the JSON of intake as data.
    Cloudevents,
}

/// By what a record is known when it comes again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KnownBy {
    /// By its `id` (of a CloudEvent: `source` and `id`); where it has none, by topic, partition, offset and time.
    #[default]
    Id,
    /// By topic, partition, offset and time, whatever it says.
    Offset,
}

/// Where a group begins that has no offset yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With the oldest record.
    #[default]
    Earliest,
    /// With what comes from its first start on; an offset that is gone from the topic still means the oldest record.
    Latest,
}
