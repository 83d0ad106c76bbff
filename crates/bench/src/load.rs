//! Producers, and the client that they, the bare loops and the gateway's own sender have in common.

use std::time::Duration;

use bytes::Bytes;
use setgate_net::{
    GuardPolicy, HttpClient, HttpRequest, IpNet, Outbound, OutboundConfig, OwnAddresses, TlsPolicy, Url,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
};
use tokio::task::JoinSet;

use crate::{Bench, BenchError, child::Gateway, event::Requests};

/// The number of producers that send several events at once.
pub(crate) const PRODUCERS: usize = 8;
/// The number of producers that send one event per request.
pub(crate) const SINGLE_PRODUCERS: usize = 64;

/// A client that may connect to this machine.
#[derive(Clone)]
pub(crate) struct Client(HttpClient);

impl Client {
    /// Creates a client with connections of its own.
    ///
    /// # Errors
    /// Fails if TLS cannot be configured.
    pub(crate) fn new(bench: &Bench<'_>) -> Result<Self, BenchError> {
        let loopback: IpNet = "127.0.0.0/8".parse().map_err(|_| BenchError::Failed("no network".into()))?;
        let config = OutboundConfig { system_roots: false, ..OutboundConfig::default() };
        let outbound = Outbound::new(&config, bench.clock.runtime(), OwnAddresses::new())
            .map_err(|error| BenchError::Failed(error.to_string()))?;
        let guard = GuardPolicy { allow_networks: vec![loopback], allow_http: true, allow_ports: Vec::new() };
        Ok(Self(outbound.client(&TlsPolicy { guard, ..TlsPolicy::default() })))
    }

    /// Returns the body of a page.
    ///
    /// # Errors
    /// Fails if the page is not served.
    pub(crate) async fn get(&self, url: &str) -> Result<Bytes, BenchError> {
        let (status, body) = self.send(Method::GET, url, HeaderMap::new(), Bytes::new(), 1 << 20).await?;
        if status == StatusCode::OK { Ok(body) } else { Err(BenchError::Failed(format!("{url}: {status}"))) }
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        keep_body: usize,
    ) -> Result<(StatusCode, Bytes), BenchError> {
        let url = parse(url)?;
        let timeout = Some(Duration::from_secs(30));
        let request = HttpRequest { method, url, headers, body, keep_body, timeout };
        let answer = self.0.send(request).await.map_err(|error| BenchError::Failed(error.to_string()))?;
        Ok((answer.status, answer.body))
    }
}

fn parse(url: &str) -> Result<Url, BenchError> {
    url.parse().map_err(|_| BenchError::Failed(format!("{url} is no URL")))
}

/// Requests that are alike but for their bodies.
#[derive(Clone)]
pub(crate) struct Target {
    client: HttpClient,
    url: Url,
    headers: HeaderMap,
}

impl Target {
    /// Returns the intake of a gateway, for several events per request or for one.
    ///
    /// # Errors
    /// Fails if its URL or token cannot be used.
    pub(crate) fn intake(client: &Client, gateway: &Gateway<'_>, several: bool) -> Result<Self, BenchError> {
        Self::producer(client, &gateway.intake(), gateway.token(), several)
    }

    /// Returns an endpoint that accepts events.
    ///
    /// # Errors
    /// Fails if URL or token cannot be used.
    pub(crate) fn producer(client: &Client, url: &str, token: &str, several: bool) -> Result<Self, BenchError> {
        let kind = if several { "application/x-ndjson" } else { "application/json" };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        let bearer = HeaderValue::from_str(&format!("Bearer {token}"));
        headers.insert(
            header::AUTHORIZATION,
            bearer.map_err(|_| BenchError::Failed("the token is no field value".into()))?,
        );
        Ok(Self { client: client.0.clone(), url: parse(url)?, headers })
    }

    /// Returns a receiver that SETs are pushed to, with the header fields of RFC 8935 §2.1.
    ///
    /// # Errors
    /// Fails if `url` is no URL.
    pub(crate) fn receiver(client: &Client, url: &str) -> Result<Self, BenchError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/secevent+jwt"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_static("en"));
        Ok(Self { client: client.0.clone(), url: parse(url)?, headers })
    }

    /// Sends one body.
    ///
    /// # Errors
    /// Fails if there is no answer.
    pub(crate) async fn post(&self, body: Bytes, keep_body: usize) -> Result<(StatusCode, Bytes), BenchError> {
        let request = HttpRequest {
            method: Method::POST,
            url: self.url.clone(),
            headers: self.headers.clone(),
            body,
            keep_body,
            timeout: Some(Duration::from_secs(30)),
        };
        let answer = self.client.send(request).await.map_err(|error| BenchError::Failed(error.to_string()))?;
        Ok((answer.status, answer.body))
    }

    /// Sends events and returns the number of them that were accepted now.
    ///
    /// # Errors
    /// Fails if an event was not accepted, or was known before.
    pub(crate) async fn events(&self, body: Bytes, count: usize) -> Result<u64, BenchError> {
        let single =
            count == 1 && self.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
        let (status, answer) = self.post(body, 256 + count * 512).await?;
        let taken = if single {
            usize::from(status == StatusCode::ACCEPTED)
        } else if status == StatusCode::OK {
            memchr::memmem::find_iter(&answer, b"\"status\":202").count()
        } else {
            0
        };
        if taken != count || memchr::memmem::find(&answer, b"\"repeated\":true").is_some() {
            let start = String::from_utf8_lossy(answer.get(..answer.len().min(300)).unwrap_or_default()).into_owned();
            return Err(BenchError::Failed(format!("{taken} of {count} events were accepted: {status} {start}")));
        }
        Ok(u64::try_from(taken).unwrap_or_default())
    }
}

/// Lets every producer send its requests, one after another, and returns the number of events that were accepted.
///
/// # Errors
/// The error of the first request that fails.
pub(crate) async fn send_all(target: &Target, requests: &[Requests]) -> Result<u64, BenchError> {
    let mut producers = JoinSet::new();
    for share in requests.iter().cloned() {
        let target = target.clone();
        producers.spawn(async move {
            let mut accepted = 0;
            for (body, count) in share {
                accepted += target.events(body, count).await?;
            }
            Ok::<_, BenchError>(accepted)
        });
    }
    join(producers).await
}

/// Returns the sum of what the tasks count.
///
/// # Errors
/// The error of the first task that fails.
pub(crate) async fn join(mut tasks: JoinSet<Result<u64, BenchError>>) -> Result<u64, BenchError> {
    let mut sum = 0;
    while let Some(done) = tasks.join_next().await {
        sum += done.map_err(|error| BenchError::Failed(error.to_string()))??;
    }
    Ok(sum)
}
