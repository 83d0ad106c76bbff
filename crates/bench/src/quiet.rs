//! A router in this process with a method that acknowledges everything at once, so that the rest is the router's own
//! cost.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use serde_json::{Value, json};
use setgate_clock::Runtime;
use setgate_delivery::{
    About, Closed, Consumer, Entry, Fault, Form, Initiator, Limits, Order, Profile, Receipt, Redelivery, Subscription,
    Want, Window,
    spi::{AnyChannel, AnyMethod},
};
use setgate_jose::{Algorithm, Kek, Key, Keyring, Moment, Ring, Rotation, RsaBits};
use setgate_router::{Declared, Router};
use setgate_store::{IssuerNo, Store};

use crate::BenchError;

/// The issuer of events that are put in without a request.
pub(crate) const ISSUER: &str = "https://idp.example.com";

/// The parts that such a router is made of.
pub(crate) struct Parts {
    pub(crate) runtime: Runtime,
    pub(crate) store: Arc<dyn Store>,
    /// The number of SETs that were handed over.
    pub(crate) handed: Arc<AtomicU64>,
}

/// A delivery method that acknowledges everything at once.
pub(crate) struct Quiet(Arc<AtomicU64>);

impl Quiet {
    pub(crate) const URI: &'static str = "urn:example:quiet";

    /// Starts a router with this method alone.
    ///
    /// # Errors
    /// Fails if the router does not start.
    pub(crate) async fn router(parts: Parts) -> Result<Router, BenchError> {
        let failed = |why: String| BenchError::Failed(format!("the router: {why}"));
        let now = Moment::default();
        let key = Key::generate(Algorithm::Es256, RsaBits::default()).map_err(|error| failed(error.to_string()))?;
        let ring =
            Ring::new(now).add(key, now, &Rotation::default(), false).map_err(|error| failed(error.to_string()))?;
        let issuer = setgate_router::Issuer {
            url: ISSUER.into(),
            no: IssuerNo(1),
            keyring: Arc::new(Keyring::new(ring)),
            algorithm: Algorithm::Es256,
        };
        Router::start(setgate_router::Parts {
            runtime: parts.runtime,
            store: parts.store,
            kek: Arc::new(Kek::generate().map_err(|error| failed(error.to_string()))?),
            issuers: vec![issuer],
            methods: vec![Arc::new(Self(parts.handed))],
            config: setgate_router::Config::default(),
            observed: setgate_router::Observed::register(&mut prometheus_client::registry::Registry::default()),
        })
        .await
        .map_err(|error| failed(error.to_string()))
    }

    /// Declares a stream with this method.
    ///
    /// # Errors
    /// Fails if the declaration is not acceptable.
    pub(crate) fn declared(no: usize, events: &Value) -> Result<Declared, BenchError> {
        let stream = json!({
            "id": format!("stream-{no}"), "issuer": ISSUER, "audience": "https://sink.example", "events": events,
            "delivery": { "method": Self::URI },
        });
        serde_json::from_value(stream).map_err(|error| BenchError::Failed(error.to_string()))
    }
}

impl AnyMethod for Quiet {
    fn entry(&self) -> Entry {
        Entry { name: "quiet", uri: Self::URI, aliases: &[] }
    }
    fn channel(&self, _: &About, _: Value, _: Value) -> Result<Arc<dyn AnyChannel>, Fault> {
        Ok(Arc::new(QuietChannel { handed: self.0.clone(), window: Window::of_sets(64) }))
    }
    fn publish(&self, terms: Value, _: &str) -> Result<Value, Fault> {
        Ok(terms)
    }
}

struct QuietChannel {
    handed: Arc<AtomicU64>,
    window: Window,
}

impl setgate_delivery::Channel for QuietChannel {
    fn profile(&self) -> Profile {
        Profile {
            initiator: Initiator::Gateway,
            order: Order::PerSet,
            receipt: Receipt::Receiver,
            form: Form::Claims,
            redelivery: Redelivery::WhenConsumerEnds,
            limits: Limits { sets: 64, bytes: 1 << 20, overhead: 0, set_bytes: 1 << 20 },
            endpoint: None,
            windows: vec![self.window.clone()],
        }
    }

    async fn run(&self, subscription: Subscription, mut consumer: Consumer) -> Closed {
        loop {
            match consumer.next_batch(Want::ALL).await {
                Ok(batch) => {
                    let sets = batch.hand_over();
                    self.handed.fetch_add(u64::try_from(sets.len()).unwrap_or_default(), Ordering::Release);
                    subscription.settle_all(
                        sets.into_iter().map(|set| (set.jti, Some(set.attempt), Ok(Receipt::Receiver))).collect(),
                    );
                }
                Err(closed) => return closed,
            }
        }
    }
}
