//! The gateway's end of a stream's URL: `GET` opens a WebSocket, `POST` is push-pull over HTTP.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Frame, SizeHint};
use hyper_util::rt::TokioIo;
use setgate_delivery::{
    About, Answer, Batch, BodyFault, Bytes, Channel, Consumer, DeliveryMode, Fault, Form, Incoming, Initiator, Limits,
    Order, Profile, Receipt, Redelivery, Refusal, Runtime, Session, Stop, Want,
    axum::{Extension, Router, body::Body, extract::Request, response::Response},
    exchange::{Bounds, Malformed, Speech},
    http::{Method, StatusCode, header},
    raised, read_body,
};
use tokio::sync::watch;
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

use crate::{
    config::{Grant, Section},
    conversation::{Conversation, Rules},
    inbox::Inbox,
    wire::{self, Declined, Goodbye, Opening},
};

/// The most bytes of a SET, which must fit into a message that browsers and libraries accept by default.
const LARGEST: usize = 256 << 10;
/// The most SETs of one answer over HTTP, and their bytes.
const ANSWER: Bounds = Bounds { bytes: 1 << 20, ids: 10_000, sets: 1_000 };
/// The most SETs that a peer with an ingest may have under way on one socket.
const CREDIT: usize = 64;
/// The bytes that the wire format adds to a SET: its `jti`, quotes, a colon, a comma.
const OVERHEAD: usize = 32;

/// A stream that is delivered over sockets or push-pull.
pub struct SocketChannel {
    pub(crate) origins: Box<[Box<str>]>,
    rules: Arc<Rules>,
    most: usize,
    open: Arc<AtomicUsize>,
    ack_within: Duration,
    wait: Duration,
}

impl SocketChannel {
    pub(crate) fn new(section: &Section, _about: &About, grant: &Grant) -> Result<Self, Fault> {
        let merged = grant.over(section)?;
        let rules = Rules {
            ping: merged.ping_interval,
            settle: merged.settle_timeout,
            frame_sets: merged.frame_sets,
            frame_bytes: merged.frame_bytes,
            in_flight: merged.in_flight,
            bounds: Bounds { bytes: merged.message_bytes, ..Bounds::OF_RECEIVER },
        };
        Ok(Self {
            origins: grant.origins()?,
            rules: Arc::new(rules),
            most: merged.sockets_per_stream,
            open: Arc::default(),
            ack_within: merged.redelivery_timeout,
            wait: merged.post_wait,
        })
    }
}

impl Channel for SocketChannel {
    fn profile(&self) -> Profile {
        Profile {
            initiator: Initiator::Receiver,
            // A connection delivers in order or not at all: its peer has received a prefix.
            order: Order::PerConsumer,
            receipt: Receipt::Receiver,
            form: Form::Token,
            redelivery: Redelivery::WhenConsumerEnds,
            limits: Limits { sets: ANSWER.sets, bytes: ANSWER.bytes, overhead: OVERHEAD, set_bytes: LARGEST },
            endpoint: None,
            windows: Vec::new(),
        }
    }
}

/// The state that all channels share: the runtime, and the number of open sockets.
pub(crate) struct Responder {
    pub(crate) runtime: Runtime,
    pub(crate) most: usize,
    pub(crate) open: watch::Sender<usize>,
}

impl Responder {
    /// Returns a permit for one more socket of the channel, if there is room.
    fn permit(self: &Arc<Self>, channel: &SocketChannel) -> Option<SocketPermit> {
        let mut room = false;
        self.open.send_if_modified(|open| {
            room = *open < self.most;
            *open += usize::from(room);
            room
        });
        if !room {
            return None;
        }
        channel.open.fetch_add(1, Ordering::Relaxed);
        let permit = SocketPermit { responder: self.clone(), channel: channel.open.clone() };
        (channel.open.load(Ordering::Relaxed) <= channel.most).then_some(permit)
    }
}

/// A permit that counts a socket for as long as it is open.
struct SocketPermit {
    responder: Arc<Responder>,
    channel: Arc<AtomicUsize>,
}

impl Drop for SocketPermit {
    fn drop(&mut self) {
        self.channel.fetch_sub(1, Ordering::Relaxed);
        self.responder.open.send_modify(|open| *open -= 1);
    }
}

/// Creates the method's routes; the guard has admitted the session before.
pub(crate) fn routes(responder: Arc<Responder>) -> Router {
    Router::new().fallback(move |Extension(session): Extension<Session>, request: Request| {
        let responder = responder.clone();
        // Boxed, because most of what a request needs is needed only once in the life of a socket.
        Box::pin(async move { serve(&responder, session, request).await })
    })
}

async fn serve(responder: &Arc<Responder>, session: Session, mut request: Request) -> Response {
    let Some(channel) = session.channel::<SocketChannel>() else {
        return plain(Declined(StatusCode::NOT_FOUND, "there is no such stream\n"));
    };
    if let Err(declined) = wire::origin(request.headers(), &channel.origins) {
        return plain(declined);
    }
    if request.method() == Method::POST {
        return exchange(responder, &session, channel, request).await;
    }
    let opening = match wire::opening(request.method(), request.headers()) {
        Ok(opening) => opening,
        Err(declined) => return plain(declined),
    };
    let upgraded = hyper::upgrade::on(&mut request);
    drop(request);
    let accept = opening.accept.clone();
    let protocol = opening.protocol;
    let work = converse(responder.clone(), session, opening, upgraded);
    responder.runtime.spawn("websocket", work);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = response.headers_mut();
    fields.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    fields.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    fields.insert(header::SEC_WEBSOCKET_PROTOCOL, header::HeaderValue::from_static(protocol.as_str()));
    if let Ok(accept) = header::HeaderValue::from_str(&accept) {
        fields.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

async fn converse(responder: Arc<Responder>, session: Session, opening: Opening, upgraded: hyper::upgrade::OnUpgrade) {
    let protocol = opening.protocol;
    drop(opening);
    let Ok(io) = upgraded.await else { return };
    let (conversation, _permit) = {
        let Some(channel) = session.channel::<SocketChannel>() else { return };
        let rules = channel.rules.clone();
        let permit = responder.permit(channel);
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, Some(rules.buffers())).await;
        let mut conversation = Conversation::new(socket, protocol, rules, responder.runtime.clone());
        if permit.is_none() {
            conversation.part(Goodbye::TOO_MANY);
        } else {
            let inbox = session
                .ingest
                .map(|ingest| Inbox::new(ingest, session.peer, protocol, CREDIT, responder.runtime.clone()));
            conversation = conversation.giving(session.subscription).taking(inbox).until(credential(session.ends));
        }
        (conversation, permit)
    };
    drop(responder);
    conversation.await;
}

async fn credential(mut ends: Stop) -> Goodbye {
    raised(&mut ends).await;
    Goodbye::CREDENTIAL
}

/// Answers a push-pull request over HTTP (draft-tulshibagwale-saag-pushpull-delivery §6.3): the peer's outcomes are
/// settled first, then it gets the SETs that are due.
async fn exchange(
    responder: &Arc<Responder>,
    session: &Session,
    channel: &SocketChannel,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    if !wire::is_json(&head.headers) {
        return error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be `application/json`, without an encoding");
    }
    let text = match read_body(body, ANSWER.bytes, &responder.runtime).await {
        Ok(text) => text,
        Err(BodyFault::TooLarge) => return error(StatusCode::PAYLOAD_TOO_LARGE, "more than 1 MiB"),
        Err(BodyFault::TooSlow) => return error(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
        Err(BodyFault::BrokeOff) => return error(StatusCode::BAD_REQUEST, "the body broke off"),
    };
    let mut object = match wire::body(&text, ANSWER, &head.headers) {
        Ok(object) => object,
        Err(Malformed::TooLarge(why)) => return error(StatusCode::PAYLOAD_TOO_LARGE, &why),
        Err(why) => return error(StatusCode::BAD_REQUEST, &why.to_string()),
    };
    drop(text);
    session.subscription.settle_all(object.outcomes());
    let (acks, errors) = answer(session, object.sets.take().unwrap_or_default()).await;
    let sets = usize::try_from(object.max_response_events.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let mode = DeliveryMode { order: Order::PerBatch, redelivery: Redelivery::After(channel.ack_within) };
    let mut consumer = session.subscription.consumer_with(mode);
    // A request that brings something is answered at once.
    let wait = if acks.is_empty() && errors.is_empty() && sets > 0 { channel.wait } else { Duration::ZERO };
    let want = Want { sets: sets.min(ANSWER.sets), bytes: ANSWER.bytes, wait: Some(wait) };
    let batch = match consumer.next_batch(want).await {
        Ok(batch) => batch,
        Err(setgate_delivery::Closed::Deleted) => {
            return plain(Declined(StatusCode::NOT_FOUND, "the stream was deleted\n"));
        }
        // A stream that is disabled, draining or reconfigured has no SETs to give.
        Err(_) => Batch::empty(),
    };
    let described = errors.iter().any(|(_, refusal)| refusal.description.is_some());
    let speech = Speech {
        sets: Some(&batch.sets),
        ack: (!acks.is_empty()).then_some(&acks),
        set_errs: (!errors.is_empty()).then_some(&errors),
        ..Speech::default()
    };
    let json = Bytes::from(speech.to_json());
    let mut response =
        Response::new(Body::new(Handing { json: Some(json), batch: Some(batch), consumer: Some(consumer) }));
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    fields.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    if described {
        fields.insert(header::CONTENT_LANGUAGE, header::HeaderValue::from_static("en"));
    }
    response
}

type Answered = (Vec<Box<str>>, Vec<(Box<str>, Refusal)>);

/// Passes the peer's SETs to the ingest and returns what to answer (hardening H25). SETs that a busy ingest did not
/// accept are left out: the peer sends them again.
async fn answer(session: &Session, sets: Vec<(Box<str>, Bytes)>) -> Answered {
    let Some(ingest) = session.ingest.as_ref().filter(|_| !sets.is_empty()) else {
        return (Vec::new(), sets.into_iter().map(|(named, _)| (named, wire::not_allowed())).collect());
    };
    let incoming =
        |(named, token): &(Box<str>, Bytes)| Incoming::Set { named: Some(named.clone()), token: token.clone() };
    let answers = ingest.accept(&session.peer, sets.iter().map(incoming).collect()).await;
    let mut said = Answered::default();
    for ((named, _), answer) in sets.into_iter().zip(answers) {
        match answer {
            Answer::Taken => said.0.push(named),
            Answer::Refused(refusal) => said.1.push((named, refusal)),
            Answer::Busy { .. } | Answer::Status(_) => {}
        }
    }
    said
}

/// The body of an answer, which owns the batch and the consumer that fetched it. The batch counts as handed over when
/// the connection takes the bytes; if the body is dropped before, the batch is given back.
struct Handing {
    json: Option<Bytes>,
    batch: Option<Batch>,
    consumer: Option<Consumer>,
}

impl http_body::Body for Handing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(batch) = self.batch.take() {
            drop(batch.hand_over());
        }
        self.consumer = None;
        Poll::Ready(self.json.take().map(|json| Ok(Frame::data(json))))
    }

    fn is_end_stream(&self) -> bool {
        self.json.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.json.as_ref().map_or(0, |json| json.len() as u64))
    }
}

/// Creates the refusal of a request as a whole (RFC 8935 §2.4).
fn error(status: StatusCode, why: &str) -> Response {
    let body = serde_json::json!({ "err": "invalid_request", "description": why });
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CONTENT_LANGUAGE, header::HeaderValue::from_static("en"));
    response
}

fn plain(Declined(status, why): Declined) -> Response {
    let mut response = Response::new(Body::from(why));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::UPGRADE_REQUIRED {
        fields.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
        fields.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
        fields.insert(header::SEC_WEBSOCKET_VERSION, header::HeaderValue::from_static("13"));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        fields.insert(header::ALLOW, header::HeaderValue::from_static("GET, POST"));
    }
    response
}
