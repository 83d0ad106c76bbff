#![doc = include_str!("README.md")]

mod codec;
mod contract;
mod memory;
mod names;
mod plan;
mod ring;
mod sanity;
mod state;

pub use contract::*;
pub use memory::MemoryStore;
pub use names::{Named, Names};
