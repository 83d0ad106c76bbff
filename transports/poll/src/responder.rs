//! The responder, which answers the polls of one stream.

use std::{
    future::{Future, poll_fn, ready},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use setgate_delivery::{
    About, Batch, BodyFault, BoxFuture, Channel, Closed, Consumer, Fault, Form, Initiator, Limits, Order, Profile,
    Receipt, Redelivery, Runtime, Session, Want,
    axum::{
        Router,
        body::Body,
        extract::Request,
        response::{IntoResponse, Response},
        routing::any,
    },
    clean,
    exchange::{Bounds, Malformed},
    http::{HeaderValue, Method, StatusCode, header},
    raised, read_body,
};

use crate::{
    answer::Answer,
    config::{Grant, Section},
    places::{Places, WaitingPlace},
    wire::{self, Ask},
};

/// The longest time for which a poll of a paused stream is held: real receivers expect an answer by then.
const PAUSED: Duration = Duration::from_secs(10);
/// The shortest time until a long poll that was displaced is answered: a receiver that asks again at once would spin.
const LINGER: Duration = Duration::from_secs(1);
/// The bytes that the JSON object adds to each SET: its id, quotes, a colon and a comma.
const OVERHEAD: usize = 30;
/// The most bytes of one SET.
const SET: usize = 1 << 20;

/// A polled stream.
pub struct PollChannel {
    stream: Arc<str>,
    hold: Duration,
    ack_within: Duration,
    answer_sets: usize,
    answer_bytes: usize,
    places: Places,
}

impl PollChannel {
    pub(crate) fn new(section: &Section, about: &About, grant: &Grant) -> Result<Self, Fault> {
        Ok(Self {
            stream: about.stream.clone(),
            hold: grant.hold(section)?,
            ack_within: grant.redelivery_timeout(section)?,
            answer_sets: grant.answer_sets(section)?,
            answer_bytes: section.answer_bytes,
            places: Places::default(),
        })
    }
}

impl Channel for PollChannel {
    fn profile(&self) -> Profile {
        Profile {
            initiator: Initiator::Receiver,
            // An answer arrives whole or not at all: a receiver gets the backlog of one subject in one answer.
            order: Order::PerBatch,
            receipt: Receipt::Receiver,
            form: Form::Token,
            redelivery: Redelivery::After(self.ack_within),
            limits: Limits { sets: self.answer_sets, bytes: self.answer_bytes, overhead: OVERHEAD, set_bytes: SET },
            endpoint: None,
            windows: Vec::new(),
        }
    }
}

/// Returns the route of a stream's URL, for exactly its path.
pub(crate) fn routes(runtime: Runtime) -> Router {
    Router::new().route("/", any(move |request: Request| poll(request, runtime.clone())))
}

/// Answers a poll in two stages, each boxed by itself: a poll that waits keeps neither the request nor the future that
/// reads it.
fn poll(mut request: Request, runtime: Runtime) -> BoxFuture<'static, Response> {
    let Some(session) = request.extensions_mut().remove::<Session>() else {
        return Box::pin(ready(refuse(StatusCode::INTERNAL_SERVER_ERROR, "the listener is not in order")));
    };
    let reading = Box::pin(read(request, runtime.clone()));
    Box::pin(async move {
        match reading.await {
            Ok(ask) => answer(session, ask, runtime).await,
            Err(refused) => refused,
        }
    })
}

async fn answer(session: Session, ask: Ask, runtime: Runtime) -> Response {
    let Some(channel) = session.channel::<PollChannel>() else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the stream has another method");
    };
    if ask.unknown > 0 {
        tracing::debug!(stream = %channel.stream, unknown = ask.unknown, "a poll names ids that are none of ours");
    }
    // Acknowledgements are processed first, whatever becomes of the rest of the request (RFC 8936 §2.4).
    if !ask.outcomes.is_empty() {
        session.subscription.settle_all(ask.outcomes);
    }
    if ask.sets == 0 {
        return nothing(session.subscription.has_due());
    }
    let started = runtime.clock.monotonic();
    match fetch(&session, channel, ask.sets, ask.waits, &runtime).await {
        Fetched::Batch(batch, consumer) => {
            let mut response = Response::new(Body::new(Answer::new(batch, consumer, runtime)));
            label(&mut response);
            response
        }
        Fetched::Nothing => nothing(session.subscription.has_due()),
        Fetched::Ended => nothing(false),
        Fetched::Deleted => refuse(StatusCode::NOT_FOUND, "there is no such stream"),
        Fetched::Displaced => {
            if ask.waits {
                linger(&session, channel, started, &runtime).await;
            }
            nothing(false)
        }
    }
}

/// The result of a fetch.
enum Fetched {
    Batch(Batch, Consumer),
    Nothing,
    /// The gateway shuts down, or the credential has expired.
    Ended,
    Deleted,
    /// The place was taken by a newer poll, or the stream is disabled or served by another channel.
    Displaced,
}

/// The state of a poll that waits, besides its consumer.
struct Waiting {
    deadline: BoxFuture<'static, ()>,
    place: WaitingPlace,
    capped: bool,
}

async fn fetch(session: &Session, channel: &PollChannel, sets: usize, waits: bool, runtime: &Runtime) -> Fetched {
    let mut consumer = session.subscription.consumer();
    let want = Want { sets, ..Want::ALL };
    let started = runtime.clock.monotonic();
    let mut ends = session.ends.clone();
    let mut ended = pin!(raised(&mut ends));
    let mut waiting: Option<Waiting> = None;
    let fetched = poll_fn(|cx| {
        if ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Fetched::Ended));
        }
        match consumer.poll_next_batch(&want, cx) {
            Poll::Ready(Ok(batch)) if batch.sets.is_empty() => return Poll::Ready(Err(Fetched::Nothing)),
            Poll::Ready(Ok(batch)) => return Poll::Ready(Ok(batch)),
            Poll::Ready(Err(Closed::Deleted)) => return Poll::Ready(Err(Fetched::Deleted)),
            Poll::Ready(Err(Closed::Draining)) => return Poll::Ready(Err(Fetched::Ended)),
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Fetched::Displaced)),
            // SETs are being signed: the poll gets them even if its deadline passes meanwhile.
            Poll::Pending if consumer.is_preparing() => return Poll::Pending,
            Poll::Pending => {}
        }
        if !waits {
            return Poll::Ready(Err(Fetched::Nothing));
        }
        let waiting = waiting.get_or_insert_with(|| Waiting {
            deadline: runtime.clock.sleep(channel.hold),
            place: channel.places.enter(),
            capped: channel.hold <= PAUSED,
        });
        if !waiting.capped && session.subscription.is_paused() {
            waiting.capped = true;
            let waited = runtime.clock.monotonic().saturating_sub(started);
            waiting.deadline = runtime.clock.sleep(PAUSED.saturating_sub(waited));
        }
        if waiting.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Fetched::Nothing));
        }
        waiting.place.poll_ended(cx).map(|()| Err(Fetched::Displaced))
    })
    .await;
    match fetched {
        Ok(batch) => Fetched::Batch(batch, consumer),
        Err(fetched) => fetched,
    }
}

/// Delays the answer, so that replicas that end each other's polls, or a receiver of a disabled stream, get one answer
/// per second.
async fn linger(session: &Session, channel: &PollChannel, started: Duration, runtime: &Runtime) {
    let left = LINGER.saturating_sub(runtime.clock.monotonic().saturating_sub(started));
    let Some(_place) = channel.places.linger() else { return };
    let mut ends = session.ends.clone();
    tokio::select! {
        biased;
        () = raised(&mut ends) => {}
        () = runtime.clock.sleep(left) => {}
    }
}

async fn read(request: Request, runtime: Runtime) -> Result<Ask, Response> {
    // All checks that do not need the body come before it is read.
    if request.method() != Method::POST {
        let mut refused = refuse(StatusCode::METHOD_NOT_ALLOWED, "polls are POST requests");
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return Err(refused);
    }
    if !wire::is_json(request.headers()) {
        return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json"));
    }
    if request.headers().contains_key(header::CONTENT_ENCODING) {
        return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "encoded bodies are not taken"));
    }
    let (head, body) = request.into_parts();
    let body = read_body(body, Bounds::OF_RECEIVER.bytes, &runtime).await.map_err(|fault| {
        let status = match fault {
            BodyFault::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            BodyFault::TooSlow => StatusCode::REQUEST_TIMEOUT,
            BodyFault::BrokeOff => StatusCode::BAD_REQUEST,
        };
        refuse(status, &fault.to_string())
    })?;
    Ask::parse(&body, &head.headers).map_err(|malformed| match malformed {
        Malformed::TooLarge(limit) => refuse(StatusCode::BAD_REQUEST, &limit),
        other => refuse(StatusCode::BAD_REQUEST, &other.to_string()),
    })
}

/// Returns an answer without SETs (RFC 8936 §2.5, figure 7).
fn nothing(more: bool) -> Response {
    let mut response = Response::new(Body::from(wire::answer(&[], more)));
    label(&mut response);
    response
}

/// Returns a refusal. RFC 8936 §2.5.1 leaves its body open; this one is meant for developers.
fn refuse(status: StatusCode, why: &str) -> Response {
    let body = serde_json::json!({ "err": "invalid_request", "description": clean(why, 200) });
    let mut response = (status, body.to_string()).into_response();
    label(&mut response);
    response
}

fn label(response: &mut Response) {
    response.headers_mut().insert(header::CONTENT_TYPE, wire::JSON);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}
