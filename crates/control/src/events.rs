//! The intake endpoint: producers put events in, and each event is answered after its commit.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use setgate_clock::Runtime;
use setgate_oauth::{Guard, Producer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

mod frame;
mod head;
mod session;
mod source;
mod split;

use self::{
    head::{Head, Kind},
    session::Session,
    source::{BodySource, Coding},
    split::Splitter,
};
use crate::{
    Accept, IntakeConfig, Observed,
    error::Problem,
    observe::{Open, Outcome},
    openapi,
    validator::EventValidator,
};

/// The intake of one issuer.
#[derive(Clone)]
pub struct Intake {
    /// The issuer's URL, byte for byte as configured.
    pub issuer: Arc<str>,
    /// The place where its events are accepted.
    pub accept: Arc<dyn Accept>,
}

/// The parts that all intake endpoints share.
#[derive(Clone)]
pub struct WorldParts {
    /// The issuers.
    pub issuers: Vec<Intake>,
    /// The guard that knows the producers.
    pub guard: Arc<Guard>,
    /// The limits.
    pub config: IntakeConfig,
    /// The clock and the tasks.
    pub runtime: Runtime,
    /// The counters.
    pub observed: Observed,
}

/// The reasons why an issuer has no intake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerPathError {
    /// The issuer is not a URL, or its path has characters that a route cannot have.
    #[error("the issuer `{0}` is no URL with a plain path")]
    NoPath(String),
    /// Two issuers have the same path, so that a request could mean either.
    #[error("the issuers `{0}` and `{1}` have the same path: their events could not be told apart")]
    SamePath(String, String),
}

/// Creates the routes of the intake endpoints of the public listener: `POST {issuer path}/events` for each issuer, and
/// `/openapi.json`.
///
/// # Errors
/// [`IssuerPathError`] when an issuer is not a URL with a plain path, or two have the same path.
pub fn world(parts: WorldParts) -> Result<Router, IssuerPathError> {
    let config = Arc::new(parts.config);
    let requests = Arc::new(Semaphore::new(config.requests.clamp(1, Semaphore::MAX_PERMITS)));
    let compressed = Arc::new(Semaphore::new(config.compressed_requests.clamp(1, Semaphore::MAX_PERMITS)));
    let document = openapi::intake(parts.issuers.iter().map(|intake| &*intake.issuer));
    let mut all = Router::new().without_v07_checks().route("/openapi.json", openapi::route(document));
    let mut paths = BTreeMap::new();
    for Intake { issuer, accept } in parts.issuers {
        let path = events_path(&issuer)?;
        if let Some(other) = paths.insert(path.clone(), issuer.clone()) {
            return Err(IssuerPathError::SamePath(other.to_string(), issuer.to_string()));
        }
        let endpoint = Arc::new(IntakeEndpoint {
            issuer,
            validator: EventValidator { accept, config: config.clone(), observed: parts.observed.clone() },
            guard: parts.guard.clone(),
            runtime: parts.runtime.clone(),
            requests: requests.clone(),
            compressed: compressed.clone(),
        });
        all = all.route(&path, post(post_events).with_state(endpoint));
    }
    Ok(all)
}

/// Returns the path of an issuer's intake: the issuer's own path without a slash at the end, and `/events`.
///
/// # Errors
/// [`IssuerPathError::NoPath`] when the issuer is not a URL, or its path has characters that a route cannot have.
pub fn events_path(issuer: &str) -> Result<String, IssuerPathError> {
    let wrong = || IssuerPathError::NoPath(issuer.to_owned());
    let url: url::Url = issuer.parse().map_err(|_| wrong())?;
    let path = url.path().trim_end_matches('/');
    if url.cannot_be_a_base() || path.contains(['{', '}', '*']) {
        return Err(wrong());
    }
    Ok(format!("{path}/events"))
}

/// The intake endpoint of one issuer.
struct IntakeEndpoint {
    issuer: Arc<str>,
    validator: EventValidator,
    guard: Arc<Guard>,
    runtime: Runtime,
    requests: Arc<Semaphore>,
    compressed: Arc<Semaphore>,
}

/// The permits that a request holds while it is served.
struct Held {
    _open: Open,
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

/// The body of the answer to a single event.
#[derive(Serialize)]
struct Taken<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    txn: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    repeated: bool,
}

async fn post_events(State(endpoint): State<Arc<IntakeEndpoint>>, request: Request) -> Response {
    // The credential is checked before any of the body is asked for: `100 Continue` is sent when the body is first
    // polled.
    let producer = match endpoint.guard.producer(request.headers(), request.uri().query(), &endpoint.issuer) {
        Ok(producer) => producer,
        Err(denied) => {
            endpoint.validator.observed.count(Outcome::Denied);
            return denied.into_response();
        }
    };
    if let Some(permit) = request.extensions().get::<setgate_net::ConnectionPermit>() {
        permit.vouch(&producer.name);
    }
    match endpoint.clone().enter(request, producer.clone()).await {
        Ok(response) => response,
        Err(problem) => {
            endpoint.validator.count(&problem, &producer);
            problem.into_response()
        }
    }
}

impl IntakeEndpoint {
    async fn enter(self: Arc<Self>, request: Request, producer: Arc<Producer>) -> Result<Response, Problem> {
        self.validator.accept.gate()?;
        let head = Head::read(request.headers(), &self.validator.config)?;
        let held = self.hold(head.coding)?;
        let mut source =
            BodySource::new(request.into_body(), head.coding, self.validator.config.clone(), self.runtime.clone());
        let longest = self.validator.config.item_bytes;
        let splitter = match head.kind {
            Kind::Lines => Splitter::lines(longest),
            Kind::Json => match first(&mut source, &self.validator.observed).await? {
                (b'{', chunk) => return self.one(&head, &producer, source, chunk).await,
                (b'[', chunk) => {
                    let mut splitter = Splitter::array(longest);
                    splitter.push(chunk);
                    splitter
                }
                _ => return Err(Problem::bad("the body is a JSON object with one event, or an array of events")),
            },
        };
        if head.key.is_some() {
            let detail = "Idempotency-Key names one event; where there are several, each has its own `id`";
            return Err(Problem::bad(detail));
        }
        let session = Session::new(self, producer, source, splitter, held);
        several(session).await
    }

    /// Takes the permits that a request of this coding needs, or refuses with 503.
    fn hold(&self, coding: Coding) -> Result<Held, Problem> {
        let busy =
            |rule| move |_| Problem::busy("too many requests at once", std::time::Duration::from_secs(1)).ruled(rule);
        let place = self.requests.clone().try_acquire_owned().map_err(busy("requests"))?;
        let window = match coding {
            Coding::Identity => None,
            Coding::Gzip | Coding::Zstd => {
                Some(self.compressed.clone().try_acquire_owned().map_err(busy("compressed_requests"))?)
            }
        };
        Ok(Held { _open: self.validator.observed.enter(), _permits: [Some(place), window] })
    }

    /// Accepts the one event that is the whole body.
    async fn one(
        &self,
        head: &Head,
        producer: &Producer,
        mut source: BodySource,
        first: Bytes,
    ) -> Result<Response, Problem> {
        let text = self.whole(&mut source, first).await?;
        let mut event = self.validator.read(producer, &text)?;
        match (&head.key, &event.id) {
            (Some(key), Some(id)) if key != id => {
                let problem = Problem::bad("`id` and Idempotency-Key name the event differently");
                return Err(problem.at("/id"));
            }
            (Some(key), None) => event.id = Some(key.clone()),
            _ => {}
        }
        let id = event.id.clone();
        let answer = self.validator.accept.accept(producer.no, vec![event]).await.pop();
        // The validator has counted this outcome: as a problem of the request it would count twice.
        let done = match self.validator.settle(answer) {
            Ok(done) => done,
            Err(problem) => return Ok(problem.into_response()),
        };
        let taken = Taken { id: id.as_deref(), txn: &done.txn, repeated: done.repeated };
        let body = serde_json::to_vec(&taken).unwrap_or_default();
        let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok((StatusCode::ACCEPTED, [kind], body).into_response())
    }

    /// Reads the whole body, which is no longer than one event.
    async fn whole(&self, source: &mut BodySource, first: Bytes) -> Result<Bytes, Problem> {
        let most = self.validator.config.item_bytes;
        let mut text: Option<Vec<u8>> = None;
        loop {
            let have = text.as_ref().map_or(first.len(), Vec::len);
            if have > most {
                return Err(Problem::limit("item_bytes", format!("an event has at most {most} bytes")));
            }
            let Some(chunk) = source.next().await? else { break };
            self.validator.observed.read(chunk.len());
            text.get_or_insert_with(|| first.to_vec()).extend_from_slice(&chunk);
        }
        Ok(text.map_or(first, Bytes::from))
    }
}

/// Returns the first byte that is not white space, with the chunk that begins with it.
async fn first(source: &mut BodySource, observed: &Observed) -> Result<(u8, Bytes), Problem> {
    loop {
        let Some(mut chunk) = source.next().await? else { return Err(Problem::bad("the body is empty")) };
        observed.read(chunk.len());
        if let Some(at) = chunk.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
            let rest = chunk.split_off(at);
            return Ok((rest.first().copied().unwrap_or_default(), rest));
        }
    }
}

/// Answers several events: 200, and a line for each.
async fn several(mut session: Session) -> Result<Response, Problem> {
    // The first batch shows whether there is anything to answer line by line.
    let lines = session.lines().await.unwrap_or_default();
    if let Some(problem) = session.refusal() {
        return Err(problem.clone());
    }
    let body = if session.is_over() {
        Body::from(lines)
    } else {
        let rest = stream::unfold(session, |mut session| async move {
            let lines = session.lines_to_the_last().await?;
            Some((Ok::<_, std::convert::Infallible>(lines), session))
        });
        Body::from_stream(stream::once(std::future::ready(Ok(lines))).chain(rest))
    };
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok((StatusCode::OK, [kind], body).into_response())
}

#[cfg(test)]
mod tests;
