//! The Python of the tests: virtual environments with the pinned packages of a `requirements.txt`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{exists, finish, is_root, root, say, target};

/// Returns the interpreter of the crash test.
///
/// # Errors
/// Returns the errors of [`interpreter_of`].
pub(crate) fn interpreter() -> Result<PathBuf> {
    interpreter_of("xtask-venv", "tests/servers/crash/requirements.txt")
}

/// Returns the interpreter of an environment in `target/`, which is made when it is missing or its pins have changed.
///
/// # Errors
/// Returns an error when Python 3 is missing, or when the packages cannot be installed; the message names the remedy.
pub(crate) fn interpreter_of(place: &str, pins: &str) -> Result<PathBuf> {
    let place = target().join(place);
    let python = place.join("bin/python");
    let pins = root().join(pins);
    let wanted = std::fs::read_to_string(&pins).with_context(|| format!("could not read {}", pins.display()))?;
    let stamp = place.join("pins.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted)
        && exists(&python.to_string_lossy(), &["--version"])
    {
        return Ok(python);
    }
    need_venv()?;
    say(&format!("  making a Python environment: {}", place.display()));
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
    .with_context(|| {
        format!("could not install the packages of {}; is a Python package index reachable?", pins.display())
    })?;
    std::fs::write(&stamp, wanted)?;
    Ok(python)
}

fn need_venv() -> Result<()> {
    if exists("python3", &["-c", "import venv, ensurepip"]) {
        return Ok(());
    }
    if is_root() && exists("apt-get", &["--version"]) {
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
    bail!("the tests from outside need Python 3 with its venv module: apt-get install python3-venv")
}
