//! The guard of the public listeners: intake and sessions.

use std::sync::Arc;

use http::HeaderMap;
use setgate_clock::Clock;

use crate::{
    Denied, Producer, ProducerSection, Receiver, SectionError, SourceSection, TokenKind, bearer::credential, producer,
    tokens::Tokens,
};

/// Knows producers and receivers by the hashes of their tokens.
///
/// The seam for access tokens of OAuth: [`Guard::producer`] and [`Guard::receiver`] are asked with the whole request head, and a token
/// that has not the form of ours would go to their validator: [`Admitted`] then tells the client, what `ssf.read` opens to it and when the
/// token ends. Until then such a token, a SET among them (RFC 8417 §4.2), is refused by its form alone.
pub struct Guard {
    producers: Vec<Arc<Producer>>,
    receivers: Vec<Arc<Receiver>>,
    of_producers: Tokens<Producer>,
    of_receivers: Tokens<Receiver>,
    clock: Arc<dyn Clock>,
}

/// A receiver that was let in under an issuer.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// Who it is.
    pub receiver: Arc<Receiver>,
    /// When its credential ends, in milliseconds of the wall clock; nothing where it does not end.
    pub until_millis: Option<u64>,
}

impl Guard {
    /// The guard of these producers.
    #[must_use]
    pub fn new(producers: Vec<Arc<Producer>>, clock: Arc<dyn Clock>) -> Self {
        let of_producers =
            Tokens::new(TokenKind::Producer, producers.iter().map(|producer| (producer, &*producer.tokens)));
        let of_receivers = Tokens::new(TokenKind::Receiver, std::iter::empty());
        Self { producers, receivers: Vec::new(), of_producers, of_receivers, clock }
    }

    /// That knows these receivers as well.
    #[must_use]
    pub fn with_receivers(mut self, receivers: Vec<Receiver>) -> Self {
        self.receivers = receivers.into_iter().map(Arc::new).collect();
        let all = self.receivers.iter().map(|receiver| (receiver, &*receiver.tokens));
        self.of_receivers = Tokens::new(TokenKind::Receiver, all);
        self
    }

    /// Checks sections without a store: for `setgate check`.
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

    /// The producer that sent this request head, if it may put events in under this issuer.
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

    /// The receiver that sent this request head, if it may open streams of this issuer at all. Which of them is asked of
    /// [`Receiver::may_open`], whose no is answered as if there were no such stream: ids cannot be probed.
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

    /// All producers, in the order of the configuration.
    #[must_use]
    pub fn producers(&self) -> &[Arc<Producer>] {
        &self.producers
    }

    /// All receivers, in the order of the configuration.
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
