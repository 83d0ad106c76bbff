//! The framework SETs (SSF 1.0 §8.1.4, §8.1.5), which only the router makes; each is addressed to exactly one stream
//! (hardening H3).

use std::sync::Arc;

use serde_json::json;
use setgate_set::framework;
use setgate_store::{Kind, NewEvent, ProducerNo, Streams, Version};
use setgate_stream::Stream;

use crate::{Inner, Issuer};

/// A framework event. Producers' input cannot construct one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Announcement {
    /// The transmitter changed the stream's status on its own.
    StreamUpdated { status: &'static str, reason: Option<String> },
}

impl Announcement {
    /// Makes the record that carries the event.
    pub(crate) fn record(self, inner: &Inner, issuer: &Issuer, stream: &Stream, config: Version) -> NewEvent {
        let (uri, payload) = match self {
            Self::StreamUpdated { status, reason: Some(reason) } => {
                (framework::STREAM_UPDATED, json!({ "status": status, "reason": reason }))
            }
            Self::StreamUpdated { status, reason: None } => (framework::STREAM_UPDATED, json!({ "status": status })),
        };
        let sub_id = json!({ "format": "opaque", "id": stream.id });
        let body = json!({ "events": { uri: payload }, "sub_id": sub_id, "txn": inner.fresh_txn() });
        NewEvent {
            kind: Kind::Control,
            issuer: issuer.no,
            producer: ProducerNo::default(),
            config,
            order: inner.shared.store.names().order(&format!("stream {}", stream.id)),
            targets: Arc::new(Streams::from_iter([stream.no])),
            body: body.to_string().into(),
            once: None,
        }
    }
}
