//! A collector: a method that asks a transmitter for SETs, and the transmitters it learns of first.

use std::sync::Arc;

use setgate_clock::Runtime;
use setgate_delivery::{Fault, Ingest, Json, Stop, spi::AnyMethod};
use setgate_discovery::IssuerUrl;

use crate::{ListenError, ListenIngest, Trust, learn::learn_all};

/// A receiver that speaks first: it learns of its issuers, then collects until it is told to stop.
pub struct Collect {
    /// The method that asks.
    pub method: Arc<dyn AnyMethod>,
    /// Where and how, in the method's own words: `endpoint_url`, `authorization_header` and more.
    pub from: Json,
    /// Where SETs go.
    pub ingest: Arc<ListenIngest>,
    /// The issuers to learn of.
    pub issuers: Vec<IssuerUrl>,
    /// What is known of them; the ingest verifies with the same.
    pub trust: Arc<Trust>,
    /// Clock, randomness, tasks.
    pub runtime: Runtime,
}

impl Collect {
    /// Collects until `stop` turns true. Nothing is asked for before it can be verified: what is drawn and put off would be
    /// away from other consumers for as long as the transmitter waits for its acknowledgement.
    ///
    /// # Errors
    /// [`ListenError`] when the method cannot collect, an issuer's metadata is not acceptable, or the transmitter turns us away.
    pub async fn serve(self, mut stop: Stop) -> Result<(), ListenError> {
        let name = self.method.entry().name;
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            learned = learn_all(&self.issuers, &self.trust, &self.ingest, &self.runtime) => learned?,
        }
        let ingest: Arc<dyn Ingest> = self.ingest.clone();
        match self.method.collect(self.from, ingest, stop).await {
            Ok(()) => Ok(()),
            Err(Fault::Unsupported(_)) => Err(ListenError::NotACollector(name)),
            Err(fault) => Err(ListenError::TurnedAway(fault)),
        }
    }
}
