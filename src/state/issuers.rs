//! The issuers of the configuration, with their numbers and keys.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use setgate_cli::{Exit, Failure};
use setgate_jose::{Kek, Key as SigningKey, Keyring, Moment, Ring, Rotation, RsaBits};
use setgate_store::{Done, Durability, IssuerNo, Key, Put, Space, Store, StoreError, Unit};

use crate::config::IssuerSection;

/// An error of taking up an issuer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// The store failed.
    #[error("cannot take up the issuers: {0}")]
    Store(#[from] StoreError),
    /// A record of the store cannot be read.
    #[error("the store's record `{0}` cannot be read")]
    Record(String),
    /// Issuers that were in force before are missing from the configuration.
    #[error("{0} is an issuer no more: refused without --force")]
    Missing(String),
    /// The keys of an issuer cannot be opened.
    #[error("the signing keys of {issuer} cannot be opened: {source}")]
    Sealed {
        /// The URL of the issuer.
        issuer: String,
        /// The cause.
        source: setgate_jose::SealError,
    },
    /// A key cannot be made.
    #[error("no key can be made for {issuer}: {source}")]
    Key {
        /// The URL of the issuer.
        issuer: String,
        /// The cause.
        source: setgate_jose::JoseError,
    },
}

/// The stored record of an issuer, under `issuer/URL`. The number is part of records and idempotency keys, so it
/// outlives the section.
#[derive(Serialize, Deserialize)]
struct Enrolled {
    no: IssuerNo,
}

/// Returns the URL of the issuer with this number, from all records of the store.
pub(crate) fn url_of(records: &[setgate_store::Record], no: &str) -> Option<String> {
    records.iter().find_map(|record| {
        let url = record.key.0.strip_prefix("issuer/")?;
        let enrolled: Enrolled = serde_json::from_slice(&record.value).ok()?;
        (enrolled.no.to_string() == no).then(|| url.to_owned())
    })
}

/// Returns the keys of an issuer, from all records of a store that is closed; `None` if they do not open.
pub(crate) fn keys_of(
    records: &[setgate_store::Record],
    issuer: &setgate_store::Record,
    kek: &Kek,
) -> Option<Vec<setgate_jose::KeyInfo>> {
    let url = issuer.key.0.strip_prefix("issuer/")?;
    let enrolled: Enrolled = serde_json::from_slice(&issuer.value).ok()?;
    let ring = records.iter().find(|record| record.key == setgate_control::ring_key(enrolled.no))?;
    Ring::open(kek, url, &ring.value, Moment::default()).ok().map(|ring| ring.describe())
}

/// The key of the record with the URLs of the issuers that were in force last.
const IN_FORCE: &str = "gateway/issuers";

/// Checks that no issuer that was in force is missing. The metadata and keys of a missing one would not be published
/// any more, and its SETs could not be verified, so an issuer is removed only with `force`.
///
/// # Errors
/// Returns [`IssuerError::Missing`] with their URLs.
pub(crate) async fn none_is_missing(
    store: &dyn Store,
    sections: &[IssuerSection],
    force: bool,
) -> Result<(), IssuerError> {
    let missing = in_force(store).await?.into_iter().filter(|url| sections.iter().all(|section| section.url != *url));
    let missing: Vec<String> = missing.collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(", ");
    if !force {
        return Err(IssuerError::Missing(missing));
    }
    tracing::warn!(
        issuers = missing,
        "issuers that were in force are in the configuration no more: their keys are published no more"
    );
    Ok(())
}

/// Records the issuers that are in force.
///
/// # Errors
/// Returns an error when the store fails.
pub(crate) async fn note(store: &dyn Store, sections: &[IssuerSection]) -> Result<(), IssuerError> {
    let now: Vec<&str> = sections.iter().map(|section| section.url.as_str()).collect();
    if in_force(store).await? == now {
        return Ok(());
    }
    put(store, Key::from(IN_FORCE), serde_json::to_vec(&now).map_err(|_| IssuerError::Record(IN_FORCE.to_owned()))?)
        .await?;
    Ok(())
}

async fn in_force(store: &dyn Store) -> Result<Vec<String>, IssuerError> {
    let Some(record) = store.get(vec![Key::from(IN_FORCE)]).await?.pop().flatten() else { return Ok(Vec::new()) };
    serde_json::from_slice(&record.value).map_err(|_| IssuerError::Record(IN_FORCE.to_owned()))
}

/// Returns the present moment by both clocks of the store: the wall clock as far as it is trusted, and the time that
/// the store has run, across restarts.
fn moment(store: &dyn Store) -> Moment {
    let time = store.time();
    Moment { wall_millis: time.now.as_millis(), monotonic: time.ran }
}

/// Loads the issuers with their numbers and keys. A new issuer, or a new algorithm, gets a key that signs at once.
///
/// # Errors
/// Returns [`IssuerError`], for example when the key-encryption key is not the one that sealed the keys.
pub(crate) async fn load_or_create(
    store: &dyn Store,
    kek: &Kek,
    sections: &[IssuerSection],
    rotation: &Rotation,
) -> Result<Vec<setgate_router::Issuer>, IssuerError> {
    let mut issuers = Vec::with_capacity(sections.len());
    for section in sections {
        let no = number(store, &section.url).await?;
        let ring = ring(store, kek, section, no, rotation).await?;
        let algorithm = section.algorithms.first().copied().unwrap_or(setgate_jose::Algorithm::Rs256);
        issuers.push(setgate_router::Issuer {
            url: Arc::from(section.url.as_str()),
            no,
            keyring: Arc::new(Keyring::new(ring)),
            algorithm,
        });
    }
    Ok(issuers)
}

async fn number(store: &dyn Store, url: &str) -> Result<IssuerNo, IssuerError> {
    let key = Key(format!("issuer/{url}"));
    if let Some(record) = store.get(vec![key.clone()]).await?.pop().flatten() {
        let enrolled: Enrolled = serde_json::from_slice(&record.value).map_err(|_| IssuerError::Record(key.0))?;
        return Ok(enrolled.no);
    }
    let done = store.commit(vec![Unit::Allocate { space: Space::Issuer }], Durability::Sync).await?;
    let no = match done.first() {
        Some(Done::Allocated(no)) => IssuerNo(*no),
        _ => return Err(IssuerError::Record(key.0)),
    };
    let value = serde_json::to_vec(&Enrolled { no }).map_err(|_| IssuerError::Record(key.0.clone()))?;
    put(store, key, value).await?;
    Ok(no)
}

async fn ring(
    store: &dyn Store,
    kek: &Kek,
    section: &IssuerSection,
    no: IssuerNo,
    rotation: &Rotation,
) -> Result<Ring, IssuerError> {
    let now = moment(store);
    let url = section.url.as_str();
    let kept = store.get(vec![setgate_control::ring_key(no)]).await?.pop().flatten();
    let mut ring = match &kept {
        Some(record) => {
            let opened = Ring::open(kek, url, &record.value, now);
            opened.map_err(|source| IssuerError::Sealed { issuer: url.to_owned(), source })?
        }
        None => Ring::new(now),
    };
    let mut changed = kept.is_none();
    if let Some(dated) = ring.dated() {
        (ring, changed) = (dated, true);
    }
    // While the wall clock is suspect, no key begins to sign and none is retired.
    if let Some(advanced) = ring.advance(now, rotation).filter(|_| !store.time().suspect) {
        (ring, changed) = (advanced, true);
    }
    let bits = RsaBits::from_bits(section.rsa_bits).unwrap_or_default();
    for algorithm in section.algorithms.iter().copied() {
        if ring.signer(algorithm).is_some() {
            continue;
        }
        let broken = |source| IssuerError::Key { issuer: url.to_owned(), source };
        // Generating an RSA key takes long, so it does not happen on a thread that serves.
        let made = tokio::task::spawn_blocking(move || SigningKey::generate(algorithm, bits)).await;
        let key = made.map_err(|_| broken(setgate_jose::JoseError::Generate(algorithm)))?.map_err(broken)?;
        tracing::info!(issuer = url, %algorithm, kid = key.kid(), "a signing key was made");
        ring = ring.add(key, now, rotation, false).map_err(broken)?;
        changed = true;
    }
    if changed {
        let sealed = ring.seal(kek, url).map_err(|source| IssuerError::Sealed { issuer: url.to_owned(), source })?;
        put(store, setgate_control::ring_key(no), sealed).await?;
    }
    Ok(ring)
}

/// Writes one control-plane record durably.
///
/// # Errors
/// Returns [`StoreError`] when the store fails.
pub(crate) async fn put(store: &dyn Store, key: Key, value: Vec<u8>) -> Result<(), StoreError> {
    let unit = Unit::Configure {
        change: vec![Put { key, value: Some(Bytes::from(value)) }],
        expect: None,
        membership: false,
        drop_through: Vec::new(),
        notice: Vec::new(),
    };
    store.commit(vec![unit], Durability::Sync).await.map(|_| ())
}

/// Converts the error into the failure that an operator sees.
impl From<IssuerError> for Failure {
    fn from(error: IssuerError) -> Self {
        match error {
            IssuerError::Missing(_) => Self::usage(error.to_string()).remedy(
                "write its section again; or start once with `setgate serve --force`: its metadata and keys are published no more then, and what \
                 is signed with them cannot be verified",
            ),
            IssuerError::Sealed { .. } => Self::new(Exit::Store, error.to_string()),
            error => Self::new(Exit::Failed, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use setgate_clock::manual::{ManualClock, runtime};
    use setgate_jose::Algorithm;
    use setgate_store::MemoryStore;

    use super::*;

    fn section(url: &str, algorithms: &[Algorithm]) -> IssuerSection {
        IssuerSection { url: url.to_owned(), algorithms: algorithms.to_vec(), rsa_bits: 2048 }
    }

    #[tokio::test]
    async fn an_issuer_keeps_its_number_and_its_keys() {
        let runtime = runtime(ManualClock::at(1_700_000_000_000), 1);
        let store = MemoryStore::new(runtime.clone(), &[7; 32]);
        let kek = Kek::generate().unwrap();
        let (one, two) =
            (section("https://a.example", &[Algorithm::Es256]), section("https://b.example", &[Algorithm::EdDSA]));
        let rotation = Rotation::default();
        let first = load_or_create(&*store, &kek, std::slice::from_ref(&one), &rotation).await.unwrap();
        let both = [two, section("https://a.example", &[Algorithm::Es256, Algorithm::EdDSA])];
        let second = load_or_create(&*store, &kek, &both, &rotation).await.unwrap();
        let kid =
            |issuer: &setgate_router::Issuer, algorithm| issuer.keyring.signer(algorithm).unwrap().kid().to_owned();
        assert_eq!(first[0].no, second[1].no);
        assert_ne!(second[0].no, second[1].no);
        assert_eq!(kid(&first[0], Algorithm::Es256), kid(&second[1], Algorithm::Es256));
        assert!(second[1].keyring.signer(Algorithm::EdDSA).is_some(), "an algorithm that was added has a key");

        let other = Kek::generate().unwrap();
        let error = load_or_create(&*store, &other, &[one], &rotation).await.unwrap_err();
        assert!(matches!(error, IssuerError::Sealed { .. }), "{error}");
    }

    #[tokio::test]
    async fn an_issuer_goes_only_when_asked_twice() {
        let store = MemoryStore::new(runtime(ManualClock::at(1), 1), &[7; 32]);
        let [a, b] = ["https://a.example", "https://b.example"].map(|url| section(url, &[Algorithm::Es256]));
        let (both, one) = ([a.clone(), b], [a]);
        // The store of a release that recorded no issuers.
        none_is_missing(&*store, &one, false).await.unwrap();
        note(&*store, &both).await.unwrap();
        let refused = none_is_missing(&*store, &one, false).await.unwrap_err();
        assert!(matches!(&refused, IssuerError::Missing(urls) if urls == "https://b.example"), "{refused}");
        none_is_missing(&*store, &both, false).await.unwrap();
        none_is_missing(&*store, &one, true).await.unwrap();
        note(&*store, &one).await.unwrap();
        none_is_missing(&*store, &one, false).await.unwrap();
    }
}
