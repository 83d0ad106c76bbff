#![doc = include_str!("../README.md")]

mod announce;
mod backoff;
mod batch;
mod breaker;
mod commands;
mod config;
mod contract;
mod counts;
mod decision;
mod declare;
mod endpoint;
mod hash;
mod index;
mod intake;
mod lane;
mod number;
mod observe;
mod pace;
mod parked;
mod record;
mod repair;
mod retain;
mod seal;
mod session;
mod settle;
mod shared;
mod slot;
mod start;
mod stops;
mod streams;
mod subscription;
mod tail;
mod timers;
mod upkeep;
mod vault;
mod view;
mod window;

pub use config::Config;
pub use declare::{Declared, DeclaredDelivery, DeclaredRetention, DeclaredStatus};
pub use index::Index;
pub use intake::{Accepted, Closed, EventOrigin};
pub use observe::Observed;
pub use parked::{ParkedView, Reissued};
pub use session::SessionTarget;
pub use setgate_delivery::Entry as Method;
pub use start::{Issuer, Parts, Router, StartError};
pub use streams::{ChangeError, ReconcileError, Reconciled, StreamError};
pub use vault::{VaultError, reseal};
pub use view::{HeldView, StreamView};

pub(crate) use start::Inner;

#[cfg(test)]
mod tests;
