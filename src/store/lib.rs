#![doc = include_str!("README.md")]

mod contract;
mod names;

pub use contract::*;
pub use names::{Named, Names};
