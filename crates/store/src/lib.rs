#![doc = include_str!("../README.md")]

mod codec;
mod config;
mod contract;
mod error;
mod fjall;
mod memory;
mod names;
mod observe;
mod obstacle;
mod plan;
mod ring;
mod sanity;
mod state;
pub mod testkit;
#[cfg(test)]
mod tests;
mod time;
mod witness;

pub use self::fjall::{
    CheckReport, Created, Exported, Findings, FjallStore, GivenUp, Holdings, LostParked, OpenError, OpenReport, Opened,
    ReadableCounts, Repair, Repaired, Room, StorePlace, Stretch,
};
pub use config::Options;
pub use contract::*;
pub use error::{StoreError, Why};
pub use memory::MemoryStore;
pub use names::{Named, Names};
pub use observe::{ClockObserved, Observed};
pub use obstacle::Obstacle;
pub use time::{Confirmed, Time};
pub use witness::{Ending, Fact, Origin, Witness};
