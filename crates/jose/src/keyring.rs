//! The live handle of a ring.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{Algorithm, Published, Ring, Signer};

/// The keys of one issuer in the running gateway: read without locks, replaced as a whole.
///
/// There is one writer, which creates the ring to install from [`Keyring::ring`] and stores it durably first.
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
    /// Creates a handle with this ring, in generation 0.
    #[must_use]
    pub fn new(ring: Ring) -> Self {
        Self { installed: ArcSwap::from_pointee(Installed { ring: Arc::new(ring), generation: 0 }) }
    }

    /// Returns the signer of the current key of an algorithm.
    #[must_use]
    pub fn signer(&self, algorithm: Algorithm) -> Option<Arc<Signer>> {
        self.installed.load().ring.signer(algorithm).cloned()
    }

    /// Replaces the ring, with immediate effect.
    pub fn install(&self, ring: Ring) {
        let ring = Arc::new(ring);
        self.installed.rcu(|old| Installed { ring: ring.clone(), generation: old.generation.wrapping_add(1) });
    }

    /// Returns the installed ring.
    #[must_use]
    pub fn ring(&self) -> Arc<Ring> {
        self.installed.load().ring.clone()
    }

    /// Returns the key set as it is served.
    #[must_use]
    pub fn jwks(&self) -> Arc<Published> {
        self.installed.load().ring.jwks()
    }

    /// Returns a number that changes with each [`Keyring::install`].
    ///
    /// A SET that was sealed in an earlier generation and not handed over is sealed again when its key is
    /// [`Keyring::withdrawn`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.installed.load().generation
    }

    /// Returns whether the key is not published (revoked, or retired long ago), so that nobody can verify its
    /// signatures.
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
