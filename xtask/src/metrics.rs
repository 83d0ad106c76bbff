//! `promtool check metrics` on the metrics page of a gateway at work.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::process::{cargo, exists, finish, root, say};

/// The test that puts a gateway to work and leaves its metrics page.
const TEST: &str = "metrics::every_metric_is_documented_and_every_documented_one_is_there";
/// The path at which that test leaves the page.
const PAGE: &str = "target/tmp/metrics.txt";

/// Runs the test, and checks the page with `promtool`.
///
/// # Errors
/// Returns an error when a name or a help text is against Prometheus' conventions, or when `promtool` is not available.
pub(crate) fn check() -> Result<()> {
    let promtool = promtool()?;
    let page = root().join(PAGE);
    let _ = fs::remove_file(&page);
    finish(cargo().args(["test", "--locked", "--workspace", "--test", "it", "--", "--exact", TEST]))?;
    let text = fs::read_to_string(&page).with_context(|| format!("the test left no {PAGE}"))?;
    let families = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    let found = Command::new(&promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::from(File::open(&page)?))
        .output()
        .with_context(|| format!("could not start {}", promtool.display()))?;
    let words = String::from_utf8_lossy(&found.stderr);
    if !found.status.success() || !words.trim().is_empty() {
        bail!("promtool found in {PAGE}:\n{}", words.trim());
    }
    say(&format!("  promtool finds nothing in {families} metrics"));
    Ok(())
}

/// Returns `promtool`, from the path or out of Debian's package `prometheus`; it needs nothing that this package
/// installs and starts.
fn promtool() -> Result<PathBuf> {
    if exists("promtool", &["--version"]) {
        return Ok("promtool".into());
    }
    let folder = root().join("target/promtool");
    let program = folder.join("usr/bin/promtool");
    if !program.exists() {
        say("  promtool is missing: taking it out of Debian's package prometheus");
        fs::create_dir_all(&folder)?;
        let fetch = "(apt-get download prometheus || { apt-get update -qq && apt-get download prometheus; }) \
                     && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb";
        finish(Command::new("sh").args(["-c", fetch]).current_dir(&folder))
            .context("metrics are checked with promtool: install Prometheus' tools, so that it is on the path")?;
    }
    Ok(program)
}
