//! The intake endpoint with a stand-in for the router behind it.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use http_body_util::BodyExt as _;
use serde_json::{Value as Json, json};
use setgate_clock::manual::{ManualClock, SeededRandom, runtime};
use setgate_oauth::{EventsSection, Minted, ProducerSection, SubjectsSection, TokenKind, mint};
use setgate_router::{Accepted, Closed};
use setgate_set::Event;
use setgate_store::{Position, ProducerNo};
use tokio::sync::Semaphore as Gate;
use tower::ServiceExt as _;

use super::*;

mod attacks;
mod bodies;
mod limits;
mod real;
mod sockets;
mod streaming;

pub(super) const A: &str = "https://gateway.example/a";
pub(super) const B: &str = "https://gateway.example/b/";
pub(super) const REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";

/// A stand-in for the router, which remembers the events it accepted and answers by their id.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) batches: Mutex<Vec<Vec<Event>>>,
    seen: Mutex<HashMap<Box<str>, [u8; 16]>>,
    pub(super) closed: Mutex<Option<Closed>>,
    /// The gate whose permits the commits wait for, if there is one.
    pub(super) gate: Mutex<Option<Arc<Gate>>>,
    pub(super) taken: AtomicUsize,
}

impl Fake {
    fn one(&self, event: &mut Event) -> Accepted {
        let at = self.taken.fetch_add(1, Ordering::SeqCst);
        let digest = event.digest();
        match event.id.as_deref() {
            Some("full") => return Accepted::Unavailable(full()),
            Some("names-stream") => return Accepted::NamesStream,
            Some(id) => {
                if let Some(first) = self.seen.lock().unwrap().insert(id.into(), digest) {
                    return if first == digest { Accepted::Repeat { txn: "first".into() } } else { Accepted::Conflict };
                }
            }
            None => {}
        }
        let txn = event.txn_or(|| format!("txn-{at}")).into();
        Accepted::New { at: Position::new(1 + at as u64), txn }
    }

    pub(super) fn ids(&self) -> Vec<String> {
        let batches = self.batches.lock().unwrap();
        batches.iter().flatten().map(|event| event.id.as_deref().unwrap_or("-").to_owned()).collect()
    }
}

pub(super) fn full() -> Closed {
    let rule = Some("store.budget_bytes");
    Closed {
        why: "17 bytes".into(),
        summary: "the store is full",
        rule,
        retry_after: Duration::from_secs(7),
        status: 503,
    }
}

struct Behind(Arc<Fake>);

impl Accept for Behind {
    fn gate(&self) -> Result<(), Closed> {
        self.0.closed.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn accept(&self, _: ProducerNo, mut events: Vec<Event>) -> BoxFuture<'static, Vec<Accepted>> {
        let fake = self.0.clone();
        Box::pin(async move {
            let gate = fake.gate.lock().unwrap().clone();
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            let answers = events.iter_mut().map(|event| fake.one(event)).collect();
            fake.batches.lock().unwrap().push(events);
            answers
        })
    }
}

pub(super) struct Fixture {
    pub(super) fake: Arc<Fake>,
    pub(super) app: Router,
    /// The token of the producer that may put in everything at issuer A.
    pub(super) token: Minted,
    /// The token of the producer that may put in `session-revoked` about one identity provider at issuer B.
    pub(super) narrow: Minted,
    pub(super) registry: setgate_telemetry::Registry,
}

pub(super) fn fixture() -> Fixture {
    fixture_with(IntakeConfig::default())
}

pub(super) fn fixture_with(config: IntakeConfig) -> Fixture {
    let random = SeededRandom::new(11);
    let (token, narrow) = (mint(TokenKind::Producer, &*random), mint(TokenKind::Producer, &*random));
    let sections = [
        ProducerSection {
            name: "all-at-a".into(),
            token_hashes: vec![token.hash.into()],
            issuers: vec![A.into()],
            events: EventsSection::All,
            subjects: SubjectsSection::Any,
        },
        ProducerSection {
            name: "narrow-at-b".into(),
            token_hashes: vec![narrow.hash.into()],
            issuers: vec![B.into()],
            events: EventsSection::Exact(vec![REVOKED.into()]),
            subjects: SubjectsSection::Rules {
                iss: vec!["https://idp.example".into()],
                email_domains: vec![],
                tenants: vec![],
            },
        },
    ];
    let producers = sections
        .iter()
        .zip(1..)
        .map(|(section, no)| Arc::new(Producer::new(ProducerNo(no), section, &[A, B]).unwrap()))
        .collect();
    let clock = ManualClock::at(1_000_000);
    let fake = Arc::new(Fake::default());
    let intake = |issuer: &str| Intake { issuer: issuer.into(), accept: Arc::new(Behind(fake.clone())) };
    let registry = setgate_telemetry::Registry::new();
    let app = world(WorldParts {
        issuers: vec![intake(A), intake(B)],
        guard: Arc::new(Guard::new(producers, clock.clone())),
        config,
        runtime: runtime(clock, 3),
        observed: Observed::register(&registry),
    })
    .unwrap();
    Fixture { fake, app, token, narrow, registry }
}

/// An answer that was read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: http::HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(super) fn lines(&self) -> Vec<Json> {
        assert_eq!(self.status, 200, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/x-ndjson");
        self.body.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect()
    }

    pub(super) fn statuses(&self) -> Vec<u64> {
        self.lines()
            .iter()
            .filter(|line| line.get("index").is_some())
            .map(|line| line["status"].as_u64().unwrap())
            .collect()
    }
}

impl Fixture {
    pub(super) fn request(&self, kind: &str, body: impl Into<Body>) -> Request {
        http::Request::post("/a/events")
            .header("authorization", format!("Bearer {}", self.token.token.expose()))
            .header("content-type", kind)
            .body(body.into())
            .unwrap()
    }

    pub(super) async fn send(&self, request: Request) -> Answer {
        let path = request.uri().path().to_owned();
        let method = request.method().clone();
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let answer = Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.collect().await.unwrap().to_bytes(),
        };
        openapi::tests::assert_described(openapi::Document::Intake, &method, &path, answer.status);
        answer
    }

    pub(super) async fn post(&self, kind: &str, body: impl Into<Body>) -> Answer {
        self.send(self.request(kind, body)).await
    }

    pub(super) async fn one(&self, event: &Json) -> Answer {
        self.post("application/json", event.to_string()).await
    }

    pub(super) async fn many(&self, events: &[Json]) -> Answer {
        self.post("application/x-ndjson", ndjson(events)).await
    }
}

pub(super) fn ndjson(events: &[Json]) -> String {
    events.iter().map(|event| format!("{event}\n")).collect()
}

pub(super) fn event(id: impl std::fmt::Display) -> Json {
    json!({
        "id": id.to_string(),
        "events": { REVOKED: { "event_timestamp": 1_700_000_000 } },
        "sub_id": { "format": "iss_sub", "iss": "https://idp.example", "sub": format!("user-{id}") },
    })
}
