//! Running of other programs: their output is passed on at once, and each line can be inspected.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Prints a line, and ignores a closed pipe.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// A stop watch. This program is no part of the gateway, so it uses the system's clock.
pub(crate) struct Watch(Instant);

impl Watch {
    /// Starts a stop watch.
    #[expect(clippy::disallowed_methods, reason = "a tool that times other programs has no `Runtime`'s clock")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Returns the time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Writes a time as minutes and seconds.
pub(crate) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// Returns the root of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or(here.clone(), PathBuf::from)
}

/// Returns the folder where cargo puts its output.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Returns the path of the gateway's binary, as the test command builds it.
pub(crate) fn gateway() -> PathBuf {
    target().join("debug/setgate")
}

/// Returns the cargo that started this program, as a command in the root of the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Returns whether this user is root, who may install packages.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// Builds the gateway's binary and returns its path.
pub(crate) fn build_gateway() -> Result<PathBuf> {
    finish(cargo().args(["build", "--locked", "--package", "setgate", "--bin", "setgate"]))?;
    Ok(gateway())
}

/// Runs a program to its end with its output passed through; anything but success is an error.
pub(crate) fn finish(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("could not start {shown}"))?;
    if !status.success() {
        bail!("{shown} ended with {status}");
    }
    Ok(())
}

/// Runs a program to its end, passes each line of its standard output to `watch`, and kills it after `limit`.
pub(crate) fn follow(command: &mut Command, limit: Duration, mut watch: impl FnMut(&str)) -> Result<()> {
    let shown = shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start {shown}"))?;
    let out = child.stdout.take().context("the program has no standard output")?;
    let (tell, hear) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(std::result::Result::ok) {
            if tell.send(line).is_err() {
                break;
            }
        }
    });
    let clock = Watch::start();
    loop {
        match hear.recv_timeout(limit.saturating_sub(clock.elapsed())) {
            Ok(line) => {
                say(&line);
                watch(&line);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                let _ = child.wait();
                bail!("{shown} was still running after {} s", limit.as_secs());
            }
        }
    }
    let _ = reader.join();
    let status = child.wait()?;
    if !status.success() {
        bail!("{shown} ended with {status}");
    }
    Ok(())
}

/// Returns the standard output of a program that succeeds.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("could not start {shown}"))?;
    if !output.status.success() {
        bail!("{shown} ended with {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{shown} did not print text"))
}

/// Returns whether a program can be started and succeeds.
pub(crate) fn exists(name: &str, arguments: &[&str]) -> bool {
    let quiet =
        Command::new(name).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

/// Returns the first of these programs that is there. If there is none, its package is installed, on Debian and as
/// root.
pub(crate) fn program(names: &[&str], version: &str, package: &str) -> Option<String> {
    let there = || names.iter().find(|name| exists(name, &[version])).map(|name| (*name).to_owned());
    if let Some(name) = there() {
        return Some(name);
    }
    if is_root() && exists("apt-get", &["--version"]) {
        say(&format!("  {} is missing: installing {package}", names.first().unwrap_or(&package)));
        let apt = |words: &[&str]| finish(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(words));
        let _ = apt(&["update", "-qq"]);
        let _ = apt(&["install", "-y", "-qq", "--no-install-recommends", package]);
    }
    there()
}

/// Finds or installs `curl`, which readers of the tutorial need.
///
/// # Errors
/// Returns an error when it is missing and cannot be installed.
pub(crate) fn need_curl() -> Result<()> {
    program(&["curl"], "--version", "curl").map(|_| ()).context("the tests poll with curl: apt-get install curl")
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    format!("`{}`", words.join(" "))
}
