//! The simulation of router and store, built with a profile of its own.

use std::hash::{BuildHasher, RandomState};

use anyhow::Result;

use crate::process::{cargo, finish};

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
    let program = ["--package", "setgate_chaos", "--features", "play"];
    let mut command = cargo();
    command.args(["run", "--locked", "--quiet", "--profile", "chaos"]).args(program).arg("--").args(&options.more);
    // Each run plays other histories. Seeds are short, for those who copy them.
    let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one("seed") % 1_000_000_000);
    let numbers = [("--seed", Some(seed)), ("--histories", options.histories), ("--minutes", options.minutes)];
    for (name, number) in numbers {
        command.args(number.map(|number| [name.to_owned(), number.to_string()]).into_iter().flatten());
    }
    finish(&mut command)
}
