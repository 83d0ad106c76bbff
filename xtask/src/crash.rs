//! The crash test: a gateway is killed under load, and the books are compared by a program that uses none of these
//! crates.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::process::{build_gateway, exists, finish, follow, is_root, root};
use crate::python;

/// The options of the crash test.
pub(crate) struct Options {
    /// The number of kills before the books are compared.
    pub(crate) kills: u64,
    /// The seed of the randomness; each run prints its own, so that it can be repeated.
    pub(crate) seed: Option<u64>,
    /// Whether the working folder of a run that passed is kept.
    pub(crate) keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { kills: 50, seed: None, keep: false }
    }
}

/// Builds the gateway and runs the controller in `tests/servers/crash/`.
///
/// # Errors
/// Returns an error when the books do not agree, too little happened to check, or no small file system can be mounted
/// for the store.
pub(crate) fn run(options: &Options) -> Result<()> {
    let python = python::interpreter()?;
    finish(Command::new(&python).current_dir(root()).args(["-B", "tests/servers/crash/test_checker.py"]))?;
    let gateway = build_gateway()?;
    let mut command = Command::new("unshare");
    command.current_dir(root()).arg(namespace()?).arg(python).args(["-B", "-u", "tests/servers/crash/controller.py"]);
    command.arg("--gateway").arg(gateway).args(["--kills", &options.kills.to_string()]);
    if let Some(seed) = options.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if options.keep {
        command.arg("--keep");
    }
    follow(&mut command, Duration::from_secs(240 + 8 * options.kills), |_| {})
}

/// Returns the option with which `unshare` makes a namespace where the store's small file system can be mounted. A full
/// disk is part of every run.
pub(crate) fn namespace() -> Result<&'static str> {
    let mounts = |how: &str| exists("unshare", &[how, "mount", "-t", "tmpfs", "none", "/mnt"]);
    // Without a user namespace, root may still have a mount namespace.
    match ["-rm", "-m"].into_iter().find(|how| mounts(how)) {
        Some(how) => Ok(how),
        None if is_root() => bail!(
            "the test fills a small file system and may not mount one: allow user namespaces or CAP_SYS_ADMIN, for a container \
             for example `--security-opt seccomp=unconfined --cap-add SYS_ADMIN`"
        ),
        None => bail!(
            "the test fills a small file system and may not mount one: user namespaces are needed \
             (`unshare -rm true` must work; see the sysctl kernel.unprivileged_userns_clone or AppArmor's restriction)"
        ),
    }
}
