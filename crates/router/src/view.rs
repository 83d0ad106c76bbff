//! The views of streams, as shown to people.

use std::time::Duration;

use serde::Serialize;
use setgate_delivery::{Cause, Form, Initiator, Profile};
use setgate_set::{Audience, Timestamp};
use setgate_store::{Cursor, Obstacle, StoreError, StreamNo};
use setgate_stream::{Owner, Stream};

use crate::{Inner, counts::rule_name, endpoint::Endpoint, session, subscription::Subscription};

/// A stream with its lag, its last error and, where nothing can come, the reason.
#[derive(Clone, Debug, Serialize)]
pub struct StreamView {
    /// The stream's id.
    pub id: String,
    /// The stream's number.
    pub no: u32,
    /// The issuer's URL.
    pub issuer: String,
    /// The `aud` of its SETs.
    pub audience: Audience,
    /// The method's URI or name.
    pub method: String,
    /// Scheme, host and port of the endpoint, and a hash of the rest (hardening H50); for a responder the gateway's own
    /// URL.
    pub endpoint: Option<String>,
    /// The status: `enabled`, `paused` or `disabled`.
    pub status: &'static str,
    /// The reason, when the stream is not enabled.
    pub reason: Option<String>,
    /// The JWS algorithm.
    pub algorithm: String,
    /// The owner: `operator`, or the client.
    pub owner: String,
    /// SETs owed and not settled.
    pub waiting: u64,
    /// SETs handed over and not settled; they are among those that wait.
    pub in_flight: usize,
    /// SETs parked now.
    pub parked: u64,
    /// Deliveries acknowledged.
    pub acknowledged: u64,
    /// Deliveries parked, whatever became of them later.
    pub parked_total: u64,
    /// Deliveries dropped by rule.
    pub dropped: u64,
    /// Deliveries ever owed: acknowledged + parked_total + dropped + waiting.
    pub owed: u64,
    /// Age of the oldest waiting SET, in seconds.
    pub oldest_waiting_seconds: Option<u64>,
    /// The last failure.
    pub last_error: Option<String>,
    /// Seconds since the last failure.
    pub last_error_seconds_ago: Option<u64>,
    /// A remark on a receiver that works but deviates from the method.
    pub warning: Option<String>,
    /// Seconds since the last acknowledgement in this process.
    pub last_success_seconds_ago: Option<u64>,
    /// Seconds since the receiver last came in this process, where it is the receiver that comes.
    pub last_session_seconds_ago: Option<u64>,
    /// Seconds until the next attempt, where everything waits for its time.
    pub next_attempt_seconds: Option<u64>,
    /// The endpoint that the stream shares with others, while it fails.
    pub held: Option<HeldView>,
    /// The SETs that its limits dropped since the start, if any were dropped within the last day.
    pub limited: Option<LimitedView>,
    /// The reason why nothing can come, if there is one.
    pub nothing_because: Option<String>,
    /// The operator's description.
    pub description: Option<String>,
}

/// The SETs that a stream's limits, or the store's budget, dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LimitedView {
    /// The limit: `too_large` (the budget), `too_many` or `too_old`.
    pub rule: &'static str,
    /// SETs dropped since the start.
    pub dropped: u64,
    /// Seconds since the last of them.
    pub seconds_ago: u64,
}

/// The time for which a stream is shown as limited after its limits dropped something.
const LIMITED_SHOWN: Duration = Duration::from_secs(24 * 60 * 60);

/// An endpoint of the operator that fails, such as a cluster: all its streams wait, and one SET at a time probes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeldView {
    /// The endpoint's name.
    pub endpoint: String,
    /// The cause.
    pub cause: String,
    /// Seconds for which it has been failing.
    pub for_seconds: u64,
    /// Seconds until the next probe; `None` while one is under way.
    pub next_attempt_seconds: Option<u64>,
}

impl HeldView {
    fn of(endpoint: &Endpoint, now: Duration) -> Option<Self> {
        let held = endpoint.held()?;
        Some(Self {
            endpoint: endpoint.name().to_string(),
            cause: setgate_telemetry::clean(&held.cause.to_string(), 512),
            for_seconds: now.saturating_sub(held.since).as_secs(),
            next_attempt_seconds: held.until.map(|at| at.saturating_sub(now).as_secs()),
        })
    }
}

/// The part of a view that comes from a subscription's state, read under its lock.
#[derive(Default)]
struct StateView {
    in_flight: usize,
    last_error: Option<(Timestamp, Cause)>,
    last_success: Option<Timestamp>,
    last_session: Option<Timestamp>,
}

impl StateView {
    fn of(subscription: &Subscription, now: Timestamp) -> Self {
        let initiator = subscription.served.load().profile.initiator;
        let state = subscription.state.lock();
        let stalled = state.shown.stalled.clone().map(|cause| (now, cause));
        Self {
            in_flight: state.in_flight.leased.len(),
            last_error: stalled.or_else(|| state.shown.last_error.clone()),
            last_success: state.shown.last_success,
            last_session: state.presence.last(now).filter(|_| initiator == Initiator::Receiver),
        }
    }
}

impl Inner {
    /// Returns the reason why nothing can come to this stream, the widest one first.
    fn nothing_because(
        &self,
        stream: &Stream,
        subscription: Option<&Subscription>,
        unread: Option<StoreError>,
    ) -> Option<String> {
        self.nothing_comes(unread).or_else(|| setgate_stream::why_nothing(stream)).or_else(|| {
            let Some(subscription) = subscription else {
                return Some(
                    "The stream's method or issuer is not configured; the log of the start says which.".into(),
                );
            };
            self.no_key(stream, &subscription.served.load().profile)
        })
    }

    /// Returns the endpoint to which the stream's SETs go, without what may be secret.
    fn endpoint_label(&self, stream: &Stream, subscription: Option<&Subscription>) -> Option<String> {
        let Some(subscription) = subscription else {
            let url = stream.delivery.terms.get("endpoint_url").and_then(serde_json::Value::as_str);
            return url.map(setgate_telemetry::endpoint_label);
        };
        session::endpoint(&subscription.served.load(), |terms, at| {
            setgate_delivery::find(&self.methods, &stream.delivery.method)?.publish(terms, at).ok()
        })
    }

    /// Returns the reason why no stream gets anything, or why the counts of this one are unknown.
    fn nothing_comes(&self, unread: Option<StoreError>) -> Option<String> {
        let obstacle = self.shared.store.health().obstacle.filter(Obstacle::stops_delivery);
        match (obstacle, unread) {
            (Some(obstacle), _) => Some(format!("{obstacle}; {}", obstacle.remedy())),
            (None, Some(error)) => Some(format!("its counts cannot be read: {error}")),
            (None, None) => None,
        }
    }

    /// Returns the reason why nothing of this stream can be signed.
    fn no_key(&self, stream: &Stream, profile: &Profile) -> Option<String> {
        let issuer = self.issuer(&stream.issuer).filter(|_| profile.form == Form::Token)?;
        let algorithm = stream.algorithm.parse().ok()?;
        issuer.keyring.signer(algorithm).is_none().then(|| {
            format!("no key of {} signs with {}; `setgate keys import` brings one", issuer.url, stream.algorithm)
        })
    }

    pub(crate) async fn view(&self, stream: &Stream) -> StreamView {
        let no = StreamNo(stream.no);
        let now = Timestamp::from_millis(self.shared.runtime.clock.wall_millis());
        let (cursor, unread) = match self.shared.store.cursor(no).await {
            Ok(cursor) => (cursor, None),
            Err(error) => (Cursor::default(), Some(error)),
        };
        let limited = self.limited.lock().get(&no).copied();
        let subscription = self.subscription(no);
        let ago = |at: Timestamp| now.since(at).as_secs();
        let state =
            subscription.as_ref().map_or_else(StateView::default, |subscription| StateView::of(subscription, now));
        let last_error = state.last_error;
        StreamView {
            id: stream.id.to_string(),
            no: stream.no,
            issuer: stream.issuer.to_string(),
            audience: stream.audience.clone(),
            method: stream.delivery.method.clone(),
            endpoint: self.endpoint_label(stream, subscription.as_deref()),
            status: stream.status.word(),
            reason: stream.status.why().map(|why| why.text().to_owned()),
            algorithm: stream.algorithm.clone(),
            owner: match &stream.owner {
                Owner::Operator => "operator".into(),
                Owner::Client(client) => client.clone(),
            },
            waiting: cursor.tally.waiting,
            in_flight: state.in_flight,
            parked: cursor.parked_now,
            acknowledged: cursor.tally.acknowledged_receiver + cursor.tally.acknowledged_broker,
            parked_total: cursor.tally.parked,
            dropped: cursor.tally.dropped.values().sum(),
            owed: cursor.tally.owed,
            // The age is measured by the clock that accepted the SET, which is not the wall clock while that is not
            // believed.
            oldest_waiting_seconds: cursor
                .oldest
                .map(|head| self.shared.store.time().now.since(head.accepted).as_secs()),
            last_error_seconds_ago: last_error.as_ref().map(|(at, _)| ago(*at)),
            last_error: last_error.map(|(_, cause)| setgate_telemetry::clean(&cause.to_string(), 512)),
            warning: subscription.as_ref().and_then(|subscription| subscription.served.load().channel.remark()),
            last_success_seconds_ago: state.last_success.map(ago),
            last_session_seconds_ago: state.last_session.map(ago),
            next_attempt_seconds: subscription
                .as_ref()
                .filter(|_| cursor.tally.waiting > 0)
                .and_then(|subscription| subscription.next_attempt())
                .map(|wait| wait.as_secs()),
            held: subscription.as_ref().and_then(|subscription| {
                HeldView::of(subscription.served.load().endpoint.as_ref()?, self.shared.runtime.clock.monotonic())
            }),
            limited: limited.filter(|limited| now.since(limited.at) < LIMITED_SHOWN).map(|limited| LimitedView {
                rule: rule_name(limited.rule),
                dropped: limited.dropped,
                seconds_ago: ago(limited.at),
            }),
            nothing_because: self.nothing_because(stream, subscription.as_deref(), unread),
            description: stream.description.clone(),
        }
    }
}
