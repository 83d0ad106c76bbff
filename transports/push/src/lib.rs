#![doc = include_str!("../README.md")]

use std::sync::Arc;

use setgate_delivery::{About, Entry, Env, Fault, Json, Method, axum, endpoint::Trusting};

mod config;
mod receiver;
mod sender;
pub mod wire;

pub use config::{ContentType, Grant, Section, Terms};
pub use sender::PushChannel;

/// The push method: one SET per HTTP request (RFC 8935).
pub struct Push {
    section: Section,
    env: Env,
}

impl Method for Push {
    const ENTRY: Entry = Entry {
        name: "push",
        uri: "urn:ietf:rfc:8935",
        aliases: &["https://schemas.openid.net/secevent/risc/delivery-method/push"],
    };
    type Section = Section;
    type Grant = Trusting<Grant>;
    type Terms = Terms;
    type Channel = PushChannel;

    async fn start(section: Section, env: Env) -> Result<Self, Fault> {
        section.validate()?;
        Ok(Self { section, env })
    }

    fn channel(self: &Arc<Self>, about: &About, terms: Terms, grant: Trusting<Grant>) -> Result<PushChannel, Fault> {
        PushChannel::new(&self.section, &self.env, about, &terms, &grant)
    }

    fn publish(&self, terms: &Terms, _at: &str) -> Json {
        terms.publish(Self::ENTRY.uri)
    }

    fn receive_routes(self: &Arc<Self>) -> Option<axum::Router> {
        Some(receiver::routes(self.section.accept_legacy, self.env.runtime.clone()))
    }
}

setgate_delivery::register!(Push);
