//! The data that the listener needs to let a receiver in to its stream.

use std::sync::Arc;

use setgate_delivery::{Initiator, spi::AnyChannel};
use setgate_stream::{Owner, Stream};

use crate::{
    Router,
    contract::Core,
    subscription::{Served, Subscription},
};

/// The stream that a receiver asks for: everything that its session needs, without a read of the store.
#[derive(Clone)]
pub struct SessionTarget {
    /// The subscription.
    pub subscription: setgate_delivery::Subscription,
    /// The channel, as the method made it; it lives as long as the stream's delivery is configured so.
    pub channel: Arc<dyn AnyChannel>,
    /// The method's name, as in the path.
    pub method: &'static str,
    /// The side that speaks first; only a responder's stream has sessions.
    pub initiator: Initiator,
    /// The stream's id.
    pub stream: Arc<str>,
    /// The issuer's URL.
    pub issuer: Arc<str>,
    /// The owner of the stream.
    pub owner: Owner,
    core: Arc<Subscription>,
}

impl SessionTarget {
    /// Notes that the receiver came: its inactivity begins anew (SSF 1.0 §8.1.1). Called once it was let in.
    pub fn touch(&self) {
        self.core.touch();
    }
}

impl std::fmt::Debug for SessionTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SessionTarget({} by {})", self.stream, self.method)
    }
}

impl Router {
    /// Returns the stream with this id, for a receiver at the listener; `None` where it does not exist or its method is
    /// not in force.
    #[must_use]
    pub fn session_target(&self, stream_id: &str) -> Option<SessionTarget> {
        let no = self.0.streams_by_id.load().get(stream_id).copied()?;
        let core = self.0.subscription(no)?;
        let served = core.served.load_full();
        Some(SessionTarget {
            subscription: setgate_delivery::Subscription::new(Arc::new(Core::new(core.clone(), served.clone()))),
            channel: served.channel.clone(),
            method: served.method,
            initiator: served.profile.initiator,
            stream: served.stream.id.shared(),
            issuer: served.stream.issuer.clone(),
            owner: served.stream.owner.clone(),
            core: core.clone(),
        })
    }
}

/// Returns the URL at which a receiver opens its stream.
pub(crate) fn address(issuer: &str, method: &str, stream: &str) -> String {
    format!("{}/{method}/{stream}", issuer.trim_end_matches('/'))
}

/// Returns the endpoint of a stream as shown to people: the receiver's without what could be secret, or the gateway's
/// own in full.
pub(crate) fn endpoint(
    served: &Served,
    publish: impl FnOnce(serde_json::Value, &str) -> Option<serde_json::Value>,
) -> Option<String> {
    let Stream { issuer, id, delivery, .. } = &*served.stream;
    match served.profile.initiator {
        Initiator::Gateway => {
            let url = delivery.terms.get("endpoint_url").and_then(serde_json::Value::as_str);
            url.map(setgate_telemetry::endpoint_label)
                .or_else(|| served.profile.endpoint.as_ref().map(ToString::to_string))
        }
        Initiator::Receiver => {
            let at = address(issuer, served.method, id.as_str());
            let shown = publish(delivery.terms.clone(), &at);
            let shown = shown.as_ref().and_then(|shown| shown.get("endpoint_url")).and_then(serde_json::Value::as_str);
            Some(shown.map_or(at.clone(), str::to_owned))
        }
    }
}
