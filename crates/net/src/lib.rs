#![doc = include_str!("../README.md")]

mod client;
mod config;
mod connect;
mod connection;
mod crowd;
mod error;
mod expiry;
mod guard;
mod limiter;
mod listen;
mod observe;
mod permit;
mod permitted;
mod proxy;
mod resolve;
mod secret;
mod ticks;
mod tls;

pub use client::{HttpClient, HttpRequest, HttpResponse, Outbound};
pub use config::{Limits, ListenConfig, OutboundConfig};
pub use connect::Dialed;
pub use error::{HttpError, HttpFault, NetError};
pub use expiry::chain_ends;
pub use guard::{GuardPolicy, OwnAddresses, Refused};
pub use http;
pub use ipnet::IpNet;
pub use listen::{Listener, Peer, ServerCertificate, Stop};
pub use observe::Observed;
pub use permit::{Away, ConnectionPermit};
pub use proxy::Egress;
pub use resolve::{Resolve, SystemResolver};
pub use secret::{Secret, SecretRef};
pub use tls::{ClientIdentity, Roots, TlsPolicy};
pub use url::Url;
