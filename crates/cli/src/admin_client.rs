//! A client of the running gateway's admin listener (hardening H6).

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::Value as Json;
use setgate_net::Secret;
use url::Url;

use crate::{
    Context, Exit, Failure, Gateway,
    client::{self, Client},
    token,
};

/// The environment variable that holds the admin token.
const TOKEN: &str = "SETGATE_ADMIN_TOKEN";
/// The longest wait for an answer: a key of 4096 bits takes a while to generate.
const PATIENCE: Duration = Duration::from_secs(120);

/// A client of one gateway's admin listener.
pub(crate) struct AdminClient {
    client: Client,
    base: Url,
}

impl AdminClient {
    /// Creates a client with the listener's address and token, taken from the options, else from the environment, else
    /// from the configuration.
    ///
    /// # Errors
    /// [`Failure`] when there is no token, the address is not a URL, or the configuration cannot be read.
    pub(crate) fn open(context: &Context, gateway: &dyn Gateway) -> Result<Self, Failure> {
        let token = match (&context.admin_token_file, std::env::var(TOKEN)) {
            (Some(file), _) => Some(token::read(context.out, file)?),
            (None, Ok(token)) if !token.trim().is_empty() => Some(Secret::new(token)),
            _ => None,
        };
        let configured = match (&context.admin_url, &token) {
            (Some(_), Some(_)) => None,
            _ => Some(gateway.admin_address(context.config.as_deref())?),
        };
        let url =
            context.admin_url.clone().or_else(|| configured.as_ref().map(|at| at.url.clone())).unwrap_or_default();
        let base: Url =
            url.parse().map_err(|error| Failure::usage(format!("`{url}` is no URL of an admin listener: {error}")))?;
        if base.scheme() == "http" && !client::is_loopback(&base) {
            context.out.warn("the admin token travels over plain http");
        }
        let token = match (token, &configured) {
            (Some(token), _) => token,
            (None, Some(at)) => token::read(context.out, &at.token_file).map_err(|failure| {
                failure.remedy(format!("name it with --admin-token-file, or put the token into {TOKEN}"))
            })?,
            (None, None) => return Err(Failure::new(Exit::Refused, "there is no admin token")),
        };
        let ca = configured.map(|at| at.ca).unwrap_or_default();
        Ok(Self { client: Client::new(context, &ca, &token)?, base })
    }

    /// Sends a GET, and returns the answer's body.
    ///
    /// # Errors
    /// [`Failure`] when the gateway cannot be reached or refuses.
    pub(crate) async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Json, Failure> {
        let mut url = self.url(path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.send(Method::GET, url, None).await
    }

    /// Sends a POST, and returns the answer's body.
    ///
    /// # Errors
    /// [`Failure`] when the gateway cannot be reached or refuses.
    pub(crate) async fn post(&self, path: &[&str], body: &Json) -> Result<Json, Failure> {
        self.send(Method::POST, self.url(path)?, Some(body)).await
    }

    /// Sends a DELETE, and returns the answer's body.
    ///
    /// # Errors
    /// [`Failure`] when the gateway cannot be reached or refuses.
    pub(crate) async fn delete(&self, path: &[&str]) -> Result<Json, Failure> {
        self.send(Method::DELETE, self.url(path)?, None).await
    }

    fn url(&self, path: &[&str]) -> Result<Url, Failure> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| Failure::usage(format!("`{}` is no URL of an admin listener", self.base)))?
            .pop_if_empty()
            .extend(["admin", "v1"])
            .extend(path);
        Ok(url)
    }

    async fn send(&self, method: Method, url: Url, body: Option<&Json>) -> Result<Json, Failure> {
        let body = body.map(|body| ("application/json", Bytes::from(body.to_string())));
        let what = format!("{method} {}", url.path());
        let answer = self.client.send(method, url, body, PATIENCE).await.map_err(|error| {
            Failure::new(
                Exit::Unreachable,
                format!("the gateway's admin listener at {} cannot be reached: {error}", self.base),
            )
            .remedy("is the gateway running? `setgate serve` starts it; --admin-url names another address")
        })?;
        if !answer.status.is_success() {
            return Err(client::failure(&what, answer.status, &answer.headers, &answer.body));
        }
        if answer.truncated {
            return Err(Failure::failed(format!("{what}: the answer is cut short")));
        }
        if answer.body.is_empty() {
            return Ok(Json::Null);
        }
        serde_json::from_slice(&answer.body)
            .map_err(|error| Failure::failed(format!("{what}: the answer is no JSON: {error}")))
    }
}
