//! The checks that keep requests of web pages from the admin listener, with a token or without (hardening H6).

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header, uri::Authority};

use crate::{OperatorConfig, error::Problem};

/// The names that the listener may be called by.
pub(super) struct Shield {
    hosts: HashSet<String>,
}

impl Shield {
    pub(super) fn new(config: &OperatorConfig, address: SocketAddr) -> Self {
        let own = (!address.ip().is_unspecified()).then(|| address.ip().to_string());
        let loopback = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let named = config.hosts.iter().map(|host| bare(host).to_ascii_lowercase());
        Self { hosts: loopback.into_iter().chain(named).chain(own).collect() }
    }

    fn check(&self, request: &Request) -> Result<(), Problem> {
        let host = host(request)?;
        let name = bare(host.host()).to_ascii_lowercase();
        // A probe calls a pod by its address: that is harmless at routes that are open anyway, and an address cannot be
        // rebound by DNS.
        let is_probe = is_open(request.uri().path()) && name.parse::<IpAddr>().is_ok();
        if !is_probe && !self.hosts.contains(&name) {
            let detail = "the admin listener is not called so: `hosts` in [admin] lists its names";
            return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
        }
        same_origin(request.headers(), &host)?;
        let changes = !(request.method().is_safe());
        if changes && has_body(request.headers()) && !is_json(request.headers()) {
            let detail = "bodies are application/json here";
            let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail);
            return Err(problem.accepting("accept", "application/json"));
        }
        Ok(())
    }
}

/// Checks a request before any other layer, and forbids caching and use of the answer by other origins.
pub(super) async fn stand(State(shield): State<Arc<Shield>>, request: Request, next: Next) -> Response {
    let mut response = match shield.check(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

/// Returns the one name by which the request calls this listener.
fn host(request: &Request) -> Result<Authority, Problem> {
    let bad = |detail: &str| Problem::bad(detail);
    let mut values = request.headers().get_all(header::HOST).iter();
    let written = values.next().map(|value| Authority::try_from(value.as_bytes()));
    if values.next().is_some() {
        return Err(bad("there are two Host headers"));
    }
    let written = written.transpose().map_err(|_| bad("the Host header is no name"))?;
    match (request.uri().authority(), written) {
        (Some(one), Some(other)) if !one.as_str().eq_ignore_ascii_case(other.as_str()) => {
            Err(bad("the request line and the Host header name different hosts"))
        }
        (Some(one), _) => Ok(one.clone()),
        (None, Some(other)) => Ok(other),
        (None, None) => Err(bad("the Host header is missing")),
    }
}

/// Refuses a request that a page of another origin made; another port of this machine is another origin too.
fn same_origin(headers: &HeaderMap, host: &Authority) -> Result<(), Problem> {
    let foreign = || Problem::forbidden("requests of web pages of other origins are refused").ruled("origin");
    for origin in headers.get_all(header::ORIGIN) {
        let text = origin.to_str().map_err(|_| foreign())?;
        let authority = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).ok_or_else(foreign)?;
        if !authority.eq_ignore_ascii_case(host.as_str()) {
            return Err(foreign());
        }
    }
    for site in headers.get_all("sec-fetch-site") {
        if !matches!(site.as_bytes(), b"same-origin" | b"none") {
            return Err(foreign());
        }
    }
    Ok(())
}

fn is_open(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics")
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    length || headers.contains_key(header::TRANSFER_ENCODING) || headers.contains_key(header::CONTENT_TYPE)
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let kind = values.next().and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    values.next().is_none() && essence.eq_ignore_ascii_case("application/json")
}

/// Returns an IPv6 address without its brackets.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}
