#![doc = include_str!("../README.md")]

mod collect;
mod definition;
mod inbox;
mod ingest;
mod learn;
mod listen;
mod misbehave;
mod render;
mod subject;
#[cfg(test)]
mod testing;
mod trust;
mod verify;

pub use collect::Collect;
pub use inbox::{Inbox, Seen};
pub use ingest::{Counts, ListenIngest, Received, Report, Sink};
pub use listen::{Listen, ListenError};
pub use misbehave::{Misbehave, MisbehaveError, Mischief};
pub use render::{json_line, line};
pub use trust::{Trust, TrustError};
pub use verify::{NotTaken, Taken, Verify};
