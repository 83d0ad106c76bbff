//! Planted faults: each is put into a copy of the workspace by itself, and the tests that are named with it must fail
//! (hardening H8).

mod fault;
mod page;
mod tree;

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use self::fault::{Fault, Test};
pub(crate) use self::page::write;
use self::tree::{End, Tree};
use crate::process::{Watch, clock, root, say, target};

/// The time that one test may take.
const LIMIT: Duration = Duration::from_secs(300);
/// The time after which a test that may hang with its fault counts as hanging.
const HANGS: Duration = Duration::from_secs(60);
/// The time that a command may take in the place of a test.
const LIMIT_PART: Duration = Duration::from_secs(1800);

/// The options of the run.
#[derive(Default)]
pub(crate) struct Options {
    /// The names of the faults; of all when there are none.
    pub(crate) only: Vec<String>,
    /// The number of faults that are drawn from these.
    pub(crate) sample: Option<u64>,
    /// The seed of the drawing.
    pub(crate) seed: Option<u64>,
}

/// What became of a fault.
struct Row {
    name: String,
    what: String,
    test: String,
    took: Duration,
    verdict: Verdict,
}

enum Verdict {
    Found,
    Survived,
    /// Nothing was shown, for this reason.
    Broken(String),
}

/// The tests of one target, built.
type Built = Result<(PathBuf, PathBuf), String>;

/// Prints the faults with the tests that must fail.
///
/// # Errors
/// Returns an error when a file does not read.
pub(crate) fn list() -> Result<()> {
    for fault in fault::read_all(&root())? {
        say(&format!("{:<28} {} {}", fault.name, fault.promise, fault.fault));
    }
    Ok(())
}

/// Plants each fault by itself and runs its tests, after they have passed without it.
///
/// # Errors
/// Returns an error when a fault survives, or when one shows nothing.
pub(crate) fn run(options: &Options) -> Result<()> {
    let (faults, seed) = chosen(options)?;
    let whole = Watch::start();
    say(&format!("{} faults, seed {seed}", faults.len()));
    let tree = Tree::make()?;
    let mut sound = BTreeMap::new();
    let mut rows = Vec::new();
    let mut groups = BTreeSet::new();
    for (number, fault) in (1..).zip(&faults) {
        let group = fault.caught_by.first().map(|test| (&test.package, &test.target));
        if let Some((package, target)) = group.filter(|group| groups.insert(*group)) {
            say(&format!("==> {package}, {target}: the tests without a fault [{}]", clock(whole.elapsed())));
        }
        let watch = Watch::start();
        let verdict = without(&tree, &faults, fault, &mut sound).and_then(|()| with(&tree, fault));
        let row = Row {
            name: fault.name.clone(),
            what: fault.fault.clone(),
            test: caught_by(fault).join(", "),
            took: watch.elapsed(),
            verdict: verdict.map_or_else(
                |error| Verdict::Broken(format!("{error:#}")),
                |(verdict, said)| {
                    if !said.is_empty() {
                        say(&format!("    {said}"));
                    }
                    verdict
                },
            ),
        };
        say(&format!("[{number} of {}, {}] {}", faults.len(), clock(whole.elapsed()), row.line()));
        rows.push(row);
    }
    report(&rows, seed, whole.elapsed())
}

/// Returns the faults in the order in which they are planted, and the seed.
fn chosen(options: &Options) -> Result<(Vec<Fault>, u64)> {
    let mut faults = fault::read_all(&root())?;
    if let Some(stranger) = options.only.iter().find(|name| faults.iter().all(|fault| fault.name != **name)) {
        bail!("no fault `{stranger}`; `cargo xtask planted --list` lists them");
    }
    if !options.only.is_empty() {
        faults.retain(|fault| options.only.contains(&fault.name));
    }
    let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one(0) >> 32);
    if let Some(sample) = options.sample {
        let mut state = seed;
        let mut drawn: Vec<(u64, Fault)> = faults.into_iter().map(|fault| (split_mix(&mut state), fault)).collect();
        drawn.sort_by_key(|(number, _)| *number);
        faults = drawn.into_iter().map(|(_, fault)| fault).take(usize::try_from(sample)?).collect();
    }
    if faults.is_empty() {
        bail!("no fault is chosen");
    }
    // One target after the other, and in it one file after the other, so that little is built anew.
    faults.sort_by_cached_key(|fault| {
        let file = fault.change.first().map(|change| change.file.clone());
        (fault.part.is_some(), fault.caught_by.first().cloned().map(|test| (test.package, test.target)), file)
    });
    Ok((faults, seed))
}

/// Runs the tests of a fault without it, unless that was done before. All tests of a target are run at once.
fn without(tree: &Tree, all: &[Fault], fault: &Fault, sound: &mut BTreeMap<String, End>) -> Result<()> {
    if let Some(part) = &fault.part {
        let shown = part.shown();
        if !sound.contains_key(&shown) {
            sound.insert(shown.clone(), tree.run_part(part, LIMIT_PART)?);
        }
    }
    for test in &fault.caught_by {
        if sound.contains_key(&test.shown()) {
            continue;
        }
        let same = |other: &&Test| (&other.package, &other.target) == (&test.package, &test.target);
        let group: BTreeSet<&Test> = all.iter().flat_map(|fault| &fault.caught_by).filter(same).collect();
        let (program, folder) = tree.build(&test.package, &test.target)?;
        for test in group {
            sound.insert(test.shown(), tree.run(test, &program, &folder, LIMIT)?);
        }
    }
    for shown in caught_by(fault) {
        match sound.get(&shown) {
            Some(End::Passed) => {}
            Some(End::Failed(said)) => bail!("without the fault {shown} fails, too: {said}"),
            Some(End::NotRun(why)) => bail!("{why}"),
            Some(End::Hung) | None => bail!("without the fault {shown} does not end"),
        }
    }
    Ok(())
}

/// Runs the tests of a fault with it. Returns what they said first, too.
fn with(tree: &Tree, fault: &Fault) -> Result<(Verdict, String)> {
    let _planted = tree.plant(fault)?;
    if let Some(part) = &fault.part {
        return verdict(tree.run_part(part, LIMIT_PART)?, false);
    }
    let mut built: BTreeMap<(&str, &str), Built> = BTreeMap::new();
    let mut first = String::new();
    for test in &fault.caught_by {
        let made = built
            .entry((&test.package, &test.target))
            .or_insert_with(|| tree.build(&test.package, &test.target).map_err(|error| format!("{error:#}")));
        let (program, folder) = made.as_ref().map_err(|why| anyhow::anyhow!("with the fault {why}"))?;
        let limit = if test.may_hang { HANGS } else { LIMIT };
        let (verdict, said) = verdict(tree.run(test, program, folder, limit)?, test.may_hang)?;
        if matches!(verdict, Verdict::Survived) {
            return Ok((verdict, format!("{} passes", test.shown())));
        }
        if first.is_empty() {
            first = said;
        }
    }
    Ok((Verdict::Found, first))
}

fn verdict(end: End, may_hang: bool) -> Result<(Verdict, String)> {
    Ok(match end {
        End::Passed => (Verdict::Survived, String::new()),
        End::Failed(said) => (Verdict::Found, said),
        End::Hung if may_hang => (Verdict::Found, "the test does not end".to_owned()),
        End::Hung => bail!("with the fault the test does not end; `may_hang` allows that"),
        End::NotRun(why) => bail!("with the fault {why}"),
    })
}

/// Returns the names of what must fail.
fn caught_by(fault: &Fault) -> Vec<String> {
    let part = fault.part.iter().map(fault::Part::shown);
    fault.caught_by.iter().map(Test::shown).chain(part).collect()
}

impl Row {
    fn line(&self) -> String {
        let verdict = match &self.verdict {
            Verdict::Found => "found".to_owned(),
            Verdict::Survived => "SURVIVED".to_owned(),
            Verdict::Broken(why) => format!("SHOWS NOTHING: {why}"),
        };
        format!("{:<28} {:>4} s  {}: {verdict}", self.name, self.took.as_secs(), self.test)
    }
}

/// Prints the table and the last line, and writes the table as JSON.
fn report(rows: &[Row], seed: u64, took: Duration) -> Result<()> {
    let found = rows.iter().filter(|row| matches!(row.verdict, Verdict::Found)).count();
    let survived = rows.iter().filter(|row| matches!(row.verdict, Verdict::Survived)).count();
    say("");
    for row in rows {
        say(&row.line());
    }
    let table: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name,
                "fault": row.what,
                "test": row.test,
                "seconds": row.took.as_secs_f64(),
                "found": matches!(row.verdict, Verdict::Found),
            })
        })
        .collect();
    let path = target().join("planted/table.json");
    std::fs::write(&path, serde_json::to_string_pretty(&table)?).context("could not write the table")?;
    let others: Vec<&str> =
        rows.iter().filter(|row| !matches!(row.verdict, Verdict::Found)).map(|row| row.name.as_str()).collect();
    if !others.is_empty() {
        say(&format!("again: cargo xtask planted --only {}", others.join(",")));
    }
    say(&format!(
        "proof: planted | tried {} faults, seed {seed} | fired {found} noticed by their tests, in {} | found {}",
        rows.len(),
        clock(took),
        others.len()
    ));
    if !others.is_empty() {
        bail!("{survived} faults survived, {} showed nothing", others.len() - survived);
    }
    Ok(())
}

/// Returns the next of a sequence of numbers that a seed determines.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
