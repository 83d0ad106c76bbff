//! Tests of push against its own receiving half and against servers that misbehave, over real sockets.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value as Json, json};
use setgate_delivery::{
    About, Arrival, BoxFuture, Bytes, Env, Fault, Ingest, Method, Outcome, Receipt, Runtime, Scope, Verdict,
    axum::Extension,
    endpoint::Trusting,
    spi::AnyChannel,
    testkit::{
        Fixture, Opened, Relay, clock, conform,
        net::{Listener, Outbound, OutboundConfig, OwnAddresses, Resolve, ServerCertificate},
    },
};
use setgate_push::{Grant, Push, Section, Terms};
use tokio::sync::watch;
mod receiving;
mod server;

/// A resolver that gives prepared answers one after the other, and repeats the last one.
struct Answers(Mutex<Vec<Vec<IpAddr>>>);

impl Answers {
    fn new(all: &[&[&str]]) -> Arc<Self> {
        let parse = |answer: &&[&str]| answer.iter().map(|ip| ip.parse().unwrap()).collect();
        Arc::new(Self(Mutex::new(all.iter().rev().map(parse).collect())))
    }
}

impl Resolve for Answers {
    fn resolve(&self, _: &str) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
        let mut left = self.0.lock().unwrap();
        let answer = if left.len() > 1 { left.pop() } else { left.last().cloned() };
        Box::pin(std::future::ready(Ok(answer.unwrap_or_default())))
    }
}

/// Returns a method that is started as the gateway starts it.
async fn method(
    runtime: &Runtime,
    config: &OutboundConfig,
    own: &OwnAddresses,
    resolver: Arc<dyn Resolve>,
) -> Arc<Push> {
    let http = Outbound::with_resolver(config, runtime.clone(), own.clone(), resolver).unwrap();
    let env = Env { http, runtime: runtime.clone(), report: Arc::new(|_| ()) };
    Arc::new(Push::start(Section::default(), env).await.unwrap())
}

fn about() -> About {
    About { stream: "stream".into(), issuer: "https://issuer.example".into(), operator_owned: true }
}

fn channel(push: &Arc<Push>, terms: Json, grant: Json) -> Result<Arc<dyn AnyChannel>, Fault> {
    let terms: Terms = serde_json::from_value(terms).unwrap();
    let grant: Trusting<Grant> = serde_json::from_value(grant).unwrap();
    Ok(Arc::new(push.channel(&about(), terms, grant)?))
}

/// Returns a grant for receivers on this machine.
fn local() -> Json {
    json!({ "allow_networks": ["127.0.0.0/8"], "allow_http": true })
}

fn no_roots() -> OutboundConfig {
    OutboundConfig { system_roots: false, ..OutboundConfig::default() }
}

/// Returns a channel to an address on this machine; its runtime may have a stopped clock.
async fn still(runtime: &Runtime, address: SocketAddr) -> Arc<dyn AnyChannel> {
    let push = method(runtime, &no_roots(), &OwnAddresses::new(), Answers::new(&[])).await;
    channel(&push, json!({ "endpoint_url": format!("http://{address}/sets") }), local()).unwrap()
}

async fn outcome(channel: &Arc<dyn AnyChannel>) -> Outcome {
    let mut all = setgate_delivery::testkit::outcomes(channel.clone(), vec![Bytes::from_static(b"a.b.c")]).await;
    all.pop().unwrap().unwrap()
}

/// Returns scope and cause code of a retry.
fn retry(outcome: &Outcome) -> (Scope, &'static str) {
    match outcome {
        Err(Verdict::Retry { scope, cause, .. }) => (*scope, cause.code),
        other => panic!("{other:?}"),
    }
}

fn mock_clock() -> (Arc<clock::MockClock>, Runtime) {
    let mock = clock::MockClock::at(1_700_000_000_000);
    let runtime = clock::system();
    (mock.clone(), Runtime { clock: mock, ..runtime })
}

/// A fixture that pushes over loopback to its own receiving half, plain or over TLS with HTTP/2.
struct Loopback {
    tls: bool,
}

impl Fixture for Loopback {
    fn open(&self, ingest: Arc<dyn Ingest>) -> BoxFuture<'_, Opened> {
        Box::pin(async move {
            let runtime = clock::system();
            let push = method(&runtime, &no_roots(), &OwnAddresses::new(), Answers::new(&[&["127.0.0.1"]])).await;
            let mut listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
            let mut grant = local();
            let mut scheme = "http";
            if self.tls {
                let own = rcgen::generate_simple_self_signed(["receiver.example".to_owned()]).unwrap();
                let (chain, key) = (own.cert.pem(), own.signing_key.serialize_pem());
                let certificate = ServerCertificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
                listener = listener.with_tls(&certificate).unwrap();
                grant["ca_pem"] = chain.into();
                scheme = "https";
            }
            let relay = Relay::to(listener.address(), &runtime).await.unwrap();
            let (stop, stopped) = watch::channel(false);
            let arrival = Arrival { ingest, peer: "test".into(), ends: stopped.clone() };
            let app = push.receive_routes().unwrap().layer(Extension(arrival));
            runtime.spawn("receiver", listener.serve(app, stopped, runtime.clone()));
            let url = format!("{scheme}://receiver.example:{}/sets", relay.address().port());
            let channel = channel(&push, json!({ "endpoint_url": url }), grant).unwrap();
            Opened {
                channel,
                cut: relay.cutter(),
                cut_after: Some(relay.breaker()),
                parallel: true,
                most: None,
                sessions: None,
                keep: Box::new((stop, relay)),
            }
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_keeps_the_contract_over_plain_http() {
    conform(&Loopback { tls: false }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_keeps_the_contract_over_tls_and_http2() {
    conform(&Loopback { tls: true }).await;
}

#[tokio::test]
async fn a_request_is_exactly_what_rfc_8935_2_1_says() {
    let mut server = server::Server::new().await;
    let runtime = clock::system();
    let push = method(&runtime, &no_roots(), &OwnAddresses::new(), Answers::new(&[])).await;
    let terms = json!({
        "endpoint_url": format!("http://{}/sets?tenant=7", server.address()),
        "authorization_header": "Custom  a b:c==",
    });
    let channel = channel(&push, terms, local()).unwrap();
    let sent = async {
        let mut caller = server.accept().await;
        let request = caller.read_request().await;
        caller.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").await;
        request
    };
    let (outcome, request) = tokio::join!(outcome(&channel), sent);
    assert_eq!(outcome, Ok(Receipt::Receiver));
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<_> = head.split("\r\n").map(str::to_owned).collect();
    assert_eq!(lines.remove(0), "POST /sets?tenant=7 HTTP/1.1");
    lines.sort();
    assert_eq!(
        lines,
        [
            "accept-language: en",
            "accept: application/json",
            "authorization: Custom  a b:c==",
            "content-length: 5",
            "content-type: application/secevent+jwt",
            &format!("host: {}", server.address()),
        ]
    );
    assert_eq!(body, "a.b.c");
}

#[tokio::test]
async fn without_an_authorization_none_is_sent_and_old_receivers_get_their_content_type() {
    let mut server = server::Server::new().await;
    let push = method(&clock::system(), &no_roots(), &OwnAddresses::new(), Answers::new(&[])).await;
    let terms = json!({ "endpoint_url": format!("http://{}/", server.address()), "content_type": "application/jwt" });
    let channel = channel(&push, terms, local()).unwrap();
    let (_, request) = tokio::join!(outcome(&channel), async {
        let mut caller = server.accept().await;
        let request = caller.read_request().await;
        caller.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").await;
        request
    });
    assert!(!request.to_ascii_lowercase().contains("authorization"), "{request}");
    assert!(request.contains("content-type: application/jwt\r\n"), "{request}");
}

/// Checks that a server in front of a receiver that answers 200 settles nothing, and that operators see statuses other
/// than 202.
#[tokio::test]
async fn a_login_page_settles_nothing_and_another_success_than_202_is_remarked_on() {
    let mut server = server::Server::new().await;
    let push = method(&clock::system(), &no_roots(), &OwnAddresses::new(), Answers::new(&[])).await;
    let channel = channel(&push, json!({ "endpoint_url": format!("http://{}/", server.address()) }), local()).unwrap();
    let page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<form>"
        .as_slice();
    let error =
        b"HTTP/1.1 202 Accepted\r\nContent-Length: 21\r\nConnection: close\r\n\r\n{\"err\":\"invalid_key\"}".as_slice();
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK".as_slice();
    let accepted = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".as_slice();
    for (said, taken, remark) in [
        (page, false, None),
        (ok, true, Some("answers 200 instead of 202")),
        (error, false, Some("answers 200 instead of 202")),
        (accepted, true, None),
    ] {
        let (outcome, ()) = tokio::join!(outcome(&channel), async {
            let mut caller = server.accept().await;
            caller.read_request().await;
            caller.write(said).await;
        });
        let told = String::from_utf8_lossy(said);
        if taken {
            assert_eq!(outcome, Ok(Receipt::Receiver), "{told}");
        } else {
            assert_eq!(retry(&outcome), (Scope::Channel, "answer_contradicts"), "{told}");
        }
        assert_eq!(channel.remark().as_deref(), remark, "{told}");
    }
}

#[tokio::test]
async fn a_server_that_never_answers_costs_one_deadline() {
    let (mock, runtime) = mock_clock();
    let mut server = server::Server::new().await;
    let channel = still(&runtime, server.address()).await;
    let (outcome, _caller) = tokio::join!(outcome(&channel), async {
        let mut caller = server.accept().await;
        caller.read_request().await;
        mock.advance(Duration::from_secs(30));
        caller
    });
    assert_eq!(retry(&outcome), (Scope::Channel, "timeout"));
}

#[tokio::test]
async fn a_server_that_never_accepts_costs_one_deadline() {
    let (mock, runtime) = mock_clock();
    // The TLS handshake with a server that sends nothing has the same deadline.
    let mut server = server::Server::new().await;
    let push = method(&runtime, &no_roots(), &OwnAddresses::new(), Answers::new(&[])).await;
    let channel = channel(&push, json!({ "endpoint_url": format!("https://{}/", server.address()) }), local()).unwrap();
    let (outcome, _caller) = tokio::join!(outcome(&channel), async {
        let mut caller = server.accept().await;
        caller.read_some().await;
        mock.advance(Duration::from_secs(30));
        caller
    });
    assert_eq!(retry(&outcome), (Scope::Channel, "timeout"));
}

#[tokio::test]
async fn a_head_that_drips_costs_one_deadline() {
    for drip in [b"X-Drip: drip\r\n".as_slice(), b"H".as_slice(), b"HTTP/1.1 100 Continue\r\n\r\n".as_slice()] {
        let (mock, runtime) = mock_clock();
        let mut server = server::Server::new().await;
        let channel = still(&runtime, server.address()).await;
        let (outcome, _caller) = tokio::join!(outcome(&channel), async {
            let mut caller = server.accept().await;
            caller.read_request().await;
            if drip.starts_with(b"X") {
                caller.write(b"HTTP/1.1 202 Accepted\r\n").await;
            }
            for byte in drip {
                caller.write(&[*byte]).await;
            }
            mock.advance(Duration::from_secs(30));
            caller
        });
        assert_eq!(retry(&outcome), (Scope::Channel, "timeout"), "{}", String::from_utf8_lossy(drip));
    }
}

#[tokio::test]
async fn an_acknowledgement_counts_though_its_body_drips_or_breaks_off() {
    for breaks in [false, true] {
        let mut server = server::Server::new().await;
        let push = method(&clock::system(), &no_roots(), &OwnAddresses::new(), Answers::new(&[])).await;
        let mut grant = local();
        // A server does not learn that its head was read, so the deadline has to pass by itself.
        grant["timeout"] = "2s".into();
        let channel =
            channel(&push, json!({ "endpoint_url": format!("http://{}/", server.address()) }), grant).unwrap();
        let (outcome, _caller) = tokio::join!(outcome(&channel), async {
            let mut caller = server.accept().await;
            caller.read_request().await;
            caller.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 1000\r\n\r\nx").await;
            (!breaks).then_some(caller)
        });
        assert_eq!(outcome, Ok(Receipt::Receiver));
    }
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    for (status, expected) in [("202 Accepted", None), ("400 Bad Request", Some((Scope::Set, "http_400")))] {
        let (_mock, runtime) = mock_clock();
        let mut server = server::Server::new().await;
        let channel = still(&runtime, server.address()).await;
        let (outcome, ()) = tokio::join!(outcome(&channel), async {
            let mut caller = server.accept().await;
            caller.read_request().await;
            caller.write(format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes()).await;
            // The loop ends only because the channel closes the connection.
            let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
            while caller.try_write(&chunk).await {}
        });
        match expected {
            None => assert_eq!(outcome, Ok(Receipt::Receiver)),
            Some(expected) => assert_eq!(retry(&outcome), expected),
        }
    }
}

#[tokio::test]
async fn a_small_body_is_read_so_that_the_connection_is_used_again() {
    let mut server = server::Server::new().await;
    let channel = still(&mock_clock().1, server.address()).await;
    let mut caller = None;
    for _ in 0..3 {
        let served = async {
            let mut caller = match caller.take() {
                Some(caller) => caller,
                None => server.accept().await,
            };
            caller.read_request().await;
            caller.write(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n").await;
            caller.write(&[b' '; 20_000]).await;
            caller
        };
        let (outcome, used) = tokio::join!(outcome(&channel), served);
        assert_eq!(outcome, Ok(Receipt::Receiver));
        caller = Some(used);
    }
}

#[tokio::test]
async fn a_broken_connection_and_a_broken_answer_are_told_apart() {
    let huge = format!("HTTP/1.1 202 Accepted\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    let many = format!("HTTP/1.1 202 Accepted\r\n{}\r\n", "X: x\r\n".repeat(300));
    for (answer, cause) in [
        ("", "closed"),
        ("HTTP/1.1 202 Acc", "closed"),
        ("220 mail.example ESMTP\r\n", "protocol"),
        ("HTTP/1.1 abc\r\n\r\n", "protocol"),
        (&huge, "too_large_head"),
        (&many, "too_large_head"),
    ] {
        let mut server = server::Server::new().await;
        let channel = still(&mock_clock().1, server.address()).await;
        let (outcome, ()) = tokio::join!(outcome(&channel), async {
            let mut caller = server.accept().await;
            caller.read_request().await;
            caller.try_write(answer.as_bytes()).await;
        });
        assert!(outcome.is_err(), "{answer:.50}");
        assert_eq!(retry(&outcome), (Scope::Channel, cause), "{answer:.50}");
    }
}

#[tokio::test]
async fn a_connection_that_is_refused_or_closed_unread_is_the_channels() {
    let mut server = server::Server::new().await;
    let channel = still(&mock_clock().1, server.address()).await;
    let (unread, ()) = tokio::join!(outcome(&channel), async { drop(server.accept().await) });
    assert_eq!(retry(&unread), (Scope::Channel, "closed"));
    drop(server);
    assert_eq!(retry(&outcome(&channel).await), (Scope::Channel, "connect"));
}

#[tokio::test]
async fn a_certificate_of_another_name_or_authority_is_refused() {
    let right = rcgen::generate_simple_self_signed(["receiver.example".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["other.example".to_owned()]).unwrap();
    for (shown, trusted, fine) in [(&right, &right, true), (&right, &other, false), (&other, &other, false)] {
        let runtime = clock::system();
        let certificate =
            ServerCertificate::from_pem(shown.cert.pem().as_bytes(), shown.signing_key.serialize_pem().as_bytes());
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let listener = listener.with_tls(&certificate.unwrap()).unwrap();
        let url = format!("https://receiver.example:{}/", listener.address().port());
        let (_stop, stopped) = watch::channel(false);
        let accept_all =
            setgate_delivery::axum::Router::new().fallback(|| async { setgate_delivery::http::StatusCode::ACCEPTED });
        runtime.spawn("receiver", listener.serve(accept_all, stopped, runtime.clone()));
        let push = method(&runtime, &no_roots(), &OwnAddresses::new(), Answers::new(&[&["127.0.0.1"]])).await;
        let mut grant = local();
        grant["ca_pem"] = trusted.cert.pem().into();
        let channel = channel(&push, json!({ "endpoint_url": url }), grant).unwrap();
        let outcome = outcome(&channel).await;
        if fine {
            assert_eq!(outcome, Ok(Receipt::Receiver));
        } else {
            assert_eq!(retry(&outcome), (Scope::Channel, "tls"));
        }
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_inside_or_anywhere() {
    let (mut server, mut inside) = (server::Server::new().await, server::Server::new().await);
    let channel = still(&mock_clock().1, server.address()).await;
    for status in [301, 302, 303, 307, 308] {
        let target = inside.address();
        let (outcome, ()) = tokio::join!(outcome(&channel), async {
            let mut caller = server.accept().await;
            caller.read_request().await;
            let answer = format!(
                "HTTP/1.1 {status} Moved\r\nLocation: http://{target}/admin\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            );
            caller.write(answer.as_bytes()).await;
        });
        assert_eq!(retry(&outcome), (Scope::Channel, "redirect"));
    }
    assert!(!inside.has_a_caller(), "the redirect was followed");
}

#[tokio::test]
async fn a_name_that_resolves_to_an_inside_address_is_refused() {
    let mut inside = server::Server::new().await;
    let answers =
        Answers::new(&[&["127.0.0.1"], &["::ffff:127.0.0.1"], &["10.1.2.3", "fd00::1"], &["169.254.169.254"]]);
    let config = OutboundConfig { allow_ports: vec![inside.address().port()], ..no_roots() };
    let push = method(&clock::system(), &config, &OwnAddresses::new(), answers).await;
    let url = format!("https://receiver.example:{}/", inside.address().port());
    let channel = channel(&push, json!({ "endpoint_url": url }), json!({})).unwrap();
    for _ in 0..4 {
        let outcome = outcome(&channel).await;
        assert_eq!(retry(&outcome), (Scope::Channel, "guard"));
    }
    assert!(!inside.has_a_caller(), "an inside address was connected to");
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_validated_at_every_connection() {
    let mut inside = server::Server::new().await;
    let mut outside = server::Server::at(([127, 0, 0, 2], inside.address().port())).await;
    let answers = Answers::new(&[&["127.0.0.2"], &["127.0.0.1"], &["127.0.0.1", "127.0.0.2"]]);
    let push = method(&clock::system(), &no_roots(), &OwnAddresses::new(), answers).await;
    let grant = json!({ "allow_networks": ["127.0.0.2/32"], "allow_http": true });
    let url = format!("http://receiver.example:{}/", outside.address().port());
    let channel = channel(&push, json!({ "endpoint_url": url }), grant).unwrap();
    let answer = b"HTTP/1.1 202 Accepted\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

    let (first, ()) = tokio::join!(outcome(&channel), async {
        let mut caller = outside.accept().await;
        caller.read_request().await;
        caller.write(answer).await;
    });
    assert_eq!(first, Ok(Receipt::Receiver));
    assert_eq!(retry(&outcome(&channel).await), (Scope::Channel, "guard"));
    let (mixed, ()) = tokio::join!(outcome(&channel), async {
        let mut caller = outside.accept().await;
        caller.read_request().await;
        caller.write(answer).await;
    });
    assert_eq!(mixed, Ok(Receipt::Receiver));
    assert!(!inside.has_a_caller(), "an inside address was connected to");
}

#[tokio::test]
async fn an_endpoint_is_validated_when_the_stream_is_made() {
    let own = OwnAddresses::new();
    own.add(SocketAddr::from(([0, 0, 0, 0], 8443)));
    let push = method(&clock::system(), &no_roots(), &own, Answers::new(&[])).await;
    let pointer = |terms: Json, grant: Json| match channel(&push, terms, grant) {
        Err(Fault::Terms { pointer, cause }) => format!("{pointer} {}", cause.code),
        Err(other) => other.to_string(),
        Ok(_) => "fine".to_owned(),
    };
    let url = |url: &str| json!({ "endpoint_url": url });
    for (endpoint, expected) in [
        ("https://receiver.example/sets", "fine"),
        ("https://receiver.example:8443/sets", "fine"),
        ("https://93.184.216.34/", "fine"),
        ("http://receiver.example/", "/endpoint_url guard"),
        ("https://receiver.example:22/", "/endpoint_url guard"),
        ("https://127.0.0.1/", "/endpoint_url guard"),
        ("https://0x7f.1/", "/endpoint_url guard"),
        ("https://[::1]/", "/endpoint_url guard"),
        ("https://user@receiver.example/", "/endpoint_url guard"),
        ("https://receiver.example/#part", "/endpoint_url guard"),
        ("ftp://receiver.example/", "/endpoint_url guard"),
        ("receiver.example", "/endpoint_url invalid"),
        ("", "/endpoint_url invalid"),
    ] {
        assert_eq!(pointer(url(endpoint), json!({})), expected, "{endpoint}");
    }
    assert_eq!(pointer(url(&format!("https://a.example/{}", "x".repeat(2048))), json!({})), "/endpoint_url invalid");
    // The gateway's own listeners are refused even though their network is allowed.
    assert_eq!(pointer(url("https://127.0.0.1:8443/"), local()), "/endpoint_url guard");
    assert_eq!(pointer(url("https://127.0.0.1:8444/"), local()), "fine");
    let smuggled = json!({ "endpoint_url": "https://a.example", "authorization_header": "a\r\nHost: b" });
    assert_eq!(pointer(smuggled, json!({})), "/authorization_header invalid");
}

#[tokio::test]
async fn push_is_registered_and_reads_its_options_strictly() {
    let methods = setgate_delivery::methods().unwrap();
    let registration = methods.iter().find(|method| method.entry.name == "push").unwrap();
    assert_eq!(registration.entry.uri, "urn:ietf:rfc:8935");
    let runtime = clock::system();
    let env = || {
        let http = Outbound::new(&no_roots(), runtime.clone(), OwnAddresses::new()).unwrap();
        Env { http, runtime: runtime.clone(), report: Arc::new(|_| ()) }
    };
    for wrong in [json!({ "window": 0 }), json!({ "timeout": "0s" }), json!({ "windw": 1 })] {
        let fault = (registration.start)(wrong.clone(), env()).await.err().unwrap().to_string();
        assert!(fault.contains("[methods.push]"), "{fault}");
    }
    let push = (registration.start)(json!({}), env()).await.unwrap();
    assert_eq!(push.secret_terms(), ["/authorization_header"]);
    let terms = json!({ "endpoint_url": "https://a.example/x", "authorization_header": "Bearer canary" });
    assert!(push.channel(&about(), terms.clone(), json!({})).is_ok());
    assert!(push.channel(&about(), terms.clone(), json!({ "widow": 1 })).is_err());
    let shown = push.publish(terms, "https://issuer.example/push/stream").unwrap();
    assert_eq!(shown, json!({ "method": "urn:ietf:rfc:8935", "endpoint_url": "https://a.example/x" }));

    let all = [push];
    for called in ["push", "urn:ietf:rfc:8935", "https://schemas.openid.net/secevent/risc/delivery-method/push"] {
        assert!(setgate_delivery::find(&all, called).is_some(), "{called}");
    }
    assert!(setgate_delivery::find(&all, "urn:ietf:rfc:8936").is_none());
}
