#![doc = include_str!("../README.md")]

mod client;
mod config;
mod connect;
mod crowd;
mod error;
mod expiry;
mod floor;
mod guard;
mod listen;
mod observe;
mod proxy;
mod resolve;
mod seat;
mod seated;
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
pub use proxy::Egress;
pub use resolve::{Resolve, SystemResolver};
pub use seat::{Away, Seat};
pub use secret::{Secret, SecretRef};
pub use tls::{ClientIdentity, Roots, TlsPolicy};
pub use url::Url;
