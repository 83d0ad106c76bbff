#![doc = include_str!("../README.md")]

mod admin_client;
pub mod args;
mod client;
mod context;
mod emit;
mod exit;
mod gateway;
mod keys;
mod minted;
mod out;
mod parked;
mod producers;
mod receivers;
mod run;
mod show;
mod sources;
mod steps;
mod store_commands;
mod streams;
mod table;
mod token;

pub use anstyle::Style;
pub use context::Context;
pub use exit::{Ended, Exit, Failure};
pub use gateway::{AdminAddress, Gateway, Holder, Minted, StoreRepair};
pub use out::Out;
pub use run::main;
pub use steps::Steps;
pub use table::{Align, Cell, Table};
pub use token::read as read_token;
