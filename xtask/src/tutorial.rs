//! Walk-throughs of pages: their `sh` blocks are typed into real shells, which must print what the pages show.
//!
//! A block's first line may say more than `sh`: `terminal=2` types it into a second shell; `until="text"` means that
//! the command stays and the next block follows once it has printed the text; a later block in that terminal waits for
//! it to end. A `text` block shows lines that the block before it must have printed, in that order; with `terminal=2`,
//! lines that appear in that terminal from now on. `…` stands for anything. `<!-- terminal=2: Ctrl-C -->` interrupts
//! what stays there. `stand-in=kafka` marks the one block that is not typed: what it downloads is laid there instead.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::kafka;
use crate::process::{Watch, finish, need_curl, program, root, say, target};

/// The longest that one block may take; the first one builds the gateway.
const PATIENCE: Duration = Duration::from_secs(900);
/// The longest time for a line to appear in another terminal, and for a command that stays to end.
const SOON: Duration = Duration::from_secs(60);

/// A block of a page that is typed, shown or pressed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Block {
    Run {
        terminal: String,
        until: Option<String>,
        text: String,
    },
    /// A download by the reader.
    Fetch {
        what: String,
    },
    Shows {
        terminal: Option<String>,
        lines: Vec<String>,
    },
    Interrupt {
        terminal: String,
    },
}

/// Runs `docs/tutorial.md` in a home folder of its own.
///
/// # Errors
/// Returns an error when a command fails, or does not print what the tutorial shows.
pub(crate) fn run() -> Result<()> {
    need_curl()?;
    walk("docs/tutorial.md", 4, |what| bail!("the tutorial downloads nothing, and not {what}"), || Ok(()))
}

/// Runs `docs/kafka.md` in a home folder of its own, and checks that its consumers refuse bad tokens.
///
/// # Errors
/// Returns an error when a command fails or does not print what the page shows, or when a consumer accepts a bad token.
pub(crate) fn run_kafka() -> Result<()> {
    program(&["mvn"], "--version", "maven").context("the consumer in Java is built by Maven: apt-get install maven")?;
    program(&["javac"], "--version", "default-jdk-headless")
        .context("the consumer in Java needs a compiler: apt-get install default-jdk-headless")?;
    for port in [9092, 9093] {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            bail!("something listens on 127.0.0.1:{port}, where the page starts a broker: end it");
        }
    }
    let jars = kafka::broker_jars()?;
    let download = target().join("xtask-kafka-download");
    lay_out(&download, &jars)?;
    let home = home("docs/kafka.md");
    let fetch = |what: &str| match what {
        "kafka" => Ok(format!("cp -r '{}' kafka", download.display())),
        other => bail!("nothing stands in for {other}"),
    };
    walk("docs/kafka.md", 10, fetch, || {
        let place = home.join("setgate-kafka");
        let mut trial = Command::new(place.join("venv/bin/python"));
        trial.current_dir(root()).args(["-B", "tests/servers/consumers/trial.py", "--brokers", "127.0.0.1:9092"]);
        trial.arg("--consumers").arg(place.join("consumer"));
        finish(&mut trial)
    })
}

/// Writes the scripts of Apache Kafka's download that the page calls, based on jars of the same version.
fn lay_out(place: &Path, jars: &Path) -> Result<()> {
    let scripts = [
        ("kafka-storage", "kafka.tools.StorageTool"),
        ("kafka-server-start", "kafka.Kafka"),
        ("kafka-topics", "org.apache.kafka.tools.TopicCommand"),
        ("kafka-acls", "org.apache.kafka.tools.AclCommand"),
        ("kafka-console-producer", "org.apache.kafka.tools.ConsoleProducer"),
        ("kafka-console-consumer", "org.apache.kafka.tools.consumer.ConsoleConsumer"),
        ("kafka-consumer-groups", "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"),
    ];
    let bin = place.join("bin");
    std::fs::create_dir_all(&bin)?;
    let logging = root().join("tests/servers/kafka/log4j2.properties");
    for (script, class) in scripts {
        // The tools would mix their log into their output.
        let level = if class == "kafka.Kafka" {
            format!("-Dlog4j2.configurationFile='{}'", logging.display())
        } else {
            "-Dlog4j2.level=OFF".to_owned()
        };
        let path = bin.join(format!("{script}.sh"));
        let text = format!(
            "#!/bin/sh\nexec java ${{KAFKA_HEAP_OPTS:--Xmx256m}} -XX:+UseSerialGC -XX:TieredStopAtLevel=1 {level} -cp '{}/*' {class} \"$@\"\n",
            jars.display()
        );
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Returns the home folder in which a page is walked through.
fn home(page: &str) -> PathBuf {
    let name = page.rsplit('/').next().unwrap_or(page).trim_end_matches(".md");
    target().join(format!("xtask-{name}-{}", std::process::id()))
}

/// Walks through a page with at least `least` blocks to run. `fetch` returns what to type instead of a download, and
/// `then` runs while all terminals are still open.
fn walk(
    page: &str,
    least: usize,
    fetch: impl Fn(&str) -> Result<String>,
    then: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let text = std::fs::read_to_string(root().join(page)).with_context(|| format!("could not read {page}"))?;
    let blocks = blocks(&text)?
        .into_iter()
        .map(|block| match block {
            Block::Fetch { what } => Ok(Block::Run { terminal: "1".to_owned(), until: None, text: fetch(&what)? }),
            block => Ok(block),
        })
        .collect::<Result<Vec<_>>>()?;
    let runs = blocks.iter().filter(|block| matches!(block, Block::Run { .. })).count();
    let shows = blocks.iter().filter(|block| matches!(block, Block::Shows { .. })).count();
    if runs < least || shows < least / 2 {
        bail!("{page} has {runs} blocks to run and {shows} to compare: too few to show anything");
    }
    let home = home(page);
    std::fs::create_dir_all(&home)?;
    let result = play(&blocks, &home, then);
    if result.is_ok() {
        let _ = std::fs::remove_dir_all(&home);
        say(&format!("  {runs} blocks ran, {shows} printed what {page} shows"));
    } else {
        say(&format!("  the folder of {page} is kept: {}", home.display()));
    }
    result
}

fn play(blocks: &[Block], home: &Path, then: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut terminals: BTreeMap<&str, Terminal> = BTreeMap::new();
    let mut printed: Vec<String> = Vec::new();
    for block in blocks {
        match block {
            Block::Fetch { what } => bail!("nothing stands in for {what}"),
            Block::Run { terminal, until, text } => {
                if !terminals.contains_key(terminal.as_str()) {
                    terminals.insert(terminal, Terminal::open(terminal, home)?);
                }
                let terminal = terminals.get_mut(terminal.as_str()).context("the terminal is open")?;
                printed = terminal.enter(text, until.as_deref())?;
            }
            Block::Interrupt { terminal } => {
                terminals
                    .get_mut(terminal.as_str())
                    .with_context(|| format!("terminal {terminal} is not open"))?
                    .interrupt()?;
            }
            Block::Shows { terminal: None, lines } => compare(lines, &printed)?,
            Block::Shows { terminal: Some(name), lines } => {
                let terminal =
                    terminals.get_mut(name.as_str()).with_context(|| format!("terminal {name} is not open"))?;
                terminal.wait_for(lines)?;
            }
        }
    }
    then()
}

/// Finds the lines among those that were printed, in this order.
///
/// # Errors
/// Returns an error when one of them was not printed.
pub(crate) fn compare(lines: &[String], printed: &[String]) -> Result<()> {
    let mut rest = printed.iter();
    for line in lines {
        if !rest.any(|candidate| matches(line.trim(), candidate.trim())) {
            bail!("the page shows `{line}`, which was not printed (in this order) among:\n{}", printed.join("\n"));
        }
    }
    Ok(())
}

/// Returns whether `text` matches `pattern`, in which `…` stands for anything. The number of blanks between two words
/// does not count, since the width of a column depends on its other cells.
fn matches(pattern: &str, text: &str) -> bool {
    let single = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = single(text);
    let parts: Vec<String> = pattern.split('…').map(single).collect();
    let [first, middle @ .., last] = parts.as_slice() else { return text == single(pattern) };
    let Some(mut rest) = text.strip_prefix(first.as_str()) else { return false };
    for part in middle {
        let Some((_, after)) = rest.split_once(part.as_str()) else { return false };
        rest = after;
    }
    rest.ends_with(last.as_str())
}

/// Returns the blocks of a page.
///
/// # Errors
/// Returns an error when one of them is not closed.
pub(crate) fn blocks(text: &str) -> Result<Vec<Block>> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("<!-- terminal=").and_then(|rest| rest.strip_suffix(": Ctrl-C -->")) {
            found.push(Block::Interrupt { terminal: name.to_owned() });
        }
        let Some(info) = line.strip_prefix("```") else { continue };
        let mut body = Vec::new();
        loop {
            match lines.next() {
                Some("```") => break,
                Some(line) => body.push(line),
                None => bail!("a block of the page is not closed"),
            }
        }
        let (language, rest) = info.split_once(' ').unwrap_or((info, ""));
        match language {
            "sh" if option(rest, "stand-in").is_some() => {
                found.push(Block::Fetch { what: option(rest, "stand-in").unwrap_or_default() });
            }
            "sh" => found.push(Block::Run {
                terminal: option(rest, "terminal").unwrap_or_else(|| "1".to_owned()),
                until: option(rest, "until"),
                text: body.join("\n"),
            }),
            "text" => found.push(Block::Shows {
                terminal: option(rest, "terminal"),
                lines: body.into_iter().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect(),
            }),
            _ => {}
        }
    }
    Ok(found)
}

/// Returns the value of `name=value` or `name="some value"`.
fn option(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("{name}="))?;
    Some(match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().unwrap_or_default().to_owned(),
        None => rest.split(' ').next().unwrap_or_default().to_owned(),
    })
}

/// A shell that lives as long as the walk-through; it ends with everything that it started.
struct Terminal {
    name: String,
    shell: Child,
    keys: ChildStdin,
    screen: Receiver<String>,
    entered: usize,
    stays: bool,
    soon: Duration,
}

impl Terminal {
    fn open(name: &str, home: &Path) -> Result<Self> {
        let own = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let keep =
            |variable: &str, folder: &str| std::env::var_os(variable).map_or_else(|| own.join(folder), PathBuf::from);
        let mut shell = Command::new("python3")
            .args(["-c", SHELL])
            .current_dir(root())
            .env("CARGO_HOME", keep("CARGO_HOME", ".cargo"))
            .env("RUSTUP_HOME", keep("RUSTUP_HOME", ".rustup"))
            .env("HOME", home)
            .env("NO_COLOR", "1")
            .env("CARGO_TERM_QUIET", "true")
            .env("PATH", path()?)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start bash")?;
        let mut keys = shell.stdin.take().context("the shell has no input")?;
        let out = shell.stdout.take().context("the shell has no output")?;
        writeln!(keys, "exec 2>&1; set -euo pipefail")?;
        let (tell, screen) = channel();
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(std::result::Result::ok) {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { name: name.to_owned(), shell, keys, screen, entered: 0, stays: false, soon: SOON })
    }

    /// Types the commands and returns what they printed; with `until`, returns as soon as a line contains that text.
    fn enter(&mut self, text: &str, until: Option<&str>) -> Result<Vec<String>> {
        if self.stays {
            let mark = self.mark();
            self.wait_for(&[mark]).context("the command that stays has not ended")?;
        }
        for line in text.lines() {
            say(&format!("  [{}] $ {line}", self.name));
        }
        self.entered += 1;
        let mark = self.mark();
        writeln!(self.keys, "{{\n{text}\n}} </dev/null\necho; echo '{mark}'").context("the shell has ended")?;
        self.keys.flush()?;
        self.stays = until.is_some();
        let mut printed = Vec::new();
        let clock = Watch::start();
        loop {
            match self.screen.recv_timeout(PATIENCE.saturating_sub(clock.elapsed())) {
                Ok(line) if line == mark => {
                    return match until {
                        None => Ok(printed),
                        Some(text) => bail!("the command ended and never printed `{text}`"),
                    };
                }
                Ok(line) => {
                    if !line.is_empty() {
                        say(&format!("  [{}] {line}", self.name));
                    }
                    let done = until.is_some_and(|text| line.contains(text));
                    printed.push(line);
                    if done {
                        return Ok(printed);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => bail!("a command of this block failed:\n{text}"),
                Err(RecvTimeoutError::Timeout) => bail!("this block did not end in {} s:\n{text}", PATIENCE.as_secs()),
            }
        }
    }

    /// Interrupts the command that stays, as Ctrl-C does, but not the shell.
    fn interrupt(&mut self) -> Result<()> {
        let shell = self.shell.id();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"))?;
        say(&format!("  [{}] Ctrl-C", self.name));
        signal("INT", children.trim())
    }

    /// Returns the line that is printed after the commands that were entered last.
    fn mark(&self) -> String {
        format!("@@ block {} has ended @@", self.entered)
    }

    /// Waits until these lines have appeared, in this order.
    fn wait_for(&mut self, lines: &[String]) -> Result<()> {
        let clock = Watch::start();
        for wanted in lines {
            loop {
                match self.screen.recv_timeout(self.soon.saturating_sub(clock.elapsed())) {
                    Ok(line) => {
                        if !line.is_empty() && line != self.mark() {
                            say(&format!("  [{}] {line}", self.name));
                        }
                        if matches(wanted.trim(), line.trim()) {
                            break;
                        }
                    }
                    Err(_) => bail!("`{wanted}` did not appear in terminal {}", self.name),
                }
            }
        }
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let group = format!("-{}", self.shell.id());
        let _ = signal("TERM", &group);
        for _ in 0..100 {
            if matches!(self.shell.try_wait(), Ok(Some(_))) {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let _ = signal("KILL", &group);
        let _ = self.shell.wait();
    }
}

/// A program that becomes a shell that an interrupt reaches: a process that a script starts in the background ignores
/// it, and a shell keeps ignoring what was ignored at its start.
const SHELL: &str = "import os, signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
os.execvp('bash', ['bash', '--noprofile', '--norc'])";

/// Sends a signal to processes, or to a group with a minus sign, with the shell's own `kill`, which is always there.
fn signal(name: &str, processes: &str) -> Result<()> {
    let status = Command::new("bash").args(["-c", &format!("kill -{name} -- {processes} 2>/dev/null")]).status()?;
    if !status.success() {
        bail!("there is no process {processes}");
    }
    Ok(())
}

/// Returns the reader's search path, preceded by cargo's output folder where that is not `target/`.
fn path() -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::var_os("CARGO_TARGET_DIR").is_none() {
        return Ok(path);
    }
    let places = std::iter::once(target().join("debug")).chain(std::env::split_paths(&path));
    std::env::join_paths(places).context("the search path has a colon in a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_blocks_with_their_options() {
        let text =
            "a\n```sh terminal=2 until=\"is ready\"\nserve\n```\n```text\nis ready\n\n```\n```toml\nx = 1\n```\n";
        let run = Block::Run { terminal: "2".into(), until: Some("is ready".into()), text: "serve".into() };
        assert_eq!(blocks(text).unwrap(), [run, Block::Shows { terminal: None, lines: vec!["is ready".into()] }]);
    }

    #[test]
    fn knows_what_is_not_typed() {
        let text = "```sh stand-in=kafka\ncurl x\n```\n";
        assert_eq!(blocks(text).unwrap(), [Block::Fetch { what: "kafka".into() }]);
        assert!(play(&blocks(text).unwrap(), &std::env::temp_dir(), || Ok(())).is_err());
    }

    #[test]
    fn refuses_a_block_that_is_not_closed() {
        assert!(blocks("```sh\necho\n").is_err());
    }

    #[test]
    fn lets_an_ellipsis_stand_for_anything() {
        assert!(matches("took … ms, … in all", "took 3 ms, 9 in all"));
        assert!(matches("exact", "exact"));
        assert!(!matches("exact", "exact and more"));
        assert!(!matches("took … ms", "took 3 s"));
        assert!(matches("starts…", "starts here"));
    }

    #[test]
    fn does_not_count_the_blanks_between_two_columns() {
        let shown = "session-revoked … mail     push … 1  a… RS256  after … ms";
        for printed in [
            "session-revoked  x|1  mail     push    1  aPpQ  RS256   after 46 ms",
            "session-revoked x mail push 1 aP RS256 after 146 ms",
        ] {
            assert!(matches(shown, printed), "{printed}");
        }
        assert!(!matches("mail push", "mailpush"));
    }

    #[test]
    fn wants_the_lines_in_order() {
        let printed = ["a", "b", "c"].map(str::to_owned);
        assert!(compare(&["a".into(), "c".into()], &printed).is_ok());
        assert!(compare(&["c".into(), "a".into()], &printed).is_err());
        assert!(compare(&["d".into()], &printed).is_err());
    }

    #[test]
    fn notices_that_a_command_failed() {
        let mut terminal = Terminal::open("1", &std::env::temp_dir()).unwrap();
        assert_eq!(terminal.enter("echo one; echo two", None).unwrap(), ["one", "two", ""]);
        assert!(terminal.enter("false\necho never", None).is_err());
    }

    #[test]
    fn leaves_a_command_that_stays_running_once_it_has_said_so() {
        let mut terminal = Terminal::open("1", &std::env::temp_dir()).unwrap();
        assert_eq!(
            terminal.enter("echo ready; tail -f /dev/null & kill $!; echo late", Some("ready")).unwrap(),
            ["ready"]
        );
        terminal.wait_for(&["l…e".into()]).unwrap();
        assert_eq!(terminal.enter("echo more", None).unwrap(), ["more", ""]);
    }

    #[test]
    fn interrupts_the_command_and_not_the_shell() {
        let mut terminal = Terminal::open("1", &std::env::temp_dir()).unwrap();
        let stays = "bash -c 'echo ready; exec sleep 1000' || true";
        terminal.enter(stays, Some("ready")).unwrap();
        terminal.interrupt().unwrap();
        assert_eq!(terminal.enter("echo more", None).unwrap(), ["more", ""]);
    }

    #[test]
    fn does_not_type_into_a_terminal_that_is_busy() {
        let mut terminal = Terminal::open("1", &std::env::temp_dir()).unwrap();
        terminal.soon = Duration::from_millis(100);
        terminal.enter("echo ready; exec tail -f /dev/null", Some("ready")).unwrap();
        assert!(terminal.enter("echo more", None).is_err());
    }
}
