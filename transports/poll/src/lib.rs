#![doc = include_str!("../README.md")]

use std::sync::Arc;

use setgate_delivery::{About, Entry, Env, Fault, Ingest, Json, Method, Stop, axum};

mod answer;
mod config;
mod places;
mod receiver;
mod responder;
pub mod wire;

pub use config::{Grant, PollSource, Section, Terms};
pub use responder::PollChannel;

/// The poll method: the receiver asks for SETs and acknowledges earlier ones in one HTTP request (RFC 8936).
pub struct Poll {
    section: Section,
    env: Env,
}

impl Method for Poll {
    const ENTRY: Entry = Entry {
        name: "poll",
        uri: "urn:ietf:rfc:8936",
        aliases: &["https://schemas.openid.net/secevent/risc/delivery-method/poll"],
    };
    type Section = Section;
    type Grant = Grant;
    type Terms = Terms;
    type Channel = PollChannel;

    async fn start(section: Section, env: Env) -> Result<Self, Fault> {
        section.validate()?;
        Ok(Self { section, env })
    }

    fn channel(self: &Arc<Self>, about: &About, _: Terms, grant: Grant) -> Result<PollChannel, Fault> {
        PollChannel::new(&self.section, about, &grant)
    }

    fn publish(&self, _: &Terms, at: &str) -> Json {
        serde_json::json!({ "method": Self::ENTRY.uri, "endpoint_url": at })
    }

    fn routes(self: &Arc<Self>) -> Option<axum::Router> {
        Some(responder::routes(self.env.runtime.clone()))
    }

    async fn collect(self: &Arc<Self>, from: Json, into: Arc<dyn Ingest>, stop: Stop) -> Result<(), Fault> {
        Box::pin(receiver::collect(&self.env, from, into, stop)).await
    }
}

setgate_delivery::register!(Poll);
