#![doc = include_str!("../README.md")]

mod accept;
mod config;
mod error;
mod events;
mod keys;
mod observe;
mod openapi;
mod operate;
mod operator;
mod policy;
mod sources;
mod take;
mod validator;

pub use accept::Accept;
pub use config::{IntakeConfig, OperatorConfig};
pub use events::{Intake, IssuerPathError, WorldParts, events_path, world};
pub use keys::{Keys, KeysOf, KeysParts, ring_key};
pub use observe::Observed;
pub use operate::{Operate, Which};
pub use operator::{OperatorParts, operator};
pub use sources::{About, Bad, Collected, Sources};
pub use take::{Answered, Ingester, KnownBy, Offered};
