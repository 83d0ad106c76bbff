//! The options of this crate: `[net]` for outgoing requests, and the listeners' own sections for incoming ones.

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;
use serde::Deserialize;

use crate::{NetError, Secret, SecretRef, ServerCertificate};

/// The section `[net]`: the options of the gateway's outgoing requests.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutboundConfig {
    /// Networks that are allowed for all streams although they are not global: on any port, and over `http` with
    /// `allow_http`.
    pub allow_networks: Vec<IpNet>,
    /// Networks that are refused although they are global: the gateway's own public addresses, a load balancer.
    pub deny_networks: Vec<IpNet>,
    /// Whether `http` URLs are allowed to the allowed networks.
    pub allow_http: bool,
    /// Ports that are allowed beside 443 and 8443.
    pub allow_ports: Vec<u16>,
    /// Whether the system's certificate authorities are trusted.
    pub system_roots: bool,
    /// PEM files with further certificate authorities.
    pub ca_files: Vec<PathBuf>,
    /// The time limit from resolving the name to the end of the answer, for requests that name none of their own.
    #[serde(with = "setgate_clock::duration")]
    pub timeout: Duration,
    /// The proxy that all requests leave through, `http://HOST:PORT`; empty for none. Proxies of the environment are
    /// ignored.
    pub egress_proxy: String,
    /// Whether that proxy resolves names. Its rules are then the guard: the gateway checks literal addresses only.
    pub egress_proxy_resolves: bool,
    /// The credentials for that proxy, `USER:PASSWORD`, as `file:PATH` or `env:NAME`; empty for none.
    pub egress_proxy_credentials: SecretRef,
}

impl Default for OutboundConfig {
    fn default() -> Self {
        Self {
            allow_networks: Vec::new(),
            deny_networks: Vec::new(),
            allow_http: false,
            allow_ports: Vec::new(),
            system_roots: true,
            ca_files: Vec::new(),
            timeout: Duration::from_secs(30),
            egress_proxy: String::new(),
            egress_proxy_resolves: false,
            egress_proxy_credentials: SecretRef::Literal(Secret::new(String::new())),
        }
    }
}

/// The limits of a listener for its callers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The most connections at once; further ones wait in the system's queue.
    pub connections: usize,
    /// The most of these that have shown no accepted credential; a further one gets the place of one of them.
    pub unauthenticated_connections: usize,
    /// The most connections at once from one IPv4 address or one /64 of IPv6; a further one gets the place of one of
    /// them that has shown no credential, or is closed.
    pub connections_per_address: usize,
    /// The most connections of one client whose places are safe at once; further ones count as if they had shown no
    /// credential.
    pub connections_per_client: usize,
    /// The time limit for the TLS handshake, and again for the first request's head.
    #[serde(with = "setgate_clock::duration")]
    pub handshake_timeout: Duration,
    /// The time that a connection may have no open request.
    #[serde(with = "setgate_clock::duration")]
    pub idle_timeout: Duration,
    /// The time that the peer may read nothing of what is written.
    #[serde(with = "setgate_clock::duration")]
    pub write_timeout: Duration,
    /// The time limit for each request's head, the wait for it included.
    #[serde(with = "setgate_clock::duration")]
    pub header_timeout: Duration,
    /// The most bytes of a request's head.
    pub header_bytes: usize,
    /// The most header fields of a request.
    pub headers: usize,
    /// The most streams at once on one HTTP/2 connection.
    pub http2_streams: u32,
    /// The time that open requests have to finish after the listener was asked to stop.
    #[serde(with = "setgate_clock::duration")]
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            unauthenticated_connections: 5_000,
            connections_per_address: 1_000,
            connections_per_client: 5_000,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(10),
            header_bytes: 32 * 1024,
            headers: 100,
            http2_streams: 128,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// The TLS options of a listener, and its limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenConfig {
    /// The PEM file with the certificate chain; without it the listener speaks plain HTTP.
    pub certificate: Option<PathBuf>,
    /// The PEM file with the certificate's key.
    pub key: Option<PathBuf>,
    /// The limits for callers.
    pub limits: Limits,
}

impl ListenConfig {
    /// Reads the certificate that the section names, if it names one.
    ///
    /// # Errors
    /// [`NetError::Tls`] when a file cannot be read or used, [`NetError::Option`] when only one of the two is named.
    pub fn certificate(&self) -> Result<Option<ServerCertificate>, NetError> {
        let needs = |option, why: &str| Err(NetError::Option { option, why: why.to_owned() });
        match (&self.certificate, &self.key) {
            (None, None) => Ok(None),
            (Some(chain), Some(key)) => ServerCertificate::from_files(chain.clone(), key.clone()).map(Some),
            (Some(_), None) => needs("key", "`certificate` needs it"),
            (None, Some(_)) => needs("certificate", "`key` needs it"),
        }
    }
}
