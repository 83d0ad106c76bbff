#![doc = include_str!("README.md")]

mod accept;
mod config;
mod error;
mod events;
mod observe;
mod openapi;
mod policy;

pub use accept::{Accept, Accepted, Closed};
pub use config::{IntakeConfig, OperatorConfig};
pub use events::{Intake, IssuerPathError, WorldParts, events_path, world};
pub use observe::Observed;
