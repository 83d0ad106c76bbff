//! The test of a full disk: a small file system is filled by nothing but events, and empties as they are acknowledged.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::process::{build_gateway, follow, root};
use crate::{crash, python};

/// The options of the test.
pub(crate) struct Options {
    /// How often the disk is filled.
    pub(crate) rounds: u64,
    /// The seed of the randomness; each run prints its own, so that it can be repeated.
    pub(crate) seed: Option<u64>,
    /// Whether the working folder of a run that passed is kept.
    pub(crate) keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { rounds: 2, seed: None, keep: false }
    }
}

/// Builds the gateway and runs the controller in `tests/servers/fulldisk/`.
///
/// # Errors
/// Returns an error when the gateway does not take events again by itself, anything is lost, or no small file system
/// can be mounted.
pub(crate) fn run(options: &Options) -> Result<()> {
    let python = python::interpreter()?;
    let gateway = build_gateway()?;
    let mut command = Command::new("unshare");
    command.current_dir(root()).arg(crash::namespace()?).arg(python).args(["-B", "-u"]);
    command.arg("tests/servers/fulldisk/controller.py").arg("--gateway").arg(gateway);
    command.args(["--rounds", &options.rounds.to_string()]);
    if let Some(seed) = options.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if options.keep {
        command.arg("--keep");
    }
    follow(&mut command, Duration::from_secs(300 + 900 * options.rounds), |_| {})
}
