//! The issuers whose SETs a receiver accepts, and their keys.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;
use setgate_discovery::{FetchError, Fetcher, IssuerUrl, Metadata};
use setgate_jose::AllowedAlgorithms;
use url::Url;

/// The issuers whose SETs a receiver accepts. Their metadata is fetched, and may be fetched again, while it runs.
pub struct Trust {
    fetcher: Fetcher,
    allowed: AllowedAlgorithms,
    issuers: RwLock<BTreeMap<String, Option<Arc<Known>>>>,
}

/// The part of an issuer's metadata that verification needs.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) keys: Url,
    pub(crate) critical: Vec<String>,
}

/// The state of the issuer that a token names.
pub(crate) enum IssuerState {
    /// The issuer is not trusted here.
    Stranger,
    /// The issuer is trusted, and its metadata has not arrived yet.
    NotYet,
    /// The issuer is trusted, and its keys can be fetched.
    Known(Arc<Known>),
}

/// The error when the metadata or keys of an issuer could not be fetched.
#[derive(Clone, Debug, thiserror::Error)]
#[error("could not learn of {issuer}: {error}")]
pub struct TrustError {
    /// The issuer.
    pub issuer: IssuerUrl,
    /// The error of the fetch.
    #[source]
    pub error: FetchError,
}

impl TrustError {
    /// Returns whether to try again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.error.is_transient()
    }
}

impl Trust {
    /// Creates the trust in these issuers and no others, for signatures of these algorithms.
    #[must_use]
    pub fn new(issuers: &[IssuerUrl], allowed: AllowedAlgorithms, fetcher: Fetcher) -> Self {
        let issuers = issuers.iter().map(|issuer| (issuer.as_str().to_owned(), None)).collect();
        Self { fetcher, allowed, issuers: RwLock::new(issuers) }
    }

    /// Fetches the metadata and keys of an issuer, and keeps them.
    ///
    /// # Errors
    /// [`TrustError`] when one of them cannot be fetched; what was kept before stays.
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

    /// Returns the state of the issuer that `iss` names, compared byte for byte.
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
