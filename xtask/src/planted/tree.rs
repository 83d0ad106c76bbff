//! A copy of the workspace, into which faults are put, with a target folder of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::fault::{Fault, Part, Test};
use crate::process::{cargo, output, root, say, target};

/// The name of a package that is added to the copy. Cargo gives a library the features that the selected packages ask
/// for, so one package alone would have its dependencies built anew; beside this one it has those of the workspace.
const CARRIER: &str = "planted";

/// The copy.
pub(crate) struct Tree {
    root: PathBuf,
    target: PathBuf,
    output: PathBuf,
}

/// How a test or a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Passed,
    /// It failed, and this is what it said first.
    Failed(String),
    /// It did not end in time.
    Hung,
    /// It did not run, for this reason.
    NotRun(String),
}

impl Tree {
    /// Copies what git knows or would add, as it is now.
    ///
    /// # Errors
    /// Returns an error when git or cargo cannot be asked, or when a file cannot be copied.
    pub(crate) fn make() -> Result<Self> {
        let home = target().join("planted");
        let tree = Self { root: home.join("tree"), target: home.join("target"), output: home.join("output") };
        fs::create_dir_all(&tree.root)?;
        fs::create_dir_all(&tree.output)?;
        let listed = output(Command::new("git").current_dir(root()).args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]))?;
        let files: BTreeSet<&Path> =
            listed.split('\0').map(Path::new).filter(|path| root().join(path).is_file()).collect();
        for path in files_below(&tree.root)? {
            if path.strip_prefix(&tree.root).is_ok_and(|below| !files.contains(below)) {
                fs::remove_file(&path)?;
            }
        }
        for path in files {
            let (from, to) = (root().join(path), tree.root.join(path));
            if path == Path::new("Cargo.toml") {
                let manifest = fs::read_to_string(&from)?;
                if !manifest.contains("\nmembers = [\n") {
                    bail!("the manifest has no list of members");
                }
                let more = format!("\nmembers = [\n    \"{CARRIER}\",\n");
                fs::write(&to, manifest.replacen("\nmembers = [\n", &more, 1))?;
            } else if fs::read(&to).ok() != Some(fs::read(&from)?) {
                if let Some(folder) = to.parent() {
                    fs::create_dir_all(folder)?;
                }
                fs::copy(&from, &to).with_context(|| format!("could not copy {}", path.display()))?;
            }
        }
        let members = tree.write_carrier()?;
        if !tree.target.exists() {
            take_over(&target().join("debug"), &tree.target.join("debug"), &members)?;
        }
        Ok(tree)
    }

    /// Writes the added package, which depends on all that the workspace depends on. Returns the names of the packages
    /// of the workspace.
    fn write_carrier(&self) -> Result<BTreeSet<String>> {
        let metadata = output(cargo().args(["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
        let metadata: Value = serde_json::from_str(&metadata)?;
        let packages = metadata.get("packages").and_then(Value::as_array).context("cargo names no packages")?;
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut members = BTreeSet::new();
        let mut outside: BTreeMap<String, (String, bool, BTreeSet<String>)> = BTreeMap::new();
        let mut inside = BTreeMap::new();
        for package in packages {
            let name = text(package, "name");
            let folder = PathBuf::from(text(package, "manifest_path"));
            let folder = folder.parent().and_then(|folder| folder.strip_prefix(root()).ok()).map(PathBuf::from);
            if let Some(folder) = folder.filter(|_| name.starts_with("setgate")) {
                inside.insert(name.clone(), folder);
            }
            members.insert(name);
            for one in package.get("dependencies").and_then(Value::as_array).into_iter().flatten() {
                if one.get("path").is_some_and(Value::is_string) {
                    continue;
                }
                let (version, defaults, features) =
                    outside.entry(text(one, "name")).or_insert_with(|| (text(one, "req"), false, BTreeSet::new()));
                *defaults |= one.get("uses_default_features").and_then(Value::as_bool).unwrap_or(true);
                let asked = one.get("features").and_then(Value::as_array).into_iter().flatten();
                features.extend(asked.filter_map(Value::as_str).map(str::to_owned));
                *version = text(one, "req");
            }
        }
        let mut manifest = format!("[package]\nname = \"{CARRIER}\"\nedition = \"2024\"\n\n[dependencies]\n");
        for (name, folder) in inside {
            manifest += &format!("{name} = {{ path = \"../{}\" }}\n", folder.display());
        }
        for (name, (version, defaults, features)) in outside {
            let features: Vec<String> = features.into_iter().collect();
            manifest += &format!(
                "{name} = {{ version = \"{version}\", default-features = {defaults}, features = {features:?} }}\n"
            );
        }
        let folder = self.root.join(CARRIER);
        fs::create_dir_all(folder.join("src"))?;
        // No library: it is selected with another package, and only that one's tests are built.
        fs::write(folder.join("src/main.rs"), "fn main() {}\n")?;
        fs::write(folder.join("Cargo.toml"), manifest)?;
        Ok(members)
    }

    /// Puts a fault in. Returns what stood there.
    ///
    /// # Errors
    /// Returns an error when a text is not found exactly once.
    pub(crate) fn plant(&self, fault: &Fault) -> Result<Planted> {
        let mut planted = Planted(Vec::new());
        for change in &fault.change {
            let path = self.root.join(&change.file);
            let text = fs::read_to_string(&path)?;
            let changed = change.put(&text)?;
            planted.0.push((path.clone(), text));
            fs::write(path, changed)?;
        }
        Ok(planted)
    }

    /// Builds the tests of one target of a package. Returns the program, and the folder in which it runs.
    ///
    /// # Errors
    /// Returns an error that ends with what the compiler said when they do not build.
    pub(crate) fn build(&self, package: &str, target: &str) -> Result<(PathBuf, PathBuf)> {
        let mut cargo = self.cargo();
        cargo.args(["test", "--no-run", "--message-format", "json-render-diagnostics"]);
        cargo.args(["--package", package, "--package", CARRIER]);
        if target == "lib" {
            cargo.arg("--lib")
        } else {
            cargo.args(["--test", target])
        };
        let built = cargo.stdin(Stdio::null()).output().context("could not start cargo")?;
        if !built.status.success() {
            bail!("{package} does not build:\n{}", tail(&String::from_utf8_lossy(&built.stderr)));
        }
        for line in String::from_utf8_lossy(&built.stdout).lines() {
            let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
            let at = |pointer: &str| message.pointer(pointer).and_then(Value::as_str);
            let is_test = message.pointer("/profile/test").and_then(Value::as_bool) == Some(true);
            if is_test && let (Some(program), Some(manifest)) = (at("/executable"), at("/manifest_path")) {
                let folder = Path::new(manifest).parent().context("a manifest without a folder")?;
                return Ok((PathBuf::from(program), folder.to_owned()));
            }
        }
        bail!("{package} has no tests in {target}")
    }

    /// Runs one test.
    ///
    /// # Errors
    /// Returns an error when it cannot be started.
    pub(crate) fn run(&self, test: &Test, program: &Path, folder: &Path, limit: Duration) -> Result<End> {
        let mut command = Command::new(program);
        command.current_dir(folder).env("CARGO_MANIFEST_DIR", folder).env("RUST_BACKTRACE", "0");
        command.args([&test.test, "--exact", "--test-threads", "1"]);
        let (status, text) = self.finish(&mut command, limit)?;
        if !text.contains("\nrunning 1 test\n") {
            return Ok(End::NotRun(format!("{} has no test {}", test.package, test.test)));
        }
        Ok(match status {
            None => End::Hung,
            Some(status) if status.success() && text.contains("test result: ok. 1 passed") => End::Passed,
            Some(status) => End::Failed(said(&text).unwrap_or_else(|| format!("the test ended with {status}"))),
        })
    }

    /// Runs a command of the copy's own `cargo xtask`.
    ///
    /// # Errors
    /// Returns an error when it does not build, or cannot be started.
    pub(crate) fn run_part(&self, part: &Part, limit: Duration) -> Result<End> {
        for package in ["setgate", "xtask"] {
            let mut cargo = self.cargo();
            cargo.args(["build", "--quiet", "--package", package, "--package", CARRIER, "--bin", package]);
            let built = cargo.stdin(Stdio::null()).output().context("could not start cargo")?;
            if !built.status.success() {
                bail!("{package} does not build:\n{}", tail(&String::from_utf8_lossy(&built.stderr)));
            }
        }
        let mut command = Command::new(self.target.join("debug/xtask"));
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target).env("CARGO_NET_OFFLINE", "true");
        let (status, text) = self.finish(command.arg(&part.name).args(&part.options), limit)?;
        Ok(match status {
            None => End::Hung,
            Some(status) if status.success() => End::Passed,
            Some(_) => End::Failed(text.lines().last().unwrap_or_default().to_owned()),
        })
    }

    fn cargo(&self) -> Command {
        let mut cargo = cargo();
        // Everything is there already: the workspace itself was built.
        cargo.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target).env("CARGO_NET_OFFLINE", "true");
        cargo
    }

    /// Runs a program and all that it starts for as long as it may. Returns how it ended, if it did, and what it said.
    fn finish(&self, command: &mut Command, limit: Duration) -> Result<(Option<ExitStatus>, String)> {
        let path = self.output.join("said.txt");
        let file = File::create(&path)?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0).spawn();
        let mut child = child.context("could not start the tests")?;
        let group = format!("-{}", child.id());
        let (tell, hear) = mpsc::channel();
        let waiter = thread::spawn(move || tell.send(child.wait()));
        let ended = hear.recv_timeout(limit);
        // What a test has started and left behind goes, too.
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = waiter.join();
        let mut text = Vec::new();
        File::open(&path)?.read_to_end(&mut text)?;
        Ok((ended.ok().transpose()?, String::from_utf8_lossy(&text).into_owned()))
    }
}

/// A fault that is in the tree; dropped, it is out again.
pub(crate) struct Planted(Vec<(PathBuf, String)>);

impl Drop for Planted {
    fn drop(&mut self) {
        while let Some((path, text)) = self.0.pop() {
            if let Err(error) = fs::write(&path, text) {
                say(&format!("could not take the fault out of {}: {error}", path.display()));
            }
        }
    }
}

/// Takes over the compiled dependencies of a target folder, all but the packages of the workspace.
fn take_over(from: &Path, to: &Path, members: &BTreeSet<String>) -> Result<()> {
    let mut hashes = BTreeSet::new();
    for entry in fs::read_dir(from.join(".fingerprint")).into_iter().flatten() {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((package, hash)) = name.rsplit_once('-') else { continue };
        if !members.contains(package) {
            hashes.insert(hash.to_owned());
            copy_folder(&entry.path(), &to.join(".fingerprint").join(&name))?;
            let build = from.join("build").join(&name);
            if build.is_dir() {
                copy_folder(&build, &to.join("build").join(&name))?;
            }
        }
    }
    fs::create_dir_all(to.join("deps"))?;
    for entry in fs::read_dir(from.join("deps")).into_iter().flatten() {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let stem = name.split_once('.').map_or(name.as_str(), |(stem, _)| stem);
        if stem.rsplit_once('-').is_some_and(|(_, hash)| hashes.contains(hash)) {
            copy_file(&entry.path(), &to.join("deps").join(&name))?;
        }
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    for path in files_below(from)? {
        let to = to.join(path.strip_prefix(from)?);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        copy_file(&path, &to)?;
    }
    Ok(())
}

/// Copies a file with the time of its last change, by which cargo knows that it is fresh.
fn copy_file(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)?;
    let changed = fs::metadata(from)?.modified()?;
    File::open(to)?.set_modified(changed)?;
    Ok(())
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Returns the last lines of a text.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(40)).copied().collect::<Vec<_>>().join("\n")
}

/// Returns the first words of the first panic.
fn said(text: &str) -> Option<String> {
    let mut lines = text.lines().skip_while(|line| !line.contains("panicked at "));
    lines.next()?;
    let words: String = lines.next()?.trim().chars().take(100).collect();
    (!words.is_empty()).then_some(words)
}
