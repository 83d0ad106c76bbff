//! Requests for a document of a foreign transmitter: their limits, and the reasons why they fail (hardening H42).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header::ACCEPT};
use setgate_jose::Jwks;
use setgate_net::{HttpClient, HttpError, HttpRequest, HttpResponse};
use url::Url;

use crate::IssuerUrl;

/// The most bytes of a document.
pub(crate) const LONGEST: usize = 64 * 1024;
/// The time limit from resolving the name to the last byte received.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The part of a client that a fetcher needs: a GET request.
pub(crate) trait Wire: Send + Sync {
    /// Requests a document.
    fn get(&self, url: Url, headers: HeaderMap) -> BoxFuture<'_, Result<HttpResponse, HttpError>>;
}

impl Wire for HttpClient {
    fn get(&self, url: Url, headers: HeaderMap) -> BoxFuture<'_, Result<HttpResponse, HttpError>> {
        let request = HttpRequest {
            method: Method::GET,
            url,
            headers,
            body: Bytes::new(),
            keep_body: LONGEST,
            timeout: Some(TIMEOUT),
        };
        Box::pin(self.send(request))
    }
}

/// A key set, with the number of the fetch that brought it.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The keys.
    pub set: Arc<Jwks>,
    pub(crate) version: u64,
}

/// The reason why a document of a transmitter is not available. `what` is "metadata" or "key set".
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The request got no answer.
    #[error("could not fetch the {what}: {error}")]
    NoAnswer {
        /// The kind of document.
        what: &'static str,
        /// The error of the request.
        #[source]
        error: HttpError,
    },
    /// The answer was not 200.
    #[error("could not fetch the {what}: the answer was {status}")]
    Status {
        /// The kind of document.
        what: &'static str,
        /// The status of the answer.
        status: u16,
    },
    /// The document is longer than 64 KiB, or broke off.
    #[error("the {what} is longer than 64 KiB or not whole")]
    NotWhole {
        /// The kind of document.
        what: &'static str,
    },
    /// The document cannot be parsed.
    #[error("the {what} is malformed: {source}")]
    Malformed {
        /// The kind of document.
        what: &'static str,
        /// The error of the parser.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The metadata belongs to another issuer (SSF 1.0 §7.2.4).
    #[error("the metadata names another issuer than {asked}")]
    OtherIssuer {
        /// The issuer that was asked for.
        asked: IssuerUrl,
    },
    /// The metadata names no key set, or one that is less protected than the issuer.
    #[error("the metadata has no acceptable jwks_uri: {why}")]
    KeySetUrl {
        /// The reason.
        why: &'static str,
    },
}

impl FetchError {
    /// Returns whether the same request may succeed later without a change of the configuration.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoAnswer { error, .. } => error.fault != setgate_net::HttpFault::Guard,
            Self::Status { status, .. } => *status >= 500 || matches!(status, 404 | 408 | 425 | 429),
            Self::NotWhole { .. } => true,
            Self::Malformed { .. } | Self::OtherIssuer { .. } | Self::KeySetUrl { .. } => false,
        }
    }
}

/// Returns the header field `Accept` for these types.
pub(crate) fn accept(types: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(types))])
}

/// Returns the answer if it is a whole document.
pub(crate) fn whole(what: &'static str, answer: Result<HttpResponse, HttpError>) -> Result<HttpResponse, FetchError> {
    let answer = answer.map_err(|error| FetchError::NoAnswer { what, error })?;
    if answer.status != StatusCode::OK {
        return Err(FetchError::Status { what, status: answer.status.as_u16() });
    }
    if answer.truncated {
        return Err(FetchError::NotWhole { what });
    }
    Ok(answer)
}
