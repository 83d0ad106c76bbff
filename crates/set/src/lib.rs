#![doc = include_str!("../README.md")]

mod claims;
mod code;
mod event;
mod json;
mod jti;
mod order;
mod subject;
mod time;

pub use claims::{Audience, Envelope, Facts, payload};
pub use code::ErrorCode;
pub use event::{Event, EventError, EventLimits};
pub use json::{JsonError, JsonLimits, parse as parse_json};
pub use jti::{Jti, JtiError};
pub use order::OrderKey;
pub use subject::{Format, Simple, Subject, SubjectError};
pub use time::Timestamp;

/// The party that answered for a SET: the receiver itself, or a broker that took custody of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Receipt {
    /// The receiver acknowledged the SET.
    Receiver,
    /// A broker or service took custody of the SET.
    #[serde(rename = "carrier")]
    Broker,
}

/// The event URIs of the SSF framework and of its older spellings, which only the router sends (hardening H3).
pub mod framework {
    /// The verification event (SSF 1.0 §8.1.4.1).
    pub const VERIFICATION: &str = "https://schemas.openid.net/secevent/ssf/event-type/verification";
    /// The stream updated event (SSF 1.0 §8.1.5).
    pub const STREAM_UPDATED: &str = "https://schemas.openid.net/secevent/ssf/event-type/stream-updated";
    /// Every URI that producers may not use: those of SSF, SSE draft 1, RISC verification, draft-scurtescu and
    /// draft-hunt.
    pub const RESERVED: &[&str] = &[
        VERIFICATION,
        STREAM_UPDATED,
        "https://schemas.openid.net/secevent/sse/event-type/verification",
        "https://schemas.openid.net/secevent/sse/event-type/stream-updated",
        "https://schemas.openid.net/secevent/risc/event-type/verification",
        "https://schemas.openid.net/secevent/risc/event-type/stream-updated",
        "urn:ietf:params:secevent:event-type:core:verification",
        "urn:ietf:params:secevent:verification",
    ];

    /// Returns whether producers are forbidden to use this event URI.
    #[must_use]
    pub fn is_reserved(uri: &str) -> bool {
        RESERVED.contains(&uri)
    }
}
