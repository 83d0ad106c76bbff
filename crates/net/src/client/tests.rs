use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::{Extension, Router};
use futures_util::future::BoxFuture;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::{ServerConfig, server::WebPkiClientVerifier};
use setgate_clock::{MockClock, Runtime};
use tokio::{net::TcpListener, sync::watch};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{ClientIdentity, GuardPolicy, Listener, Peer, Roots};

/// A resolver that answers 127.0.0.1 to every name.
struct Here;

impl Resolve for Here {
    fn resolve(&self, _: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(std::future::ready(Ok(vec![IpAddr::from([127, 0, 0, 1])])))
    }
}

pub(crate) fn outbound(runtime: &Runtime) -> Outbound {
    let config = OutboundConfig { system_roots: false, ..OutboundConfig::default() };
    Outbound::with_resolver(&config, runtime.clone(), OwnAddresses::new(), Arc::new(Here)).unwrap()
}

/// A policy that allows this machine as a target.
pub(crate) fn local(extra_roots: Option<Roots>, identity: Option<ClientIdentity>) -> TlsPolicy {
    let guard =
        GuardPolicy { allow_networks: vec!["127.0.0.0/8".parse().unwrap()], allow_http: true, allow_ports: Vec::new() };
    TlsPolicy { issuer: "issuer".into(), identity, extra_roots, guard }
}

pub(crate) fn get(url: &str) -> HttpRequest {
    HttpRequest {
        method: Method::GET,
        url: Url::parse(url).unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        keep_body: 1024,
        timeout: None,
    }
}

/// Starts a server that answers with the address of its caller's end of the connection.
async fn mirror(runtime: &Runtime) -> (SocketAddr, watch::Sender<bool>) {
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.address();
    let (stop, stopped) = watch::channel(false);
    let app = Router::new().fallback(|Extension(Peer(peer)): Extension<Peer>| async move { peer.to_string() });
    runtime.spawn("mirror", listener.serve(app, stopped, runtime.clone()));
    (address, stop)
}

#[tokio::test]
async fn a_pool_is_used_again_and_replaced_after_five_minutes() {
    let mock = MockClock::at(0);
    let runtime = Runtime { clock: mock.clone(), ..setgate_clock::system() };
    // The server runs on the system's clock, which the test does not advance: its limit for idle connections does not
    // apply.
    let (address, _stop) = mirror(&setgate_clock::system()).await;
    let client = outbound(&runtime).client(&local(None, None));
    let caller = async || client.send(get(&format!("http://{address}/"))).await.unwrap().body;
    let first = caller().await;
    assert_eq!(caller().await, first);
    mock.advance(Duration::from_secs(299));
    assert_eq!(caller().await, first);
    mock.advance(Duration::from_secs(2));
    let second = caller().await;
    assert_ne!(second, first);
    assert_eq!(caller().await, second);
}

#[tokio::test]
async fn equal_policies_share_connections_and_different_ones_do_not() {
    let runtime = setgate_clock::system();
    let (address, _stop) = mirror(&runtime).await;
    let out = outbound(&runtime);
    let caller =
        async |policy: &TlsPolicy| out.client(policy).send(get(&format!("http://{address}/"))).await.unwrap().body;
    let policy = local(None, None);
    // A client lives as long as somebody holds it.
    let _kept = out.client(&policy);
    let first = caller(&policy).await;
    assert_eq!(caller(&policy.clone()).await, first);
    let other_issuer = TlsPolicy { issuer: "other".into(), ..policy.clone() };
    assert_ne!(caller(&other_issuer).await, first);
    let mut wider = policy.clone();
    wider.guard.allow_ports.push(1);
    assert_ne!(caller(&wider).await, first);
}

/// Hardening H20: two streams, one host, different certificates.
#[tokio::test]
async fn a_server_sees_each_client_certificate_only_on_its_own_connections() {
    for protocol in ["http/1.1", "h2"] {
        let server = rcgen::generate_simple_self_signed(["receiver.example".to_owned()]).unwrap();
        let clients = ["a", "b"].map(|name| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap());
        let mut trusted = RootCertStore::empty();
        clients.iter().for_each(|client| trusted.add(client.cert.der().clone()).unwrap());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(trusted), tls::provider()).build().unwrap();
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![server.cert.der().clone()],
                rustls_pki_types::PrivateKeyDer::try_from(server.signing_key.serialize_der()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let leaves = clients.each_ref().map(|client| client.cert.der().clone());
        let counted = connections.clone();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let Ok(tls) = acceptor.accept(tcp).await else { continue };
                counted.fetch_add(1, Ordering::SeqCst);
                let shown = tls.get_ref().1.peer_certificates().unwrap()[0].clone();
                let who = if shown == leaves[0] { "a" } else { "b" };
                tokio::spawn(async move {
                    let service = service_fn(move |_| async move {
                        Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from_static(
                            who.as_bytes(),
                        ))))
                    });
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });

        let out = outbound(&setgate_clock::system());
        let roots = Roots::from_pem(server.cert.pem().as_bytes()).unwrap();
        let [a, b] = clients.each_ref().map(|client| {
            let key = client.signing_key.serialize_pem();
            let identity = ClientIdentity::from_pem(client.cert.pem().as_bytes(), key.as_bytes()).unwrap();
            out.client(&local(Some(roots.clone()), Some(identity)))
        });
        let url = format!("https://receiver.example:{port}/");
        for _ in 0..5 {
            let (from_a, from_b) = tokio::join!(a.send(get(&url)), b.send(get(&url)));
            assert_eq!((&from_a.unwrap().body[..], &from_b.unwrap().body[..]), (b"a".as_slice(), b"b".as_slice()));
        }
        assert_eq!(connections.load(Ordering::SeqCst), 2, "{protocol}");
        // The server does not answer at all without a certificate.
        let none = out.client(&local(Some(roots), None)).send(get(&url)).await.unwrap_err();
        assert_eq!(none.fault, HttpFault::Tls, "{none}");
    }
}

#[tokio::test]
async fn a_body_is_kept_up_to_the_limit_and_said_to_be_cut() {
    let runtime = setgate_clock::system();
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.address();
    let (_stop, stopped) = watch::channel(false);
    runtime
        .spawn("server", listener.serve(Router::new().fallback(|| async { "0123456789" }), stopped, runtime.clone()));
    let client = outbound(&runtime).client(&local(None, None));
    for (keep, kept, truncated) in
        [(10, "0123456789", false), (11, "0123456789", false), (4, "0123", true), (0, "", true)]
    {
        let answer = client.send(HttpRequest { keep_body: keep, ..get(&format!("http://{address}/")) }).await.unwrap();
        assert_eq!((answer.body.as_ref(), answer.truncated), (kept.as_bytes(), truncated));
    }
}

#[tokio::test]
async fn a_client_certificate_needs_its_own_key() {
    let [a, b] = ["a", "b"].map(|name| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap());
    let (chain, key) = (a.cert.pem(), b.signing_key.serialize_pem());
    assert!(ClientIdentity::from_pem(chain.as_bytes(), key.as_bytes()).is_err());
}

#[tokio::test]
async fn a_dialled_connection_is_checked_and_speaks_http_1_over_tls() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let runtime = setgate_clock::system();
    let own = rcgen::generate_simple_self_signed(["peer.example".to_owned()]).unwrap();
    let (chain, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    let certificate = crate::ServerCertificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap().with_tls(&certificate).unwrap();
    let url = Url::parse(&format!("https://peer.example:{}/", listener.address().port())).unwrap();
    let (_stop, stopped) = watch::channel(false);
    runtime.spawn("peer", listener.serve(Router::new().fallback(|| async { "here" }), stopped, runtime.clone()));
    let roots = Roots::from_pem(chain.as_bytes()).unwrap();
    // The listener offers HTTP/2 first; a dialled connection must not negotiate it.
    let mut dialed = outbound(&runtime).client(&local(Some(roots), None)).dial(&url).await.unwrap();
    dialed.write_all(b"GET / HTTP/1.1\r\nHost: peer.example\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    dialed.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("here"), "{answer}");

    let strict = TlsPolicy::default();
    let refused = outbound(&runtime).client(&strict).dial(&url).await.unwrap_err();
    assert_eq!(refused.fault, HttpFault::Guard);
}

#[tokio::test]
async fn an_http2_connection_that_died_unheard_is_found_out_and_replaced() {
    let server = rcgen::generate_simple_self_signed(["receiver.example".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(server.signing_key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![server.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let (dies, dead) = watch::channel(0);
    let counted = connections.clone();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let tls = acceptor.accept(tcp).await.unwrap();
            let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
            let mut dead = dead.clone();
            tokio::spawn(async move {
                let service = service_fn(move |_| async move {
                    Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(number.to_string()))))
                });
                let server = auto::Builder::new(TokioExecutor::new());
                let serving = server.serve_connection(TokioIo::new(tls), service);
                tokio::pin!(serving);
                let died = async { drop(dead.wait_for(|dead| *dead >= number).await) };
                tokio::select! {
                    _ = &mut serving => return,
                    () = died => {}
                }
                // The connection's bytes are neither read nor written any more, and it stays open.
                std::future::pending::<()>().await;
            });
        }
    });
    let mock = MockClock::at(0);
    let runtime = Runtime { clock: mock.clone(), ..setgate_clock::system() };
    let roots = Roots::from_pem(server.cert.pem().as_bytes()).unwrap();
    let client = outbound(&runtime).client(&local(Some(roots), None));
    let url = format!("https://receiver.example:{port}/");
    assert_eq!(client.send(get(&url)).await.unwrap().body, "1");
    dies.send_replace(1);
    let unheard = tokio::spawn({
        let (client, url) = (client.clone(), url.clone());
        async move { client.send(get(&url)).await }
    });
    // Time passes up to the request's own deadline, and no further.
    for _ in 0..29 {
        mock.advance(Duration::from_secs(1));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
    assert!(unheard.is_finished(), "the connection is not known to be dead");
    assert_eq!(unheard.await.unwrap().unwrap_err().fault, HttpFault::Closed);
    assert_eq!(client.send(get(&url)).await.unwrap().body, "2");
}

#[tokio::test]
async fn a_pool_stops_connecting_to_a_peer_that_is_silent() {
    use tower::Service as _;
    let mock = MockClock::at(0);
    let runtime = Runtime { clock: mock.clone(), ..setgate_clock::system() };
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let client = outbound(&runtime).client(&local(None, None));
    let target = format!("https://receiver.example:{}/", silent.local_addr().unwrap().port());
    let connecting = client.0.connector.clone().unwrap().call(target.parse().unwrap());
    tokio::pin!(connecting);
    // Wait until the connection is established and only the peer's part of the handshake is missing.
    let accepted = tokio::select! {
        _ = &mut connecting => panic!("connected"),
        accepted = silent.accept() => accepted.unwrap(),
    };
    assert!(futures_util::poll!(&mut connecting).is_pending());
    mock.advance(Duration::from_secs(30));
    let futures_util::future::Either::Left((end, _)) =
        futures_util::future::select(connecting, Box::pin(tokio::task::yield_now())).await
    else {
        panic!("it goes on for ever");
    };
    assert_eq!(end.err().unwrap().fault, HttpFault::Timeout);
    drop(accepted);
}
