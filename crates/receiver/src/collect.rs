//! The collector: a method that asks a transmitter for SETs, with the issuers whose keys it fetches first.

use std::sync::Arc;

use setgate_clock::Runtime;
use setgate_delivery::{Fault, Ingest, Json, Stop, spi::AnyMethod};
use setgate_discovery::IssuerUrl;

use crate::{ListenError, ListenIngest, Trust, learn::learn_all};

/// A receiver that asks for SETs: it fetches the metadata and keys of its issuers, then collects until it is told to
/// stop.
pub struct Collect {
    /// The method that asks.
    pub method: Arc<dyn AnyMethod>,
    /// The method's own description of the transmitter: `endpoint_url`, `authorization_header` and more.
    pub from: Json,
    /// The ingest that verifies the SETs.
    pub ingest: Arc<ListenIngest>,
    /// The issuers whose metadata and keys are fetched first.
    pub issuers: Vec<IssuerUrl>,
    /// The metadata and keys of the issuers; the ingest verifies with the same.
    pub trust: Arc<Trust>,
    /// The clock, the randomness and the tasks.
    pub runtime: Runtime,
}

impl Collect {
    /// Collects until `stop` turns true.
    ///
    /// SETs are asked for only when they can be verified: those that are fetched and put off would be withheld from
    /// other consumers for as long as the transmitter waits for their acknowledgement.
    ///
    /// # Errors
    /// [`ListenError`] when the method cannot collect, an issuer's metadata is not acceptable, or the transmitter
    /// refuses the receiver.
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
