//! A Python of our own: a virtual environment with the pinned packages of `crash/requirements.txt`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{exists, finish, root, say, target};

/// The interpreter of the environment, which is made when it is not there or its pins have changed.
///
/// # Errors
/// Python 3 is missing, or the packages cannot be installed; the message says what to do.
pub(crate) fn interpreter() -> Result<PathBuf> {
    let place = target().join("xtask-venv");
    let python = place.join("bin/python");
    let pins = root().join("tests/servers/crash/requirements.txt");
    let wanted = std::fs::read_to_string(&pins).with_context(|| format!("could not read {}", pins.display()))?;
    let stamp = place.join("pins.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted)
        && exists(&python.to_string_lossy(), &["--version"])
    {
        return Ok(python);
    }
    need_venv()?;
    say("  making a Python environment with a JOSE library that is not ours");
    finish(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&place))?;
    finish(
        Command::new(&python)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--only-binary",
                ":all:",
                "--requirement",
            ])
            .arg(&pins),
    )
    .context(
        "could not install the packages of tests/servers/crash/requirements.txt; is a Python package index reachable?",
    )?;
    std::fs::write(&stamp, wanted)?;
    Ok(python)
}

fn need_venv() -> Result<()> {
    if exists("python3", &["-c", "import venv, ensurepip"]) {
        return Ok(());
    }
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if root && exists("apt-get", &["--version"]) {
        say("  python3 or its venv module is missing: installing python3-venv");
        let _ = finish(Command::new("apt-get").args(["update", "-qq"]));
        finish(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args([
            "install",
            "-y",
            "-qq",
            "--no-install-recommends",
            "python3",
            "python3-venv",
        ]))?;
        if exists("python3", &["-c", "import venv, ensurepip"]) {
            return Ok(());
        }
    }
    bail!("the crash test needs Python 3 with its venv module: apt-get install python3-venv")
}
