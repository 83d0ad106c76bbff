//! The signing keys of all issuers while the gateway runs, changed by command and by time, by one writer (hardening
//! H49).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::Serialize;
use setgate_clock::Runtime;
use setgate_jose::{Algorithm, JoseError, Kek, KeyState, Keyring, Moment, Ring, Rotation, RsaBits};
use setgate_net::Secret;
use setgate_store::{Durability, IssuerNo, Key, Put, Store, StoreError, Time, Unit};
use setgate_telemetry::chain;
use tokio::sync::{mpsc, oneshot};

/// The longest time between two checks whether a key's time has come.
const EVERY: Duration = Duration::from_secs(60);

/// The time until the next check when a key's time has come and it could not be moved on.
const SOON: Duration = Duration::from_secs(1);

/// The parts of [`Keys`].
pub struct KeysParts {
    /// The clock and the tasks.
    pub runtime: Runtime,
    /// The store that keeps the rings, sealed, under `keys/NUMBER`.
    pub store: Arc<dyn Store>,
    /// The key-encryption key that seals the rings.
    pub kek: Arc<Kek>,
    /// The waiting times of a rotation.
    pub rotation: Rotation,
    /// The issuers.
    pub issuers: Vec<KeysOf>,
}

/// The keys of one issuer.
#[derive(Clone, Debug)]
pub struct KeysOf {
    /// The issuer's URL.
    pub issuer: Arc<str>,
    /// The issuer's number.
    pub no: IssuerNo,
    /// The issuer's key ring.
    pub keyring: Arc<Keyring>,
}

/// The signing keys of all issuers. Clones share one state.
///
/// One task writes: a change is durable before it takes effect, and two changes never start from the same ring.
#[derive(Clone)]
pub struct Keys {
    issuers: Arc<[KeysOf]>,
    rotation: Rotation,
    store: Arc<dyn Store>,
    orders: mpsc::Sender<Order>,
}

/// Returns the key under which the store keeps the sealed ring of an issuer.
#[must_use]
pub fn ring_key(no: IssuerNo) -> Key {
    Key(format!("keys/{no}"))
}

/// A signing key as the admin API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct KeyView {
    pub(crate) issuer: String,
    pub(crate) kid: String,
    pub(crate) algorithm: Algorithm,
    pub(crate) bits: u16,
    pub(crate) state: KeyState,
    pub(crate) created: String,
    pub(crate) since: String,
    /// The time when the key changes by itself, as far as both clocks tell now: a next key signs from then on, a
    /// retiring key is published until then.
    pub(crate) until: Option<String>,
    /// The reason why that time is not known, although it will come.
    pub(crate) waits_because: Option<&'static str>,
}

/// The reasons why keys were not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    #[error("there is no issuer `{0}`")]
    UnknownIssuer(String),
    #[error("this gateway has several issuers: say which")]
    WhichIssuer,
    #[error("RSA keys have 2048, 3072 or 4096 bits")]
    Bits,
    #[error(transparent)]
    Jose(#[from] JoseError),
    #[error("the keys could not be sealed: {0}")]
    Seal(#[from] setgate_jose::SealError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the gateway is closing")]
    Closing,
}

/// A change of the keys of one issuer.
pub(crate) enum Change {
    /// Publishes a next key now, which signs when receivers can know it; for all algorithms in use when none is named.
    Rotate { algorithm: Option<Algorithm>, bits: Option<u16>, force: bool },
    /// Takes a key out of the published set at once.
    Revoke { kid: String },
    /// Imports a key of the operator's own.
    Import { pem: Secret<String>, algorithm: Option<Algorithm>, force: bool },
}

struct Order {
    issuer: Option<String>,
    change: Change,
    answer: oneshot::Sender<Result<Vec<KeyView>, KeysError>>,
}

impl Keys {
    /// Starts the writer task, which ends when the last clone is dropped.
    #[must_use]
    pub fn start(parts: KeysParts) -> Self {
        let KeysParts { runtime, store, kek, rotation, issuers } = parts;
        let issuers: Arc<[KeysOf]> = issuers.into();
        let (orders, received) = mpsc::channel(16);
        let writer = Writer { runtime: runtime.clone(), store: store.clone(), kek, rotation, issuers: issuers.clone() };
        runtime.spawn("keys", writer.run(received));
        Self { issuers, rotation, store, orders }
    }

    /// Returns the URLs of the issuers.
    pub(crate) fn issuers(&self) -> impl Iterator<Item = &str> {
        self.issuers.iter().map(|of| &*of.issuer)
    }

    /// Returns the keys of one issuer, or of all.
    pub(crate) fn list(&self, issuer: Option<&str>) -> Result<Vec<KeyView>, KeysError> {
        let chosen: Vec<_> = self.issuers.iter().filter(|one| issuer.is_none_or(|url| *url == *one.issuer)).collect();
        match (chosen.is_empty(), issuer) {
            (true, Some(url)) => Err(KeysError::UnknownIssuer(url.to_owned())),
            _ => Ok(chosen.into_iter().flat_map(|one| views(one, &self.rotation, self.store.time())).collect()),
        }
    }

    /// Changes the keys of one issuer, and returns its keys after the change.
    pub(crate) async fn change(&self, issuer: Option<String>, change: Change) -> Result<Vec<KeyView>, KeysError> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order { issuer, change, answer }).await.map_err(|_| KeysError::Closing)?;
        answered.await.map_err(|_| KeysError::Closing)?
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("issuers", &self.issuers.len()).finish_non_exhaustive()
    }
}

struct Writer {
    runtime: Runtime,
    store: Arc<dyn Store>,
    kek: Arc<Kek>,
    rotation: Rotation,
    issuers: Arc<[KeysOf]>,
}

impl Writer {
    async fn run(self, mut orders: mpsc::Receiver<Order>) {
        loop {
            // The first check is made at the start, so that a gateway that is often restarted completes a rotation too.
            self.advance().await;
            let mut tick = self.runtime.clock.sleep(self.patience());
            tokio::select! {
                order = orders.recv() => match order {
                    None => return,
                    Some(Order { issuer, change, answer }) => {
                        let _ = answer.send(self.change(issuer.as_deref(), change).await);
                    }
                },
                () = &mut tick => {}
            }
        }
    }

    fn now(&self) -> Moment {
        moment(self.store.time())
    }

    /// Returns the time until the next check: until a key's time comes, within [`SOON`] and [`EVERY`].
    fn patience(&self) -> Duration {
        let now = self.now();
        let due = self.issuers.iter().filter_map(|of| of.keyring.ring().due(now, &self.rotation)).min();
        due.map_or(EVERY, |due| due.clamp(SOON, EVERY))
    }

    /// Moves the keys on whose time has come. While the wall clock is suspect, no key begins to sign and none is
    /// retired.
    async fn advance(&self) {
        if self.store.time().suspect {
            return;
        }
        for of in self.issuers.iter() {
            let Some(ring) = of.keyring.ring().advance(self.now(), &self.rotation) else { continue };
            match self.keep(of, ring).await {
                Ok(()) => tracing::info!(issuer = %of.issuer, "signing keys moved on"),
                Err(error) => {
                    tracing::warn!(issuer = %of.issuer, error = chain(&error), "signing keys could not move on; it is tried again")
                }
            }
        }
    }

    async fn change(&self, issuer: Option<&str>, change: Change) -> Result<Vec<KeyView>, KeysError> {
        let of = self.find(issuer, &change)?;
        let (ring, now, rotation) = (of.keyring.ring(), self.now(), self.rotation);
        let done = change.done();
        // An RSA key takes long to generate, so it is not done on a thread that serves requests.
        let made = tokio::task::spawn_blocking(move || apply(&ring, change, now, &rotation)).await;
        let ring = made.map_err(|_| KeysError::Closing)??;
        self.keep(of, ring.clone()).await?;
        // Receivers may keep the set that they read a moment ago, so the waiting time begins here.
        if let Some(ring) = ring.shown(now, self.now()) {
            of.keyring.install(ring.clone());
            if let Err(error) = self.keep(of, ring).await {
                tracing::warn!(issuer = %of.issuer, error = chain(&error), "after a restart the next key signs a little too early");
            }
        }
        tracing::info!(issuer = %of.issuer, "{done}");
        Ok(views(of, &self.rotation, self.store.time()))
    }

    fn find(&self, issuer: Option<&str>, change: &Change) -> Result<&KeysOf, KeysError> {
        match (issuer, change) {
            (Some(url), _) => self
                .issuers
                .iter()
                .find(|of| *of.issuer == *url)
                .ok_or_else(|| KeysError::UnknownIssuer(url.to_owned())),
            (None, Change::Revoke { kid }) => self
                .issuers
                .iter()
                .find(|of| of.keyring.ring().publishes(kid))
                .ok_or_else(|| JoseError::UnknownKid(kid.as_str().into()).into()),
            (None, _) => match &*self.issuers {
                [only] => Ok(only),
                _ => Err(KeysError::WhichIssuer),
            },
        }
    }

    /// Makes a ring durable, and then puts it in force.
    async fn keep(&self, of: &KeysOf, ring: Ring) -> Result<(), KeysError> {
        let sealed = ring.seal(&self.kek, &of.issuer)?;
        let change = vec![Put { key: ring_key(of.no), value: Some(Bytes::from(sealed)) }];
        let unit =
            Unit::Configure { change, expect: None, membership: false, drop_through: Vec::new(), notice: Vec::new() };
        self.store.commit(vec![unit], Durability::Sync).await?;
        of.keyring.install(ring);
        Ok(())
    }
}

impl Change {
    fn done(&self) -> &'static str {
        match self {
            Self::Rotate { .. } => "a next signing key is published",
            Self::Revoke { .. } => "a signing key was revoked",
            Self::Import { .. } => "a signing key was imported",
        }
    }
}

fn apply(ring: &Ring, change: Change, now: Moment, rotation: &Rotation) -> Result<Ring, KeysError> {
    match change {
        Change::Revoke { kid } => Ok(ring.revoke(&kid, now)?),
        Change::Import { pem, algorithm, force } => {
            Ok(ring.import_pem(pem.expose(), algorithm, now, rotation, force)?)
        }
        Change::Rotate { algorithm, bits, force } => {
            let bits = bits.map(|bits| RsaBits::from_bits(bits).ok_or(KeysError::Bits)).transpose()?;
            let in_use = || Algorithm::ALL.into_iter().filter(|algorithm| ring.signer(*algorithm).is_some()).collect();
            let algorithms: Vec<_> = algorithm.map_or_else(in_use, |algorithm| vec![algorithm]);
            algorithms.into_iter().try_fold(ring.clone(), |ring, algorithm| {
                Ok(match bits {
                    None => ring.rotate(algorithm, now, rotation, force)?,
                    Some(bits) => ring.generate(algorithm, bits, now, rotation, force)?,
                })
            })
        }
    }
}

/// Returns a point in time by both clocks.
fn moment(time: Time) -> Moment {
    Moment { wall_millis: time.now.as_millis(), monotonic: time.ran }
}

fn views(of: &KeysOf, rotation: &Rotation, now: Time) -> Vec<KeyView> {
    let ring = of.keyring.ring();
    // The time left is counted from now: the date of publication may be long past after a clock was put back or the
    // gateway was off.
    let until = |kid: &str| ring.wait(kid, moment(now), rotation).map(|wait| time(now.now.plus(wait).as_millis()));
    let keys = ring.describe();
    keys.into_iter()
        .map(|key| KeyView {
            issuer: of.issuer.to_string(),
            until: until(&key.kid).filter(|_| !now.suspect),
            waits_because: until(&key.kid).filter(|_| now.suspect).map(|_| "the wall clock is not believed"),
            created: time(key.created_millis),
            since: time(key.since_millis),
            kid: key.kid,
            algorithm: key.algorithm,
            bits: key.bits,
            state: key.state,
        })
        .collect()
}

/// Formats a point in time for people (RFC 3339).
pub(crate) fn time(millis: u64) -> String {
    i64::try_from(millis)
        .ok()
        .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
        .map_or_else(|| millis.to_string(), |at| at.to_string())
}

#[cfg(test)]
mod tests;
