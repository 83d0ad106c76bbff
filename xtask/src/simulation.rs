//! The simulation of router and store, built with its feature.

use std::hash::{BuildHasher, RandomState};
use std::process::Command;

use anyhow::Result;

use crate::process::{cargo, finish, root, target};

/// The options of the simulation.
#[derive(Default)]
pub(crate) struct Options {
    /// The number of histories; without it, and without `minutes`, those that fit into two minutes.
    pub(crate) histories: Option<u64>,
    /// The time after which no further history begins.
    pub(crate) minutes: Option<u64>,
    /// The first seed; each run prints its own, so that it can be repeated.
    pub(crate) seed: Option<u64>,
    /// More words for the program.
    pub(crate) more: Vec<String>,
}

/// Builds the simulation and plays histories.
///
/// # Errors
/// Returns an error when a history breaks a promise, or when something never fired.
pub(crate) fn run(options: &Options) -> Result<()> {
    // The whole workspace is named, so that the libraries are those that the tests were built with.
    let program = ["--workspace", "--features", "setgate_chaos/play", "--bin", "setgate_chaos"];
    finish(cargo().args(["build", "--locked", "--quiet"]).args(program))?;
    let mut command = Command::new(target().join("debug/setgate_chaos"));
    command.current_dir(root()).args(&options.more);
    // Each run plays other histories. Seeds are short, for those who copy them.
    let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one("seed") % 1_000_000_000);
    let numbers = [("--seed", Some(seed)), ("--histories", options.histories), ("--minutes", options.minutes)];
    for (name, number) in numbers {
        command.args(number.map(|number| [name.to_owned(), number.to_string()]).into_iter().flatten());
    }
    finish(&mut command)
}
