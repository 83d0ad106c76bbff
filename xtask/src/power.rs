//! The power-cut test: the operations of a gateway on its folder are recorded, and at each cut the folder becomes what a
//! disk may have then.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{build_gateway, finish, follow, root, target};
use crate::python;

/// The options of the power-cut test.
pub(crate) struct Options {
    /// The number of cuts.
    pub(crate) cuts: u64,
    /// The seed of the randomness; each run prints its own, so that it can be repeated.
    pub(crate) seed: Option<u64>,
    /// Whether the folders before and after the last cut are kept, and the working folder of a run that passed.
    pub(crate) keep: bool,
    /// More words for the controller.
    pub(crate) more: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { cuts: 50, seed: None, keep: false, more: Vec::new() }
    }
}

/// Builds the gateway and the shim, and runs the controller in `tests/servers/powercut/`.
///
/// # Errors
/// Returns an error when the gateway does not start again, anything is lost, or too little happened to show it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let python = python::interpreter()?;
    let shim = shim()?;
    let test = "tests/servers/powercut/test_folder.py";
    finish(Command::new(&python).current_dir(root()).args(["-B", test]).arg(&shim))?;
    let gateway = build_gateway()?;
    let mut command = Command::new(python);
    command.current_dir(root()).args(["-B", "-u", "tests/servers/powercut/controller.py", "--gateway"]).arg(gateway);
    command.arg("--shim").arg(shim).args(["--cuts", &options.cuts.to_string()]).args(&options.more);
    if let Some(seed) = options.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if options.keep {
        command.arg("--keep");
    }
    follow(&mut command, Duration::from_secs(300 + 15 * options.cuts), |_| {})
}

/// Compiles the library that records what the gateway does to its folder.
fn shim() -> Result<PathBuf> {
    let library = target().join("power-cut-shim.so");
    let flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o"];
    let mut cc = Command::new("cc");
    cc.current_dir(root()).args(flags).arg(&library).arg("tests/servers/powercut/shim.c").args(["-ldl", "-lpthread"]);
    finish(&mut cc).context("the power-cut test needs a C compiler: apt-get install build-essential")?;
    Ok(library)
}
