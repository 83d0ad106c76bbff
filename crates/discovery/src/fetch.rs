//! The fetcher of metadata and key sets of foreign transmitters (hardening H42).

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use setgate_clock::Runtime;
use setgate_net::HttpClient;
use url::Url;

use crate::{
    IssuerUrl, Metadata,
    cache::Slot,
    document::{FetchError, Keys, Wire, accept, whole},
};

/// The most key sets that are kept.
const SLOTS: usize = 256;

/// A fetcher of the documents that transmitters publish. Clones share one cache.
///
/// Redirects are never followed; targets are checked by the client's address guard.
#[derive(Clone)]
pub struct Fetcher {
    shared: Arc<Shared>,
}

struct Shared {
    wire: Box<dyn Wire>,
    runtime: Runtime,
    slots: Mutex<HashMap<Url, Arc<Slot>>>,
}

impl Fetcher {
    /// Creates a fetcher that sends its requests through this client.
    #[must_use]
    pub fn new(client: HttpClient, runtime: Runtime) -> Self {
        Self::over(Box::new(client), runtime)
    }

    pub(crate) fn over(wire: Box<dyn Wire>, runtime: Runtime) -> Self {
        Self { shared: Arc::new(Shared { wire, runtime, slots: Mutex::default() }) }
    }

    /// Fetches the metadata of an issuer; every call sends a request.
    ///
    /// # Errors
    /// [`FetchError`]; [`FetchError::OtherIssuer`] unless `issuer` in the document is the URL asked for, byte for byte.
    pub async fn metadata(&self, issuer: &IssuerUrl) -> Result<Metadata, FetchError> {
        const WHAT: &str = "metadata";
        let url = Url::parse(&issuer.metadata_url())
            .map_err(|error| FetchError::Malformed { what: WHAT, source: Arc::new(error) })?;
        let answer = self.shared.wire.get(url, accept("application/json")).await;
        let body = whole(WHAT, answer)?.body;
        let metadata: Metadata = serde_json::from_slice(&body)
            .map_err(|error| FetchError::Malformed { what: WHAT, source: Arc::new(error) })?;
        // SSF 1.0, 7.2.4: unless the two are identical, nothing of the document is used.
        if metadata.issuer != issuer.as_str() {
            return Err(FetchError::OtherIssuer { asked: issuer.clone() });
        }
        Ok(metadata)
    }

    /// Returns the key set at `url`: the kept one while it is fresh, else a fetched one.
    ///
    /// There is one request at a time. When it fails, the last good set stays in use and the next attempt is at least a
    /// minute away.
    ///
    /// # Errors
    /// [`FetchError`] when there is no good set; the same error for 5 seconds, without another request.
    pub async fn keys(&self, url: &Url) -> Result<Keys, FetchError> {
        self.slot(url).keys(&*self.shared.wire, url, &self.shared.runtime).await
    }

    /// Returns the key set at `url` after a token named a key that `seen` does not have.
    ///
    /// A set that is newer than `seen` is returned without a request. Otherwise the set is fetched, at most once a
    /// minute per URL; when the last request was less than a minute ago, the kept set is returned.
    ///
    /// # Errors
    /// [`FetchError`] when there is no good set.
    pub async fn keys_after(&self, url: &Url, seen: &Keys) -> Result<Keys, FetchError> {
        self.slot(url).keys_after(&*self.shared.wire, url, &self.shared.runtime, seen).await
    }

    fn slot(&self, url: &Url) -> Arc<Slot> {
        let mut slots = self.shared.slots.lock();
        if let Some(slot) = slots.get(url) {
            return slot.clone();
        }
        if slots.len() >= SLOTS
            && let Some(oldest) = slots.iter().min_by_key(|(_, slot)| slot.attempted()).map(|(url, _)| url.clone())
        {
            slots.remove(&oldest);
        }
        slots.entry(url.clone()).or_default().clone()
    }
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fetcher")
    }
}

impl Metadata {
    /// Returns the URL of the key set: `https` if the issuer is, so that keys are as well protected as the metadata
    /// that names them.
    ///
    /// # Errors
    /// [`FetchError::KeySetUrl`] when there is none or it is not acceptable.
    pub fn jwks_url(&self, issuer: &IssuerUrl) -> Result<Url, FetchError> {
        let text = self.jwks_uri.as_deref().ok_or(FetchError::KeySetUrl { why: "it is missing" })?;
        let url = Url::parse(text).map_err(|_| FetchError::KeySetUrl { why: "it is no URL" })?;
        match url.scheme() {
            "https" => Ok(url),
            "http" if !issuer.is_https() => Ok(url),
            _ => Err(FetchError::KeySetUrl { why: "its scheme must be https" }),
        }
    }
}

#[cfg(test)]
mod tests;
