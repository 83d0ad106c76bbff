//! The guard of the public listeners, for intake and sessions.

use std::sync::Arc;

use http::HeaderMap;
use setgate_clock::Clock;

use crate::{
    Denied, Producer, ProducerSection, Receiver, SectionError, SourceSection, TokenKind, bearer::credential, producer,
    tokens::Tokens,
};

/// The guard that identifies producers and receivers by the hashes of their tokens.
///
/// A token without the form of this gateway's tokens, a SET among them (RFC 8417 §4.2), is refused by its form alone.
/// Access tokens of OAuth are not supported; a validator for them fits behind [`Guard::producer`] and
/// [`Guard::receiver`], which get the whole request head, and fills [`Admitted`] with the client, its streams under
/// `ssf.read` and the token's expiry.
pub struct Guard {
    producers: Vec<Arc<Producer>>,
    receivers: Vec<Arc<Receiver>>,
    of_producers: Tokens<Producer>,
    of_receivers: Tokens<Receiver>,
    clock: Arc<dyn Clock>,
}

/// A receiver that was admitted under an issuer.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The receiver.
    pub receiver: Arc<Receiver>,
    /// The expiry of its credential, in milliseconds of the wall clock; `None` where it does not expire.
    pub until_millis: Option<u64>,
}

impl Guard {
    /// Creates the guard for these producers.
    #[must_use]
    pub fn new(producers: Vec<Arc<Producer>>, clock: Arc<dyn Clock>) -> Self {
        let of_producers =
            Tokens::new(TokenKind::Producer, producers.iter().map(|producer| (producer, &*producer.tokens)));
        let of_receivers = Tokens::new(TokenKind::Receiver, std::iter::empty());
        Self { producers, receivers: Vec::new(), of_producers, of_receivers, clock }
    }

    /// Sets the receivers that the guard admits.
    #[must_use]
    pub fn with_receivers(mut self, receivers: Vec<Receiver>) -> Self {
        self.receivers = receivers.into_iter().map(Arc::new).collect();
        let all = self.receivers.iter().map(|receiver| (receiver, &*receiver.tokens));
        self.of_receivers = Tokens::new(TokenKind::Receiver, all);
        self
    }

    /// Checks sections without a store, for `setgate check`.
    ///
    /// # Errors
    /// [`SectionError`] of the first section that is not acceptable.
    pub fn check(sections: &[ProducerSection], issuers: &[&str]) -> Result<(), SectionError> {
        producer::check_all(sections, issuers)
    }

    /// Checks `[[sources]]` beside `[[producers]]`, without a store.
    ///
    /// # Errors
    /// [`SectionError`] of the first section that is not acceptable.
    pub fn check_sources(
        sections: &[SourceSection],
        producers: &[ProducerSection],
        issuers: &[&str],
    ) -> Result<(), SectionError> {
        producer::check_sources(sections, producers, issuers)
    }

    /// Returns the producer that sent this request head, if it may put events in under this issuer.
    ///
    /// # Errors
    /// [`Denied`], which answers as RFC 6750 §3 says.
    pub fn producer(&self, headers: &HeaderMap, query: Option<&str>, issuer: &str) -> Result<Arc<Producer>, Denied> {
        let token = credential(headers, query)?;
        let (producer, _) = self.of_producers.holder(token, self.clock.wall_millis())?;
        if !producer.serves(issuer) {
            return Err(Denied::Insufficient { scope: Denied::INTAKE, what: "events of this issuer" });
        }
        Ok(producer.clone())
    }

    /// Returns the receiver that sent this request head, if it may open streams of this issuer at all.
    ///
    /// [`Receiver::may_open`] decides on the single stream; its refusal is answered as if there were no such stream, so
    /// that ids cannot be probed.
    ///
    /// # Errors
    /// [`Denied`], which answers as RFC 6750 §3 says.
    pub fn receiver(&self, headers: &HeaderMap, query: Option<&str>, issuer: &str) -> Result<Admitted, Denied> {
        let token = credential(headers, query)?;
        let (receiver, until_millis) = self.of_receivers.holder(token, self.clock.wall_millis())?;
        if !receiver.serves(issuer) {
            return Err(Denied::Insufficient { scope: Denied::READ, what: "streams of this issuer" });
        }
        Ok(Admitted { receiver: receiver.clone(), until_millis })
    }

    /// Returns all producers, in the order of the configuration.
    #[must_use]
    pub fn producers(&self) -> &[Arc<Producer>] {
        &self.producers
    }

    /// Returns all receivers, in the order of the configuration.
    #[must_use]
    pub fn receivers(&self) -> &[Arc<Receiver>] {
        &self.receivers
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard")
            .field("producers", &self.producers.len())
            .field("receivers", &self.receivers.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
