//! The crash test: a gateway killed under load, and books that are compared by a program that uses none of our crates.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::process::{build_gateway, finish, follow, root};
use crate::python;

/// How the crash test runs.
pub(crate) struct Options {
    /// Kills before the books are compared.
    pub(crate) kills: u64,
    /// Where the randomness starts; printed by each run, so that one can be repeated.
    pub(crate) seed: Option<u64>,
    /// Keeps the working folder of a run that passed.
    pub(crate) keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { kills: 50, seed: None, keep: false }
    }
}

/// Builds the gateway and hands it to the controller in `crash/`.
///
/// # Errors
/// The books do not agree, or too little happened to judge.
pub(crate) fn run(options: &Options) -> Result<()> {
    let python = python::interpreter()?;
    finish(Command::new(&python).current_dir(root()).args(["-B", "tests/servers/crash/test_checker.py"]))?;
    let gateway = build_gateway()?;
    let mut command = Command::new(python);
    command.current_dir(root()).args(["-B", "-u", "tests/servers/crash/controller.py"]);
    command.arg("--gateway").arg(gateway).args(["--kills", &options.kills.to_string()]);
    if let Some(seed) = options.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if options.keep {
        command.arg("--keep");
    }
    follow(&mut command, Duration::from_secs(120 + 8 * options.kills), |_| {})
}
