#![doc = include_str!("../README.md")]

use std::sync::Arc;

use setgate_delivery::{About, Entry, Env, Fault, Json, Method, axum, endpoint::Trusting};

mod config;
mod pace;
mod receiver;
mod sender;
pub mod wire;

pub use config::{Grant, Section, Terms};
pub use sender::MultiChannel;

/// The method's URI; it is provisional, since the draft registers none.
const URI: &str = "urn:setgate:delivery:multi-push";

/// The multi-SET push method: many SETs per HTTP request (draft-deshpande-secevent-http-multi-set-push).
pub struct MultiPush {
    section: Section,
    env: Env,
}

impl Method for MultiPush {
    const ENTRY: Entry = Entry { name: "multipush", uri: URI, aliases: &[] };
    type Section = Section;
    type Grant = Trusting<Grant>;
    type Terms = Terms;
    type Channel = MultiChannel;

    async fn start(section: Section, env: Env) -> Result<Self, Fault> {
        section.validate()?;
        Ok(Self { section, env })
    }

    fn channel(self: &Arc<Self>, about: &About, terms: Terms, grant: Trusting<Grant>) -> Result<MultiChannel, Fault> {
        MultiChannel::new(&self.section, &self.env, about, &terms, &grant)
    }

    fn publish(&self, terms: &Terms, _at: &str) -> Json {
        terms.publish(URI)
    }

    fn receive_routes(self: &Arc<Self>) -> Option<axum::Router> {
        Some(receiver::routes(self.section.receives(), self.env.runtime.clone()))
    }
}

setgate_delivery::register!(MultiPush);
