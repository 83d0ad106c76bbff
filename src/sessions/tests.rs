use std::time::Duration;

use axum::{Extension, http::HeaderMap};
use futures_util::FutureExt as _;
use serde_json::{Value as Json, json};
use setgate_clock::{MockClock, manual::SeededRandom};
use setgate_delivery::{
    About, Channel, Closed, Entry, Env, Fault, Form, Limits, NoOptions, Order, Profile, Redelivery, Want,
};
use setgate_jose::Algorithm;
use setgate_oauth::{
    EventsSection, Minted, Producer, ProducerSection, Receiver, ReceiverSection, StreamsSection, SubjectsSection,
    TokenHashSection, TokenKind, mint,
};
use setgate_store::{MemoryStore, ProducerNo};
use tower::ServiceExt as _;

use super::*;
use crate::{commands::listen, config::IssuerSection, state::issuers};

const A: &str = "https://a.example/one";
const B: &str = "https://a.example/two";
const ORIGIN: &str = "https://page.example";
const NOW: u64 = 1_800_000_000_000;

/// A responder that returns what it was given; at `/wait` it waits for the end of its session.
struct Tiny<const N: usize>;

struct TinyChannel;

impl Channel for TinyChannel {
    fn profile(&self) -> Profile {
        Profile {
            initiator: Initiator::Receiver,
            order: Order::PerBatch,
            receipt: setgate_set::Receipt::Receiver,
            form: Form::Token,
            redelivery: Redelivery::After(Duration::from_secs(60)),
            limits: Limits { sets: 10, bytes: 1 << 20, overhead: 0, set_bytes: 1 << 16 },
            endpoint: None,
            windows: Vec::new(),
        }
    }
}

impl<const N: usize> setgate_delivery::Method for Tiny<N> {
    const ENTRY: Entry = if N == 0 {
        Entry { name: "tiny", uri: "urn:example:tiny", aliases: &[] }
    } else {
        Entry { name: "other", uri: "urn:example:other", aliases: &[] }
    };
    type Section = NoOptions;
    type Grant = NoOptions;
    type Terms = NoOptions;
    type Channel = TinyChannel;

    async fn start(_: NoOptions, _: Env) -> Result<Self, Fault> {
        Ok(Self)
    }

    fn channel(self: &Arc<Self>, _: &About, _: NoOptions, _: NoOptions) -> Result<TinyChannel, Fault> {
        Ok(TinyChannel)
    }

    fn publish(&self, _: &NoOptions, at: &str) -> Json {
        json!({ "method": Self::ENTRY.uri, "endpoint_url": at })
    }

    fn routes(self: &Arc<Self>) -> Option<axum::Router> {
        let tell = |Extension(session): Extension<Session>, request: Request| async move {
            let names: Vec<_> = request.headers().keys().map(ToString::to_string).collect();
            let offered = request.headers().get("sec-websocket-protocol").and_then(|value| value.to_str().ok());
            axum::Json(json!({
                "method": Self::ENTRY.name, "uri": request.uri().to_string(), "headers": names, "offered": offered,
                "peer": &*session.peer, "channel": session.channel::<TinyChannel>().is_some(),
            }))
        };
        let wait = |Extension(mut session): Extension<Session>| async move {
            let mut consumer = session.subscription.consumer();
            tokio::select! {
                _ = session.ends.wait_for(|ended| *ended) => "credential",
                closed = consumer.next_batch(Want::ALL) => match closed {
                    Err(Closed::Draining) => "draining",
                    _ => "else",
                },
            }
        };
        let switch = || async { (StatusCode::SWITCHING_PROTOCOLS, [(header::UPGRADE, "websocket")]) };
        Some(
            axum::Router::new()
                .route("/", axum::routing::any(tell))
                .route("/sub/path", axum::routing::any(tell))
                .route("/wait", axum::routing::get(wait))
                .route("/switch", axum::routing::get(switch)),
        )
    }
}

struct Fixture {
    app: axum::Router,
    sessions: Sessions,
    router: Router,
    clock: Arc<MockClock>,
    registry: setgate_telemetry::Registry,
    /// The tokens: for `crm`, for all streams, for issuer B, one that expires at NOW + 60 s, and a producer's.
    crm: Minted,
    all: Minted,
    b: Minted,
    ends: Minted,
    producer: Minted,
}

async fn fixture(config: SessionsConfig) -> Fixture {
    let clock = MockClock::at(NOW);
    let runtime =
        Runtime { clock: clock.clone(), random: SeededRandom::new(1), tasks: Arc::new(setgate_clock::TokioTasks) };
    let store = MemoryStore::new(runtime.clone(), &[7; 32]);
    let kek = Arc::new(setgate_jose::Kek::generate().unwrap());
    let sections =
        [A, B].map(|url| IssuerSection { url: url.to_owned(), algorithms: vec![Algorithm::EdDSA], rsa_bits: 2048 });
    let issuers = issuers::load_or_create(&*store, &kek, &sections, &setgate_jose::Rotation::default()).await.unwrap();
    let http = listen::way_out(&runtime, Vec::new()).unwrap();
    let env = || Env { http: http.clone(), runtime: runtime.clone(), report: Arc::new(|_| {}) };
    let methods = vec![
        setgate_delivery::spi::start::<Tiny<0>>(json!({}), env()).await.unwrap(),
        setgate_delivery::spi::start::<Tiny<1>>(json!({}), env()).await.unwrap(),
    ];
    let registry = setgate_telemetry::Registry::new();
    let router = Router::start(setgate_router::Parts {
        runtime: runtime.clone(),
        store: store.clone(),
        kek,
        issuers,
        methods: methods.clone(),
        config: setgate_router::Config::default(),
        observed: registry.lend(setgate_router::Observed::register),
    })
    .await
    .unwrap();
    let declared = |id: &str, issuer: &str, method: &str| {
        serde_json::from_value(json!({
            "id": id, "issuer": issuer, "audience": "https://r.example", "delivery": { "method": method },
        }))
        .unwrap()
    };
    let streams = vec![
        declared("crm", A, "tiny"),
        declared("hr", A, "tiny"),
        declared("of-b", B, "tiny"),
        declared("odd", A, "other"),
    ];
    router.reconcile(streams, false).await.unwrap();

    let random = SeededRandom::new(7);
    let [crm, all, b, ends] = [(); 4].map(|()| mint(TokenKind::Receiver, &*random));
    let producer = mint(TokenKind::Producer, &*random);
    let receiver = |name: &str, token: TokenHashSection, issuer: &str, streams| ReceiverSection {
        name: name.into(),
        token_hashes: vec![token],
        issuers: vec![issuer.into()],
        streams,
    };
    let until = json!({ "hash": ends.hash, "expires": "2027-01-15T08:01:00Z" });
    let receivers = [
        receiver("crm", crm.hash.into(), A, StreamsSection::Exact(vec!["crm".into(), "odd".into(), "none".into()])),
        receiver("all", all.hash.into(), A, StreamsSection::All),
        receiver("b", b.hash.into(), B, StreamsSection::All),
        receiver("ends", serde_json::from_value(until).unwrap(), A, StreamsSection::All),
    ];
    let section = ProducerSection {
        name: "idp".into(),
        token_hashes: vec![producer.hash.into()],
        issuers: vec![A.into()],
        events: EventsSection::All,
        subjects: SubjectsSection::Any,
    };
    let producers = vec![Arc::new(Producer::new(ProducerNo(1), &section, &[A, B]).unwrap())];
    let guard =
        Guard::new(producers, runtime.clock.clone()).with_receivers(Receiver::all(&receivers, &[A, B]).unwrap());
    let parts = Parts {
        runtime,
        guard: Arc::new(guard),
        find: finder(&router),
        issuers: vec![A, B],
        methods: &methods,
        config,
        observed: Observed::register(&registry),
    };
    let sessions = Sessions::new(parts).unwrap();
    let app = sessions.mount(axum::Router::new());
    Fixture { app, sessions, router, clock, registry, crm, all, b, ends, producer }
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Fixture {
    async fn send(&self, method: &str, uri: &str, fields: &[(&str, &str)], body: &str) -> Answer {
        let mut request = axum::http::Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let answer = self.app.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    async fn get(&self, uri: &str, token: &Minted) -> Answer {
        self.send("GET", uri, &[("authorization", &bearer(token))], "").await
    }

    /// Returns a ticket for `crm` and the page.
    async fn ticket(&self, token: &Minted) -> String {
        let fields = [("authorization", &*bearer(token)), ("origin", ORIGIN)];
        let answer = self.send("POST", "/one/tiny/crm/ticket", &fields, "").await;
        assert_eq!((answer.status, &answer.headers["cache-control"]), (201, &HeaderValue::from_static("no-store")));
        assert_eq!(answer.json()["expires_in"], 30);
        answer.json()["ticket"].as_str().unwrap().to_owned()
    }

    /// Opens a socket with a ticket.
    async fn open(&self, uri: &str, origin: &str, offer: &str) -> Answer {
        let fields = [("upgrade", "websocket"), ("origin", origin), ("sec-websocket-protocol", offer)];
        self.send("GET", uri, &fields, "").await
    }
}

fn bearer(token: &Minted) -> String {
    format!("Bearer {}", token.token.expose())
}

#[tokio::test]
async fn the_attack_matrix_has_one_answer_for_each_row() {
    let fixture = fixture(SessionsConfig::default()).await;
    fixture.clock.advance(Duration::from_secs(60));
    let wrong = mint(TokenKind::Receiver, &*SeededRandom::new(99));
    let disguised = fixture.producer.token.expose().replace("sgp_", "sgr_");
    // RFC 8417 §4.2, hardening H41: a SET is never a bearer token.
    let set = "eyJ0eXAiOiJzZWNldmVudCtqd3QiLCJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwczovL2EuZXhhbXBsZSJ9.c2ln";
    // The receiver's stream, another's, none, another issuer's stream here and at its own path, another method.
    let targets =
        ["/one/tiny/crm", "/one/tiny/hr", "/one/tiny/none", "/one/tiny/of-b", "/two/tiny/of-b", "/one/other/crm"];
    let rows: [(&str, Option<String>, [u16; 6]); 9] = [
        ("no token", None, [401; 6]),
        ("wrong token", Some(bearer(&wrong)), [401; 6]),
        ("producer's token", Some(bearer(&fixture.producer)), [401; 6]),
        ("producer's token disguised", Some(format!("Bearer {disguised}")), [401; 6]),
        ("expired token", Some(bearer(&fixture.ends)), [401; 6]),
        ("SET", Some(format!("Bearer {set}")), [401; 6]),
        ("own token", Some(bearer(&fixture.crm)), [200, 404, 404, 404, 403, 404]),
        ("other receiver's token", Some(bearer(&fixture.b)), [403, 403, 403, 403, 200, 403]),
        ("token of all", Some(bearer(&fixture.all)), [200, 200, 404, 404, 403, 404]),
    ];
    for (who, token, statuses) in rows {
        for (target, status) in targets.iter().zip(statuses) {
            let fields: Vec<_> = token.iter().map(|token| ("authorization", token.as_str())).collect();
            let answer = fixture.send("GET", target, &fields, "").await;
            assert_eq!(answer.status, status, "{who} at {target}");
            let challenged = matches!(status, 401 | 403);
            assert_eq!(answer.headers.contains_key("www-authenticate"), challenged, "{who} at {target}");
            let query = fixture.crm.token.expose();
            let answer = fixture.send("GET", &format!("{target}?access_token={query}"), &fields, "").await;
            assert_eq!(answer.status, 400, "{who} at {target} with a token in the query");
            let cookie = [("cookie", query.as_str())];
            assert_eq!(fixture.send("GET", target, &cookie, "").await.status, 401, "a cookie at {target}");
        }
    }
}

#[tokio::test]
async fn a_stream_of_somebody_else_and_none_are_answered_alike() {
    let fixture = fixture(SessionsConfig::default()).await;
    let [other, none, method, foreign] = [
        fixture.get("/one/tiny/hr", &fixture.crm).await,
        fixture.get("/one/tiny/nowhere", &fixture.crm).await,
        fixture.get("/one/tiny/odd", &fixture.crm).await,
        fixture.get("/one/tiny/of-b", &fixture.all).await,
    ];
    for answer in [&none, &method, &foreign] {
        assert_eq!((answer.status, &answer.headers, &answer.body), (404, &other.headers, &other.body));
    }
}

#[tokio::test]
async fn no_spelling_of_a_path_leads_to_another_stream() {
    let fixture = fixture(SessionsConfig::default()).await;
    for path in [
        "/one/tiny/%63rm",
        "/one/tiny/crm%2f",
        "/one/tiny/crm%2F..%2Fhr",
        "/one/tiny/x/../crm",
        "/one/tiny/./crm",
        "/one/tiny//crm",
        "/one/tiny/crm/",
        "/one/tiny/crm//",
        "/one/tiny/crm/..",
        "/one/tiny/crm/../hr",
        "/one//tiny/crm",
        "//one/tiny/crm",
        "/one/tiny/crm;x",
        "/one/tiny/crm%00",
        "/one/tiny/crm/sub%2Fpath",
        "/one/TINY/crm",
        "/one/tiny/CRM",
        "/one/tiny/",
        "/one/tiny",
        "/One/tiny/crm",
        "/one/tiny/crm/%74icket",
    ] {
        let answer = fixture.get(path, &fixture.all).await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
    }
}

#[tokio::test]
async fn a_method_sees_its_own_path_and_no_credential() {
    let fixture = fixture(SessionsConfig::default()).await;
    let fields = [
        ("authorization", &*bearer(&fixture.crm)),
        ("cookie", "session=x"),
        ("sec-websocket-protocol", "setgate.v1, ticket.canary"),
        ("accept-language", "de"),
    ];
    for (path, inner) in [("", "/"), ("?x=1", "/?x=1"), ("/sub/path", "/sub/path"), ("/sub/path?x=1", "/sub/path?x=1")]
    {
        let fields = if path.is_empty() { &fields[..2] } else { &fields[..1] };
        let told = fixture.send("POST", &format!("/one/tiny/crm{path}"), fields, "").await.json();
        assert_eq!((&told["uri"], &told["peer"], &told["channel"]), (&json!(inner), &json!("crm"), &json!(true)));
        assert_eq!(told["headers"], json!([]), "{told}");
    }
    // A ticket is removed even if the bearer token counts; two credentials at once are refused.
    let told = fixture.send("POST", "/one/tiny/crm", &fields, "").await;
    assert_eq!(told.status, 400);
    let told = fixture.send("POST", "/one/tiny/crm", &[fields[0], fields[3]], "").await.json();
    assert_eq!(told["headers"], json!(["accept-language"]));
}

#[tokio::test]
async fn a_ticket_opens_one_socket_and_is_not_seen_again() {
    let fixture = fixture(SessionsConfig::default()).await;
    for (offer, left) in [
        ("setgate.v1, ticket.T", json!("setgate.v1")),
        ("ticket.T,setgate.v1 , pushpull", json!("setgate.v1, pushpull")),
        ("TICKET.T", Json::Null),
    ] {
        let ticket = fixture.ticket(&fixture.crm).await;
        let offer = offer.replace(".T", &format!(".{ticket}"));
        let first = fixture.open("/one/tiny/crm", ORIGIN, &offer).await;
        assert_eq!((first.status, &first.json()["offered"], &first.json()["peer"]), (200, &left, &json!("crm")));
        assert!(
            !String::from_utf8_lossy(&first.body).contains(&ticket)
                && !format!("{:?}", first.headers).contains(&ticket)
        );
        assert_eq!(fixture.open("/one/tiny/crm", ORIGIN, &offer).await.status, 401, "it was used");
    }
}

#[tokio::test]
async fn a_ticket_shown_at_the_wrong_place_is_used_up() {
    let fixture = fixture(SessionsConfig::default()).await;
    for (target, origin) in [
        ("/one/tiny/hr", ORIGIN),
        ("/two/tiny/of-b", ORIGIN),
        ("/one/tiny/crm", "https://evil.example"),
        ("/one/tiny/crm", "null"),
        ("/one/tiny/crm", "https://page.example:8443"),
        ("/one/tiny/crm", "http://page.example"),
        ("/one/tiny/crm", ""),
    ] {
        let offer = format!("ticket.{}", fixture.ticket(&fixture.all).await);
        assert_eq!(fixture.open(target, origin, &offer).await.status, 401, "{target} {origin}");
        assert_eq!(fixture.open("/one/tiny/crm", ORIGIN, &offer).await.status, 401, "{target} {origin}: used up");
    }
    let offer = format!("ticket.{}", fixture.ticket(&fixture.all).await);
    let no_origin = [("upgrade", "websocket"), ("sec-websocket-protocol", &*offer)];
    assert_eq!(fixture.send("GET", "/one/tiny/crm", &no_origin, "").await.status, 401);
}

#[tokio::test]
async fn a_ticket_counts_for_a_socket_only() {
    let fixture = fixture(SessionsConfig::default()).await;
    let offer = format!("ticket.{}", fixture.ticket(&fixture.crm).await);
    let fields = [("origin", ORIGIN), ("sec-websocket-protocol", &*offer)];
    assert_eq!(fixture.send("GET", "/one/tiny/crm", &fields, "").await.status, 401, "no upgrade");
    assert_eq!(fixture.send("POST", "/one/tiny/crm", &fields, "").await.status, 401);
    let upgrade = [fields[0], fields[1], ("upgrade", "websocket")];
    assert_eq!(
        fixture.send("POST", "/one/tiny/crm/ticket", &upgrade, "").await.status,
        401,
        "a ticket fetches no ticket"
    );
    let as_token = format!("Bearer {}", offer.trim_start_matches("ticket."));
    assert_eq!(fixture.send("GET", "/one/tiny/crm", &[("authorization", &as_token)], "").await.status, 401);
    let two = format!("{offer}, ticket.other");
    assert_eq!(fixture.open("/one/tiny/crm", ORIGIN, &two).await.status, 400);
    assert_eq!(fixture.open("/one/tiny/crm", ORIGIN, &offer).await.status, 200, "none of these was its use");
}

#[tokio::test]
async fn a_ticket_lives_thirty_seconds() {
    let fixture = fixture(SessionsConfig::default()).await;
    for (after, status) in [(29_999, 200), (30_000, 401)] {
        let offer = format!("ticket.{}", fixture.ticket(&fixture.crm).await);
        fixture.clock.advance(Duration::from_millis(after));
        assert_eq!(fixture.open("/one/tiny/crm", ORIGIN, &offer).await.status, status, "{after}");
    }
}

#[tokio::test]
async fn a_ticket_does_not_outlive_the_token_that_fetched_it() {
    let fixture = fixture(SessionsConfig::default()).await;
    fixture.clock.advance(Duration::from_secs(45));
    let offer = format!("ticket.{}", fixture.ticket(&fixture.ends).await);
    fixture.clock.advance(Duration::from_secs(15));
    assert_eq!(fixture.open("/one/tiny/crm", ORIGIN, &offer).await.status, 401);
}

#[tokio::test]
async fn a_ticket_is_for_an_origin_that_is_named_once() {
    let fixture = fixture(SessionsConfig::default()).await;
    let token = bearer(&fixture.crm);
    let ask = async |origin: Option<&str>, body: &str| {
        let mut fields = vec![("authorization", token.as_str())];
        fields.extend(origin.map(|origin| ("origin", origin)));
        fixture.send("POST", "/one/tiny/crm/ticket", &fields, body).await.status
    };
    let request = json!({ "origin": ORIGIN }).to_string();
    for (origin, body, status) in [
        (Some(ORIGIN), "", 201),
        (None, &*request, 201),
        (Some(ORIGIN), &*request, 201),
        (None, "", 400),
        (None, "{}", 400),
        (Some("https://other.example"), &*request, 400),
        (Some("null"), "", 400),
        (Some("https://page.example/path"), "", 400),
        (None, r#"{"origin": "https://page.example", "stream": "hr"}"#, 400),
        (None, "origin", 400),
        (None, &*" ".repeat(4096), 400),
        (None, r#"{"origin": "https://a.example", "origin": "https://b.example"}"#, 400),
    ] {
        assert_eq!(ask(origin, body).await, status, "{origin:?} {body}");
    }
    let answer = fixture.get("/one/tiny/crm/ticket", &fixture.crm).await;
    assert_eq!((answer.status, &answer.headers["allow"]), (405, &HeaderValue::from_static("POST")));
    for (target, token, status) in
        [("/one/tiny/hr/ticket", &fixture.crm, 404), ("/one/tiny/crm/ticket", &fixture.b, 403)]
    {
        assert_eq!(fixture.get(target, token).await.status, status, "{target}");
    }
}

#[tokio::test]
async fn tickets_are_bounded_for_all_and_for_each_and_room_comes_back() {
    let fixture = fixture(SessionsConfig { tickets: 3, tickets_per_receiver: 2, ..SessionsConfig::default() }).await;
    let ask = async |token: &Minted| {
        let fields = [("authorization", &*bearer(token)), ("origin", ORIGIN)];
        let answer = fixture.send("POST", "/one/tiny/crm/ticket", &fields, "").await;
        (answer.status, answer.headers.contains_key("retry-after"))
    };
    let first = format!("ticket.{}", fixture.ticket(&fixture.crm).await);
    assert_eq!(ask(&fixture.crm).await, (201, false));
    assert_eq!(ask(&fixture.crm).await, (429, true));
    assert_eq!(ask(&fixture.all).await, (201, false));
    assert_eq!(ask(&fixture.all).await, (503, true));
    assert_eq!(fixture.open("/one/tiny/crm", ORIGIN, &first).await.status, 200);
    assert_eq!(ask(&fixture.crm).await, (201, false), "a used ticket is room for another");
    fixture.clock.advance(Duration::from_secs(30));
    assert_eq!(ask(&fixture.crm).await, (201, false), "so is one that has expired");
    assert!(fixture.registry.text().contains("setgate_tickets_issued_total 5\n"), "{}", fixture.registry.text());
}

#[tokio::test]
async fn sessions_are_bounded_for_all_and_for_each_and_room_comes_back() {
    let fixture = fixture(SessionsConfig { connections: 3, per_receiver: 2, ..SessionsConfig::default() }).await;
    let begin = |token: &Minted| {
        let request = Request::get("/one/tiny/crm/wait").header("authorization", bearer(token));
        let mut waiting = Box::pin(fixture.app.clone().oneshot(request.body(Body::empty()).unwrap()));
        async move { ((&mut waiting).now_or_never().is_none(), waiting) }
    };
    let mut open = Vec::new();
    for token in [&fixture.crm, &fixture.crm, &fixture.all] {
        let (pending, waiting) = begin(token).await;
        assert!(pending);
        open.push(waiting);
    }
    assert!(fixture.registry.text().contains("setgate_sessions_open{method=\"tiny\"} 3\n"));
    let busy = fixture.get("/one/tiny/crm", &fixture.all).await;
    assert_eq!((busy.status, busy.headers.contains_key("retry-after")), (503, true));
    open.pop();
    let busy = fixture.get("/one/tiny/crm", &fixture.crm).await;
    assert_eq!((busy.status, busy.headers.contains_key("retry-after")), (429, true));
    assert_eq!(fixture.get("/one/tiny/crm", &fixture.all).await.status, 200);
    open.clear();
    assert_eq!(fixture.get("/one/tiny/crm", &fixture.crm).await.status, 200);
    let text = fixture.registry.text();
    assert!(text.contains("setgate_sessions_open{method=\"tiny\"} 0\n"), "{text}");
    assert!(text.contains("setgate_sessions_refused_total{reason=\"per_receiver\"} 1\n"), "{text}");
}

#[tokio::test]
async fn a_session_holds_its_place_until_its_answer_was_read() {
    let fixture = fixture(SessionsConfig { connections: 1, ..SessionsConfig::default() }).await;
    let request =
        Request::get("/one/tiny/crm").header("authorization", bearer(&fixture.crm)).body(Body::empty()).unwrap();
    let answer = fixture.app.clone().oneshot(request).await.unwrap();
    assert_eq!(fixture.get("/one/tiny/crm", &fixture.crm).await.status, 503);
    drop(answer);
    assert_eq!(fixture.get("/one/tiny/crm", &fixture.crm).await.status, 200);
}

#[tokio::test]
async fn a_session_ends_with_its_credential_and_with_the_router() {
    let fixture = fixture(SessionsConfig::default()).await;
    let wait = |token: &Minted| {
        let (app, token) = (fixture.app.clone(), bearer(token));
        tokio::spawn(async move {
            let request =
                Request::get("/one/tiny/crm/wait").header("authorization", token).body(Body::empty()).unwrap();
            let answer = app.oneshot(request).await.unwrap();
            axum::body::to_bytes(answer.into_body(), 100).await.unwrap()
        })
    };
    let (ends, stays) = (wait(&fixture.ends), wait(&fixture.crm));
    while !fixture.registry.text().contains("setgate_sessions_open{method=\"tiny\"} 2\n") {
        tokio::task::yield_now().await;
    }
    fixture.clock.advance(Duration::from_secs(60));
    assert_eq!(ends.await.unwrap(), "credential");
    fixture.sessions.close();
    let late = fixture.get("/one/tiny/crm", &fixture.crm).await;
    assert_eq!((late.status, late.headers.contains_key("retry-after")), (503, true));
    fixture.router.drain(Duration::from_secs(5)).await;
    assert_eq!(stays.await.unwrap(), "draining");
}

#[tokio::test]
async fn issuers_whose_streams_could_be_mistaken_are_refused() {
    let runtime = setgate_clock::system();
    let env = Env { http: listen::way_out(&runtime, Vec::new()).unwrap(), runtime, report: Arc::new(|_| {}) };
    let methods = [setgate_delivery::spi::start::<Tiny<0>>(json!({}), env).await.unwrap()];
    for (issuers, good) in [
        (["https://a.example", "https://a.example/tiny"], false),
        (["https://a.example/x", "https://a.example/x/tiny/y"], false),
        (["https://a.example", "https://a.example/x"], true),
        (["https://a.example/x", "https://a.example/tiny"], true),
        (["https://a.example", "https://a.example/tinys"], true),
    ] {
        let found = Paths::new(&issuers, &methods);
        assert_eq!(found.is_ok(), good, "{issuers:?}");
        if let Err(error) = found {
            assert!(error.to_string().contains("/tiny"), "{error}");
        }
    }
}
