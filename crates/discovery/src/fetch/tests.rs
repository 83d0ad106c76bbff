use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ACCEPT, CACHE_CONTROL, ETAG, IF_NONE_MATCH},
};
use setgate_clock::manual::{ManualClock, runtime};
use setgate_jose::{Algorithm, Key, RsaBits};
use setgate_net::{HttpError, HttpFault, HttpResponse};
use tokio::sync::Notify;

use super::*;
use crate::document::LONGEST;

/// A transmitter that gives the answer that was set last.
#[derive(Clone)]
struct Stub(Arc<Inner>);

struct Inner {
    answer: Mutex<Result<HttpResponse, HttpError>>,
    asked: AtomicUsize,
    last: Mutex<Option<(Url, HeaderMap)>>,
    /// A notification that each answer waits for, when it is set.
    gate: Mutex<Option<Arc<Notify>>>,
}

impl Stub {
    fn new(body: &str) -> Self {
        Self(Arc::new(Inner {
            answer: Mutex::new(Ok(response(200, body))),
            asked: AtomicUsize::new(0),
            last: Mutex::new(None),
            gate: Mutex::new(None),
        }))
    }

    fn says(&self, answer: Result<HttpResponse, HttpError>) {
        *self.0.answer.lock() = answer;
    }

    fn asked(&self) -> usize {
        self.0.asked.load(Ordering::SeqCst)
    }
}

impl Wire for Stub {
    fn get(&self, url: Url, headers: HeaderMap) -> BoxFuture<'_, Result<HttpResponse, HttpError>> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        *self.0.last.lock() = Some((url, headers));
        let gate = self.0.gate.lock().clone();
        Box::pin(async move {
            if let Some(gate) = gate {
                gate.notified().await;
            }
            self.0.answer.lock().clone()
        })
    }
}

fn response(status: u16, body: &str) -> HttpResponse {
    HttpResponse {
        status: StatusCode::from_u16(status).unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        truncated: false,
    }
}

fn key_set() -> String {
    format!("{{\"keys\":[{}]}}", Key::generate(Algorithm::EdDSA, RsaBits::default()).unwrap().public_jwk())
}

fn fetcher(stub: &Stub) -> Fetcher {
    Fetcher::over(Box::new(stub.clone()), runtime(ManualClock::at(0), 1))
}

fn url() -> Url {
    Url::parse("https://tr.example.com/jwks.json").unwrap()
}

fn issuer() -> IssuerUrl {
    IssuerUrl::parse("https://tr.example.com/a").unwrap()
}

async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn metadata_is_asked_at_the_well_known_place() {
    let stub =
        Stub::new(r#"{"issuer":"https://tr.example.com/a","jwks_uri":"https://k.example.com/j","new":{"x":[1]}}"#);
    let metadata = fetcher(&stub).metadata(&issuer()).await.unwrap();
    assert_eq!(metadata.jwks_url(&issuer()).unwrap().as_str(), "https://k.example.com/j");
    assert_eq!(metadata.spec_version, None);
    let (url, headers) = stub.0.last.lock().clone().unwrap();
    assert_eq!(url.as_str(), "https://tr.example.com/.well-known/ssf-configuration/a");
    assert_eq!(headers[ACCEPT], "application/json");
}

#[tokio::test(start_paused = true)]
async fn metadata_of_another_issuer_is_not_used() {
    // SSF 1.0, 7.2.4: byte for byte.
    for other in [
        "https://tr.example.com/a/",
        "https://tr.example.com/b",
        "https://TR.example.com/a",
        "http://tr.example.com/a",
        "",
    ] {
        let stub = Stub::new(&format!(r#"{{"issuer":"{other}","jwks_uri":"https://tr.example.com/jwks.json"}}"#));
        let refused = fetcher(&stub).metadata(&issuer()).await;
        assert!(matches!(refused, Err(FetchError::OtherIssuer { asked }) if asked == issuer()), "{other}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_whole_document_is_an_error_that_says_whether_to_try_again() {
    let truncated = HttpResponse { truncated: true, ..response(200, "{}") };
    let cases = [
        (Ok(response(404, "")), true),
        (Ok(response(503, "")), true),
        (Ok(response(429, "")), true),
        (Ok(response(302, "")), false),
        (Ok(response(401, "")), false),
        (Ok(response(304, "")), false),
        (Ok(truncated), true),
        (Ok(response(200, "not JSON")), false),
        (Ok(response(200, r#"{"jwks_uri":"https://x"}"#)), false),
        (Ok(response(200, r#"{"issuer":"https://tr.example.com/a","issuer":"https://tr.example.com/a"}"#)), false),
        (Err(HttpError::new(HttpFault::Connect, "refused")), true),
        (Err(HttpError::new(HttpFault::Guard, "inside")), false),
    ];
    for (answer, transient) in cases {
        let stub = Stub::new("");
        stub.says(answer.clone());
        let error = fetcher(&stub).metadata(&issuer()).await.unwrap_err();
        assert_eq!(error.is_transient(), transient, "{answer:?} -> {error}");
        assert_eq!(stub.asked(), 1, "no redirect is followed, nothing is tried twice");
    }
}

#[test]
fn a_key_set_is_as_well_protected_as_its_issuer() {
    let metadata = |jwks_uri: Option<&str>| Metadata { jwks_uri: jwks_uri.map(str::to_owned), ..Metadata::default() };
    let local = IssuerUrl::parse("http://127.0.0.1:8080").unwrap();
    for bad in [None, Some("jwks.json"), Some("http://tr.example.com/j"), Some("file:///etc/passwd"), Some("data:,x")] {
        assert!(metadata(bad).jwks_url(&issuer()).is_err(), "{bad:?}");
    }
    assert!(metadata(Some("https://tr.example.com/j")).jwks_url(&issuer()).is_ok());
    assert!(metadata(Some("http://127.0.0.1:8080/j")).jwks_url(&local).is_ok());
    assert!(metadata(Some("file:///etc/passwd")).jwks_url(&local).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_key_set_is_kept_while_it_is_fresh() {
    let stub = Stub::new(&key_set());
    let mut answer = response(200, &key_set());
    answer.headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    stub.says(Ok(answer));
    let fetcher = fetcher(&stub);
    let first = fetcher.keys(&url()).await.unwrap();
    pass(299).await;
    let second = fetcher.keys(&url()).await.unwrap();
    assert_eq!(stub.asked(), 1);
    assert!(Arc::ptr_eq(&first.set, &second.set));
    pass(1).await;
    fetcher.keys(&url()).await.unwrap();
    assert_eq!(stub.asked(), 2);
    // Another URL has a cache of its own.
    fetcher.keys(&Url::parse("https://other.example.com/j").unwrap()).await.unwrap();
    assert_eq!(stub.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_makes_one_request_a_minute() {
    let stub = Stub::new(&key_set());
    let fetcher = fetcher(&stub);
    let seen = fetcher.keys(&url()).await.unwrap();
    for _ in 0..100 {
        assert_eq!(fetcher.keys_after(&url(), &seen).await.unwrap().version, seen.version);
    }
    assert_eq!(stub.asked(), 1, "it was asked for just now");
    pass(60).await;
    stub.says(Ok(response(200, &key_set())));
    let mut newer = seen.clone();
    for _ in 0..100 {
        newer = fetcher.keys_after(&url(), &seen).await.unwrap();
    }
    assert!(newer.version > seen.version);
    assert_eq!(stub.asked(), 2, "all who know the old set get the new one");
    for _ in 0..100 {
        fetcher.keys_after(&url(), &newer).await.unwrap();
    }
    assert_eq!(stub.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_last_good_set_stays_in_use_when_fetching_fails() {
    let stub = Stub::new(&key_set());
    let fetcher = fetcher(&stub);
    let good = fetcher.keys(&url()).await.unwrap();
    for bad in [
        Err(HttpError::new(HttpFault::Timeout, "no answer")),
        Ok(response(500, "")),
        Ok(response(200, "{}")),
        Ok(response(200, &format!("{{\"keys\":[{}]}}", vec!["{}"; 33].join(",")))),
        Ok(HttpResponse { truncated: true, ..response(200, &key_set()) }),
    ] {
        stub.says(bad);
        pass(24 * 3600).await;
        let before = stub.asked();
        for _ in 0..50 {
            assert!(Arc::ptr_eq(&fetcher.keys(&url()).await.unwrap().set, &good.set));
            assert!(Arc::ptr_eq(&fetcher.keys_after(&url(), &good).await.unwrap().set, &good.set));
        }
        assert_eq!(stub.asked(), before + 1, "and a failing URL is not hammered");
    }
    stub.says(Ok(response(200, &key_set())));
    pass(60).await;
    assert!(fetcher.keys(&url()).await.unwrap().version > good.version, "it recovers");
}

#[tokio::test(start_paused = true)]
async fn without_any_good_set_the_error_is_repeated_for_a_while_and_then_tried_again() {
    let stub = Stub::new("");
    stub.says(Ok(response(503, "")));
    let fetcher = fetcher(&stub);
    for _ in 0..20 {
        let error = fetcher.keys(&url()).await.unwrap_err();
        assert!(matches!(error, FetchError::Status { what: "key set", status: 503 }), "{error}");
    }
    assert_eq!(stub.asked(), 1);
    pass(5).await;
    stub.says(Ok(response(200, &key_set())));
    assert!(fetcher.keys(&url()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn many_callers_make_one_request() {
    let stub = Stub::new(&key_set());
    let gate = Arc::new(Notify::new());
    *stub.0.gate.lock() = Some(gate.clone());
    let fetcher = fetcher(&stub);
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let fetcher = fetcher.clone();
            tokio::spawn(async move { fetcher.keys(&url()).await.unwrap().version })
        })
        .collect();
    tokio::task::yield_now().await;
    gate.notify_one();
    for caller in callers {
        assert_eq!(caller.await.unwrap(), 1);
    }
    assert_eq!(stub.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_refresh_makes_nobody_else_wait() {
    let stub = Stub::new(&key_set());
    let fetcher = fetcher(&stub);
    let good = fetcher.keys(&url()).await.unwrap();
    pass(24 * 3600).await;
    *stub.0.gate.lock() = Some(Arc::new(Notify::new()));
    let slow = {
        let fetcher = fetcher.clone();
        tokio::spawn(async move { fetcher.keys(&url()).await })
    };
    tokio::task::yield_now().await;
    assert_eq!(stub.asked(), 2);
    assert!(Arc::ptr_eq(&fetcher.keys(&url()).await.unwrap().set, &good.set));
    // The attempt counts although its caller has gone away.
    slow.abort();
    let _ = slow.await;
    assert!(Arc::ptr_eq(&fetcher.keys(&url()).await.unwrap().set, &good.set));
    assert_eq!(stub.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_set_that_did_not_change_is_not_sent_again() {
    let stub = Stub::new("");
    let mut answer = response(200, &key_set());
    answer.headers.insert(ETAG, HeaderValue::from_static("\"one\""));
    stub.says(Ok(answer));
    let fetcher = fetcher(&stub);
    let first = fetcher.keys(&url()).await.unwrap();
    pass(3600).await;
    stub.says(Ok(response(304, "")));
    let second = fetcher.keys(&url()).await.unwrap();
    assert!(Arc::ptr_eq(&first.set, &second.set));
    assert_eq!(stub.0.last.lock().as_ref().unwrap().1[IF_NONE_MATCH], "\"one\"");
    pass(899).await;
    fetcher.keys(&url()).await.unwrap();
    assert_eq!(stub.asked(), 2, "fresh again");
}

#[tokio::test(start_paused = true)]
async fn the_cache_is_bounded() {
    let stub = Stub::new(&key_set());
    let fetcher = fetcher(&stub);
    for n in 0..SLOTS + 50 {
        fetcher.keys(&Url::parse(&format!("https://tr.example.com/{n}")).unwrap()).await.unwrap();
    }
    assert_eq!(fetcher.shared.slots.lock().len(), SLOTS);
}

/// Fetches metadata with a real client from a real server on loopback; `path` of the issuer selects the server's
/// behaviour.
async fn over_the_wire(path: &str, allowed: bool) -> Result<Metadata, FetchError> {
    use axum::{Router, http::header::LOCATION, routing::get};
    let hits = Arc::new(AtomicUsize::new(0));
    let counted = hits.clone();
    let listener = setgate_net::Listener::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let issuer = IssuerUrl::parse(&format!("http://{}/{path}", listener.address())).unwrap();
    let own = issuer.as_str().to_owned();
    let router = Router::new()
        .route(
            "/inside",
            get(move || async move {
                counted.fetch_add(1, Ordering::SeqCst);
                "reached"
            }),
        )
        .route(
            "/.well-known/ssf-configuration/redirects",
            get(|| async { (StatusCode::FOUND, [(LOCATION, "/inside")]) }),
        )
        .route("/.well-known/ssf-configuration/good", get(move || async move { format!(r#"{{"issuer":"{own}"}}"#) }))
        .route(
            "/.well-known/ssf-configuration/long",
            get(|| async { format!(r#"{{"issuer":"{}"}}"#, "x".repeat(LONGEST)) }),
        );
    let runtime = runtime(ManualClock::at(0), 1);
    let (_end, stop) = tokio::sync::watch::channel(false);
    tokio::spawn(listener.serve(router, stop, runtime.clone()));
    let mut config =
        setgate_net::OutboundConfig { allow_http: true, system_roots: false, ..setgate_net::OutboundConfig::default() };
    if allowed {
        config.allow_networks.push("127.0.0.0/8".parse().unwrap());
    }
    let out = setgate_net::Outbound::new(&config, runtime.clone(), setgate_net::OwnAddresses::new()).unwrap();
    let result = Fetcher::new(out.client(&setgate_net::TlsPolicy::default()), runtime).metadata(&issuer).await;
    assert_eq!(hits.load(Ordering::SeqCst), 0, "a redirect was followed");
    result
}

#[tokio::test]
async fn a_real_client_keeps_the_limits() {
    assert!(over_the_wire("good", true).await.is_ok());
    let refused = async |what| over_the_wire(what, true).await.unwrap_err();
    assert!(matches!(refused("redirects").await, FetchError::Status { what: "metadata", status: 302 }));
    assert!(matches!(refused("long").await, FetchError::NotWhole { what: "metadata" }));
    assert!(matches!(refused("absent").await, FetchError::Status { what: "metadata", status: 404 }));
    let error = over_the_wire("good", false).await.unwrap_err();
    assert!(matches!(&error, FetchError::NoAnswer { error, .. } if error.fault == HttpFault::Guard), "{error}");
    assert!(!error.is_transient());
}
