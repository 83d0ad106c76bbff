//! The admin listener with a stand-in for the router behind it.

use std::{sync::Mutex, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value as Json, json};
use setgate_clock::manual::{ManualClock, SeededRandom, runtime};
use setgate_jose::{Algorithm, Kek, Keyring, Moment, Ring, Rotation, RsaBits};
use setgate_oauth::{
    EventsSection, Minted, Producer, ProducerSection, Receiver, ReceiverSection, StreamsSection, SubjectsSection,
    TokenKind, mint,
};
use setgate_router::{ChangeError, ParkedView, Reissued, StreamView};
use setgate_set::{Audience, ErrorCode, Jti, Timestamp};
use setgate_store::{Confirmed, Health, IssuerNo, MemoryStore, Position, ProducerNo, StoreError, Time};
use tower::ServiceExt as _;

use super::*;
use crate::{About, Bad};
use crate::{KeysOf, KeysParts, Which};

mod answers;
mod attacks;
mod sockets;

const ISSUER: &str = "https://gateway.example";

/// A stand-in for the router, with one stream `crm`, one parked SET, and a record of the calls.
#[derive(Default)]
struct Fake {
    asked: Mutex<Vec<String>>,
    full: bool,
    stray: bool,
}

impl Fake {
    fn note(&self, what: impl Into<String>) {
        self.asked.lock().unwrap().push(what.into());
    }

    fn known(&self, id: &str) -> Result<StreamView, ChangeError> {
        match id {
            _ if self.full => Err(ChangeError::Store(StoreError::Full("no room".into()))),
            "crm" => Ok(view()),
            "gone" => Err(ChangeError::Invalid("the stream is disabled and cannot become paused".into())),
            other => Err(ChangeError::Unknown(format!("stream `{other}`"))),
        }
    }
}

fn view() -> StreamView {
    StreamView {
        id: "crm".into(),
        no: 1,
        issuer: ISSUER.into(),
        audience: Audience::One("https://crm.example".into()),
        method: "urn:ietf:rfc:8935".into(),
        endpoint: None,
        status: "enabled",
        reason: None,
        algorithm: "RS256".into(),
        owner: "operator".into(),
        waiting: 3,
        in_flight: 0,
        parked: 1,
        acknowledged: 5,
        parked_total: 1,
        dropped: 0,
        owed: 9,
        oldest_waiting_seconds: Some(4),
        last_error: None,
        last_error_seconds_ago: None,
        warning: Some("answers 200 instead of 202".into()),
        last_success_seconds_ago: None,
        last_session_seconds_ago: None,
        next_attempt_seconds: None,
        held: None,
        limited: None,
        nothing_because: None,
        description: None,
    }
}

fn jti() -> Jti {
    Jti::from_block(b'a', *b"0123456789abcdef")
}

fn parked() -> ParkedView {
    ParkedView {
        stream: "crm".into(),
        issuer: Some("https://idp.example.com".into()),
        jti: jti(),
        txn: Some("t".into()),
        at: Position::new(7),
        parked_at: Timestamp::from_seconds(1_700_000_060),
        accepted: Timestamp::from_seconds(1_700_000_000),
        code: ErrorCode::InvalidRequest,
        text: "no".into(),
        attempts: 1,
        stream_fault: false,
        claims: Some(json!({ "txn": "t" })),
    }
}

impl Operate for Fake {
    fn streams(&self) -> BoxFuture<'_, Vec<StreamView>> {
        std::future::ready(vec![view()]).boxed()
    }

    fn stream<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Option<StreamView>> {
        std::future::ready(self.known(id).ok()).boxed()
    }

    fn pause<'a>(&'a self, id: &'a str, reason: String) -> BoxFuture<'a, Result<StreamView, ChangeError>> {
        self.note(format!("pause {id}: {reason}"));
        std::future::ready(self.known(id)).boxed()
    }

    fn resume<'a>(&'a self, id: &'a str, reissue: bool) -> BoxFuture<'a, Result<StreamView, ChangeError>> {
        self.note(format!("resume {id} {reissue}"));
        std::future::ready(self.known(id)).boxed()
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), ChangeError>> {
        self.note(format!("delete {id}"));
        std::future::ready(self.known(id).map(|_| ())).boxed()
    }

    fn parked(&self, which: Which) -> BoxFuture<'_, Result<Vec<ParkedView>, ChangeError>> {
        self.note(format!("parked {which:?}"));
        let known = which.stream.as_deref().map_or(Ok(()), |id| self.known(id).map(|_| ()));
        std::future::ready(known.map(|()| vec![parked()])).boxed()
    }

    fn parked_one<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<ParkedView>, ChangeError>> {
        std::future::ready(Ok((id == jti().as_str()).then(parked))).boxed()
    }

    fn reissue(&self, jtis: Vec<String>, out_of_order: bool) -> BoxFuture<'_, Result<Vec<Reissued>, ChangeError>> {
        self.note(format!("reissue {jtis:?} {out_of_order}"));
        let results = jtis
            .into_iter()
            .map(|jti| Reissued {
                jti,
                stream: Some("crm".into()),
                txn: Some("t".into()),
                new_jti: Some("new".into()),
                error: None,
            })
            .collect();
        std::future::ready(self.known("crm").map(|_| results)).boxed()
    }

    fn discard(&self, jtis: Vec<String>) -> BoxFuture<'_, Result<usize, ChangeError>> {
        self.note(format!("discard {jtis:?}"));
        std::future::ready(Ok(jtis.len())).boxed()
    }

    fn health(&self) -> Health {
        let trouble = self.stray.then(|| "the wall clock is 7200 s ahead".to_owned());
        let offset = if self.stray { 7200 } else { 0 };
        Health {
            accepts: true,
            waiting: 3,
            clock_suspect: self.stray,
            clock_offset_seconds: offset,
            clock_trouble: trouble,
            ..Health::default()
        }
    }

    fn time(&self) -> Time {
        Time { now: Timestamp::from_seconds(1_700_000_000), ran: Duration::ZERO, suspect: self.stray }
    }

    fn confirm_clock(&self) -> BoxFuture<'static, Result<Confirmed, StoreError>> {
        self.note("confirm clock".to_owned());
        std::future::ready(Ok(Confirmed { offset_seconds: 7200, went_back_seconds: 0 })).boxed()
    }

    fn methods(&self) -> Vec<setgate_router::Method> {
        vec![setgate_router::Method { name: "push", uri: "urn:ietf:rfc:8935", aliases: &[] }]
    }
}

struct Fixture {
    fake: Arc<Fake>,
    sources: Arc<Sources>,
    app: Router,
    token: Minted,
    producer: Minted,
    receiver: Minted,
    not_ready: Arc<Mutex<Option<String>>>,
    keyring: Arc<Keyring>,
}

fn fixture() -> Fixture {
    fixture_with(Fake::default(), OperatorConfig { hosts: vec!["Ops.Example".into()], metrics: true })
}

fn fixture_with(fake: Fake, config: OperatorConfig) -> Fixture {
    let random = SeededRandom::new(3);
    let (token, producer) = (mint(TokenKind::Admin, &*random), mint(TokenKind::Producer, &*random));
    let section = ProducerSection {
        name: "idp".into(),
        token_hashes: vec![producer.hash.into()],
        issuers: vec![ISSUER.into()],
        events: EventsSection::All,
        subjects: SubjectsSection::Any,
    };
    let clock = ManualClock::at(1_700_000_000_000);
    let runtime = runtime(clock.clone(), 4);
    let producers = vec![Arc::new(Producer::new(ProducerNo(1), &section, &[ISSUER]).unwrap())];
    let receiver = mint(TokenKind::Receiver, &*random);
    let section = ReceiverSection {
        name: "crm".into(),
        token_hashes: vec![receiver.hash.into()],
        issuers: vec![ISSUER.into()],
        streams: StreamsSection::Exact(vec!["crm".into()]),
    };
    let receivers = Receiver::all(&[section], &[ISSUER]).unwrap();
    let now = Moment { wall_millis: 1_700_000_000_000, monotonic: runtime.clock.monotonic() };
    let ring = Ring::new(now).generate(Algorithm::EdDSA, RsaBits::default(), now, &Rotation::default(), false).unwrap();
    let keyring = Arc::new(Keyring::new(ring));
    let keys = Keys::start(KeysParts {
        runtime: runtime.clone(),
        store: MemoryStore::new(runtime.clone(), &[7; 32]),
        kek: Arc::new(Kek::generate().unwrap()),
        rotation: Rotation::default(),
        issuers: vec![KeysOf { issuer: ISSUER.into(), no: IssuerNo(1), keyring: keyring.clone() }],
    });
    let not_ready = Arc::new(Mutex::new(None));
    let (fake, said) = (Arc::new(fake), not_ready.clone());
    let about = About { name: "hr".into(), kind: "kafka".into(), issuer: ISSUER.into() };
    let store = MemoryStore::new(runtime.clone(), &[7; 32]);
    let registry = setgate_telemetry::Registry::new();
    let opened = Sources::open(store, runtime.clone(), vec![about], &registry).now_or_never();
    let sources = opened.expect("a store in memory answers at once").unwrap();
    let app = operator(OperatorParts {
        operate: fake.clone(),
        keys,
        guard: Arc::new(AdminGuard::new(&token.token)),
        sources: sources.clone(),
        producers: Arc::new(Guard::new(producers, clock).with_receivers(receivers)),
        config,
        address: "127.0.0.1:8081".parse().unwrap(),
        ready: Arc::new(move || said.lock().unwrap().clone().map_or(Ok(()), Err)),
        metrics: Arc::new(|| "setgate_up 1\n# EOF\n".to_owned()),
    });
    Fixture { fake, sources, app, token, producer, receiver, not_ready, keyring }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}

impl Fixture {
    fn bearer(&self) -> String {
        format!("Bearer {}", self.token.token.expose())
    }

    /// Sends a request with exactly these headers.
    async fn raw(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = http::Request::builder().method(method.clone()).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.app.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let path = path.split('?').next().unwrap();
        let answer = Answer { status: head.status.as_u16(), headers: head.headers, body };
        // A path that does not exist, or a method that it does not have, need not be described.
        let is_nothing = answer.status == 404 && !openapi::tests::is_described(openapi::Document::Operator, path);
        if !is_nothing && answer.status != 405 && method != Method::OPTIONS {
            openapi::tests::assert_described(openapi::Document::Operator, &method, path, answer.status);
        }
        answer
    }

    async fn get(&self, path: &str) -> Answer {
        let bearer = self.bearer();
        self.raw(Method::GET, path, &[("host", "localhost:8081"), ("authorization", &bearer)], "").await
    }

    async fn post(&self, path: &str, body: Json) -> Answer {
        let (bearer, body) = (self.bearer(), body.to_string());
        let length = body.len().to_string();
        let headers = [
            ("host", "localhost:8081"),
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("content-length", length.as_str()),
        ];
        self.raw(Method::POST, path, &headers, &body).await
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.fake.asked.lock().unwrap())
    }
}
