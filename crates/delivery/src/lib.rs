#![doc = include_str!("../README.md")]

mod body;
mod contract;
pub mod drive;
pub mod endpoint;
pub mod exchange;
pub mod fields;
mod ingest;
mod outcome;
mod registry;
pub mod spi;
mod subscription;
pub mod testkit;

pub use axum;
pub use body::{BodyFault, read_body};
pub use bytes::Bytes;
pub use contract::{
    About, BrokerEvent, Channel, Entry, Env, Finding, Form, Initiator, Limits, Method, NoOptions, Options, Order,
    Profile, Redelivery, Session, Stop, raised,
};
pub use futures_util::future::BoxFuture;
pub use ingest::{Answer, Arrival, Identity, Incoming, Ingest, Places, Rejected};
#[doc(hidden)]
pub use inventory;
pub use outcome::{Attempt, Cause, Class, Fault, Outcome, Refusal, Scope, Verdict};
pub use registry::{Registration, RegistryError, Starting, find, methods};
pub use serde_json::Value as Json;
pub use setgate_clock::{Backoff, Jitter, Runtime, duration};
pub use setgate_net::{
    ClientIdentity, Dialed, GuardPolicy, HttpClient, HttpError, HttpFault, HttpRequest, HttpResponse, IpNet, NetError,
    Roots, Secret, TlsPolicy, Url, http,
};
pub use setgate_set::{Envelope, ErrorCode, Facts, JsonLimits, Jti, OrderKey, Receipt, Timestamp, parse_json};
pub use setgate_telemetry::clean;
pub use subscription::{Batch, Closed, Consumer, DeliveryMode, SealedSet, Subscription, Want, Window};
