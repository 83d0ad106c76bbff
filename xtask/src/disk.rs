//! The test of a disk that fails: operations of a gateway on its store fail under load, and the books are compared.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{build_gateway, finish, follow, root, target};
use crate::python;

/// The options of the test.
#[derive(Default)]
pub(crate) struct Options {
    /// The number of faults; by default one of each kind.
    pub(crate) runs: Option<u64>,
    /// The seed of the randomness; each run prints its own, so that it can be repeated.
    pub(crate) seed: Option<u64>,
    /// Whether the working folder of a run that passed is kept.
    pub(crate) keep: bool,
    /// More words for the controller.
    pub(crate) more: Vec<String>,
}

/// The faults of a run whose number is not given, and the most seconds that one takes on a busy machine.
const EACH_ONCE: u64 = 40;
const SECONDS: u64 = 60;

/// Builds the gateway and the shim, shows that a loss is found, and runs the controller in `tests/servers/diskerrors/`.
///
/// # Errors
/// Returns an error when the gateway does something else than it must after a fault, anything is lost, a kind of fault
/// did not occur, or a planted loss is not found.
pub(crate) fn run(options: &Options) -> Result<()> {
    let python = python::interpreter()?;
    let shim = shim()?;
    finish(Command::new(&python).current_dir(root()).args(["-B", "tests/servers/diskerrors/test_shim.py"]).arg(&shim))?;
    let gateway = build_gateway()?;
    let controller = || {
        let mut command = Command::new(&python);
        command.current_dir(root()).args(["-B", "-u", "tests/servers/diskerrors/controller.py", "--gateway"]);
        command.arg(&gateway).arg("--shim").arg(&shim);
        if let Some(seed) = options.seed {
            command.args(["--seed", &seed.to_string()]);
        }
        command
    };
    for planted in ["write", "flush"] {
        follow(controller().args(["--plant", planted]), Duration::from_secs(300), |_| {})
            .with_context(|| format!("a {planted} that was lost is not found"))?;
    }
    let mut command = controller();
    command.args(&options.more);
    if let Some(runs) = options.runs {
        command.args(["--runs", &runs.to_string()]);
    }
    if options.keep {
        command.arg("--keep");
    }
    follow(&mut command, Duration::from_secs(300 + SECONDS * options.runs.unwrap_or(EACH_ONCE)), |_| {})
}

/// Compiles the library that makes operations fail.
fn shim() -> Result<PathBuf> {
    let library = target().join("disk-error-shim.so");
    let flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o"];
    let mut cc = Command::new("cc");
    cc.current_dir(root()).args(flags).arg(&library).arg("tests/servers/diskerrors/shim.c").args(["-ldl", "-lpthread"]);
    finish(&mut cc).context("the test of disk errors needs a C compiler: apt-get install build-essential")?;
    Ok(library)
}
