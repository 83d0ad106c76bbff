//! Pushes the SETs of one stream.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use delivery::{
    About, Closed, Env, Fault, Feed, Form, House, HttpRequest, Lapse, Limits, Line, Order, Outcome, Profile, Receipt,
    SealedSet, Tap, Timestamp, Voice, Window, drive,
    endpoint::{self, Endpoint},
    http::{HeaderMap, Method, StatusCode},
};

use crate::{
    config::{Grant, Section, Terms},
    wire,
};

/// One stream that is pushed: one SET a request, as many requests at once as its window has room.
pub struct PushLine {
    endpoint: Endpoint,
    house: House,
    stream: Arc<str>,
    fields: HeaderMap,
    timeout: Duration,
    window: Window,
    sets_at_once: usize,
    warned: AtomicBool,
}

impl PushLine {
    pub(crate) fn new(
        section: &Section,
        env: &Env,
        about: &About,
        terms: &Terms,
        grant: &Grant,
    ) -> Result<Self, Fault> {
        let policy = grant.policy(&about.issuer)?;
        let endpoint = Endpoint::new(&env.http, &policy, &terms.endpoint_url, terms.authorization_header.as_ref())?;
        let sets_at_once = grant.window(section)?;
        Ok(Self {
            house: env.house.clone(),
            stream: about.stream.clone(),
            fields: wire::request_fields(terms.content_type, endpoint.authorization.clone()),
            endpoint,
            timeout: grant.timeout(section)?,
            window: Window::of_sets(sets_at_once),
            sets_at_once,
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
        // RFC 8935 §2.2 knows 202 only; any other success is believed, and remarked on once.
        if answer.status.is_success()
            && answer.status != StatusCode::ACCEPTED
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(stream = %self.stream, status = answer.status.as_u16(), "a receiver accepts SETs by another status than 202");
        }
        wire::outcome(&answer, Timestamp::from_millis(self.house.clock.wall_millis()))
    }
}

impl Line for PushLine {
    fn profile(&self) -> Profile {
        Profile {
            voice: Voice::Sender,
            // Requests run in parallel: a SET's successor leaves when its predecessor is nowhere.
            order: Order::PerSet,
            receipt: Receipt::Receiver,
            form: Form::Token,
            // Every request ends, at the latest by its deadline.
            lapse: Lapse::WithTap,
            limits: Limits { sets: self.sets_at_once, bytes: 8 * wire::LARGEST, overhead: 0, set_bytes: wire::LARGEST },
            endpoint: None,
            windows: vec![self.window.clone()],
        }
    }

    async fn run(&self, feed: Feed, tap: Tap) -> Closed {
        drive::each(&feed, tap, |set| self.push(set)).await
    }
}
