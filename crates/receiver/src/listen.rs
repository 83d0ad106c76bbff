//! The listening receiver: a listener with a method's receiving half behind it, and the issuers whose keys it fetches.

use std::sync::Arc;

use axum::{extract::Request, http::header::AUTHORIZATION};
use setgate_clock::Runtime;
use setgate_delivery::{Answer, Arrival, BoxFuture, ErrorCode, Fault, Incoming, Ingest, Stop, spi::AnyMethod};
use setgate_discovery::IssuerUrl;
use setgate_net::{Listener, Peer, Secret};

use crate::{ListenIngest, Trust, TrustError, learn::learn_all, verify::refusal};

/// A receiver that transmitters connect to, which serves until it is told to stop.
pub struct Listen {
    /// The method whose receiving half stands behind the listener.
    pub method: Arc<dyn AnyMethod>,
    /// The bound listener. SETs that arrive before their issuer's metadata is there are put off.
    pub listener: Listener,
    /// The ingest that verifies the SETs.
    pub ingest: Arc<ListenIngest>,
    /// The issuers whose metadata and keys are fetched.
    pub issuers: Vec<IssuerUrl>,
    /// The metadata and keys of the issuers; the ingest verifies with the same.
    pub trust: Arc<Trust>,
    /// The `Authorization` header that transmitters must send; with `None`, any request is accepted.
    pub authorization: Option<Secret<String>>,
    /// The clock, the randomness and the tasks.
    pub runtime: Runtime,
}

/// The reasons why a receiver ended before it was told to stop.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The method has no receiving half that waits for a transmitter.
    #[error("the delivery method `{0}` does not listen")]
    NotAListener(&'static str),
    /// The method has no half that asks a transmitter.
    #[error("the delivery method `{0}` does not ask for SETs")]
    NotACollector(&'static str),
    /// The transmitter refuses the receiver, or what it was asked for is not acceptable.
    #[error(transparent)]
    TurnedAway(Fault),
    /// The metadata of an issuer is not acceptable, so that trying again does not help.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

impl Listen {
    /// Serves until `stop` turns true. The metadata of issuers whose transmitters are not up yet is asked for again and
    /// again.
    ///
    /// # Errors
    /// [`ListenError`] when the method cannot listen, or an issuer's metadata is not acceptable.
    pub async fn serve(self, mut stop: Stop) -> Result<(), ListenError> {
        let name = self.method.entry().name;
        let routes = self.method.receive_routes().ok_or(ListenError::NotAListener(name))?;
        let guard = ArrivalCheck { ingest: self.ingest.clone(), authorization: self.authorization.map(Arc::new) };
        let ends = stop.clone();
        let routes = routes.layer(axum::middleware::map_request(move |mut request: Request| {
            let arrival = guard.arrival(&request, ends.clone());
            request.extensions_mut().insert(arrival);
            async move { request }
        }));
        let (end_listener, listener_ends) = tokio::sync::watch::channel(false);
        let listener = self.listener.serve(routes, listener_ends, self.runtime.clone());
        tokio::pin!(listener);
        let learn = learn_all(&self.issuers, &self.trust, &self.ingest, &self.runtime);
        tokio::pin!(learn);
        let mut learned = false;
        let end = loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break Ok(()),
                result = &mut learn, if !learned => match result {
                    Ok(()) => learned = true,
                    Err(error) => break Err(error.into()),
                },
                () = &mut listener => return Ok(()),
            }
        };
        end_listener.send_replace(true);
        listener.await;
        end
    }
}

/// A check of the `Authorization` header of each request, which decides on the ingest.
#[derive(Clone)]
struct ArrivalCheck {
    ingest: Arc<ListenIngest>,
    authorization: Option<Arc<Secret<String>>>,
}

impl ArrivalCheck {
    fn arrival(&self, request: &Request, ends: Stop) -> Arrival {
        let peer = request.extensions().get::<Peer>().map_or_else(|| "unknown".to_owned(), |peer| peer.0.to_string());
        let shown = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes().to_vec());
        let welcome = self.authorization.as_ref().is_none_or(|expected| {
            // The comparison takes constant time.
            shown.is_some_and(|shown| Secret::new(shown) == Secret::new(expected.expose().as_bytes().to_vec()))
        });
        // The method words the refusal in its own way: for push, 400 and `authentication_failed` (RFC 8935 §2.3).
        let ingest: Arc<dyn Ingest> =
            if welcome { self.ingest.clone() } else { Arc::new(Unwelcome(self.ingest.clone())) };
        Arrival { ingest, peer: peer.into(), ends }
    }
}

/// The ingest of requests without the right `Authorization` header, which refuses every SET.
struct Unwelcome(Arc<ListenIngest>);

impl Ingest for Unwelcome {
    fn accept<'a>(&'a self, peer: &'a str, what: Vec<Incoming>) -> BoxFuture<'a, Vec<Answer>> {
        let refusal = refusal(ErrorCode::AuthenticationFailed, "the Authorization header is missing or wrong");
        Box::pin(async move { what.iter().map(|_| self.0.refuse_invalid(peer, refusal.clone())).collect() })
    }
}

#[cfg(test)]
mod tests;
