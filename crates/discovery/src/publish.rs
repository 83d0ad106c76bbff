//! The serving of metadata and key sets.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    response::Response,
    routing::{MethodRouter, any, get},
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode, Uri,
    header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS},
};
use setgate_jose::Keyring;

use crate::{AuthorizationScheme, DefaultSubjects, IssuerUrl, Metadata, is_plain_path, issuer::WELL_KNOWN};

/// An issuer as it is published. All URLs are built from it, never from a request's `Host` (hardening H52).
#[derive(Clone, Debug)]
pub struct PublishedIssuer {
    /// The issuer's URL.
    pub url: IssuerUrl,
    /// The issuer's keys; the published set is read at each request.
    pub keyring: Arc<Keyring>,
    /// The time that caches may keep metadata and key set; the `max_age` of [`setgate_jose::Rotation`] must be the
    /// same.
    pub max_age: Duration,
    /// The URIs of the delivery methods that are linked, enabled and allowed.
    pub delivery_methods: Vec<String>,
    /// The default for subjects that were neither added nor removed, when all streams agree on it.
    pub default_subjects: Option<DefaultSubjects>,
    /// The members of complex subjects that a receiver must be able to interpret.
    pub critical_subject_members: Vec<String>,
    /// The endpoints of the management API, when there is one; the other members of the metadata come from the fields
    /// above.
    pub endpoints: Endpoints,
}

/// The URLs of the management API (SSF 1.0 §7.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// The endpoint at which streams are created, read, updated and deleted.
    pub configuration: Option<String>,
    /// The endpoint at which the status of a stream is read and changed.
    pub status: Option<String>,
    /// The endpoint at which subjects are added.
    pub add_subject: Option<String>,
    /// The endpoint at which subjects are removed.
    pub remove_subject: Option<String>,
    /// The endpoint at which verification is requested.
    pub verification: Option<String>,
    /// The authorisation schemes for callers; empty, and left out of the metadata, without an API.
    pub authorization_schemes: Vec<AuthorizationScheme>,
}

/// The reason why issuers cannot be published together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Two issuers would be served at the same path.
    #[error("issuers {0} and {1} have the same path: give each a path of its own")]
    SamePath(IssuerUrl, IssuerUrl),
}

impl PublishedIssuer {
    /// Creates an issuer without a management API.
    #[must_use]
    pub fn new(url: IssuerUrl, keyring: Arc<Keyring>, max_age: Duration, delivery_methods: Vec<String>) -> Self {
        Self {
            url,
            keyring,
            max_age,
            delivery_methods,
            default_subjects: None,
            critical_subject_members: Vec::new(),
            endpoints: Endpoints::default(),
        }
    }

    /// Returns the issuer's metadata (SSF 1.0 §7.1).
    #[must_use]
    pub fn metadata(&self) -> Metadata {
        let endpoints = self.endpoints.clone();
        Metadata {
            spec_version: Some("1_0".to_owned()),
            issuer: self.url.as_str().to_owned(),
            jwks_uri: Some(self.url.jwks_url()),
            delivery_methods_supported: self.delivery_methods.clone(),
            configuration_endpoint: endpoints.configuration,
            status_endpoint: endpoints.status,
            add_subject_endpoint: endpoints.add_subject,
            remove_subject_endpoint: endpoints.remove_subject,
            verification_endpoint: endpoints.verification,
            critical_subject_members: self.critical_subject_members.clone(),
            authorization_schemes: endpoints.authorization_schemes,
            default_subjects: self.default_subjects,
        }
    }
}

/// Creates the routes of all issuers: metadata at `/.well-known/ssf-configuration{path}`, key set at
/// `{path}/jwks.json`.
///
/// The routes answer GET and HEAD, with a strong entity tag; a matching `If-None-Match` is answered 304, other methods
/// 405. Below the well-known prefix, a path that is not plain ([`is_plain_path`]) is answered 400 and one of no issuer
/// 404.
///
/// # Errors
/// [`PublishError::SamePath`] when two issuers have the same path.
pub fn routes(issuers: Vec<PublishedIssuer>) -> Result<Router, PublishError> {
    let mut seen = BTreeMap::new();
    let mut paths: BTreeMap<String, MethodRouter> = BTreeMap::new();
    for path in ["", "/", "/{*path}"] {
        paths.insert(format!("{WELL_KNOWN}{path}"), any(elsewhere));
    }
    for issuer in issuers {
        if let Some(other) = seen.insert(issuer.url.path().to_owned(), issuer.url.clone()) {
            return Err(PublishError::SamePath(other, issuer.url));
        }
        let (path, keys_path) = (issuer.url.metadata_path(), issuer.url.jwks_path());
        let metadata = Document::of_metadata(&issuer);
        paths.insert(path, get(move |headers: HeaderMap| async move { metadata.answer(&headers) }));
        let (keyring, control) = (issuer.keyring, cache_control(issuer.max_age));
        let serve_keys = move |headers: HeaderMap| async move {
            let published = keyring.jwks();
            answer(&headers, "application/jwk-set+json", &published.etag, &control, published.json.clone())
        };
        paths.insert(keys_path, get(serve_keys));
    }
    // Paths of issuers consist of unreserved characters, none of which has a meaning for the router.
    Ok(paths.into_iter().fold(Router::new().without_v07_checks(), |router, (path, at)| router.route(&path, at)))
}

/// A document that is built once.
#[derive(Clone)]
struct Document {
    json: Bytes,
    etag: String,
    control: HeaderValue,
}

impl Document {
    fn of_metadata(issuer: &PublishedIssuer) -> Self {
        let json = Bytes::from(serde_json::to_vec(&issuer.metadata()).unwrap_or_default());
        let etag = format!("\"{}\"", blake3::hash(&json).to_hex().get(..32).unwrap_or_default());
        Self { json, etag, control: cache_control(issuer.max_age) }
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        answer(headers, "application/json", &self.etag, &self.control, self.json.clone())
    }
}

/// Answers a request for a path below the well-known prefix that belongs to no issuer.
async fn elsewhere(uri: Uri) -> StatusCode {
    if is_plain_path(uri.path()) { StatusCode::NOT_FOUND } else { StatusCode::BAD_REQUEST }
}

fn cache_control(max_age: Duration) -> HeaderValue {
    HeaderValue::try_from(format!("public, max-age={}", max_age.as_secs()))
        .unwrap_or_else(|_| HeaderValue::from_static("no-cache"))
}

fn answer(headers: &HeaderMap, content_type: &'static str, etag: &str, control: &HeaderValue, json: Bytes) -> Response {
    let known = headers.get_all(IF_NONE_MATCH).iter().any(|value| value.to_str().is_ok_and(|list| names(list, etag)));
    let mut response = Response::new(if known { Body::empty() } else { Body::from(json) });
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    if let Ok(etag) = HeaderValue::try_from(etag) {
        response.headers_mut().insert(ETAG, etag);
    }
    response.headers_mut().insert(CACHE_CONTROL, control.clone());
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Returns whether an `If-None-Match` list names this entity tag, in a weak comparison (RFC 9110 §13.1.2).
fn names(list: &str, etag: &str) -> bool {
    list.trim() == "*" || list.split(',').map(str::trim).any(|one| one.strip_prefix("W/").unwrap_or(one) == etag)
}

#[cfg(test)]
mod tests;
