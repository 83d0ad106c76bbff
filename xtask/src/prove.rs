//! The proof: each part tries to break a promise, and one table says what was tried, what fired and what was found.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{Watch, clock, follow, say};

/// The options of the proof.
#[derive(Default)]
pub(crate) struct Options {
    /// The hours that all parts take together; without them the parts run in their short form.
    pub(crate) hours: Option<u64>,
    /// The parts that run; without a name all of them do.
    pub(crate) only: Vec<String>,
    /// The seed of every part that draws; without it each part draws one and prints it.
    pub(crate) seed: Option<u64>,
}

/// A part of the proof, which is a command of this program.
struct Part {
    name: &'static str,
    /// What it tries to break.
    what: &'static str,
    /// The words of the short form, below ten minutes for all parts together on two cores; some parts have only a long
    /// one.
    short: Option<&'static [&'static str]>,
    /// The words of the long form, from the minutes that the part has.
    long: fn(u64) -> Vec<String>,
    /// The share of the time of the long form, in percent.
    share: u64,
    /// Whether it takes a seed.
    seed: bool,
}

const PARTS: &[Part] = &[
    Part {
        name: "power-cuts",
        what: "what a 2xx said is on the disk after a power cut",
        short: Some(&["--cuts", "50"]),
        long: |minutes| count("--cuts", 16 * minutes),
        share: 35,
        seed: true,
    },
    Part {
        name: "simulation",
        what: "router and store hold what a model holds, whatever fails when",
        // One history in 150 fails today (tests/chaos/README.md), so a short form would show nothing of a change.
        short: None,
        long: |minutes| count("--minutes", minutes),
        share: 40,
        seed: true,
    },
    Part {
        name: "soak",
        what: "the sums of a thousand streams add up, and what the process takes is flat",
        short: None,
        long: |minutes| count("--minutes", minutes),
        share: 25,
        seed: true,
    },
    Part {
        name: "planted",
        what: "a test fails for each fault that is put into the code",
        short: None,
        long: |_| Vec::new(),
        share: 0,
        seed: false,
    },
    Part {
        name: "disk-errors",
        what: "a disk that fails ends what it must, and loses nothing",
        short: None,
        long: |_| Vec::new(),
        share: 0,
        seed: true,
    },
    Part {
        name: "full-disk",
        what: "a full disk closes intake and nothing else, until there is room",
        short: None,
        long: |_| Vec::new(),
        share: 0,
        seed: true,
    },
];

/// What a part said of itself in the last line that it printed.
#[derive(Debug, PartialEq)]
struct Said {
    tried: String,
    fired: String,
    found: String,
}

struct Row {
    name: &'static str,
    said: Option<Said>,
    took: Duration,
    fault: Option<String>,
}

/// Runs the parts one after another, all of them even when one fails, and prints the table.
///
/// # Errors
/// Returns an error when a part found a fault, tried too little or did not say what it tried, or when `only` names a
/// part that does not exist.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(stranger) = options.only.iter().find(|name| PARTS.iter().all(|part| part.name != **name)) {
        bail!("the proof has no part `{stranger}`; its parts are {}", names());
    }
    let named = |part: &&Part| options.only.iter().any(|name| name == part.name);
    let all = |part: &&Part| options.only.is_empty() && (options.hours.is_some() || part.short.is_some());
    let parts: Vec<&Part> = PARTS.iter().filter(|part| named(part) || all(part)).collect();
    let whole: u64 = parts.iter().map(|part| part.share).sum();
    let clock_of_all = Watch::start();
    let mut rows = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let mut words: Vec<String> = match options.hours {
            None => part.short.into_iter().flatten().map(|word| (*word).to_owned()).collect(),
            Some(hours) => (part.long)((hours * 60 * part.share / whole.max(1)).max(3)),
        };
        if let Some(seed) = options.seed.filter(|_| part.seed) {
            words.extend(count("--seed", seed));
        }
        let at = clock(clock_of_all.elapsed());
        say(&format!("==> {} ({} of {}): {} [{at}]", part.name, number + 1, parts.len(), part.what));
        let row = play(part, &words, options.hours)?;
        say(&format!("<== {}", line(&row)));
        rows.push(row);
    }
    say("");
    for row in &rows {
        say(&line(row));
    }
    let failed: Vec<&str> = rows.iter().filter(|row| row.fault.is_some()).map(|row| row.name).collect();
    say(&format!(
        "proof: {} of {} parts hold, in {}",
        rows.len() - failed.len(),
        rows.len(),
        clock(clock_of_all.elapsed())
    ));
    if !failed.is_empty() {
        bail!("not proven: {}", failed.join(", "));
    }
    Ok(())
}

/// Lists the parts.
pub(crate) fn names() -> String {
    PARTS.iter().map(|part| part.name).collect::<Vec<_>>().join(", ")
}

fn play(part: &Part, words: &[String], hours: Option<u64>) -> Result<Row> {
    let own = std::env::current_exe().context("where this program lies is not known")?;
    let watch = Watch::start();
    let mut said = None;
    // A part has limits of its own; this one only ends a run that hangs.
    let limit = Duration::from_secs(hours.map_or(45 * 60, |hours| hours * 2 * 3600));
    let result = follow(Command::new(own).arg(part.name).args(words), limit, |line| {
        if let Some(found) = parse(line) {
            said = Some(found);
        }
    });
    let fault = match (&result, &said) {
        (Err(error), _) => Some(format!("{error:#}")),
        (Ok(()), None) => Some("it did not say what it tried".to_owned()),
        (Ok(()), Some(said)) if said.found != "0" => Some(format!("it found {} and ended well", said.found)),
        (Ok(()), Some(_)) => None,
    };
    Ok(Row { name: part.name, said, took: watch.elapsed(), fault })
}

/// Parses `proof: <part> | tried <what> | fired <what> | found <number>`.
fn parse(line: &str) -> Option<Said> {
    let mut columns = line.trim_start().strip_prefix("proof: ")?.split(" | ").skip(1);
    let mut column = |name: &str| Some(columns.next()?.strip_prefix(name)?.trim().to_owned());
    Some(Said { tried: column("tried")?, fired: column("fired")?, found: column("found")? })
}

fn line(row: &Row) -> String {
    let mark = if row.fault.is_some() { "FAILED" } else { "ok" };
    let (tried, fired, found) =
        row.said.as_ref().map_or(("", "", "?"), |said| (&said.tried[..], &said.fired[..], &said.found[..]));
    let mut line = format!("{mark:<7} {:<12} {:>6}  found {found:<3} tried {tried}", row.name, clock(row.took));
    if !fired.is_empty() {
        line.push_str(&format!("\n{:30}fired {fired}", ""));
    }
    if let Some(fault) = &row.fault {
        line.push_str(&format!("\n{:30}{fault}", ""));
    }
    line
}

fn count(name: &str, number: u64) -> Vec<String> {
    vec![name.to_owned(), number.to_string()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_part_says_of_itself() {
        let said = parse("  proof: power cuts | tried 50 cuts, 900 events | fired torn 12, missing 30 | found 0");
        let said = said.unwrap();
        assert_eq!(
            (&said.tried[..], &said.fired[..], &said.found[..]),
            ("50 cuts, 900 events", "torn 12, missing 30", "0")
        );
    }

    #[test]
    fn reads_nothing_out_of_other_lines() {
        assert_eq!(parse("  proof: power cuts | tried 50 cuts | found 0"), None);
        assert_eq!(parse("50 cuts, seed 7"), None);
    }
}
