//! The health of a cluster as the client library reports it: it explains why records time out, and tells whether the
//! cluster can be used.
//!
//! A delivery report never names a wrong password or an unknown authority: such a record only times out. The library
//! reports the cause beside it, through the error callback, and it is kept here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rdkafka::{error::KafkaError, types::RDKafkaErrorCode};
use setgate_delivery::{BrokerEvent, Cause, Runtime, clean};

use crate::words::{is_certificate_alert, is_of_mechanism};

/// The longest text that is kept, in bytes.
const LONGEST: usize = 400;
/// The time after a success within which an error of credentials or TLS concerns one broker only.
const FRESH: Duration = Duration::from_secs(10);
/// The time within which an equal error is ignored, since the error callback comes twice for every event.
const TWICE: Duration = Duration::from_secs(1);

type Report = Arc<dyn Fn(BrokerEvent) + Send + Sync>;

/// The reported health of one cluster.
pub(crate) struct ReportedHealth {
    broker: Arc<str>,
    report: Report,
    runtime: Runtime,
    /// The time for which an error may explain a record that timed out.
    keep: Duration,
    state: Mutex<State>,
    /// The milliseconds of the last acknowledgement plus one, by the monotonic clock; 0 means that there was none yet.
    succeeded_at: AtomicU64,
    /// True if an acknowledgement would change what is known.
    doubted: AtomicBool,
}

#[derive(Default)]
struct State {
    /// The last error of credentials or certificates, in either direction.
    refused: Option<Said>,
    /// The last error of connections that are lost, or cannot be had.
    lost: Option<Said>,
    last: Option<(Duration, RDKafkaErrorCode, String)>,
    up: Option<bool>,
}

#[derive(Clone)]
struct Said {
    at: Duration,
    cause: Cause,
}

/// The reason, as far as it is known, why a record was not acknowledged in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The credentials or certificates are wrong, which is the operator's to fix.
    Refused(Cause),
    /// The cluster is at fault, or the way to it.
    Lost(Cause),
    /// Other records got through meanwhile, so the topic or its partition is at fault.
    OnlyHere,
    /// The reason is unknown: no recent error explains it.
    Unknown,
}

impl ReportedHealth {
    pub(crate) fn new(broker: Arc<str>, report: Report, runtime: Runtime, timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            broker,
            report,
            runtime,
            keep: timeout + Duration::from_secs(30),
            state: Mutex::default(),
            succeeded_at: AtomicU64::new(0),
            doubted: AtomicBool::new(true),
        })
    }

    /// Returns the name of the cluster in reports, `kafka/<cluster>`.
    pub(crate) fn broker(&self) -> &Arc<str> {
        &self.broker
    }

    /// Returns the time since some fixed point of the process.
    pub(crate) fn now(&self) -> Duration {
        self.runtime.clock.monotonic()
    }

    /// Takes an error of the library's error callback.
    pub(crate) fn on_error(&self, error: &KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        let kind = kind(code, reason);
        let mut text = clean(lasting(reason), LONGEST);
        if kind == Kind::Tls && code != RDKafkaErrorCode::SSL {
            text = clean(&format!("the broker does not take the gateway's client certificate: {text}"), LONGEST);
        }
        if is_of_mechanism(code, reason) {
            text = clean(&format!("the broker does not offer this `sasl.mechanism`: {text}"), LONGEST);
        }
        let now = self.now();
        let down = {
            let mut state = self.state.lock();
            let again = |(at, of, said): &(Duration, RDKafkaErrorCode, String)| {
                *of == code && *said == text && now.saturating_sub(*at) < TWICE
            };
            if state.last.as_ref().is_some_and(again) {
                return;
            }
            state.last = Some((now, code, text.clone()));
            let refused = |code| Said { at: now, cause: Cause::configuration(code, text.clone()) };
            let lost = |code| Said { at: now, cause: Cause::new(code, text.clone()) };
            match kind {
                Kind::Credentials => state.refused = Some(refused("credentials")),
                Kind::Tls => state.refused = Some(refused("tls")),
                // The words that all are lost tell less than the last error of one connection.
                Kind::AllLost if state.lost.is_some() => {}
                Kind::Lost | Kind::AllLost => state.lost = Some(lost("unreachable")),
                Kind::Other => {}
            }
            let cause = match kind {
                Kind::Credentials | Kind::Tls if self.is_well(now) => None,
                Kind::Credentials | Kind::Tls => state.refused.clone(),
                Kind::AllLost => state.refused.clone().or_else(|| state.lost.clone()),
                Kind::Lost | Kind::Other => None,
            };
            cause.filter(|_| state.up.replace(false) != Some(false)).map(|said| said.cause)
        };
        self.doubted.store(true, Ordering::Release);
        tracing::warn!(broker = %self.broker, code = ?code, text, "a Kafka client reports an error");
        self.tell_down(down);
    }

    /// Reports that the cluster cannot be used, whatever the library says.
    pub(crate) fn down(&self, cause: Cause) {
        let new = self.state.lock().up.replace(false) != Some(false);
        self.doubted.store(true, Ordering::Release);
        self.tell_down(new.then_some(cause));
    }

    /// Notes that a broker acknowledged a record.
    pub(crate) fn on_success(&self) {
        let millis = u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX - 1);
        self.succeeded_at.store(millis.saturating_add(1), Ordering::Release);
        if self.doubted.swap(false, Ordering::AcqRel) {
            let mut state = self.state.lock();
            state.refused = None;
            let new = state.up.replace(true) != Some(true);
            drop(state);
            self.tell_up(new);
        }
    }

    /// Notes that the library has a connection to a broker; nothing may have been sent over it yet.
    pub(crate) fn connected(&self) {
        let mut state = self.state.lock();
        let new = state.refused.is_none() && state.up == Some(false);
        if new {
            state.up = Some(true);
        }
        drop(state);
        self.tell_up(new);
    }

    /// Returns the reason why the cluster cannot be used, while that is so.
    pub(crate) fn trouble(&self) -> Option<Cause> {
        let state = self.state.lock();
        let said = state.refused.as_ref().or(state.lost.as_ref());
        said.filter(|_| state.up == Some(false)).map(|said| said.cause.clone())
    }

    /// Returns the time of the last acknowledgement.
    pub(crate) fn succeeded_at(&self) -> Option<Duration> {
        self.succeeded_at.load(Ordering::Acquire).checked_sub(1).map(Duration::from_millis)
    }

    /// Returns the reason why a record that was handed over at `since` has not been acknowledged.
    pub(crate) fn why(&self, since: Duration) -> Why {
        let now = self.now();
        let succeeded_at = self.succeeded_at();
        // A success counts as "meanwhile" only in the second half of the record's time.
        let meanwhile = succeeded_at.is_some_and(|at| at > since + now.saturating_sub(since) / 2);
        let state = self.state.lock();
        let fresh = |said: &&Said| now.saturating_sub(said.at) <= self.keep;
        if let Some(said) = state.refused.as_ref().filter(fresh)
            && succeeded_at.is_none_or(|at| said.at >= at)
        {
            return Why::Refused(said.cause.clone());
        }
        if meanwhile {
            return Why::OnlyHere;
        }
        state.lost.as_ref().filter(fresh).map_or(Why::Unknown, |said| Why::Lost(said.cause.clone()))
    }

    fn is_well(&self, now: Duration) -> bool {
        self.succeeded_at().is_some_and(|at| now.saturating_sub(at) < FRESH)
    }

    fn tell_down(&self, cause: Option<Cause>) {
        if let Some(cause) = cause {
            (self.report)(BrokerEvent::Down { broker: self.broker.clone(), cause });
        }
    }

    fn tell_up(&self, new: bool) {
        if new {
            (self.report)(BrokerEvent::Up { broker: self.broker.clone() });
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Credentials,
    Tls,
    Lost,
    AllLost,
    Other,
}

fn kind(code: RDKafkaErrorCode, reason: &str) -> Kind {
    match code {
        RDKafkaErrorCode::Authentication
        | RDKafkaErrorCode::SaslAuthenticationFailed
        | RDKafkaErrorCode::UnsupportedSASLMechanism
        | RDKafkaErrorCode::IllegalSASLState
        | RDKafkaErrorCode::ClusterAuthorizationFailed => Kind::Credentials,
        RDKafkaErrorCode::SSL => Kind::Tls,
        // A broker tells a client whose certificate it does not accept so by an alert (RFC 8446 §6.2), and hangs up.
        RDKafkaErrorCode::BrokerTransportFailure if is_certificate_alert(reason) => Kind::Tls,
        RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::Resolve | RDKafkaErrorCode::OperationTimedOut => {
            Kind::Lost
        }
        RDKafkaErrorCode::AllBrokersDown => Kind::AllLost,
        _ => Kind::Other,
    }
}

/// Returns whether a broker did not accept the gateway's credentials.
pub(crate) fn is_of_credentials(error: &KafkaError) -> bool {
    error.rdkafka_error_code().is_some_and(|code| kind(code, "") == Kind::Credentials)
}

/// Returns the lasting part of an error's text: the library adds how long it took and how often it was the same, which
/// changes each time and tells nothing of the cause.
fn lasting(reason: &str) -> &str {
    reason.rfind(" (after ").filter(|_| reason.ends_with(')')).map_or(reason, |at| &reason[..at])
}

#[cfg(test)]
mod tests;
