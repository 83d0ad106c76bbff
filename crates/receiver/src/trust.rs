//! The transmitters whose SETs are taken, and where their keys are.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;
use setgate_discovery::{FetchError, Fetcher, IssuerUrl, Metadata};
use setgate_jose::AllowedAlgorithms;
use url::Url;

/// The issuers that a receiver takes SETs from. What their metadata says is learned, and may be learned again, while it runs.
pub struct Trust {
    fetcher: Fetcher,
    allowed: AllowedAlgorithms,
    issuers: RwLock<BTreeMap<String, Option<Arc<Known>>>>,
}

/// What is known of one issuer.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) keys: Url,
    pub(crate) critical: Vec<String>,
}

/// What is known of an issuer that a token names.
pub(crate) enum IssuerState {
    /// It is none of ours.
    Stranger,
    /// It is ours, and its metadata is not there yet.
    NotYet,
    /// Its keys can be fetched.
    Known(Arc<Known>),
}

/// Why nothing was learned of an issuer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("could not learn of {issuer}: {error}")]
pub struct TrustError {
    /// Which issuer.
    pub issuer: IssuerUrl,
    /// Why.
    #[source]
    pub error: FetchError,
}

impl TrustError {
    /// Whether to try again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.error.is_transient()
    }
}

impl Trust {
    /// Trusts these issuers and nobody else, for signatures of these algorithms.
    #[must_use]
    pub fn new(issuers: &[IssuerUrl], allowed: AllowedAlgorithms, fetcher: Fetcher) -> Self {
        let issuers = issuers.iter().map(|issuer| (issuer.as_str().to_owned(), None)).collect();
        Self { fetcher, allowed, issuers: RwLock::new(issuers) }
    }

    /// Fetches the metadata of an issuer, and its keys, and keeps them.
    ///
    /// # Errors
    /// [`TrustError`]: what was learned before stays.
    pub async fn learn(&self, issuer: &IssuerUrl) -> Result<Metadata, TrustError> {
        let failed = |error| TrustError { issuer: issuer.clone(), error };
        let metadata = self.fetcher.metadata(issuer).await.map_err(failed)?;
        let keys = metadata.jwks_url(issuer).map_err(failed)?;
        self.fetcher.keys(&keys).await.map_err(failed)?;
        let known = Known { keys, critical: metadata.critical_subject_members.clone() };
        if let Some(place) = self.issuers.write().get_mut(issuer.as_str()) {
            *place = Some(Arc::new(known));
        }
        Ok(metadata)
    }

    /// What is known of the issuer that `iss` names: compared byte for byte.
    pub(crate) fn issuer_state(&self, iss: &str) -> IssuerState {
        match self.issuers.read().get(iss) {
            None => IssuerState::Stranger,
            Some(None) => IssuerState::NotYet,
            Some(Some(known)) => IssuerState::Known(known.clone()),
        }
    }

    pub(crate) fn allowed(&self) -> AllowedAlgorithms {
        self.allowed
    }

    pub(crate) fn fetcher(&self) -> &Fetcher {
        &self.fetcher
    }
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.issuers.read().keys()).finish()
    }
}
