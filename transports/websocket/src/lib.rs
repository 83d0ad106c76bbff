#![doc = include_str!("../README.md")]

use std::{sync::Arc, time::Duration};

use setgate_delivery::{About, Entry, Env, Fault, Ingest, Json, Method, Stop, axum};
use tokio::sync::watch;

mod config;
mod conversation;
mod inbox;
mod receiver;
mod responder;
pub mod wire;

pub use config::{Grant, Section, Terms};
pub use responder::SocketChannel;

/// The method's URI: provisional and the gateway's own, since no specification registers a method for SETs over
/// WebSocket.
const URI: &str = "urn:setgate:delivery:websocket";

/// The delivery method for SETs over WebSocket, and push-pull over HTTP on the same URL.
pub struct Websocket {
    section: Section,
    env: Env,
    responder: Arc<responder::Responder>,
}

impl Method for Websocket {
    const ENTRY: Entry = Entry { name: "websocket", uri: URI, aliases: &[] };
    type Section = Section;
    type Grant = Grant;
    type Terms = Terms;
    type Channel = SocketChannel;

    async fn start(section: Section, env: Env) -> Result<Self, Fault> {
        section.validate()?;
        let responder =
            responder::Responder { runtime: env.runtime.clone(), most: section.sockets, open: watch::Sender::new(0) };
        Ok(Self { section, env, responder: Arc::new(responder) })
    }

    fn channel(self: &Arc<Self>, about: &About, _terms: Terms, grant: Grant) -> Result<SocketChannel, Fault> {
        SocketChannel::new(&self.section, about, &grant)
    }

    fn publish(&self, _terms: &Terms, at: &str) -> Json {
        serde_json::json!({ "method": URI, "endpoint_url": at, "subprotocols": ["setgate.v1", "pushpull"] })
    }

    fn routes(self: &Arc<Self>) -> Option<axum::Router> {
        Some(responder::routes(self.responder.clone()))
    }

    async fn collect(self: &Arc<Self>, from: Json, into: Arc<dyn Ingest>, stop: Stop) -> Result<(), Fault> {
        receiver::collect(&self.env, from, into, stop).await
    }

    async fn close(&self, within: Duration) {
        let mut open = self.responder.open.subscribe();
        tokio::select! {
            _ = open.wait_for(|open| *open == 0) => {}
            () = self.env.runtime.clock.sleep(within) => {}
        }
    }
}

setgate_delivery::register!(Websocket);
