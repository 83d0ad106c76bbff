//! WebSocket and push-pull against their own other end, and against peers that misbehave, over real sockets.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use std::sync::Arc;

use serde_json::{Value as Json, json};
use setgate_delivery::{
    About, BoxFuture, Env, Ingest, Method, Runtime,
    spi::AnyChannel,
    testkit::{
        Fixture, Host, Opened, clock, conform,
        net::{Outbound, OutboundConfig, OwnAddresses},
        with_fast_clock,
    },
};
use setgate_websocket::{Grant, Section, Terms, Websocket};
mod collector;
mod http;
mod peer;
mod socket;
mod subscription;

/// Starts the method as the gateway does, with a client that may reach this machine.
async fn method(runtime: &Runtime, section: Section) -> Arc<Websocket> {
    let here = vec!["127.0.0.0/8".parse().unwrap()];
    let config =
        OutboundConfig { system_roots: false, allow_networks: here, allow_http: true, ..OutboundConfig::default() };
    let http = Outbound::new(&config, runtime.clone(), OwnAddresses::new()).unwrap();
    let env = Env { http, runtime: runtime.clone(), report: Arc::new(|_| ()) };
    Arc::new(Websocket::start(section, env).await.unwrap())
}

fn channel(method: &Arc<Websocket>, grant: Json) -> Arc<dyn AnyChannel> {
    let about = About { stream: "stream".into(), issuer: "https://issuer.example".into(), operator_owned: true };
    let grant: Grant = serde_json::from_value(grant).unwrap();
    Arc::new(method.channel(&about, Terms::default(), grant).unwrap())
}

/// The method, served for a ledger of SETs.
struct Served {
    host: Host,
    method: Arc<Websocket>,
}

async fn serve(
    ledger: &subscription::Ledger,
    runtime: &Runtime,
    section: Section,
    grant: Json,
    ingest: Option<Arc<dyn Ingest>>,
) -> Served {
    let method = method(runtime, section).await;
    let channel = channel(&method, grant);
    let host =
        Host::with(Default::default(), method.routes().unwrap(), channel, ledger.subscription(), ingest, runtime)
            .await
            .unwrap();
    Served { host, method }
}

/// Serves the method with default options and without an ingest.
async fn plain(ledger: &subscription::Ledger) -> Served {
    serve(ledger, &clock::system(), Section::default(), json!({}), None).await
}

/// The method over loopback to its own other end.
struct Loopback {
    from: Json,
}

impl Fixture for Loopback {
    fn open(&self, ingest: Arc<dyn Ingest>) -> BoxFuture<'_, Opened> {
        Box::pin(async move {
            let runtime = with_fast_clock(clock::system());
            let method = method(&runtime, Section::default()).await;
            let (routes, channel) = (method.routes().unwrap(), channel(&method, json!({})));
            let from = self.from.clone();
            let collect = move |url: String, stop| -> BoxFuture<'static, _> {
                let (method, ingest, mut from) = (method.clone(), ingest.clone(), from.clone());
                from["endpoint_url"] = url.into();
                Box::pin(async move { method.collect(from, ingest, stop).await })
            };
            Opened::responder(channel, routes, runtime, collect)
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_own_subprotocol_keeps_the_contract() {
    conform(&Loopback { from: json!({}) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn little_credit_keeps_the_contract() {
    conform(&Loopback { from: json!({ "credit": 1 }) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_push_pull_keeps_the_contract() {
    conform(&Loopback { from: json!({ "subprotocol": "pushpull" }) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_pull_over_http_keeps_the_contract() {
    conform(&Loopback { from: json!({ "transport": "http", "poll_interval": "1s" }) }).await;
}
