//! Third-party clients against the real gateway: `httpx` and `websockets` in Python, `ws` in Node, headless Chromium,
//! nginx.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{build_gateway, finish, follow, program, root, say, target};
use crate::python;

/// Builds the gateway, finds or installs the clients, and runs `tests/servers/clients/controller.py`.
///
/// # Errors
/// Returns an error when a client does not get what it should, or when one is missing although `CI=true` says that none
/// may be.
pub(crate) fn run() -> Result<()> {
    let place = target().join("xtask-clients");
    std::fs::create_dir_all(&place)?;
    let mut missing = Vec::new();
    let node = found("node", &["node"], "nodejs", &mut missing);
    let npm = found("npm", &["npm"], "npm", &mut missing);
    let chromium = found("chromium", &["chromium", "chromium-browser", "google-chrome"], "chromium", &mut missing);
    let nginx = found("nginx", &["nginx", "/usr/sbin/nginx"], "nginx-light", &mut missing);
    let modules = match (&node, &npm) {
        (Some(_), Some(npm)) => Some(modules(npm, &place)?),
        _ => None,
    };
    for what in &missing {
        say(&format!("  NOT RUN: the clients that need {what}, which is not here and cannot be installed"));
    }
    if !missing.is_empty() && std::env::var("CI").is_ok_and(|ci| ci == "true") {
        bail!("{} missing: install {}", missing.join(", "), missing.join(" "));
    }
    let python = python::interpreter_of("xtask-clients/venv", "tests/servers/clients/requirements.txt")?;
    let gateway = build_gateway()?;
    let mut command = Command::new(python);
    command.current_dir(root()).args(["-B", "-u", "tests/servers/clients/controller.py"]);
    command.arg("--gateway").arg(gateway).arg("--screenshot").arg(place.join("page.png"));
    for (option, value) in [("--chromium", &chromium), ("--nginx", &nginx)] {
        if let Some(value) = value {
            command.args([option, value]);
        }
    }
    if let Some(modules) = modules {
        command.arg("--modules").arg(modules);
    }
    let mut passed = false;
    follow(&mut command, Duration::from_secs(300), |line| passed |= line.trim_start().starts_with("clients: "))?;
    if !passed {
        bail!("the controller ended well and counted no client");
    }
    Ok(())
}

/// Finds a program as [`program`] does, and adds it to `missing` if it is not there.
fn found(what: &'static str, names: &[&str], package: &str, missing: &mut Vec<&'static str>) -> Option<String> {
    let version = if what == "nginx" { "-v" } else { "--version" };
    let name = program(names, version, package);
    if name.is_none() {
        missing.push(what);
    }
    name
}

/// Returns the modules of `tests/servers/clients/package.json`, installed when they are missing or their pins have
/// changed.
fn modules(npm: &str, place: &Path) -> Result<PathBuf> {
    let pins = root().join("tests/servers/clients/package.json");
    let wanted = std::fs::read_to_string(&pins).with_context(|| format!("could not read {}", pins.display()))?;
    let (own, modules) = (place.join("package.json"), place.join("node_modules"));
    if std::fs::read_to_string(&own).is_ok_and(|made| made == wanted) && modules.join("ws").is_dir() {
        return Ok(modules);
    }
    std::fs::write(&own, wanted)?;
    finish(Command::new(npm).current_dir(place).args(["install", "--silent", "--no-audit", "--no-fund"]))
        .context("could not install the modules of tests/servers/clients/package.json; is a registry reachable?")?;
    Ok(modules)
}
