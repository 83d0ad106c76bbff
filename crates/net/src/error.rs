//! Errors of the network, and whose fault they are.

use std::{error::Error, fmt};

/// The kind of fault that a request met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HttpFault {
    /// The address guard refused the target: the operator's or the receiver's to fix, never the network's.
    Guard,
    /// The name has no address.
    Resolve,
    /// A connection to the target could not be established.
    Connect,
    /// The egress proxy cannot be reached or refuses.
    Proxy,
    /// TLS failed: certificate, name, protocol or client certificate.
    Tls,
    /// The deadline passed before the answer's head arrived.
    Timeout,
    /// The connection broke before the answer's head arrived.
    Closed,
    /// The answer is not HTTP, or the request cannot be expressed in it.
    Protocol,
    /// The answer's head is larger than allowed.
    TooLarge,
}

impl HttpFault {
    /// Returns the stable code, for metrics and causes.
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

    /// Returns whether waiting does not help: the address, the certificate or the server behind the address is wrong.
    #[must_use]
    pub const fn is_lasting(self) -> bool {
        match self {
            Self::Guard | Self::Tls | Self::Protocol | Self::TooLarge => true,
            Self::Resolve | Self::Connect | Self::Proxy | Self::Timeout | Self::Closed => false,
        }
    }
}

/// The reason why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpError {
    /// The kind of fault.
    pub fault: HttpFault,
    /// A text for people, without secrets and without paths of URLs.
    pub text: String,
}

impl HttpError {
    /// Creates an error.
    #[must_use]
    pub fn new(fault: HttpFault, text: impl Into<String>) -> Self {
        Self { fault, text: text.into() }
    }

    /// Returns the stable code of the fault.
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

/// The reason why something of the network cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// A secret cannot be read.
    #[error("{place} cannot be used: {source}")]
    Secret {
        /// The place where it should be.
        place: String,
        /// The underlying error.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A certificate or key cannot be used.
    #[error("{what}: {source}")]
    Tls {
        /// The file or certificate concerned.
        what: String,
        /// The underlying error.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A listener cannot be opened.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address to listen on.
        address: std::net::SocketAddr,
        /// The underlying error.
        source: std::io::Error,
    },
    /// An option is not acceptable.
    #[error("`{option}`: {why}")]
    Option {
        /// The name of the option.
        option: &'static str,
        /// The reason, and what to write instead.
        why: String,
    },
}

impl NetError {
    pub(crate) fn tls(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Tls { what: what.into(), source: source.into() }
    }
}
