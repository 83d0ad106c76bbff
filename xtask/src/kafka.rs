//! A real Apache Kafka: its jars and its Python, a broker to try things with, the claims that are tested against one,
//! and the crash test.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::crash;
use crate::process::{build_gateway, finish, follow, output, program, root, say, target};
use crate::python;

const HERE: &str = "tests/servers/kafka";

/// The kills of the crash test: of the gateway, of the broker, of both.
pub(crate) const KILLS: u64 = 18;

/// Starts one broker, or three, prints the address and stays until it is stopped.
///
/// # Errors
/// Returns an error when something that a broker needs is missing, or when Python does not start. On success this
/// process is replaced.
pub(crate) fn up(words: &[&str]) -> Result<()> {
    let mut folder = target().join("xtask-kafka/up");
    let mut more = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match *word {
            "--three" => more.push("--three"),
            "--folder" => folder = rest.next().context("--folder needs a folder")?.into(),
            other => bail!("kafka up has no option `{other}`"),
        }
    }
    let mut command = Parts::fetch()?.command("up.py");
    command.arg("--folder").arg(std::path::absolute(folder)?).args(more);
    Err(command.exec()).context("could not start Python")
}

/// Starts a broker, runs `setgate_bench kafka kafka-source` beside it, and stops it.
///
/// # Errors
/// Returns an error when something that a broker needs is missing, or when the bench fails.
pub(crate) fn bench(words: &[&str]) -> Result<()> {
    let mut command = Parts::fetch()?.command("bench.py");
    // The folder is on the disk of the build: the figures depend on it as those of the store do.
    command.arg("--folder").arg(std::path::absolute(target().join("xtask-kafka/bench"))?).args(words);
    finish(&mut command)
}

/// Builds the gateway and tests every claim of `tests/servers/kafka/claims.py`.
///
/// # Errors
/// Returns an error when a claim does not hold, or when not all claims were tested.
pub(crate) fn claims(words: &[&str]) -> Result<()> {
    let parts = Parts::fetch()?;
    let kcat = program(&["kcat"], "-V", "kcat").context("one of the consumers is kcat: apt-get install kcat")?;
    let mut command = parts.command("claims.py");
    command.arg("--gateway").arg(build_gateway()?).args(["--kcat", &kcat]).args(words);
    let mut counted = false;
    follow(&mut command, Duration::from_secs(600), |line| counted |= line.trim_start().starts_with("kafka: "))?;
    if !counted {
        bail!("the controller ended well and counted no claim");
    }
    Ok(())
}

/// Kills gateway and broker in turn under load, reads the topics back and compares.
///
/// # Errors
/// Returns an error when the books do not agree, or when too little happened to check.
pub(crate) fn crash(options: &crash::Options) -> Result<()> {
    let parts = Parts::fetch()?;
    finish(Command::new(&parts.python).current_dir(root()).args(["-B", &format!("{HERE}/test_checker.py")]))?;
    let mut command = parts.command("crash.py");
    command.arg("--gateway").arg(build_gateway()?).args(["--kills", &options.kills.to_string()]);
    if let Some(seed) = options.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if options.keep {
        command.arg("--keep");
    }
    follow(&mut command, Duration::from_secs(180 + 15 * options.kills), |_| {})
}

/// Returns the jars of a broker and its tools, for a page that starts one.
///
/// # Errors
/// Returns an error when Java is missing, or when the jars cannot be fetched.
pub(crate) fn broker_jars() -> Result<PathBuf> {
    need_java()?;
    jars(&target().join("xtask-kafka/lib"))
}

/// The requirements of the programs in `tests/servers/kafka/`: an interpreter with the clients, and the broker's jars.
struct Parts {
    python: PathBuf,
    jars: PathBuf,
}

impl Parts {
    /// Finds or fetches all requirements; none is optional, so a missing one is an error.
    fn fetch() -> Result<Self> {
        need_java()?;
        program(&["openssl"], "version", "openssl")
            .context("certificates are made with openssl: apt-get install openssl")?;
        let jars = jars(&target().join("xtask-kafka/lib"))?;
        let python = python::interpreter_of("xtask-kafka/venv", &format!("{HERE}/requirements.txt"))?;
        Ok(Self { python, jars })
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.current_dir(root()).args(["-B", "-u", &format!("{HERE}/{script}")]).arg("--jars").arg(&self.jars);
        command
    }
}

/// Checks that there is Java 17, which a broker of version 4 needs.
fn need_java() -> Result<()> {
    let install = "a broker needs Java 17 or newer: apt-get install default-jre-headless";
    let java = program(&["java"], "--version", "default-jre-headless").context(install)?;
    let told = output(Command::new(java).arg("--version"))?;
    let version = told.split([' ', '.']).find_map(|word| word.parse::<u32>().ok());
    match version {
        Some(17..) => Ok(()),
        _ => bail!("{install}; this is {}", told.lines().next().unwrap_or_default()),
    }
}

/// Returns the jars of `tests/servers/kafka/pom.xml`, fetched when they are missing or the file has changed.
fn jars(place: &Path) -> Result<PathBuf> {
    let pom = root().join(HERE).join("pom.xml");
    let wanted = std::fs::read_to_string(&pom).with_context(|| format!("could not read {}", pom.display()))?;
    let stamp = place.join("pom.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|fetched| fetched == wanted) {
        return Ok(place.to_owned());
    }
    let maven =
        program(&["mvn"], "--version", "maven").context("a broker is fetched by Maven: apt-get install maven")?;
    say(&format!("  fetching Apache Kafka: {}", place.display()));
    if place.exists() {
        std::fs::remove_dir_all(place)?;
    }
    let mut command = Command::new(maven);
    command.args(["--quiet", "--batch-mode", "--file"]).arg(&pom).args(["dependency:copy-dependencies"]);
    command.arg("-DincludeScope=runtime").arg(format!("-DoutputDirectory={}", place.display()));
    finish(&mut command).context("could not fetch the jars of a broker; is Maven Central reachable?")?;
    std::fs::write(&stamp, wanted)?;
    Ok(place.to_owned())
}
