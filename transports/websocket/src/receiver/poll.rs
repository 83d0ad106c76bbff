//! Push-pull over HTTP, from the requesting side (draft-tulshibagwale-saag-pushpull-delivery §6.3).

use std::time::Duration;

use setgate_delivery::{
    Answer, Bytes, HttpRequest, Incoming, Refusal, Stop,
    exchange::{Malformed, Speech},
    fields,
    http::{HeaderMap, HeaderValue, Method, header},
};

use super::{BOUNDS, Collection, Failed, denied, raised};
use crate::{
    conversation::Ended,
    wire::{self, Refused},
};

/// The outcomes that are still to be reported.
#[derive(Default)]
pub(super) struct Debts {
    acks: Vec<Box<str>>,
    errors: Vec<(Box<str>, Refusal)>,
}

impl Debts {
    fn is_empty(&self) -> bool {
        self.acks.is_empty() && self.errors.is_empty()
    }
}

impl Collection {
    /// Sends requests until one fails or the collection stops.
    pub(super) async fn poll(&self, debts: &mut Debts, stop: &Stop) -> Result<Ended, Failed> {
        loop {
            if *stop.borrow() && debts.is_empty() {
                return Ok(Ended { code: None, received: true });
            }
            // A last request only reports outcomes.
            let most = if *stop.borrow() { 0 } else { u64::from(self.credit) };
            let sets = self.ask(debts, most).await?;
            let quiet = sets.is_empty();
            let busy = self.hand_in(sets, debts).await;
            if quiet && debts.is_empty() || busy.is_some() {
                let mut stopped = stop.clone();
                let pause = busy.unwrap_or(self.pause).max(Duration::from_millis(50));
                tokio::select! {
                    () = self.runtime.clock.sleep(pause) => {}
                    () = raised(&mut stopped) => {}
                }
            }
        }
    }

    /// Sends one request. Its outcomes are forgotten only after a successful answer.
    async fn ask(&self, debts: &mut Debts, most: u64) -> Result<Vec<(Box<str>, Bytes)>, Failed> {
        let speech = Speech {
            ack: Some(&debts.acks),
            set_errs: (!debts.errors.is_empty()).then_some(&debts.errors),
            max_response_events: Some(most),
            ..Speech::default()
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if !debts.errors.is_empty() {
            headers.insert(header::CONTENT_LANGUAGE, HeaderValue::from_static("en"));
        }
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let request = HttpRequest {
            method: Method::POST,
            url: self.url.clone(),
            headers,
            body: Bytes::from(speech.to_json()),
            keep_body: BOUNDS.bytes,
            timeout: None,
        };
        let answer = self.client.send(request).await.map_err(|error| {
            tracing::info!(peer = %self.peer, %error, "no answer");
            Failed::Again(None)
        })?;
        if !answer.status.is_success() {
            tracing::info!(peer = %self.peer, status = answer.status.as_u16(), "the request is refused");
            return Err(match wire::refused(answer.status) {
                Refused::ForGood => Failed::ForGood(denied(answer.status)),
                Refused::Later | Refused::ByHttp => Failed::Again(fields::retry_after(&answer.headers, self.now())),
            });
        }
        *debts = Debts::default();
        if answer.truncated {
            tracing::info!(peer = %self.peer, "the answer broke off");
            return Err(Failed::Again(None));
        }
        let object = wire::body(&answer.body, BOUNDS, &answer.headers).map_err(|why: Malformed| {
            tracing::warn!(peer = %self.peer, %why, "the answer cannot be read");
            Failed::Again(None)
        })?;
        Ok(object.sets.unwrap_or_default())
    }

    /// Passes SETs to the ingest; those that a busy ingest did not accept come again when they fall due. Returns the
    /// time to wait for that.
    async fn hand_in(&self, sets: Vec<(Box<str>, Bytes)>, debts: &mut Debts) -> Option<Duration> {
        if sets.is_empty() {
            return None;
        }
        let incoming =
            |(named, token): &(Box<str>, Bytes)| Incoming::Set { named: Some(named.clone()), token: token.clone() };
        let answers = self.ingest.accept(&self.peer, sets.iter().map(incoming).collect()).await;
        let mut busy: Option<Duration> = None;
        for ((named, _), answer) in sets.into_iter().zip(answers) {
            match answer {
                Answer::Taken => debts.acks.push(named),
                Answer::Refused(refusal) => debts.errors.push((named, refusal)),
                Answer::Busy { after } => busy = Some(busy.unwrap_or_default().max(after.min(Duration::from_secs(60)))),
                Answer::Status(_) => busy = Some(busy.unwrap_or_default().max(Duration::from_secs(1))),
            }
        }
        busy
    }
}
