//! Receivers that connect to collect their SETs: every responder's routes, at `{issuer path}/{method}/{stream}`, behind
//! the guard.
//!
//! A request passes these checks in order: path, credential (before a byte of the body is read, and before `100
//! Continue`), shutdown, stream, budget. Streams that a receiver may not open and streams that do not exist are
//! answered alike, so that ids cannot be probed. The method then sees its own path, a [`Session`], and no credential of
//! any kind. CORS is not offered: a browser opens a socket with a ticket that its page's own server has fetched, and
//! sockets need no preflight.
mod budget;
mod expiry;
mod held;
mod path;
mod tickets;

use std::{
    convert::Infallible,
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    body::{Body, HttpBody as _},
    extract::Request,
    http::{HeaderValue, Method, StatusCode, Version, header, request},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use setgate_clock::Runtime;
use setgate_delivery::{BoxFuture, Initiator, Session, spi::AnyMethod};
use setgate_net::ConnectionPermit;
use setgate_oauth::{Admitted, Denied, Guard};
use setgate_router::{Router, SessionTarget};
use setgate_stream::Owner;
use tower::Service as _;

use budget::{Budget, Full};
use expiry::Ends;
use held::{Held, HeldPlace};
use path::{Asked, Paths};
use tickets::{Issued, Tickets};

pub(crate) use budget::Observed;
pub(crate) use path::CollisionError;

/// `[sessions]`: limits on receivers that connect.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionsConfig {
    /// The most polls and sockets at once; their connections do not count in `[listen.limits]` meanwhile.
    pub connections: usize,
    /// The most polls and sockets of one receiver.
    pub per_receiver: usize,
    /// The most tickets that are out and not used yet.
    pub tickets: usize,
    /// The most such tickets of one receiver.
    pub tickets_per_receiver: usize,
}

impl Default for SessionsConfig {
    fn default() -> Self {
        Self { connections: 20_000, per_receiver: 12_000, tickets: 10_000, tickets_per_receiver: 100 }
    }
}

/// A function that finds the stream with an id.
pub(crate) type Find = Arc<dyn Fn(&str) -> Option<SessionTarget> + Send + Sync>;

/// The parts that sessions are made from.
pub(crate) struct Parts<'a> {
    pub(crate) runtime: Runtime,
    pub(crate) guard: Arc<Guard>,
    pub(crate) find: Find,
    /// The URLs of the issuers.
    pub(crate) issuers: Vec<&'a str>,
    pub(crate) methods: &'a [Arc<dyn AnyMethod>],
    pub(crate) config: SessionsConfig,
    pub(crate) observed: Observed,
}

/// Admits receivers that connect. Clones share their state.
#[derive(Clone)]
pub(crate) struct Sessions(Arc<Inner>);

struct Inner {
    paths: Paths,
    guard: Arc<Guard>,
    find: Find,
    budget: Arc<Budget>,
    tickets: Tickets,
    ends: Arc<Ends>,
    observed: Observed,
    closing: AtomicBool,
}

/// Returns a function that finds streams in a router.
pub(crate) fn finder(router: &Router) -> Find {
    let router = router.clone();
    Arc::new(move |stream| router.session_target(stream))
}

impl Sessions {
    /// Creates the admission of receivers.
    ///
    /// # Errors
    /// Returns [`CollisionError`] when a path could mean the streams of one issuer and another issuer.
    pub(crate) fn new(parts: Parts<'_>) -> Result<Self, CollisionError> {
        let Parts { runtime, guard, find, issuers, methods, config, observed } = parts;
        Ok(Self(Arc::new(Inner {
            paths: Paths::new(&issuers, methods)?,
            guard,
            find,
            budget: Budget::new(config.connections, config.per_receiver, observed.clone()),
            tickets: Tickets::new(runtime.clone(), config.tickets, config.tickets_per_receiver, observed.clone()),
            ends: Ends::new(runtime),
            observed,
            closing: AtomicBool::new(false),
        })))
    }

    /// Adds the routes of sessions to those of the public listener, as the fallback for paths that these do not know.
    pub(crate) fn mount(&self, world: axum::Router) -> axum::Router {
        let sessions = self.clone();
        world.fallback_service(tower::service_fn(move |request: Request| sessions.serve(request)))
    }

    /// Serves a request. Only the part that waits is boxed, so that ten thousand held polls keep nothing of their
    /// admission.
    fn serve(&self, request: Request) -> BoxFuture<'static, Result<Response, Infallible>> {
        let unread = request.version() < Version::HTTP_2 && !request.body().is_end_stream();
        match self.0.admit(request) {
            Ok(Next::Serve(serving)) => Box::pin(async move { Ok(serving.answer().await) }),
            Ok(Next::Ticket(asking)) => {
                let sessions = self.clone();
                Box::pin(async move { Ok(sessions.0.ticket(*asking).await) })
            }
            Err(mut refusal) => {
                if unread {
                    // The rest of the request is not read, so the connection cannot carry another one (RFC 9112 §9.6).
                    refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Box::pin(ready(Ok(*refusal)))
            }
        }
    }

    /// Refuses new sessions from now on; sessions that last are ended by their consumers.
    pub(crate) fn close(&self) {
        self.0.closing.store(true, Ordering::Release);
    }
}

/// The next step for a request that was admitted.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every request is served: a box for it would be one more for each that waits"
)]
enum Next {
    Serve(Serving),
    Ticket(Box<Asking>),
}

/// A request on its way through a method's routes.
struct Serving {
    answering: axum::routing::future::RouteFuture<Infallible>,
    place: HeldPlace,
}

impl Serving {
    async fn answer(self) -> Response {
        let Self { answering, place } = self;
        let Ok(answer) = answering.await;
        place.hold(answer)
    }
}

/// A request for a ticket.
struct Asking {
    admitted: Admitted,
    issuer: Arc<str>,
    stream: Arc<str>,
    head: request::Parts,
    body: Body,
}

impl Inner {
    /// Performs every check before a method sees the request, without reading its body.
    fn admit(&self, request: Request) -> Result<Next, Box<Response>> {
        let (mut head, body) = request.into_parts();
        let uri = head.uri.clone();
        let Some(asked) = self.paths.find(uri.path()) else {
            return Err(Box::new(StatusCode::NOT_FOUND.into_response()));
        };
        let ticket = tickets::extract(&mut head.headers).map_err(|denied| Box::new(self.denied(denied)))?;
        let admitted = match (self.guard.receiver(&head.headers, uri.query(), asked.issuer), ticket) {
            (Ok(_), Some(_)) => Err(Denied::Malformed("there are two credentials")),
            (Err(Denied::Missing), Some(ticket)) if opens_a_socket(&head) && asked.rest.is_empty() => {
                self.tickets.redeem(&ticket, asked.issuer, asked.stream, &head.headers)
            }
            (admitted, _) => admitted,
        };
        let admitted = admitted.map_err(|denied| {
            tracing::debug!(issuer = %asked.issuer, method = asked.method.name, why = %denied, "a receiver was not let in");
            Box::new(self.denied(denied))
        })?;
        if let Some(permit) = head.extensions.get::<ConnectionPermit>() {
            permit.vouch(&admitted.receiver.name);
        }
        if self.closing.load(Ordering::Acquire) {
            return Err(Box::new(self.full(Full::Closing)));
        }
        let target = self.stream(&asked, &admitted).ok_or_else(|| Box::new(self.unknown()))?;
        // Methods have no use for credentials, and what they do not have they cannot log.
        for credential in [header::AUTHORIZATION, header::COOKIE] {
            head.headers.remove(credential);
        }
        if asked.rest == "/ticket" {
            target.touch();
            tracing::debug!(receiver = %admitted.receiver.name, stream = %target.stream, "a receiver asks for a ticket");
            let (issuer, stream) = (target.issuer, target.stream);
            return Ok(Next::Ticket(Box::new(Asking { admitted, issuer, stream, head, body })));
        }
        let held =
            self.budget.enter(&admitted.receiver, asked.method.name).map_err(|full| Box::new(self.full(full)))?;
        target.touch();
        tracing::debug!(receiver = %admitted.receiver.name, stream = %target.stream, "a session begins");
        head.uri = asked.inner_uri(uri.query());
        let permit = head.extensions.get::<ConnectionPermit>().cloned();
        head.extensions.insert(Session {
            subscription: target.subscription,
            channel: target.channel,
            ingest: None,
            peer: admitted.receiver.name.clone(),
            ends: self.ends.of(admitted.until_millis),
        });
        let answering = asked.method.routes.clone().call(Request::from_parts(head, body));
        Ok(Next::Serve(Serving { answering, place: HeldPlace::new(permit, Held::new(held)) }))
    }

    /// Returns the stream that was asked for, if it exists, belongs to this issuer and method, and may be opened by
    /// this receiver.
    fn stream(&self, asked: &Asked<'_>, admitted: &Admitted) -> Option<SessionTarget> {
        // The receiver's list comes first: a stream that is not on it is not looked up, so that its existence
        // makes no difference.
        if !asked.is_plain() || !admitted.receiver.may_open(asked.issuer, asked.stream) {
            return None;
        }
        let target = (self.find)(asked.stream)?;
        // A client's own stream is open to that client alone, which authenticates with OAuth.
        let own = target.owner == Owner::Operator && *target.issuer == **asked.issuer;
        (own && target.method == asked.method.name && target.initiator == Initiator::Receiver).then_some(target)
    }

    async fn ticket(&self, asking: Asking) -> Response {
        let Asking { admitted, issuer, stream, head, body } = asking;
        if head.method != Method::POST {
            let allow = [(header::ALLOW, HeaderValue::from_static("POST"))];
            return (allow, problem(StatusCode::METHOD_NOT_ALLOWED, "a ticket is asked for with POST")).into_response();
        }
        let origin = match self.tickets.origin(&head.headers, body).await {
            Ok(origin) => origin,
            Err(why) => return problem(StatusCode::BAD_REQUEST, why),
        };
        match self.tickets.issue(admitted, issuer, stream, origin) {
            Ok(Issued { ticket, expires_in }) => {
                let body = serde_json::json!({ "ticket": ticket.expose(), "expires_in": expires_in.as_secs() });
                let mut answer = (StatusCode::CREATED, axum::Json(body)).into_response();
                answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
                answer
            }
            Err(full) => self.full(full),
        }
    }

    fn denied(&self, denied: Denied) -> Response {
        self.observed.refused(match denied {
            Denied::Missing | Denied::Invalid => "credential",
            Denied::Insufficient { .. } => "scope",
            _ => "malformed",
        });
        denied.into_response()
    }

    fn unknown(&self) -> Response {
        self.observed.refused("unknown");
        problem(StatusCode::NOT_FOUND, "there is no such stream")
    }

    fn full(&self, full: Full) -> Response {
        self.observed.refused(full.reason());
        let mut answer = problem(full.status(), full.detail());
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(full.retry_after().as_secs()));
        answer
    }
}

/// Returns whether the request opens a socket (RFC 6455 §4.1): tickets count only there.
fn opens_a_socket(head: &request::Parts) -> bool {
    head.method == Method::GET
        && head.headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Returns a refusal for a reason other than the credential, as problem details (RFC 9457).
fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let body = serde_json::json!({ "title": title, "status": status.as_u16(), "detail": detail });
    let fields = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, fields, body.to_string()).into_response()
}

#[cfg(test)]
mod tests;
