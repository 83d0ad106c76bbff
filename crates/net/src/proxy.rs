//! Outgoing connections through the operator's proxy, by `CONNECT` (RFC 9110 §9.3.6), and the guard's part in that case
//! (hardening H31).

use std::{fmt, net::IpAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use url::{Host, Url};

use crate::{HttpError, HttpFault, NetError, OutboundConfig, Secret, SecretRef};

/// The most bytes of the head of a proxy's answer.
const HEAD: usize = 8 * 1024;

/// The proxy that requests leave through.
///
/// A proxy is not a guard: unless it is configured to resolve names, the gateway resolves and checks them itself and
/// asks the proxy for the checked address.
#[derive(Clone, PartialEq, Eq)]
pub struct Egress {
    host: Arc<str>,
    port: u16,
    resolves: bool,
    credentials: Option<Arc<Secret<String>>>,
}

impl Egress {
    /// Reads the proxy from the options, if they name one.
    ///
    /// # Errors
    /// [`NetError`] when it is not an `http` URL with a port, is missing although other options of it are set, or its
    /// credentials cannot be used.
    pub(crate) fn of(config: &OutboundConfig) -> Result<Option<Self>, NetError> {
        let option = |option, why: &str| NetError::Option { option, why: why.to_owned() };
        if config.egress_proxy.is_empty() {
            if config.egress_proxy_resolves || !is_empty(&config.egress_proxy_credentials) {
                return Err(option("net.egress_proxy", "it is not set, but there are options of it"));
            }
            return Ok(None);
        }
        let wrong = || option("net.egress_proxy", "write \"http://HOST:PORT\": scheme, host, port and nothing else");
        let url = Url::parse(&config.egress_proxy).map_err(|_| wrong())?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if url.scheme() != "http" || !bare || !url.username().is_empty() || url.password().is_some() {
            return Err(wrong());
        }
        let host: Arc<str> = match url.host() {
            Some(Host::Domain(name)) if !name.is_empty() => Arc::from(name),
            Some(Host::Ipv4(ip)) => ip.to_string().into(),
            Some(Host::Ipv6(ip)) => ip.to_string().into(),
            _ => return Err(wrong()),
        };
        let port = url.port().filter(|port| *port != 0).or_else(|| {
            // The parser drops the port that is the scheme's default.
            config.egress_proxy.trim_end_matches('/').ends_with(":80").then_some(80)
        });
        let credentials = if is_empty(&config.egress_proxy_credentials) {
            None
        } else {
            let secret = config.egress_proxy_credentials.load()?;
            let text = secret.expose();
            if !text.contains(':') || text.chars().any(char::is_control) {
                return Err(option("net.egress_proxy_credentials", "write USER:PASSWORD, or where that lies"));
            }
            Some(Arc::new(Secret::new(format!("Basic {}", STANDARD.encode(text)))))
        };
        Ok(Some(Self { host, port: port.ok_or_else(wrong)?, resolves: config.egress_proxy_resolves, credentials }))
    }

    /// Returns the proxy's host, as configured.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Returns the proxy's port.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Returns whether the proxy resolves names, in which case its rules are the guard for them.
    #[must_use]
    pub const fn resolves(&self) -> bool {
        self.resolves
    }

    /// Returns the value of `Proxy-Authorization`, if there are credentials.
    pub(crate) fn authorization(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(self.credentials.as_ref()?.expose()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Asks the proxy for a connection to `host` and `port`, and turns `tcp` into that connection.
    ///
    /// # Errors
    /// [`HttpFault::Proxy`] when the proxy refuses, or its answer is not valid.
    pub(crate) async fn tunnel(&self, tcp: &mut TcpStream, host: &str, port: u16) -> Result<(), Refusal> {
        let target = match host.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
            _ => format!("{host}:{port}"),
        };
        let mut ask = Secret::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"));
        if let Some(credentials) = &self.credentials {
            ask = Secret::new(format!("{}Proxy-Authorization: {}\r\n", ask.expose(), credentials.expose()));
        }
        let broke = |error: std::io::Error| fault(format!("the connection to the egress proxy broke: {error}"));
        tcp.write_all(ask.expose().as_bytes()).await.map_err(broke)?;
        tcp.write_all(b"\r\n").await.map_err(broke)?;
        let mut head = Vec::with_capacity(512);
        let end = loop {
            if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if head.len() >= HEAD {
                return Err(fault(format!("the head of the egress proxy's answer has more than {HEAD} bytes")));
            }
            let mut some = [0u8; 512];
            match tcp.read(&mut some).await.map_err(broke)? {
                0 => return Err(fault("the egress proxy closed the connection without an answer".to_owned())),
                length => head.extend_from_slice(some.get(..length).unwrap_or_default()),
            }
        };
        let status = status(&head).ok_or_else(|| fault("what the egress proxy answered is no HTTP".to_owned()))?;
        if !(200..300).contains(&status) {
            return Err(refusal(status));
        }
        // The target does not send first: bytes before the first request are not the target's.
        if head.len() != end {
            return Err(fault("the egress proxy sent more than the head of its answer".to_owned()));
        }
        Ok(())
    }
}

/// Shows the proxy's URL without the credentials.
impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => write!(f, "http://[{ip}]:{}", self.port),
            _ => write!(f, "http://{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Egress({self})")
    }
}

/// The reason why there is no connection through the proxy.
pub(crate) struct Refusal {
    pub(crate) error: HttpError,
    /// Whether another address of the same name may succeed.
    pub(crate) of_target: bool,
}

fn fault(text: String) -> Refusal {
    Refusal { error: HttpError::new(HttpFault::Proxy, text), of_target: false }
}

/// Returns the meaning of the proxy's status; the proxy's own text is not repeated.
pub(crate) fn refusal(status: u16) -> Refusal {
    let why = match status {
        407 => ": `egress_proxy_credentials` in `[net]` are missing or not accepted",
        403 => ": its rules do not allow this target",
        500..=599 => ": it could not reach the target",
        _ => "",
    };
    let text = format!("the egress proxy answered {status}{why}");
    Refusal { error: HttpError::new(HttpFault::Proxy, text), of_target: (500..600).contains(&status) }
}

/// Reads the status from `HTTP/1.x NNN ...`.
fn status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.")?;
    let (minor, rest) = rest.split_first()?;
    let [b' ', digits @ ..] = rest else { return None };
    let (digits, after) = digits.split_at_checked(3)?;
    let ended = matches!(after.first(), Some(b' ' | b'\r'));
    let number = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    (matches!(minor, b'0' | b'1') && ended).then(|| number.parse().ok()).flatten()
}

fn is_empty(secret: &SecretRef) -> bool {
    matches!(secret, SecretRef::Literal(text) if text.expose().is_empty())
}

#[cfg(test)]
mod tests;
