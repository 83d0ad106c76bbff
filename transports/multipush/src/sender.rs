//! The sender, which pushes the SETs of one stream, many per request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use setgate_delivery::{
    About, Attempt, Cause, Channel, Closed, Consumer, Env, Fault, Form, HttpError, HttpRequest, HttpResponse,
    Initiator, Jti, Limits, Order, Profile, Receipt, Redelivery, Runtime, SealedSet, Subscription, Timestamp, Verdict,
    Want,
    endpoint::{self, Endpoint, Trusting},
    http::{HeaderMap, Method, StatusCode},
};

use crate::{
    config::{Grant, Measures, Section, Terms},
    pace::Pace,
    wire::{self, Meaning},
};

/// The longest pause between two empty requests that brought nothing.
const SLOWEST_ACK_PROBE: Duration = Duration::from_secs(60);
/// The longest pause that a `Retry-After` puts between two empty requests (hardening H50).
const LONGEST_REST: Duration = Duration::from_secs(3600);

/// A stream that is pushed in batches: a few requests at once, each with as many SETs as are due and the receiver
/// accepts.
pub struct MultiChannel {
    endpoint: Endpoint,
    runtime: Runtime,
    stream: Arc<str>,
    fields: HeaderMap,
    measures: Measures,
    pace: Mutex<Pace>,
    /// The status of the last answer that was understood if it was not 202, else 0.
    odd: AtomicU16,
    warned: AtomicBool,
}

/// A request that has ended, with its answer.
struct Done {
    sent: Vec<(Jti, Attempt)>,
    answer: Result<HttpResponse, HttpError>,
}

impl MultiChannel {
    pub(crate) fn new(
        section: &Section,
        env: &Env,
        about: &About,
        terms: &Terms,
        grant: &Trusting<Grant>,
    ) -> Result<Self, Fault> {
        let Trusting { own: grant, trust } = grant;
        let policy = trust.policy(&about.issuer)?;
        let endpoint = Endpoint::new(&env.http, &policy, &terms.endpoint_url, terms.authorization_header.as_ref())?;
        let measures = grant.measures(section, terms)?;
        Ok(Self {
            fields: wire::request_fields(endpoint.authorization.clone()),
            endpoint,
            runtime: env.runtime.clone(),
            stream: about.stream.clone(),
            pace: Mutex::new(Pace::new(measures.sets)),
            measures,
            odd: AtomicU16::new(0),
            warned: AtomicBool::new(false),
        })
    }

    /// Sends one request; without SETs it asks for outstanding acknowledgements.
    async fn post(&self, sets: Vec<SealedSet>) -> Done {
        let request = HttpRequest {
            method: Method::POST,
            url: self.endpoint.url.clone(),
            headers: self.fields.clone(),
            body: wire::request(&sets).into(),
            keep_body: wire::ANSWER.bytes,
            timeout: Some(self.measures.timeout),
        };
        let sent = sets.iter().map(|set| (set.jti, set.attempt)).collect();
        drop(sets);
        Done { sent, answer: self.endpoint.client.send(request).await }
    }

    /// Reports the outcomes in an answer. Returns the time for which the receiver asks for a pause, and the cause if
    /// the channel must end.
    fn settle(&self, subscription: &Subscription, done: Done) -> (Duration, Option<Cause>) {
        let Done { sent, answer } = done;
        let meaning = match &answer {
            Ok(answer) => {
                let now = Timestamp::from_millis(self.runtime.clock.wall_millis());
                let meaning = wire::meaning(answer, sent.len(), now);
                if matches!(meaning, Meaning::Understood(_)) {
                    self.note(answer.status);
                }
                meaning
            }
            Err(error) => Meaning::Each(endpoint::no_answer(error)),
        };
        let each = |verdict: Verdict| {
            // SETs are given back in reverse order: one that comes back before its predecessors takes along none that
            // was not asked for.
            let back = sent.iter().rev();
            let outcomes = back.map(|(jti, attempt)| (*jti, Some(*attempt), Err(verdict.clone())));
            subscription.settle_all(outcomes.collect());
        };
        match meaning {
            Meaning::Understood(outcomes) => {
                self.pace.lock().understood(sent.len());
                // The status says that the request was understood; acknowledgements may come in any later answer (draft
                // §4.4).
                subscription.reached(&sent);
                subscription.settle_all(outcomes);
            }
            Meaning::TooMany => {
                self.pace.lock().too_many(sent.len());
                each(Verdict::Return);
            }
            Meaning::Halve => {
                self.pace.lock().halve(sent.len());
                each(Verdict::Return);
            }
            Meaning::Each(verdict) => {
                let rest = match &verdict {
                    Verdict::Retry { after, .. } => after.unwrap_or_default().min(LONGEST_REST),
                    _ => Duration::ZERO,
                };
                each(verdict);
                return (rest, None);
            }
            Meaning::Fault(cause) => return (Duration::ZERO, Some(cause)),
        }
        (Duration::ZERO, None)
    }

    /// Notes a status other than 202, which is the only one in the present draft, for [`Channel::remark`], and logs the
    /// first one.
    fn note(&self, status: StatusCode) {
        let odd = if status == StatusCode::ACCEPTED { 0 } else { status.as_u16() };
        self.odd.store(odd, Ordering::Relaxed);
        if odd != 0 && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(stream = %self.stream, status = odd, "a receiver answers requests by another status than 202");
        }
    }
}

/// The time of the next empty request.
struct AckProbes {
    every: Duration,
    longest: Duration,
    pause: Duration,
    at: Duration,
}

impl AckProbes {
    fn new(measures: &Measures, now: Duration) -> Self {
        let every = measures.ack_probe;
        // Empty requests are frequent enough that an acknowledgement is fetched before its SET is due again.
        let longest = SLOWEST_ACK_PROBE.min(measures.ack_within / 2).max(every);
        Self { every, longest, pause: every, at: now + every }
    }

    /// Records an answer; `moved` says that it settled something or that its request had SETs.
    fn answered(&mut self, now: Duration, moved: bool, rest: Duration) {
        self.pause = if moved { self.every } else { (self.pause * 2).min(self.longest) };
        self.at = now + self.pause.max(rest);
    }
}

impl Channel for MultiChannel {
    fn profile(&self) -> Profile {
        let Measures { sets, bytes, timeout, ack_within, .. } = self.measures;
        Profile {
            initiator: Initiator::Gateway,
            // A request arrives whole or not at all, and others under way have other order keys.
            order: Order::PerBatch,
            receipt: Receipt::Receiver,
            form: Form::Token,
            // The time begins with the hand-over, and the request itself may take all of `timeout`.
            redelivery: Redelivery::After(timeout + ack_within),
            limits: Limits { sets, bytes, overhead: wire::OVERHEAD, set_bytes: wire::LARGEST },
            endpoint: None,
            windows: Vec::new(),
        }
    }

    fn remark(&self) -> Option<String> {
        match self.odd.load(Ordering::Relaxed) {
            0 => None,
            odd => Some(format!("answers {odd} instead of 202")),
        }
    }

    async fn run(&self, subscription: Subscription, mut consumer: Consumer) -> Closed {
        let clock = &self.runtime.clock;
        let mut busy = FuturesUnordered::new();
        let mut ack_probes = AckProbes::new(&self.measures, clock.monotonic());
        let mut end: Option<Closed> = None;
        loop {
            // While a request is under way, its answer may bring the outstanding acknowledgements.
            let owed = if busy.is_empty() { subscription.outstanding() } else { 0 };
            if busy.is_empty()
                && let Some(closed) = end.take_if(|closed| owed == 0 || *closed != Closed::Draining)
            {
                return closed;
            }
            let room = busy.len() < self.measures.requests;
            let sets = if room { self.pace.lock().size() } else { 0 };
            let want = Want { sets, bytes: self.measures.bytes, wait: None };
            let pause = ack_probes.at.saturating_sub(clock.monotonic());
            tokio::select! {
                biased;
                Some(done) = busy.next(), if !busy.is_empty() => {
                    let done: Done = done;
                    let before = if done.sent.is_empty() { subscription.outstanding() } else { usize::MAX };
                    let (rest, fault) = self.settle(&subscription, done);
                    ack_probes.answered(clock.monotonic(), subscription.outstanding() < before, rest);
                    if let Some(cause) = fault {
                        end.get_or_insert(Closed::Fault(cause));
                    }
                }
                next = consumer.next_batch(want), if end.is_none() => match next {
                    Ok(batch) => {
                        let sets = batch.hand_over();
                        if !sets.is_empty() {
                            busy.push(self.post(sets));
                        }
                    }
                    Err(closed) => end = Some(closed),
                },
                () = clock.sleep(pause), if owed > 0 => busy.push(self.post(Vec::new())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_requests_become_rarer_until_something_comes() {
        let second = Duration::from_secs(1);
        let measures = Section::default();
        let terms: Terms = serde_json::from_str(r#"{"endpoint_url":"https://a.example"}"#).unwrap();
        let measures = Grant::default().measures(&measures, &terms).unwrap();
        let mut ack_probes = AckProbes::new(&measures, second);
        assert_eq!(ack_probes.at, 2 * second);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            ack_probes.answered(Duration::ZERO, false, Duration::ZERO);
            pauses.push(ack_probes.at.as_secs());
        }
        assert_eq!(pauses, [2, 4, 8, 15, 15, 15]);
        ack_probes.answered(second, true, Duration::ZERO);
        assert_eq!(ack_probes.at, 2 * second);
        ack_probes.answered(second, true, 30 * second);
        assert_eq!(ack_probes.at, 31 * second, "the receiver asked to be left alone");
    }
}
