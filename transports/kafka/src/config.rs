//! The options of the method: the operator's section, the grant and the terms of a stream, and the `from` of a source.

mod validate;

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use setgate_delivery::{Options, Secret};

pub(crate) use validate::{in_cluster, is_loopback};

/// The section `[methods.kafka]`: the clusters that streams and sources may name. Without any cluster, the method is
/// not offered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Section {
    /// The clusters, by name.
    pub clusters: BTreeMap<String, ClusterSection>,
}

impl Options for Section {}

/// The section `[methods.kafka.clusters.NAME]`: one cluster. The brokers that it advertises are dialled as they are,
/// past the address guard: that is why only the operator names clusters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSection {
    /// The brokers to begin with, `HOST:PORT` each.
    pub bootstrap: Vec<String>,
    /// TLS to the brokers. Without it nothing is encrypted, which is accepted for brokers on this machine, and for
    /// others with `allow_plaintext` only.
    #[serde(default)]
    pub tls: Option<TlsSection>,
    /// The SASL mechanism and the credentials by which the gateway authenticates.
    #[serde(default)]
    pub sasl: Option<SaslSection>,
    /// True if a cluster without TLS may lie elsewhere than on this machine.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// The most records under way at once, of all streams together, 1 to 1,000,000.
    #[serde(default = "in_flight")]
    pub in_flight: usize,
    /// The most bytes of records under way at once, of all streams together, 1 MiB to 1 GiB.
    #[serde(default = "in_flight_bytes")]
    pub in_flight_bytes: usize,
    /// The time that records wait for others to travel with them, 0s to 1s.
    #[serde(default = "linger", with = "setgate_delivery::duration")]
    pub linger: Duration,
    /// The time after which a record that no broker has acknowledged is tried again later, 5s to 10m.
    #[serde(default = "timeout", with = "setgate_delivery::duration")]
    pub timeout: Duration,
    /// The compression of records: "none", "gzip", "snappy", "lz4" or "zstd". SETs are base64 of signed bytes, so only
    /// zstd gains something.
    #[serde(default)]
    pub compression: Compression,
    /// The bytes of the largest record that is sent, 1 KiB to 64 MiB; not more than the smallest `max.message.bytes` of
    /// the topics.
    #[serde(default = "record_bytes")]
    pub record_bytes: usize,
    /// The shape in which missing topics are created; without it they are not created.
    #[serde(default)]
    pub create_topics: Option<TopicShape>,
    /// The time between two readings of the client's statistics for the metrics, at most 1h; 0s turns them off.
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

/// The options of TLS to the brokers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSection {
    /// The certificate authorities, as PEM; without them the system's.
    pub ca_pem: Option<String>,
    /// The client certificate to show, with its chain, as PEM.
    pub certificate_pem: Option<String>,
    /// The private key of the client certificate, as PEM.
    pub key_pem: Option<Secret<String>>,
}

/// The SASL mechanism by which the gateway authenticates to a cluster, with its credentials.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, tag = "mechanism")]
pub enum SaslSection {
    /// Name and password in clear, accepted within TLS only.
    #[serde(rename = "PLAIN")]
    Plain(Password),
    /// SCRAM with SHA-256 (RFC 7677).
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256(Password),
    /// SCRAM (RFC 5802) with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512(Password),
    /// A bearer token (RFC 7628), obtained by client credentials (RFC 6749 §4.4).
    #[serde(rename = "OAUTHBEARER")]
    OauthBearer(TokenSection),
}

/// A user's name and password.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Password {
    /// The name of the user.
    pub username: String,
    /// The password of the user.
    pub password: Secret<String>,
}

/// The authorization server that issues tokens, and the gateway's credentials there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSection {
    /// The token endpoint (RFC 6749 §3.2).
    pub token_endpoint: String,
    /// The client identifier of the gateway at the authorization server.
    pub client_id: String,
    /// The client secret, sent by HTTP Basic (RFC 6749 §2.3.1).
    pub client_secret: Secret<String>,
    /// The scope to ask for.
    #[serde(default)]
    pub scope: Option<String>,
    /// The audience to ask for, if the authorization server wants one.
    #[serde(default)]
    pub audience: Option<String>,
}

/// The compression of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Records are not compressed.
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

/// The shape in which a topic is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicShape {
    /// The number of partitions, 1 to 10,000.
    pub partitions: i32,
    /// The number of copies of each partition, 1 to 15.
    pub replication: i32,
}

/// The operator's grant to one stream or client: the topics that it may name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grant {
    /// The prefixes of topics, by cluster. A stream that the operator declared and that has no such list may name any
    /// topic.
    pub topics: BTreeMap<String, Vec<String>>,
}

impl Options for Grant {}

/// The terms of a stream: its members of `delivery` beside `method`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// The cluster, by the operator's name.
    pub cluster: String,
    /// The topic.
    pub topic: String,
    /// The content of a record's value.
    #[serde(default)]
    pub value: Value,
    /// The CloudEvents mode of a record, if any.
    #[serde(default)]
    pub cloudevents: CloudEvents,
    /// The content of a record's key.
    #[serde(default)]
    pub key: Key,
    /// The time that a record has as its timestamp.
    #[serde(default)]
    pub timestamp: RecordTime,
}

impl Options for Terms {}

/// The content of a record's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Value {
    /// The compact SET, signed: `application/secevent+jwt`.
    #[default]
    Set,
    /// The SET's claims as JSON, not signed: `application/json`.
    Claims,
}

/// The mode in which a record is a CloudEvent (CloudEvents 1.0, Kafka protocol binding §3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CloudEvents {
    /// The record is no CloudEvent.
    #[default]
    None,
    /// The attributes are in headers, and the data is the value.
    Binary,
    /// The whole event is the value.
    Structured,
}

/// The content of a record's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Key {
    /// The order key, a keyed hash of the subject in 16 hexadecimal digits. Order per subject is then order within a
    /// partition.
    #[default]
    Subject,
    /// The stream's id, which puts everything into one partition.
    Stream,
    /// The event's `txn`.
    Txn,
    /// The record has no key, so records spread over the partitions.
    None,
}

/// The time that a record has as its timestamp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordTime {
    /// The time of the hand-over, from which a topic's retention counts.
    #[default]
    HandOver,
    /// The SET's `iat`; a topic's retention may then delete at once what waited long.
    Iat,
}

/// The `from` of a source of kind `kafka`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct From {
    /// The cluster, by the operator's name.
    pub cluster: String,
    /// The topics, of which all partitions are read.
    pub topics: Vec<String>,
    /// The consumer group.
    pub group: String,
    /// The format of the records.
    #[serde(default)]
    pub format: Format,
    /// The identity by which a repeated record is recognized.
    #[serde(default)]
    pub identity: KnownBy,
    /// The topic for records that are no acceptable events, written with headers such as `err` and `description`;
    /// without it they are parked.
    #[serde(default)]
    pub error_topic: Option<String>,
    /// The place at which a group without an offset begins.
    #[serde(default)]
    pub start: Start,
    /// The most records that are taken together, 1 to 10,000.
    #[serde(default = "batch")]
    pub batch: usize,
}

const fn batch() -> usize {
    500
}

/// The format of a source's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// CloudEvents if the headers say so, otherwise the JSON of intake.
    #[default]
    Auto,
    /// The JSON of intake.
    Json,
    /// CloudEvents, binary or structured, with the JSON of intake as data.
    Cloudevents,
}

/// The identity by which a repeated record is recognized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KnownBy {
    /// The record's `id`, or `source` and `id` of a CloudEvent; a record without one is known by topic, partition,
    /// offset and time.
    #[default]
    Id,
    /// Topic, partition, offset and time, whatever the record says.
    Offset,
}

/// The place at which a group without an offset begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// The oldest record.
    #[default]
    Earliest,
    /// The first record that comes after the group's first start; an offset that is gone from the topic still means the
    /// oldest record.
    Latest,
}
