#![doc = include_str!("README.md")]

mod client;
mod config;
mod tokens;

pub use config::{
    CloudEvents, ClusterSection, Compression, Format, From, Grant, Key, KnownBy, Password, RecordTime, SaslSection,
    Section, Start, Terms, TlsSection, TokenSection, TopicShape, Value,
};
use rdkafka as _;
