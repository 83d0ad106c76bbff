//! What can go wrong on the network, and whose fault it is.

use std::{error::Error, fmt};

/// What kind of failure a request met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HttpFault {
    /// The address guard refused the target: ours or the receiver's to fix, never the network's.
    Guard,
    /// The name has no address.
    Resolve,
    /// No connection came about.
    Connect,
    /// The egress proxy cannot be reached or says no.
    Proxy,
    /// TLS failed: certificate, name, protocol or client certificate.
    Tls,
    /// The deadline passed before the answer's head was there.
    Timeout,
    /// The connection broke before the answer's head was there.
    Closed,
    /// The answer is no HTTP, or the request cannot be expressed.
    Protocol,
    /// The answer's head is larger than allowed.
    TooLarge,
}

impl HttpFault {
    /// The stable code, for metrics and causes.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Guard => "guard",
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Protocol => "protocol",
            Self::TooLarge => "too_large_head",
        }
    }

    /// Whether waiting does not fix it: the address, the certificate or the server behind the address is the wrong one.
    #[must_use]
    pub const fn is_lasting(self) -> bool {
        match self {
            Self::Guard | Self::Tls | Self::Protocol | Self::TooLarge => true,
            Self::Resolve | Self::Connect | Self::Proxy | Self::Timeout | Self::Closed => false,
        }
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpError {
    /// What kind of failure.
    pub fault: HttpFault,
    /// For people: no secrets, no paths of URLs.
    pub text: String,
}

impl HttpError {
    /// An error.
    #[must_use]
    pub fn new(fault: HttpFault, text: impl Into<String>) -> Self {
        Self { fault, text: text.into() }
    }

    /// The stable code of its fault.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.fault.code()
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.code())
    }
}

impl Error for HttpError {}

/// Why something of the network cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// A secret cannot be fetched.
    #[error("{place} cannot be used: {source}")]
    Secret {
        /// Where it should be.
        place: String,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Certificates or keys cannot be used.
    #[error("{what}: {source}")]
    Tls {
        /// Which.
        what: String,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A listener cannot be opened.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// An option is not acceptable.
    #[error("`{option}`: {why}")]
    Option {
        /// Which.
        option: &'static str,
        /// Why not, and what to write instead.
        why: String,
    },
}

impl NetError {
    pub(crate) fn tls(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Tls { what: what.into(), source: source.into() }
    }
}
