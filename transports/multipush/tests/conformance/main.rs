//! Tests of multi-SET push against its own receiving half and against receivers that acknowledge late or misbehave,
//! over real sockets.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde_json::{Value as Json, json};
use setgate_delivery::{
    About, Arrival, BoxFuture, Env, Ingest, Method, Runtime,
    axum::Extension,
    endpoint::Trusting,
    spi::AnyChannel,
    testkit::{
        Fixture, Opened, Relay, clock, conform,
        net::{Listener, Outbound, OutboundConfig, OwnAddresses, Resolve, ServerCertificate},
    },
};
use setgate_multipush::{Grant, MultiPush, Section, Terms};
use tokio::sync::watch;
mod channels;
mod receiving;
mod sink;

/// A resolver for which every name is this machine.
struct Here;

impl Resolve for Here {
    fn resolve(&self, _: &str) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
        Box::pin(std::future::ready(Ok(vec![IpAddr::from([127, 0, 0, 1])])))
    }
}

/// Returns a method that is started as the gateway starts it.
async fn method(runtime: &Runtime, section: Json) -> Arc<MultiPush> {
    let config = OutboundConfig { system_roots: false, ..OutboundConfig::default() };
    let http = Outbound::with_resolver(&config, runtime.clone(), OwnAddresses::new(), Arc::new(Here)).unwrap();
    let env = Env { http, runtime: runtime.clone(), report: Arc::new(|_| ()) };
    let section: Section = serde_json::from_value(section).unwrap();
    Arc::new(MultiPush::start(section, env).await.unwrap())
}

fn channel(method: &Arc<MultiPush>, terms: Json, grant: Json) -> Arc<dyn AnyChannel> {
    let about = About { stream: "stream".into(), issuer: "https://issuer.example".into(), operator_owned: true };
    let terms: Terms = serde_json::from_value(terms).unwrap();
    let grant: Trusting<Grant> = serde_json::from_value(grant).unwrap();
    Arc::new(method.channel(&about, terms, grant).unwrap())
}

/// Returns a grant for receivers on this machine.
fn local() -> Json {
    json!({ "allow_networks": ["127.0.0.0/8"], "allow_http": true })
}

/// A fixture that pushes over loopback to its own receiving half, plain or over TLS with HTTP/2.
struct Loopback {
    tls: bool,
}

impl Fixture for Loopback {
    fn open(&self, ingest: Arc<dyn Ingest>) -> BoxFuture<'_, Opened> {
        Box::pin(async move {
            let runtime = clock::system();
            let method = method(&runtime, json!({})).await;
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
            let app = method.receive_routes().unwrap().layer(Extension(arrival));
            runtime.spawn("receiver", listener.serve(app, stopped, runtime.clone()));
            let url = format!("{scheme}://receiver.example:{}/sets", relay.address().port());
            let channel = channel(&method, json!({ "endpoint_url": url }), grant);
            Opened {
                channel,
                cut: relay.cutter(),
                cut_after: Some(relay.breaker()),
                parallel: false,
                most: None,
                sessions: None,
                keep: Box::new((stop, relay)),
            }
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn multi_set_push_keeps_the_contract_over_plain_http() {
    conform(&Loopback { tls: false }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn multi_set_push_keeps_the_contract_over_tls_and_http2() {
    conform(&Loopback { tls: true }).await;
}
