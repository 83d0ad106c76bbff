//! The keys of one issuer and their life cycle (hardening H49).

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Algorithm, JoseError, Key, RsaBits, Signer};

/// The state of a key in its life cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// Published; signs once receivers can know it.
    Next,
    /// Published; signs.
    Current,
    /// Published for late verifiers; no longer signs.
    Retiring,
    /// Withdrawn from the published set; its signatures are not to be trusted.
    Revoked,
}

/// A point in time by both clocks. A waiting time is over only when both clocks say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since 1970-01-01T00:00:00Z by the wall clock, which may jump.
    pub wall_millis: u64,
    /// The least time that the gateway has been running, over all restarts. It never goes back.
    pub monotonic: Duration,
}

/// The waiting times of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The time that receivers may keep the key set; a new key signs only after it has been published for that long.
    pub max_age: Duration,
    /// The time that a key that no longer signs stays published.
    pub retire_after: Duration,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { max_age: Duration::from_secs(15 * 60), retire_after: Duration::from_secs(30 * 24 * 3600) }
    }
}

/// The key set as it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The JWK Set (RFC 7517 §5), with public members only.
    pub json: Bytes,
    /// A strong entity tag, quotes included (RFC 9110 §8.8.3).
    pub etag: String,
}

/// The description of a key for `keys list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    /// The key's RFC 7638 thumbprint.
    pub kid: String,
    /// The algorithm that the key signs with.
    pub algorithm: Algorithm,
    /// The key's state.
    pub state: KeyState,
    /// The length of the modulus, or of the curve's field, in bits.
    pub bits: u16,
    /// The time at which the key was added to the ring, in milliseconds since the epoch.
    pub created_millis: u64,
    /// The time since which the key has been in this state, in milliseconds since the epoch.
    pub since_millis: u64,
}

/// The keys of one issuer: immutable; each transition creates a new ring.
///
/// Each algorithm has at most one *current* and one *next* key; a `kid` occurs once.
#[derive(Clone, Debug)]
pub struct Ring {
    pub(crate) entries: Vec<Entry>,
    pub(crate) revoked: Vec<KeyInfo>,
    signers: [Option<Arc<Signer>>; 4],
    published: Arc<Published>,
    anchor: Moment,
}

/// A key in the ring.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Arc<Key>,
    pub(crate) state: KeyState,
    pub(crate) created_millis: u64,
    pub(crate) since_millis: u64,
    /// The point `since_millis` in terms of the gateway's running time; `None` in a ring sealed by an earlier version.
    pub(crate) since: Option<Duration>,
}

impl Ring {
    /// The most revoked keys that are remembered; the oldest are forgotten first.
    pub const REVOKED_KEPT: usize = 256;

    /// Creates a ring without keys. `now` is the start of this process by both clocks.
    #[must_use]
    pub fn new(now: Moment) -> Self {
        Self::of(Vec::new(), Vec::new(), now)
    }

    pub(crate) fn of(mut entries: Vec<Entry>, revoked: Vec<KeyInfo>, anchor: Moment) -> Self {
        entries.sort_by_key(|entry| (entry.key.algorithm(), entry.state.rank(), entry.created_millis));
        let mut signers = [const { None }; 4];
        for entry in entries.iter().filter(|entry| entry.state == KeyState::Current) {
            if let Some(place) = signers.get_mut(entry.key.algorithm().place()) {
                *place = Some(entry.key.signer().clone());
            }
        }
        let published = Arc::new(publish(&entries));
        Self { entries, revoked, signers, published, anchor }
    }

    fn with(&self, entries: Vec<Entry>) -> Self {
        Self::of(entries, self.revoked.clone(), self.anchor)
    }

    /// Generates a key and adds it; see [`Ring::add`].
    ///
    /// # Errors
    /// Those of [`Key::generate`] and [`Ring::add`].
    pub fn generate(
        &self,
        algorithm: Algorithm,
        bits: RsaBits,
        now: Moment,
        rotation: &Rotation,
        force: bool,
    ) -> Result<Self, JoseError> {
        self.add(Key::generate(algorithm, bits)?, now, rotation, force)
    }

    /// Adds the key of a PEM text; see [`Key::import_pem`] and [`Ring::add`].
    ///
    /// # Errors
    /// Those of [`Key::import_pem`] and [`Ring::add`].
    pub fn import_pem(
        &self,
        text: &str,
        algorithm: Option<Algorithm>,
        now: Moment,
        rotation: &Rotation,
        force: bool,
    ) -> Result<Self, JoseError> {
        self.add(Key::import_pem(text, algorithm)?, now, rotation, force)
    }

    /// Adds a key: the first of its algorithm signs at once, any other becomes *next*.
    ///
    /// With `force` it replaces a *next* key that still waits and therefore never signed anything. A *next* key never
    /// signs before its time, with or without `force`.
    ///
    /// # Errors
    /// [`JoseError::Known`], [`JoseError::Revoked`], or [`JoseError::TooSoon`] when another *next* key waits.
    pub fn add(&self, key: Key, now: Moment, rotation: &Rotation, force: bool) -> Result<Self, JoseError> {
        let ring = self.advance(now, rotation).unwrap_or_else(|| self.clone());
        let (kid, algorithm) = (key.kid(), key.algorithm());
        if ring.entries.iter().any(|entry| entry.key.kid() == kid) {
            return Err(JoseError::Known(kid.into()));
        }
        if ring.revoked.iter().any(|info| info.kid == kid) {
            return Err(JoseError::Revoked(kid.into()));
        }
        let mut entries = ring.entries.clone();
        if let Some(waiting) = ring.find(algorithm, KeyState::Next) {
            if !force {
                let wait = ring.still_waits(waiting, now, rotation);
                return Err(JoseError::TooSoon { kid: waiting.key.kid().into(), wait });
            }
            let kid = waiting.key.kid();
            entries.retain(|entry| entry.key.kid() != kid);
        }
        let state = if ring.signer(algorithm).is_some() { KeyState::Next } else { KeyState::Current };
        entries.push(Entry {
            key: Arc::new(key),
            state,
            created_millis: now.wall_millis,
            since_millis: now.wall_millis,
            since: Some(now.monotonic),
        });
        Ok(ring.with(entries))
    }

    /// Publishes a new *next* key of the same size as the current one; [`Ring::advance`] lets it sign when its time has
    /// come.
    ///
    /// # Errors
    /// [`JoseError::NoKey`] when there is nothing to rotate; those of [`Ring::add`].
    pub fn rotate(
        &self,
        algorithm: Algorithm,
        now: Moment,
        rotation: &Rotation,
        force: bool,
    ) -> Result<Self, JoseError> {
        let current = self.find(algorithm, KeyState::Current).ok_or(JoseError::NoKey(algorithm))?;
        self.generate(algorithm, like(&current.key), now, rotation, force)
    }

    /// Counts the waiting time of the *next* keys that were added at `added` from `shown` on, when the published set began
    /// to have them. Returns `None` where there are none, or no time has passed.
    #[must_use]
    pub fn shown(&self, added: Moment, shown: Moment) -> Option<Self> {
        let is_new = |entry: &Entry| entry.state == KeyState::Next && entry.since == Some(added.monotonic);
        if shown == added || !self.entries.iter().any(is_new) {
            return None;
        }
        let mut entries = self.entries.clone();
        for entry in entries.iter_mut().filter(|entry| is_new(entry)) {
            (entry.since_millis, entry.since) = (shown.wall_millis, Some(shown.monotonic));
        }
        Some(self.with(entries))
    }

    /// Applies the passage of time: *next* keys that have been published for `max_age` by both clocks sign, *retiring*
    /// keys whose time is over are no longer published. Returns `None` when nothing changed.
    #[must_use]
    pub fn advance(&self, now: Moment, rotation: &Rotation) -> Option<Self> {
        let mut entries = self.entries.clone();
        for next in self.entries.iter().filter(|entry| entry.state == KeyState::Next) {
            if self.still_waits(next, now, rotation).is_zero() {
                promote(&mut entries, next.key.kid(), next.key.algorithm(), now);
            }
        }
        entries.retain(|entry| entry.state != KeyState::Retiring || self.elapsed(entry, now) < rotation.retire_after);
        let changed = entries.len() != self.entries.len()
            || entries.iter().zip(&self.entries).any(|(new, old)| new.state != old.state);
        changed.then(|| self.with(entries))
    }

    /// Removes a key from the published set at once. If it was signing, the *next* key of its algorithm signs at once,
    /// or a new one does.
    ///
    /// # Errors
    /// [`JoseError::UnknownKid`]; those of [`Key::generate`].
    pub fn revoke(&self, kid: &str, now: Moment) -> Result<Self, JoseError> {
        let gone = self.entries.iter().find(|entry| entry.key.kid() == kid);
        let gone = gone.ok_or_else(|| JoseError::UnknownKid(kid.into()))?;
        let mut entries: Vec<_> = self.entries.iter().filter(|entry| entry.key.kid() != kid).cloned().collect();
        let algorithm = gone.key.algorithm();
        if gone.state == KeyState::Current {
            if let Some(next) = self.find(algorithm, KeyState::Next) {
                // The next key may be younger than max-age; the alternative is to sign with a key that somebody else
                // may hold.
                promote(&mut entries, next.key.kid(), algorithm, now);
            } else {
                entries.push(Entry {
                    key: Arc::new(Key::generate(algorithm, like(&gone.key))?),
                    state: KeyState::Current,
                    created_millis: now.wall_millis,
                    since_millis: now.wall_millis,
                    since: Some(now.monotonic),
                });
            }
        }
        let mut revoked = self.revoked.clone();
        revoked.push(KeyInfo { state: KeyState::Revoked, since_millis: now.wall_millis, ..gone.info() });
        let surplus = revoked.len().saturating_sub(Self::REVOKED_KEPT);
        revoked.drain(..surplus);
        Ok(Self::of(entries, revoked, self.anchor))
    }

    /// Returns the signer of the current key of an algorithm.
    #[must_use]
    pub fn signer(&self, algorithm: Algorithm) -> Option<&Arc<Signer>> {
        self.signers.get(algorithm.place())?.as_ref()
    }

    /// Returns the key set as it is served: *next*, *current* and *retiring* keys.
    #[must_use]
    pub fn jwks(&self) -> Arc<Published> {
        self.published.clone()
    }

    /// Returns whether the key is in the published set.
    #[must_use]
    pub fn publishes(&self, kid: &str) -> bool {
        self.entries.iter().any(|entry| entry.key.kid() == kid)
    }

    /// Returns every key, revoked ones last, for `keys list`.
    #[must_use]
    pub fn describe(&self) -> Vec<KeyInfo> {
        self.entries.iter().map(Entry::info).chain(self.revoked.iter().cloned()).collect()
    }

    /// Returns the time from `now` until [`Ring::advance`] may next change something; `None` when only commands can.
    #[must_use]
    pub fn due(&self, now: Moment, rotation: &Rotation) -> Option<Duration> {
        self.entries.iter().filter_map(|entry| self.wait_of(entry, now, rotation)).min()
    }

    fn wait_of(&self, entry: &Entry, now: Moment, rotation: &Rotation) -> Option<Duration> {
        match entry.state {
            KeyState::Next => Some(self.still_waits(entry, now, rotation)),
            KeyState::Retiring => Some(rotation.retire_after.saturating_sub(self.elapsed(entry, now))),
            KeyState::Current | KeyState::Revoked => None,
        }
    }

    /// Returns the time from `now` until a key changes by itself: a *next* key signs then, a *retiring* one is
    /// published until then.
    #[must_use]
    pub fn wait(&self, kid: &str, now: Moment, rotation: &Rotation) -> Option<Duration> {
        let entry = self.entries.iter().find(|entry| entry.key.kid() == kid)?;
        self.wait_of(entry, now, rotation)
    }

    /// Returns the ring with both clocks' times for waiting keys that an earlier version sealed; `None` when all have
    /// them.
    #[must_use]
    pub fn dated(&self) -> Option<Self> {
        let undated = |entry: &Entry| entry.state == KeyState::Next && entry.since.is_none();
        let mut entries = self.entries.clone();
        let some = entries.iter_mut().filter(|entry| undated(entry));
        let changed = some.map(|entry| entry.since = Some(self.anchor.monotonic)).count() > 0;
        changed.then(|| self.with(entries))
    }

    fn find(&self, algorithm: Algorithm, state: KeyState) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key.algorithm() == algorithm && entry.state == state)
    }

    /// Returns the time that an entry has been in its state, as far as both clocks confirm it: a wall clock that jumps
    /// ahead while the process runs counts for nothing.
    fn elapsed(&self, entry: &Entry, now: Moment) -> Duration {
        let here = |since: Duration| since >= self.anchor.monotonic;
        let by_monotonic = match (entry.since, entry.state) {
            // The time before this process is known by the wall clock alone if the machine was off: enough to end a
            // publication of many days, not enough to sign with a key that receivers may not know.
            (since, KeyState::Retiring) if !since.is_some_and(here) => {
                passed(entry.since_millis, self.anchor.wall_millis) + self.run(now)
            }
            (Some(since), _) => now.monotonic.saturating_sub(since),
            (None, _) => self.run(now),
        };
        passed(entry.since_millis, now.wall_millis).min(by_monotonic)
    }

    fn run(&self, now: Moment) -> Duration {
        now.monotonic.saturating_sub(self.anchor.monotonic)
    }

    fn still_waits(&self, next: &Entry, now: Moment, rotation: &Rotation) -> Duration {
        rotation.max_age.saturating_sub(self.elapsed(next, now))
    }
}

impl Entry {
    fn info(&self) -> KeyInfo {
        KeyInfo {
            kid: self.key.kid().to_owned(),
            algorithm: self.key.algorithm(),
            state: self.state,
            bits: self.key.bits(),
            created_millis: self.created_millis,
            since_millis: self.since_millis,
        }
    }
}

impl KeyState {
    const fn rank(self) -> u8 {
        match self {
            Self::Current => 0,
            Self::Next => 1,
            Self::Retiring => 2,
            Self::Revoked => 3,
        }
    }
}

/// Lets the key `kid` sign in place of the current one of its algorithm, which retires.
fn promote(entries: &mut [Entry], kid: &str, algorithm: Algorithm, now: Moment) {
    for entry in entries.iter_mut().filter(|entry| entry.key.algorithm() == algorithm) {
        let state = if entry.key.kid() == kid {
            KeyState::Current
        } else if entry.state == KeyState::Current {
            KeyState::Retiring
        } else {
            continue;
        };
        (entry.state, entry.since_millis, entry.since) = (state, now.wall_millis, Some(now.monotonic));
    }
}

/// Returns the size of a key that replaces `key`: an imported key's odd size is rounded up to one that is generated.
fn like(key: &Key) -> RsaBits {
    match key.bits() {
        ..=2048 => RsaBits::Bits2048,
        2049..=3072 => RsaBits::Bits3072,
        _ => RsaBits::Bits4096,
    }
}

fn passed(since_millis: u64, now_millis: u64) -> Duration {
    Duration::from_millis(now_millis.saturating_sub(since_millis))
}

fn publish(entries: &[Entry]) -> Published {
    let keys: Vec<_> = entries.iter().map(|entry| entry.key.public_jwk()).collect();
    let json = Bytes::from(format!("{{\"keys\":[{}]}}", keys.join(",")));
    let hash = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &json));
    Published { json, etag: format!("\"{hash}\"") }
}

#[cfg(test)]
mod tests;
