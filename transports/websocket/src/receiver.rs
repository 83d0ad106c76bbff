//! The other end: collects a stream's SETs from a gateway, by a WebSocket or by push-pull over HTTP.

mod poll;

use std::{sync::Arc, time::Duration};

use setgate_delivery::{
    Backoff, Env, Fault, HttpClient, Ingest, Jitter, Json, Runtime, Stop, Timestamp, TlsPolicy, Url,
    exchange::Bounds,
    fields,
    http::{HeaderValue, Request, StatusCode, header},
    raised,
};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::{self, error::ProtocolError, handshake::client::generate_key};

use crate::{
    config::{SocketSource, Transport, wrong},
    conversation::{Conversation, Ended, Rules},
    inbox::Inbox,
    wire::{self, Goodbye, Refused, Subprotocol},
};

/// The bounds of what is read from a gateway: as much as an answer over HTTP may have.
const BOUNDS: Bounds = Bounds { bytes: 4 << 20, ids: 10_000, sets: 10_000 };
/// The back-off between two attempts to connect.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
/// The time limit of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// The time that work under way has when everything must end.
const GRACE: Duration = Duration::from_secs(5);
/// The longest `Retry-After` that is honoured (hardening H50).
const PATIENCE: Duration = Duration::from_secs(3600);

/// The state that all connections of one collection share.
struct Collection {
    client: HttpClient,
    runtime: Runtime,
    url: Url,
    authorization: Option<HeaderValue>,
    offer: &'static str,
    credit: u32,
    pause: Duration,
    ingest: Arc<dyn Ingest>,
    peer: Arc<str>,
    rules: Arc<Rules>,
}

/// The reason why there is no connection, or no longer one.
enum Failed {
    ForGood(Fault),
    /// A later attempt may succeed, not before this time if the gateway named one.
    Again(Option<Duration>),
    /// The WebSocket is not possible; HTTP may be.
    ByHttp,
}

/// Collects SETs until `stop`.
///
/// # Errors
/// [`Fault`] where a later attempt cannot succeed: the source is wrong, the credential is not accepted, or there is no
/// such stream.
pub(crate) async fn collect(env: &Env, from: Json, ingest: Arc<dyn Ingest>, mut stop: Stop) -> Result<(), Fault> {
    let source: SocketSource = serde_json::from_value(from).map_err(|error| wrong("", error.to_string()))?;
    let url = source.url()?;
    let client = env.http.client(&TlsPolicy::default());
    client.check(&url).map_err(|error| wrong("endpoint_url", error.text))?;
    let authorization =
        source.authorization_header.as_ref().map(|text| fields::authorization(text.expose())).transpose();
    let rules = Rules {
        ping: Duration::from_secs(25),
        settle: PATIENCE,
        frame_sets: 1,
        frame_bytes: 64 << 10,
        in_flight: 1,
        bounds: BOUNDS,
    };
    let collection = Collection {
        client,
        runtime: env.runtime.clone(),
        peer: wire::host(&url).into(),
        url,
        authorization: authorization
            .map_err(|cause| Fault::Terms { pointer: "/authorization_header".to_owned(), cause })?,
        offer: source.offer()?,
        credit: source.credit()?,
        pause: source.pause()?,
        ingest,
        rules: Arc::new(rules),
    };
    let stopped = stop.clone();
    tokio::select! {
        biased;
        end = collection.run(source.transport, stopped) => end,
        () = async {
            raised(&mut stop).await;
            // SETs that were accepted are acknowledged first.
            collection.runtime.clock.sleep(GRACE).await;
        } => Ok(()),
    }
}

impl Collection {
    async fn run(&self, mut transport: Transport, mut stop: Stop) -> Result<(), Fault> {
        let mut failures = 0u32;
        let mut debts = poll::Debts::default();
        loop {
            let end = match transport {
                Transport::Websocket => self.socket(stop.clone()).await,
                Transport::Http => self.poll(&mut debts, &stop).await,
            };
            if *stop.borrow() {
                return Ok(());
            }
            let after = match end {
                Ok(ended) => {
                    failures = if ended.received { 0 } else { failures.saturating_add(1) };
                    tracing::info!(peer = %self.peer, code = ended.code, "the connection ended; another is opened");
                    None
                }
                Err(Failed::ForGood(fault)) => return Err(fault),
                Err(Failed::Again(after)) => {
                    failures = failures.saturating_add(1);
                    after
                }
                Err(Failed::ByHttp) => {
                    tracing::info!(peer = %self.peer, "no WebSocket can be had: asking over HTTP");
                    transport = Transport::Http;
                    failures = 0;
                    continue;
                }
            };
            let pause = after.unwrap_or(Duration::ZERO).min(PATIENCE) + self.jitter(failures);
            tokio::select! {
                () = self.runtime.clock.sleep(pause) => {}
                () = raised(&mut stop) => return Ok(()),
            }
        }
    }

    /// Returns a pause between half of the doubled pause and all of it, so that the subscribers of a gateway that
    /// restarts do not all reconnect at once.
    fn jitter(&self, failures: u32) -> Duration {
        // A connection that ended normally is not a failure, but the first pause applies all the same.
        PAUSES.wait(failures.saturating_add(1), Jitter::Half(&*self.runtime.random))
    }

    /// Runs one connection, from its opening to its end.
    async fn socket(&self, mut stop: Stop) -> Result<Ended, Failed> {
        let opened = tokio::select! {
            biased;
            opened = self.open() => opened?,
            () = raised(&mut stop) => return Err(Failed::Again(None)),
            () = self.runtime.clock.sleep(HANDSHAKE) => return Err(Failed::Again(None)),
        };
        let (socket, protocol) = opened;
        let inbox = Inbox::new(
            self.ingest.clone(),
            self.peer.clone(),
            protocol,
            usize::try_from(self.credit).unwrap_or(usize::MAX),
            self.runtime.clone(),
        );
        let (done, all_answered) = oneshot::channel();
        let inbox = inbox.leaving(Box::pin(async move { raised(&mut stop).await }), done);
        let leaving = async move {
            // The channel never carries a value: the inbox drops its end.
            let _ = all_answered.await;
            Goodbye::LEAVING
        };
        let conversation = Conversation::new(socket, protocol, self.rules.clone(), self.runtime.clone());
        Ok(Box::pin(conversation.taking(Some(inbox)).until(leaving)).await)
    }

    async fn open(
        &self,
    ) -> Result<(tokio_tungstenite::WebSocketStream<setgate_delivery::Dialed>, Subprotocol), Failed> {
        let request = self.request().map_err(|why| Failed::ForGood(wrong("endpoint_url", why)))?;
        let io = self.client.dial(&self.url).await.map_err(|error| {
            tracing::info!(peer = %self.peer, %error, "no connection");
            Failed::Again(None)
        })?;
        match tokio_tungstenite::client_async_with_config(request, io, Some(self.rules.buffers())).await {
            Ok((socket, response)) => match Subprotocol::chosen(response.headers()) {
                Some(protocol) => Ok((socket, protocol)),
                None => Err(Failed::ByHttp),
            },
            Err(tungstenite::Error::Http(response)) => Err(self.refused(response.status(), response.headers())),
            Err(
                error @ (tungstenite::Error::Io(_)
                | tungstenite::Error::ConnectionClosed
                | tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete)),
            ) => {
                tracing::info!(peer = %self.peer, %error, "the handshake broke off");
                Err(Failed::Again(None))
            }
            // The gateway answered 101 with an unacceptable handshake, or something that is not HTTP.
            Err(error) => {
                tracing::info!(peer = %self.peer, %error, "the handshake is not acceptable");
                Err(Failed::ByHttp)
            }
        }
    }

    fn refused(&self, status: StatusCode, headers: &setgate_delivery::http::HeaderMap) -> Failed {
        tracing::info!(peer = %self.peer, status = status.as_u16(), "the handshake is refused");
        match wire::refused(status) {
            Refused::ForGood => Failed::ForGood(denied(status)),
            Refused::Later => Failed::Again(fields::retry_after(headers, self.now())),
            Refused::ByHttp => Failed::ByHttp,
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.runtime.clock.wall_millis())
    }

    fn request(&self) -> Result<Request<()>, String> {
        let mut request = Request::builder()
            .uri(self.url.as_str().replacen("http", "ws", 1))
            .header(header::HOST, wire::host(&self.url))
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, generate_key())
            .header(header::SEC_WEBSOCKET_PROTOCOL, self.offer);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request.body(()).map_err(|error| error.to_string())
    }
}

/// Returns the fault for the status with which the gateway refused for good.
fn denied(status: StatusCode) -> Fault {
    let (member, why) = match status.as_u16() {
        404 => ("endpoint_url", "the gateway answered 404: there is no such stream"),
        403 => ("authorization_header", "the gateway answered 403: the credential is not for this stream"),
        _ => ("authorization_header", "the gateway answered 401: the credential is not accepted"),
    };
    wrong(member, why.to_owned())
}
