//! The soak: a gateway with a thousand streams under load for an hour, whose receivers die and which is killed.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::process::{build_gateway, finish, follow, root};
use crate::python;

/// The options of the soak.
pub(crate) struct Options {
    /// The minutes that it takes, about.
    pub(crate) minutes: u64,
    /// The number of streams.
    pub(crate) streams: u64,
    /// The seed of the randomness; each run prints its own, so that it can be repeated.
    pub(crate) seed: Option<u64>,
    /// Whether the working folder of a run that passed is kept.
    pub(crate) keep: bool,
    /// More words for the controller.
    pub(crate) more: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { minutes: 60, streams: 1000, seed: None, keep: false, more: Vec::new() }
    }
}

/// Builds the gateway and runs the controller in `tests/servers/soak/`.
///
/// # Errors
/// Returns an error when the books do not agree, a secret is in the log, what the process takes grows, or too little
/// happened to show it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let python = python::interpreter()?;
    finish(Command::new(&python).current_dir(root()).args(["-B", "tests/servers/soak/test_books.py"]))?;
    let gateway = build_gateway()?;
    let mut command = Command::new(python);
    command.current_dir(root()).args(["-B", "-u", "tests/servers/soak/controller.py", "--gateway"]).arg(gateway);
    command.args(["--minutes", &options.minutes.to_string(), "--streams", &options.streams.to_string()]);
    command.args(&options.more);
    if let Some(seed) = options.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if options.keep {
        command.arg("--keep");
    }
    follow(&mut command, Duration::from_secs(900 + 90 * options.minutes), |_| {})
}
