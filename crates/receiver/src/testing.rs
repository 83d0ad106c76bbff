//! A transmitter on loopback, for tests of this crate.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use setgate_clock::{BoxFuture, Clock, Runtime, TokioTasks, manual::SeededRandom};
use setgate_delivery::Stop;
use setgate_discovery::{Fetcher, IssuerUrl, PublishedIssuer};
use setgate_jose::{Algorithm, AllowedAlgorithms, Keyring, Moment, Ring, Rotation, RsaBits};
use setgate_net::{Listener, Outbound, OutboundConfig, OwnAddresses, TlsPolicy};

use crate::{Trust, Verify};

pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const AUDIENCE: &str = "https://app.example.com";

/// A clock whose two times are advanced by hand; sleeping takes real time.
pub(crate) struct HandClock {
    seconds: AtomicU64,
}

impl HandClock {
    pub(crate) fn pass(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn wall_millis(&self) -> u64 {
        (NOW + self.seconds.load(Ordering::SeqCst)) * 1000
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.seconds.load(Ordering::SeqCst))
    }

    fn sleep(&self, how_long: Duration) -> BoxFuture<()> {
        Box::pin(tokio::time::sleep(how_long))
    }
}

pub(crate) fn hand_clock() -> Arc<HandClock> {
    Arc::new(HandClock { seconds: AtomicU64::new(0) })
}

pub(crate) fn runtime(clock: Arc<HandClock>) -> Runtime {
    Runtime { clock, random: SeededRandom::new(1), tasks: Arc::new(TokioTasks) }
}

/// A transmitter that publishes metadata and keys over HTTP, and signs the claims that it is given.
pub(crate) struct Transmitter {
    pub(crate) issuer: IssuerUrl,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) clock: Arc<HandClock>,
    pub(crate) runtime: Runtime,
    pub(crate) trust: Arc<Trust>,
    end: tokio::sync::watch::Sender<bool>,
}

impl Transmitter {
    /// Starts a transmitter with a key of each algorithm, whose metadata and keys the receiver has fetched already.
    pub(crate) async fn start() -> Self {
        let transmitter = Self::start_unknown().await;
        transmitter.trust.learn(&transmitter.issuer).await.unwrap();
        transmitter
    }

    pub(crate) async fn start_unknown() -> Self {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        Self::behind(listener, &[]).await
    }

    pub(crate) async fn behind(listener: Listener, critical: &[&str]) -> Self {
        let clock = hand_clock();
        let runtime = runtime(clock.clone());
        let issuer = IssuerUrl::parse(&format!("http://{}", listener.address())).unwrap();
        let now = Moment::default();
        let mut ring = Ring::new(now);
        for algorithm in Algorithm::ALL {
            ring = ring.generate(algorithm, RsaBits::default(), now, &Rotation::default(), false).unwrap();
        }
        let keyring = Arc::new(Keyring::new(ring));
        let age = Duration::from_secs(900);
        let mut published = PublishedIssuer::new(issuer.clone(), keyring.clone(), age, Vec::new());
        published.critical_subject_members = critical.iter().map(|name| (*name).to_owned()).collect();
        let (end, stop) = tokio::sync::watch::channel(false);
        let routes = setgate_discovery::routes(vec![published]).unwrap();
        tokio::spawn(listener.serve(routes, stop, runtime.clone()));
        let trust = trust(&runtime, std::slice::from_ref(&issuer));
        Self { issuer, keyring, clock, runtime, trust, end }
    }

    pub(crate) fn verify(&self, audiences: &[&str]) -> Verify {
        let audiences = audiences.iter().map(|audience| (*audience).to_owned()).collect();
        Verify::new(self.trust.clone(), audiences, Verify::SKEW, self.clock.clone())
    }

    /// Returns acceptable claims.
    pub(crate) fn claims(&self, jti: &str) -> Value {
        json!({
            "iss": self.issuer.as_str(), "jti": jti, "iat": NOW, "aud": AUDIENCE, "txn": "t1",
            "sub_id": {"format": "email", "email": "jane@example.com"},
            "events": {"https://schemas.openid.net/secevent/caep/event-type/session-revoked": {"event_timestamp": NOW}},
        })
    }

    pub(crate) fn sign(&self, claims: &Value) -> Vec<u8> {
        self.sign_with(Algorithm::EdDSA, claims.to_string().as_bytes())
    }

    pub(crate) fn sign_with(&self, algorithm: Algorithm, payload: &[u8]) -> Vec<u8> {
        self.keyring.signer(algorithm).unwrap().sign(payload).unwrap()
    }

    /// Stops the transmitter.
    pub(crate) fn end(&self) {
        self.end.send_replace(true);
    }
}

/// Creates the trust in these issuers, over a client that may reach loopback.
pub(crate) fn trust(runtime: &Runtime, issuers: &[IssuerUrl]) -> Arc<Trust> {
    let config = OutboundConfig {
        allow_networks: vec!["127.0.0.0/8".parse().unwrap()],
        allow_http: true,
        system_roots: false,
        ..OutboundConfig::default()
    };
    let out = Outbound::new(&config, runtime.clone(), OwnAddresses::new()).unwrap();
    let fetcher = Fetcher::new(out.client(&TlsPolicy::default()), runtime.clone());
    Arc::new(Trust::new(issuers, AllowedAlgorithms::ALL, fetcher))
}

pub(crate) fn never_stops() -> Stop {
    let (end, stop) = tokio::sync::watch::channel(false);
    // A dropped sender would count as a stop.
    std::mem::forget(end);
    stop
}
