//! A receiver of the demo: it verifies like any receiver, counts attempts, and fails the first requests if it is told
//! to.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::extract::Request;
use parking_lot::Mutex;
use setgate_cli::Failure;
use setgate_clock::Runtime;
use setgate_delivery::{Answer, Arrival, BoxFuture, Incoming, Ingest, Json, spi::AnyMethod};
use setgate_discovery::{Fetcher, IssuerUrl};
use setgate_jose::{AllowedAlgorithms, Token};
use setgate_net::{Listener, Secret};
use setgate_receiver::{Inbox, ListenIngest, Misbehave, Received, Report, Sink, Trust, Verify};
use tokio::sync::watch;

/// A SET that the receiver accepted, with the number of attempts to deliver it.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    pub(crate) received: Received,
    pub(crate) attempts: u32,
}

/// A receiver with a listener of its own, or one that collects from the gateway.
pub(crate) struct DemoReceiver {
    /// The address of the receiver's listener, if it has one.
    pub(crate) at: Option<SocketAddr>,
    runtime: Runtime,
    trust: Arc<Trust>,
    book: Arc<Book>,
    ingest: Arc<dyn Ingest>,
    stop: watch::Sender<bool>,
    /// The method by which the receiver collects, and its terms, until it has learned of the issuer.
    asks: Option<(Arc<dyn AnyMethod>, Json)>,
}

/// The record of what the receiver saw.
#[derive(Default)]
struct Book {
    attempts: Mutex<BTreeMap<String, u32>>,
    taken: Mutex<BTreeMap<String, Received>>,
    refused: Mutex<Vec<String>>,
    failing: AtomicU32,
}

impl DemoReceiver {
    /// Creates a receiver that answers its first `failing` requests with 503.
    pub(crate) fn new(runtime: &Runtime, fetcher: Fetcher, issuer: &IssuerUrl, audience: &str, failing: u32) -> Self {
        let trust = Arc::new(Trust::new(std::slice::from_ref(issuer), AllowedAlgorithms::ALL, fetcher));
        let book = Arc::new(Book { failing: AtomicU32::new(failing), ..Book::default() });
        let verify = Verify::new(trust.clone(), vec![audience.to_owned()], Verify::SKEW, runtime.clock.clone());
        let behaved = Misbehave::not_at_all(runtime.random.clone());
        let inner =
            ListenIngest::new(verify, Inbox::new(Inbox::CAPACITY), behaved, book.clone().sink(), runtime.clone());
        let ingest = Arc::new(Counting { inner, book: book.clone() });
        Self { at: None, runtime: runtime.clone(), trust, book, ingest, stop: watch::channel(false).0, asks: None }
    }

    /// Opens a listener with a method's receiving half behind it.
    ///
    /// # Errors
    /// Returns a failure when the listener cannot be opened.
    pub(crate) async fn behind_a_listener(mut self, routes: axum::Router) -> Result<Self, Failure> {
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .map_err(|error| Failure::failed(error.to_string()))?;
        self.at = Some(listener.address());
        let arrival = Arrival { ingest: self.ingest.clone(), peer: "the gateway".into(), ends: self.stop.subscribe() };
        let routes = routes.layer(axum::middleware::map_request(move |mut request: Request| {
            request.extensions_mut().insert(arrival.clone());
            async move { request }
        }));
        self.runtime.spawn("demo receiver", listener.serve(routes, self.stop.subscribe(), self.runtime.clone()));
        Ok(self)
    }

    /// Lets the receiver collect from an endpoint of the gateway as soon as it has learned of the issuer.
    pub(crate) fn that_asks(mut self, method: Arc<dyn AnyMethod>, endpoint: &str, token: &Secret<String>) -> Self {
        let from = serde_json::json!({
            "endpoint_url": endpoint,
            "authorization_header": format!("Bearer {}", token.expose()),
        });
        self.asks = Some((method, from));
        self
    }

    /// Fetches the transmitter's metadata and keys over HTTP; a receiver that collects starts to do so afterwards.
    ///
    /// # Errors
    /// Returns a failure when they cannot be fetched, or not in time.
    pub(crate) async fn learn(&mut self, runtime: &Runtime, issuer: &IssuerUrl) -> Result<(), Failure> {
        let mut attempts = 0;
        loop {
            match self.trust.learn(issuer).await {
                Ok(_) => break,
                Err(error) if error.is_transient() && attempts < 50 => attempts += 1,
                Err(error) => return Err(Failure::failed(error.to_string())),
            }
            runtime.clock.sleep(Duration::from_millis(50)).await;
        }
        if let Some((method, from)) = self.asks.take() {
            let book = self.book.clone();
            let collect = method.collect(from, self.ingest.clone(), self.stop.subscribe());
            runtime.spawn("demo receiver", async move {
                if let Err(fault) = collect.await {
                    book.refused.lock().push(format!("it was turned away: {fault}"));
                }
            });
        }
        Ok(())
    }

    /// Returns the accepted SETs by their `txn`.
    pub(crate) fn arrived(&self) -> BTreeMap<String, Arrived> {
        let attempts = self.book.attempts.lock();
        let taken = self.book.taken.lock();
        taken
            .values()
            .map(|received| {
                let attempts = attempts.get(&received.taken.jti).copied().unwrap_or_default();
                (received.taken.txn.clone().unwrap_or_default(), Arrived { received: received.clone(), attempts })
            })
            .collect()
    }

    /// Returns the reasons of the refusals.
    pub(crate) fn refused(&self) -> Vec<String> {
        self.book.refused.lock().clone()
    }

    /// Stops the receiver, and its listener if it has one.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }
}

impl Book {
    fn sink(self: Arc<Self>) -> Sink {
        Arc::new(move |report: &Report| {
            match report {
                Report::Taken(received) => {
                    self.taken.lock().insert(received.taken.jti.clone(), received.clone());
                }
                Report::Refused { refusal, .. } => {
                    self.refused.lock().push(format!(
                        "{}: {}",
                        refusal.code,
                        refusal.description.as_deref().unwrap_or_default()
                    ));
                }
                _ => {}
            }
            Ok(())
        })
    }
}

/// Counts the attempts of each SET before the receiver looks at it.
struct Counting {
    inner: ListenIngest,
    book: Arc<Book>,
}

impl Ingest for Counting {
    fn accept<'a>(&'a self, peer: &'a str, what: Vec<Incoming>) -> BoxFuture<'a, Vec<Answer>> {
        for one in &what {
            if let Incoming::Set { token, .. } = one
                && let Some(jti) = jti(token)
            {
                *self.book.attempts.lock().entry(jti).or_default() += 1;
            }
        }
        let fewer = |left: u32| left.checked_sub(1);
        let failing = self.book.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok();
        if failing {
            return Box::pin(std::future::ready(what.iter().map(|_| Answer::Status(503)).collect()));
        }
        self.inner.accept(peer, what)
    }
}

/// Returns the `jti` that a token claims, unverified: it only serves to count attempts.
fn jti(token: &[u8]) -> Option<String> {
    let token = Token::parse(token).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(token.unverified_payload()).ok()?;
    claims.get("jti")?.as_str().map(str::to_owned)
}
