use axum::{Extension, Router, body::Bytes, http::StatusCode, routing::post};
use parking_lot::Mutex;
use setgate_delivery::{About, Entry, Fault, Json, spi::AnyChannel};
use setgate_net::{HttpRequest, Outbound, OutboundConfig, OwnAddresses, TlsPolicy, Url, http};

use super::*;
use crate::{
    Collect, Inbox, Misbehave, Report, Sink,
    testing::{AUDIENCE, Transmitter, hand_clock, never_stops, runtime, trust},
};

/// The receiving half of a simple method, with one SET a request.
struct Plain;

async fn receive(Extension(arrival): Extension<Arrival>, body: Bytes) -> (StatusCode, String) {
    let what = vec![Incoming::Set { named: None, token: body }];
    match arrival.ingest.accept(&arrival.peer, what).await.pop() {
        Some(Answer::Taken) => (StatusCode::ACCEPTED, String::new()),
        Some(Answer::Refused(refusal)) => (StatusCode::BAD_REQUEST, refusal.code.to_string()),
        _ => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
    }
}

impl AnyMethod for Plain {
    fn entry(&self) -> Entry {
        Entry { name: "plain", uri: "urn:example:plain", aliases: &[] }
    }

    fn channel(&self, _: &About, _: Json, _: Json) -> Result<Arc<dyn AnyChannel>, Fault> {
        Err(Fault::Unsupported("receives only"))
    }

    fn publish(&self, _: Json, _: &str) -> Result<Json, Fault> {
        Ok(Json::Null)
    }

    fn receive_routes(&self) -> Option<Router> {
        Some(Router::new().route("/", post(receive)).fallback(post(receive)))
    }

    /// Brings the SETs in `from`, once; fails as a transmitter that refuses the receiver when `from` is `closed`.
    fn collect(&self, from: Json, ingest: Arc<dyn Ingest>, mut stop: Stop) -> BoxFuture<'static, Result<(), Fault>> {
        Box::pin(async move {
            if from == "closed" {
                return Err(Fault::Start(setgate_delivery::Cause::new("http_401", "not let in")));
            }
            let Some(tokens) = from.as_array() else { return Err(Fault::Unsupported("listens only")) };
            for token in tokens {
                let token = token.as_str().unwrap().to_owned().into();
                let answers = ingest.accept("there", vec![Incoming::Set { named: None, token }]).await;
                assert_eq!(answers, [Answer::Taken]);
            }
            let _ = stop.wait_for(|stop| *stop).await;
            Ok(())
        })
    }
}

/// The reports that the sink received, and a way to wait for more.
struct Heard {
    reports: Mutex<Vec<Report>>,
    news: tokio::sync::Notify,
}

impl Heard {
    async fn until(&self, what: impl Fn(&Report) -> bool) {
        loop {
            let news = self.news.notified();
            if self.reports.lock().iter().any(&what) {
                return;
            }
            news.await;
        }
    }
}

fn sink() -> (Arc<Heard>, Sink) {
    let heard = Arc::new(Heard { reports: Mutex::default(), news: tokio::sync::Notify::new() });
    let to = heard.clone();
    let sink: Sink = Arc::new(move |report| {
        to.reports.lock().push(report.clone());
        to.news.notify_waiters();
        Ok(())
    });
    (heard, sink)
}

async fn listen(transmitter: &Transmitter, sink: Sink, authorization: Option<&str>) -> (Listen, Url) {
    let listener = Listener::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let url = Url::parse(&format!("http://{}/any/path", listener.address())).unwrap();
    let runtime = transmitter.runtime.clone();
    let misbehave = Misbehave::not_at_all(runtime.random.clone());
    let ingest = ListenIngest::new(transmitter.verify(&[AUDIENCE]), Inbox::new(10), misbehave, sink, runtime.clone());
    let listen = Listen {
        method: Arc::new(Plain),
        listener,
        ingest: Arc::new(ingest),
        issuers: vec![transmitter.issuer.clone()],
        trust: transmitter.trust.clone(),
        authorization: authorization.map(|text| Secret::new(text.to_owned())),
        runtime,
    };
    (listen, url)
}

async fn send(runtime: &Runtime, url: &Url, token: Vec<u8>, authorization: Option<&str>) -> (u16, String) {
    let config = OutboundConfig {
        allow_networks: vec!["127.0.0.0/8".parse().unwrap()],
        allow_http: true,
        system_roots: false,
        ..OutboundConfig::default()
    };
    let client = Outbound::new(&config, runtime.clone(), OwnAddresses::new()).unwrap().client(&TlsPolicy::default());
    let headers = authorization.map(|value| (AUTHORIZATION, value.parse().unwrap()));
    let request = HttpRequest {
        method: http::Method::POST,
        url: url.clone(),
        headers: http::HeaderMap::from_iter(headers),
        body: token.into(),
        keep_body: 1000,
        timeout: None,
    };
    let answer = client.send(request).await.unwrap();
    (answer.status.as_u16(), String::from_utf8_lossy(&answer.body).into_owned())
}

#[tokio::test]
async fn learns_of_its_issuer_serves_and_ends() {
    let transmitter = Transmitter::start_unknown().await;
    let (heard, sink) = sink();
    let (listen, url) = listen(&transmitter, sink, None).await;
    let (end, stop) = tokio::sync::watch::channel(false);
    let running = tokio::spawn(listen.serve(stop));
    heard.until(|report| matches!(report, Report::Learned { .. })).await;
    let token = transmitter.sign(&transmitter.claims("1"));
    assert_eq!(send(&transmitter.runtime, &url, token, None).await, (202, String::new()));
    let of_loopback = |report: &Report| match report {
        Report::Taken(received) => received.peer.starts_with("127.0.0.1:"),
        _ => false,
    };
    assert!(heard.reports.lock().iter().any(of_loopback), "the report names the peer");
    assert_eq!(send(&transmitter.runtime, &url, b"x".to_vec(), None).await, (400, "invalid_request".into()));
    end.send_replace(true);
    assert!(running.await.unwrap().is_ok());
}

#[tokio::test]
async fn waits_for_a_transmitter_that_is_not_up_yet() {
    // The listener is bound and closed again, so that no server answers at its address.
    let address = Listener::bind(([127, 0, 0, 1], 0).into()).await.unwrap().address();
    let issuer = IssuerUrl::parse(&format!("http://{address}")).unwrap();
    let runtime = runtime(hand_clock());
    let trust = trust(&runtime, std::slice::from_ref(&issuer));
    let (heard, sink) = sink();
    let verify = crate::Verify::new(trust.clone(), Vec::new(), crate::Verify::SKEW, runtime.clock.clone());
    let misbehave = Misbehave::not_at_all(runtime.random.clone());
    let ingest = Arc::new(ListenIngest::new(verify, Inbox::new(10), misbehave, sink, runtime.clone()));
    let listener = Listener::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let listen = Listen {
        method: Arc::new(Plain),
        listener,
        ingest,
        issuers: vec![issuer],
        trust,
        authorization: None,
        runtime,
    };
    let running = tokio::spawn(listen.serve(never_stops()));
    heard.until(|report| matches!(report, Report::Waiting { .. })).await;
    let listener = Listener::bind(address).await.unwrap();
    let _transmitter = Transmitter::behind(listener, &[]).await;
    heard.until(|report| matches!(report, Report::Learned { .. })).await;
    running.abort();
}

#[tokio::test]
async fn ends_when_trying_again_would_not_help() {
    // The metadata at the address names `http://127.0.0.1:…`, not `http://localhost:…`.
    let transmitter = Transmitter::start_unknown().await;
    let (_heard, sink) = sink();
    let (mut listen, _) = listen(&transmitter, sink, None).await;
    let other = IssuerUrl::parse(&transmitter.issuer.as_str().replace("127.0.0.1", "localhost")).unwrap();
    listen.trust = trust(&transmitter.runtime, std::slice::from_ref(&other));
    listen.issuers = vec![other];
    let error = listen.serve(never_stops()).await.unwrap_err();
    assert!(matches!(error, ListenError::Trust(_)), "{error}");
}

#[tokio::test]
async fn a_transmitter_must_show_the_header_that_was_agreed() {
    let transmitter = Transmitter::start().await;
    let (_heard, sink) = sink();
    let (listen, url) = listen(&transmitter, sink, Some("Bearer good")).await;
    let ingest = listen.ingest.clone();
    let running = tokio::spawn(listen.serve(never_stops()));
    let token = transmitter.sign(&transmitter.claims("1"));
    for wrong in [None, Some("Bearer bad"), Some("Bearer good2"), Some("bearer good"), Some("Bearer")] {
        let answer = send(&transmitter.runtime, &url, token.clone(), wrong).await;
        assert_eq!(answer, (400, "authentication_failed".into()), "{wrong:?}");
    }
    assert_eq!(send(&transmitter.runtime, &url, token, Some("Bearer good")).await.0, 202);
    let counts = ingest.counts();
    assert_eq!((counts.taken, counts.refused["authentication_failed"]), (1, 5));
    running.abort();
}

#[test]
fn a_refused_header_is_not_shown() {
    let secret = Secret::new("Bearer canary".to_owned());
    assert!(!format!("{secret:?}").contains("canary"));
}

fn collect(transmitter: &Transmitter, sink: Sink, from: Json) -> Collect {
    let runtime = transmitter.runtime.clone();
    let misbehave = Misbehave::not_at_all(runtime.random.clone());
    let ingest = ListenIngest::new(transmitter.verify(&[AUDIENCE]), Inbox::new(10), misbehave, sink, runtime.clone());
    Collect {
        method: Arc::new(Plain),
        from,
        ingest: Arc::new(ingest),
        issuers: vec![transmitter.issuer.clone()],
        trust: transmitter.trust.clone(),
        runtime,
    }
}

#[tokio::test]
async fn a_collector_knows_the_issuer_before_it_asks_and_ends_when_told() {
    let transmitter = Transmitter::start_unknown().await;
    let (heard, sink) = sink();
    let token = String::from_utf8(transmitter.sign(&transmitter.claims("1"))).unwrap();
    // The method checks that the ingest accepts the SET at once: it would be put off if the issuer were not known.
    let collect = collect(&transmitter, sink, Json::from(vec![token]));
    let (end, stop) = tokio::sync::watch::channel(false);
    let running = tokio::spawn(collect.serve(stop));
    heard.until(|report| matches!(report, Report::Taken(_))).await;
    end.send_replace(true);
    assert!(running.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_collector_tells_why_it_cannot_go_on() {
    let transmitter = Transmitter::start().await;
    let serve = |from: Json| collect(&transmitter, sink().1, from).serve(never_stops());
    assert!(matches!(serve(Json::Null).await, Err(ListenError::NotACollector("plain"))));
    let error = serve("closed".into()).await.unwrap_err();
    assert!(matches!(&error, ListenError::TurnedAway(_)) && error.to_string().contains("not let in"), "{error}");
}

#[tokio::test]
async fn a_collector_that_waits_for_its_issuer_can_be_stopped() {
    let address = Listener::bind(([127, 0, 0, 1], 0).into()).await.unwrap().address();
    let issuer = IssuerUrl::parse(&format!("http://{address}")).unwrap();
    let transmitter = Transmitter::start().await;
    let (heard, sink) = sink();
    let mut collect = collect(&transmitter, sink, Json::Array(Vec::new()));
    collect.trust = trust(&transmitter.runtime, std::slice::from_ref(&issuer));
    collect.issuers = vec![issuer];
    let (end, stop) = tokio::sync::watch::channel(false);
    let running = tokio::spawn(collect.serve(stop));
    heard.until(|report| matches!(report, Report::Waiting { .. })).await;
    end.send_replace(true);
    assert!(running.await.unwrap().is_ok());
}
