//! A ring at rest, sealed as a whole, so that nobody without the key can change the state of a key or swap rings.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{Algorithm, Kek, Key, KeyInfo, KeyState, Moment, Ring, SealError, ring::Entry};

/// The plain text that is sealed. `version` names this layout.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u8,
    keys: Vec<WrittenKey>,
    revoked: Vec<WrittenRevoked>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKey {
    kid: String,
    algorithm: Algorithm,
    state: KeyState,
    created: u64,
    since: u64,
    /// The point `since` in terms of the gateway's running time, in milliseconds; absent in what earlier versions
    /// wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ran: Option<u64>,
    pkcs8: SecretText,
}

/// A text that is wiped on drop.
struct SecretText(Zeroizing<String>);

impl Serialize for SecretText {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(|text| Self(Zeroizing::new(text)))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRevoked {
    kid: String,
    algorithm: Algorithm,
    bits: u16,
    created: u64,
    since: u64,
}

const VERSION: u8 = 1;

impl Ring {
    /// Seals the ring for one issuer: private keys, states and revocations.
    ///
    /// # Errors
    /// [`SealError::Crypto`] when the cryptographic library fails.
    pub fn seal(&self, kek: &Kek, issuer: &str) -> Result<Vec<u8>, SealError> {
        let keys = self.entries.iter().map(|entry| WrittenKey {
            kid: entry.key.kid().to_owned(),
            algorithm: entry.key.algorithm(),
            state: entry.state,
            created: entry.created_millis,
            since: entry.since_millis,
            ran: entry.since.map(|since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            pkcs8: SecretText(Zeroizing::new(STANDARD.encode(entry.key.pkcs8()))),
        });
        let revoked = self.revoked.iter().map(|info| WrittenRevoked {
            kid: info.kid.clone(),
            algorithm: info.algorithm,
            bits: info.bits,
            created: info.created_millis,
            since: info.since_millis,
        });
        let written = Written { version: VERSION, keys: keys.collect(), revoked: revoked.collect() };
        // The capacity is enough for everything, so that growing leaves no copy of a private key behind.
        let size =
            written.keys.iter().map(|key| key.pkcs8.0.len() + 512).sum::<usize>() + written.revoked.len() * 512 + 512;
        let mut plain = Zeroizing::new(Vec::with_capacity(size));
        serde_json::to_writer(&mut *plain, &written).map_err(|_| SealError::Crypto)?;
        kek.seal(&["ring", issuer], &plain)
    }

    /// Seals with `next` what [`Ring::seal`] sealed with `kek` for the same issuer; the ring itself stays as it is.
    ///
    /// # Errors
    /// [`SealError`] when opening or sealing fails.
    pub fn reseal(kek: &Kek, next: &Kek, issuer: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        next.seal(&["ring", issuer], &kek.open(&["ring", issuer], sealed)?)
    }

    /// Opens what [`Ring::seal`] sealed for the same issuer. A *next* key resumes its waiting time.
    ///
    /// # Errors
    /// [`SealError::WrongKek`], which names both keys; [`SealError::Tampered`], also when the ring belongs to another
    /// issuer; [`SealError::Malformed`] for an unknown version or contents that contradict each other.
    pub fn open(kek: &Kek, issuer: &str, sealed: &[u8], now: Moment) -> Result<Self, SealError> {
        let plain = kek.open(&["ring", issuer], sealed)?;
        let written: Written = serde_json::from_slice(&plain).map_err(|_| SealError::Malformed)?;
        if written.version != VERSION {
            return Err(SealError::Malformed);
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(written.keys.len());
        for written in written.keys {
            let mut der = Zeroizing::new(vec![0; written.pkcs8.0.len()]);
            let length = STANDARD
                .decode_slice(written.pkcs8.0.as_bytes(), der.as_mut_slice())
                .map_err(|_| SealError::Malformed)?;
            der.truncate(length);
            let key = Key::from_pkcs8(&der, Some(written.algorithm)).map_err(|_| SealError::Malformed)?;
            let twice = entries.iter().any(|entry| {
                let same_role = entry.state == written.state && written.state != KeyState::Retiring;
                entry.key.kid() == written.kid || (same_role && entry.key.algorithm() == written.algorithm)
            });
            if key.kid() != written.kid
                || key.algorithm() != written.algorithm
                || twice
                || written.state == KeyState::Revoked
            {
                return Err(SealError::Malformed);
            }
            entries.push(Entry {
                key: Arc::new(key),
                state: written.state,
                created_millis: written.created,
                since_millis: written.since,
                since: written.ran.map(Duration::from_millis),
            });
        }
        let revoked = written.revoked.into_iter().map(|written| KeyInfo {
            kid: written.kid,
            algorithm: written.algorithm,
            state: KeyState::Revoked,
            bits: written.bits,
            created_millis: written.created,
            since_millis: written.since,
        });
        Ok(Self::of(entries, revoked.collect(), now))
    }
}
