//! One document of a foreign transmitter: how it is asked for, its limits, and why it is not there (hardening H42).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header::ACCEPT};
use setgate_jose::Jwks;
use setgate_net::{HttpClient, HttpError, HttpRequest, HttpResponse};
use url::Url;

use crate::IssuerUrl;

/// Longest document, in bytes.
pub(crate) const LONGEST: usize = 64 * 1024;
/// From the first byte sent to the last one received.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a fetcher needs of a client: one GET.
pub(crate) trait Wire: Send + Sync {
    /// Asks for a document.
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

/// A key set, and which fetch it came with.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The keys.
    pub set: Arc<Jwks>,
    pub(crate) version: u64,
}

/// Why something of a transmitter is not there. `what` is "metadata" or "key set".
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// There was no answer.
    #[error("could not fetch the {what}: {error}")]
    NoAnswer {
        /// Of what.
        what: &'static str,
        /// Why.
        #[source]
        error: HttpError,
    },
    /// The answer was not 200.
    #[error("could not fetch the {what}: the answer was {status}")]
    Status {
        /// Of what.
        what: &'static str,
        /// What it was.
        status: u16,
    },
    /// The document is longer than 64 KiB, or broke off.
    #[error("the {what} is longer than 64 KiB or not whole")]
    NotWhole {
        /// Which.
        what: &'static str,
    },
    /// The document cannot be read.
    #[error("the {what} is malformed: {source}")]
    Malformed {
        /// Which.
        what: &'static str,
        /// Why.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The metadata is another issuer's (SSF 1.0 §7.2.4).
    #[error("the metadata names another issuer than {asked}")]
    OtherIssuer {
        /// Which issuer was asked for.
        asked: IssuerUrl,
    },
    /// The metadata names no key set, or one that is less protected than the issuer.
    #[error("the metadata has no acceptable jwks_uri: {why}")]
    KeySetUrl {
        /// Why.
        why: &'static str,
    },
}

impl FetchError {
    /// Whether the same request may succeed later without anybody changing a configuration here.
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

/// The header field that asks for these types.
pub(crate) fn accept(types: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(types))])
}

/// The answer, if it is a whole document.
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
