//! A listener: a door with a method's receiving half behind it, and the transmitters it learns of.

use std::{sync::Arc, time::Duration};

use axum::{extract::Request, http::header::AUTHORIZATION};
use clock::House;
use delivery::{Answer, Arrival, BoxFuture, ErrorCode, Incoming, Inlet, Stop, spi::AnyMethod};
use discovery::IssuerUrl;
use net::{Listener, Peer, Secret};

use crate::{ListenInlet, Report, Trust, TrustError, verify::refusal};

/// A receiver that is spoken to: it serves until it is told to stop.
pub struct Listen {
    /// The method whose receiving half stands behind the door.
    pub method: Arc<dyn AnyMethod>,
    /// The door, open already: what arrives before the issuers are known is put off.
    pub door: Listener,
    /// Where SETs go.
    pub inlet: Arc<ListenInlet>,
    /// The issuers to learn of.
    pub issuers: Vec<IssuerUrl>,
    /// What is known of them; the inlet verifies with the same.
    pub trust: Arc<Trust>,
    /// The `Authorization` header that transmitters must send; `None` asks for nothing.
    pub authorization: Option<Secret<String>>,
    /// Clock, randomness, tasks.
    pub house: House,
}

/// Why a listener ended before it was told to.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The method has no receiving half that waits for a transmitter.
    #[error("the delivery method `{0}` does not listen")]
    NotAListener(&'static str),
    /// Trying again would not help: the issuer's metadata is not acceptable.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// First and longest pause between attempts to learn of an issuer.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// After this many failed attempts without progress the waiting is reported again.
const REPORT_EVERY: u32 = 10;

impl Listen {
    /// Serves until `stop` turns true. Issuers whose transmitter is not up yet are asked again and again.
    ///
    /// # Errors
    /// [`ListenError`] when the method cannot listen, or an issuer's metadata is not acceptable.
    pub async fn serve(self, mut stop: Stop) -> Result<(), ListenError> {
        let name = self.method.entry().name;
        let routes = self.method.receive_routes().ok_or(ListenError::NotAListener(name))?;
        let guard = Guard { inlet: self.inlet.clone(), authorization: self.authorization.map(Arc::new) };
        let ends = stop.clone();
        let routes = routes.layer(axum::middleware::map_request(move |mut request: Request| {
            let arrival = guard.arrival(&request, ends.clone());
            request.extensions_mut().insert(arrival);
            async move { request }
        }));
        let (end_door, door_ends) = tokio::sync::watch::channel(false);
        let door = self.door.serve(routes, door_ends, self.house.clone());
        tokio::pin!(door);
        let learn = learn_all(&self.issuers, &self.trust, &self.inlet, &self.house);
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
                () = &mut door => return Ok(()),
            }
        };
        end_door.send_replace(true);
        door.await;
        end
    }
}

/// Learns of all issuers, side by side.
async fn learn_all(issuers: &[IssuerUrl], trust: &Trust, inlet: &ListenInlet, house: &House) -> Result<(), TrustError> {
    futures_util::future::try_join_all(issuers.iter().map(|issuer| learn(issuer, trust, inlet, house))).await?;
    Ok(())
}

async fn learn(issuer: &IssuerUrl, trust: &Trust, inlet: &ListenInlet, house: &House) -> Result<(), TrustError> {
    let (mut pause, longest) = PAUSES;
    let mut attempts = 0;
    loop {
        match trust.learn(issuer).await {
            Ok(_) => {
                inlet.tell(&Report::Learned { issuer: issuer.clone() });
                return Ok(());
            }
            Err(error) if error.is_transient() => {
                if attempts % REPORT_EVERY == 0 {
                    inlet.tell(&Report::Waiting { issuer: issuer.clone(), why: error.error.to_string() });
                }
            }
            Err(error) => return Err(error),
        }
        attempts += 1;
        house.clock.sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Judges who arrives.
#[derive(Clone)]
struct Guard {
    inlet: Arc<ListenInlet>,
    authorization: Option<Arc<Secret<String>>>,
}

impl Guard {
    fn arrival(&self, request: &Request, ends: Stop) -> Arrival {
        let peer = request.extensions().get::<Peer>().map_or_else(|| "unknown".to_owned(), |peer| peer.0.to_string());
        let shown = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes().to_vec());
        let welcome = self.authorization.as_ref().is_none_or(|expected| {
            // Compared in constant time.
            shown.is_some_and(|shown| Secret::new(shown) == Secret::new(expected.expose().as_bytes().to_vec()))
        });
        // The method words the refusal in its own way: for push, 400 and `authentication_failed` (RFC 8935, 2.3).
        let inlet: Arc<dyn Inlet> = if welcome { self.inlet.clone() } else { Arc::new(Unwelcome(self.inlet.clone())) };
        Arrival { inlet, peer: peer.into(), ends }
    }
}

/// Refuses all that comes from a transmitter that did not say who it is.
struct Unwelcome(Arc<ListenInlet>);

impl Inlet for Unwelcome {
    fn take<'a>(&'a self, peer: &'a str, what: Vec<Incoming>) -> BoxFuture<'a, Vec<Answer>> {
        let refusal = refusal(ErrorCode::AuthenticationFailed, "the Authorization header is missing or wrong");
        Box::pin(async move { what.iter().map(|_| self.0.refuse_invalid(peer, refusal.clone())).collect() })
    }
}

#[cfg(test)]
#[path = "listen/tests.rs"]
mod tests;
