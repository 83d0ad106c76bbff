#![doc = include_str!("../README.md")]
#![cfg(feature = "play")]
#![expect(clippy::indexing_slicing, reason = "only JSON is indexed, where what is missing is null")]

mod action;
mod book;
mod compare;
mod declared;
mod desk;
mod dice;
mod kit;
mod model;
mod panics;
mod play;
mod process;
mod receivers;
mod run;
mod tally;

pub use run::{Options, Say, run};
