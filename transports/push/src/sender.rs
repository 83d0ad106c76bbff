//! The sender, which pushes the SETs of one stream.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    time::Duration,
};

use setgate_delivery::{
    About, Channel, Closed, Consumer, Env, Fault, Form, HttpRequest, Initiator, Limits, Order, Outcome, Profile,
    Receipt, Redelivery, Runtime, SealedSet, Subscription, Timestamp, Window, drive,
    endpoint::{self, Endpoint, Trusting},
    http::{HeaderMap, Method, StatusCode},
};

use crate::{
    config::{Grant, Section, Terms},
    wire::{self, Taken},
};

/// A pushed stream: one SET per request, with as many requests at once as its window allows.
pub struct PushChannel {
    endpoint: Endpoint,
    runtime: Runtime,
    stream: Arc<str>,
    fields: HeaderMap,
    timeout: Duration,
    window: Window,
    sets_at_once: usize,
    taken: Taken,
    /// The status that acknowledged the last SET if it was not 202, else 0.
    odd: AtomicU16,
    warned: AtomicBool,
}

impl PushChannel {
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
        let sets_at_once = grant.window(section)?;
        Ok(Self {
            runtime: env.runtime.clone(),
            stream: about.stream.clone(),
            fields: wire::request_fields(terms.content_type, endpoint.authorization.clone()),
            endpoint,
            timeout: grant.timeout(section)?,
            window: Window::of_sets(sets_at_once),
            sets_at_once,
            taken: grant.taken(section, terms),
            odd: AtomicU16::new(0),
            warned: AtomicBool::new(false),
        })
    }

    async fn push(&self, set: SealedSet) -> Outcome {
        let request = HttpRequest {
            method: Method::POST,
            url: self.endpoint.url.clone(),
            headers: self.fields.clone(),
            body: set.body,
            keep_body: wire::ANSWER,
            timeout: Some(self.timeout),
        };
        let answer = self.endpoint.client.send(request).await.map_err(|error| endpoint::no_answer(&error))?;
        let outcome = wire::outcome(&answer, self.taken, Timestamp::from_millis(self.runtime.clock.wall_millis()));
        if outcome.is_ok() {
            self.note(answer.status);
        }
        outcome
    }

    /// Notes a status other than 202, which is the only one in RFC 8935 §2.2, for [`Channel::remark`], and logs the
    /// first one.
    fn note(&self, status: StatusCode) {
        let odd = if status.is_success() && status != StatusCode::ACCEPTED { status.as_u16() } else { 0 };
        self.odd.store(odd, Ordering::Relaxed);
        if odd != 0 && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(stream = %self.stream, status = odd, "a receiver acknowledges SETs by another status than 202");
        }
    }
}

impl Channel for PushChannel {
    fn profile(&self) -> Profile {
        Profile {
            initiator: Initiator::Gateway,
            // Requests run in parallel: a SET's successor leaves only when its predecessor is no longer under way.
            order: Order::PerSet,
            receipt: Receipt::Receiver,
            form: Form::Token,
            // Every request ends by its deadline at the latest.
            redelivery: Redelivery::WhenConsumerEnds,
            limits: Limits { sets: self.sets_at_once, bytes: 8 * wire::LARGEST, overhead: 0, set_bytes: wire::LARGEST },
            endpoint: None,
            windows: vec![self.window.clone()],
        }
    }

    fn remark(&self) -> Option<String> {
        match self.odd.load(Ordering::Relaxed) {
            0 => None,
            odd => Some(format!("answers {odd} instead of 202")),
        }
    }

    async fn run(&self, subscription: Subscription, consumer: Consumer) -> Closed {
        drive::each(&subscription, consumer, |set| self.push(set)).await
    }
}
