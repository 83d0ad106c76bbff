//! The guard of the intake door.

use std::{collections::HashMap, sync::Arc};

use clock::Clock;
use http::HeaderMap;

use crate::{Denied, Producer, ProducerError, ProducerSection, TokenHash, TokenKind, bearer::credential, producer};

/// Knows the producers by the hashes of their tokens.
///
/// The seam for access tokens of OAuth: [`Guard::producer`] is asked with the whole request head, and a token that has not the form of ours
/// would go to their validator. Until then such a token, a SET among them (RFC 8417 §4.2), is refused by its form alone.
pub struct Guard {
    producers: Vec<Arc<Producer>>,
    by_hash: HashMap<[u8; 32], Known>,
    clock: Arc<dyn Clock>,
}

struct Known {
    hash: TokenHash,
    until_millis: Option<u64>,
    producer: Arc<Producer>,
}

impl Guard {
    /// The guard of these producers.
    #[must_use]
    pub fn new(producers: Vec<Arc<Producer>>, clock: Arc<dyn Clock>) -> Self {
        let mut by_hash = HashMap::new();
        for producer in &producers {
            for token in &producer.tokens {
                let until_millis = token.expires.map(|at| u64::try_from(at.as_millisecond()).unwrap_or_default());
                let known = Known { hash: token.hash, until_millis, producer: producer.clone() };
                by_hash.insert(*token.hash.bytes(), known);
            }
        }
        Self { producers, by_hash, clock }
    }

    /// Checks sections without a store: for `setgate check`.
    ///
    /// # Errors
    /// [`ProducerError`] of the first section that is not acceptable.
    pub fn check(sections: &[ProducerSection], issuers: &[&str]) -> Result<(), ProducerError> {
        producer::check_all(sections, issuers)
    }

    /// The producer that sent this request head, if it may put events in under this issuer.
    ///
    /// # Errors
    /// [`Denied`], which answers as RFC 6750 §3 says.
    pub fn producer(&self, headers: &HeaderMap, query: Option<&str>, issuer: &str) -> Result<Arc<Producer>, Denied> {
        let token = credential(headers, query)?;
        if !TokenKind::Producer.fits(token) {
            return Err(Denied::Invalid);
        }
        let hash = TokenHash::of(token);
        // Looking up by hash tells at most something about the hash of a token that the caller chose, never about a stored token.
        let known = self.by_hash.get(hash.bytes()).filter(|known| known.hash == hash).ok_or(Denied::Invalid)?;
        if known.until_millis.is_some_and(|until| self.clock.wall_millis() >= until) {
            return Err(Denied::Invalid);
        }
        if !known.producer.serves(issuer) {
            return Err(Denied::Insufficient { scope: Denied::INTAKE, what: "events of this issuer" });
        }
        Ok(known.producer.clone())
    }

    /// All producers, in the order of the configuration.
    #[must_use]
    pub fn producers(&self) -> &[Arc<Producer>] {
        &self.producers
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("producers", &self.producers.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
