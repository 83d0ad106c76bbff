//! The live handle of a ring.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{Algorithm, Published, Ring, Signer};

/// One issuer's keys as the running gateway sees them: read without locks, replaced whole.
///
/// There is one writer: whoever installs a ring made it from [`Keyring::ring`] and has stored it durably before.
#[derive(Debug)]
pub struct Keyring {
    installed: ArcSwap<Installed>,
}

#[derive(Debug)]
struct Installed {
    ring: Arc<Ring>,
    generation: u64,
}

impl Keyring {
    /// A handle with this ring, in generation 0.
    #[must_use]
    pub fn new(ring: Ring) -> Self {
        Self { installed: ArcSwap::from_pointee(Installed { ring: Arc::new(ring), generation: 0 }) }
    }

    /// The signer of the current key of an algorithm.
    #[must_use]
    pub fn signer(&self, algorithm: Algorithm) -> Option<Arc<Signer>> {
        self.installed.load().ring.signer(algorithm).cloned()
    }

    /// Puts another ring in place; takes effect at once.
    pub fn install(&self, ring: Ring) {
        let ring = Arc::new(ring);
        self.installed.rcu(|old| Installed { ring: ring.clone(), generation: old.generation.wrapping_add(1) });
    }

    /// The ring in place.
    #[must_use]
    pub fn ring(&self) -> Arc<Ring> {
        self.installed.load().ring.clone()
    }

    /// The key set as it is served.
    #[must_use]
    pub fn jwks(&self) -> Arc<Published> {
        self.installed.load().ring.jwks()
    }

    /// A number that changes with each [`Keyring::install`].
    ///
    /// What was sealed in an earlier generation and not handed over is sealed again when its key is [`Keyring::withdrawn`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.installed.load().generation
    }

    /// Whether the key is not published (revoked, or retired long ago): nobody can verify what it signed.
    #[must_use]
    pub fn withdrawn(&self, kid: &str) -> bool {
        !self.installed.load().ring.publishes(kid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Moment, Rotation, RsaBits};

    #[test]
    fn installing_takes_effect_at_once_and_changes_the_generation() {
        let now = Moment::default();
        let ring = Ring::new(now)
            .generate(Algorithm::EdDSA, RsaBits::default(), now, &Rotation::default(), false)
            .expect("a ring");
        let keyring = Keyring::new(ring.clone());
        let old = keyring.signer(Algorithm::EdDSA).expect("a signer");
        assert!(keyring.signer(Algorithm::Rs256).is_none());
        assert!(!keyring.withdrawn(old.kid()));

        keyring.install(ring.revoke(old.kid(), now).expect("another key takes over"));
        assert_eq!(keyring.generation(), 1);
        assert!(keyring.withdrawn(old.kid()));
        let new = keyring.signer(Algorithm::EdDSA).expect("a signer");
        assert_ne!(new.kid(), old.kid());
        let served = keyring.jwks();
        assert!(String::from_utf8_lossy(&served.json).contains(new.kid()));
        assert!(!String::from_utf8_lossy(&served.json).contains(old.kid()));
    }
}
