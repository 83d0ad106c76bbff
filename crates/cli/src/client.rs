//! The HTTP client of the commands, which speaks to a gateway that the user named.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use setgate_net::{
    HttpClient, HttpError, HttpRequest, HttpResponse, Outbound, OutboundConfig, OwnAddresses, Secret, TlsPolicy,
};
use url::Url;

use crate::{Context, Exit, Failure};

/// The most bytes of an answer that are read.
const KEEP: usize = 16 * 1024 * 1024;

/// A client for one gateway with one token.
///
/// There is no address guard: the user who types the command chooses the target, and no stranger can.
pub(crate) struct Client {
    http: HttpClient,
    authorization: HeaderValue,
}

impl Client {
    /// Creates a client that sends `token`.
    ///
    /// # Errors
    /// [`Failure`] when a certificate authority cannot be read, or the token cannot be sent.
    pub(crate) fn new(context: &Context, ca: &[PathBuf], token: &Secret<String>) -> Result<Self, Failure> {
        let everywhere = ["0.0.0.0/0", "::/0"].iter().filter_map(|net| net.parse().ok()).collect();
        let config = OutboundConfig {
            allow_networks: everywhere,
            allow_http: true,
            ca_files: ca.to_vec(),
            ..OutboundConfig::default()
        };
        let outbound = Outbound::new(&config, context.runtime.clone(), OwnAddresses::default())
            .map_err(|error| Failure::usage(error.to_string()))?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", token.expose().trim()))
            .map_err(|_| Failure::usage("the token holds characters that no token has"))?;
        authorization.set_sensitive(true);
        Ok(Self { http: outbound.client(&TlsPolicy::default()), authorization })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// [`HttpError`] when there is no answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: Url,
        body: Option<(&'static str, Bytes)>,
        timeout: Duration,
    ) -> Result<HttpResponse, HttpError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, application/x-ndjson"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("setgate/", env!("CARGO_PKG_VERSION"))));
        let body = match body {
            Some((kind, body)) => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
                body
            }
            None => Bytes::new(),
        };
        self.http.send(HttpRequest { method, url, headers, body, keep_body: KEEP, timeout: Some(timeout) }).await
    }
}

/// Returns whether the URL is on this machine, so that plain HTTP shows the token to nobody else.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

/// Returns the seconds of a `Retry-After` header (RFC 9110 §10.2.3), at most an hour; a gateway does not send dates.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(3600)))
}

/// Turns an error answer into a failure, with the gateway's own explanation (RFC 9457).
pub(crate) fn failure(what: &str, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let said = ["detail", "title", "error_description", "error"]
        .iter()
        .find_map(|member| problem.get(member).and_then(serde_json::Value::as_str))
        .map(|text| setgate_telemetry::clean(text, 512));
    let challenge = HeaderName::from_static("www-authenticate");
    let said = said.or_else(|| {
        headers.get(challenge).and_then(|value| value.to_str().ok()).map(|text| setgate_telemetry::clean(text, 256))
    });
    let exit = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::Refused,
        StatusCode::NOT_FOUND => Exit::Unknown,
        _ => Exit::Failed,
    };
    match said {
        Some(said) => Failure::new(exit, format!("{said} ({status})")),
        None => Failure::new(exit, format!("{what}: the gateway answers {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_in_its_own_words() {
        let failure = failure(
            "pause crm",
            StatusCode::NOT_FOUND,
            &HeaderMap::new(),
            br#"{"title":"Unknown","detail":"no stream is called crm"}"#,
        );
        assert_eq!(failure.exit, Exit::Unknown);
        assert_eq!(failure.message, "no stream is called crm (404 Not Found)");
    }

    #[test]
    fn waiting_is_bounded() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("31536000"));
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(3600)));
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("soon"));
        assert_eq!(retry_after(&headers), None);
    }

    #[test]
    fn loopback_is_recognised() {
        for (url, is) in [
            ("http://127.8.0.1:1", true),
            ("http://[::1]/", true),
            ("http://localhost:8080", true),
            ("http://10.0.0.1", false),
            ("http://localhost.example.com", false),
        ] {
            assert_eq!(is_loopback(&url.parse().unwrap()), is, "{url}");
        }
    }
}
