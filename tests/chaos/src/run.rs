//! Many histories on several threads, one alone with its trace, and the shrinking of one that fails.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    kit::Kit,
    panics,
    play::{Outcome, actions, play},
    tally::{Tally, heard, listen},
};

/// The failing histories after which no further one begins.
const ENOUGH: usize = 10;

/// The time for which the first failing history is shrunk at the end of a run.
const SHRINKING: Duration = Duration::from_secs(60);

/// Where the lines of a run go.
pub type Say<'a> = &'a (dyn Fn(&str) + Sync);

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The number of histories; without it, and without `minutes`, those that fit into two minutes.
    pub histories: Option<u64>,
    /// The time after which no further history begins.
    pub minutes: Option<u64>,
    /// The first seed.
    pub seed: u64,
    /// The seed that is run alone, with its trace.
    pub show: Option<u64>,
    /// The seed whose history is shortened while it fails.
    pub shrink: Option<u64>,
    /// The actions, by number, that are left out of the history of `show`.
    pub without: Vec<usize>,
    /// The threads.
    pub threads: usize,
    /// True where a run over few seeds need not make everything fire.
    pub may_miss: bool,
    /// True where the stores have a fault that must be found: they give up segments whose end is not folded. A run of
    /// many histories without it begins with some that have it.
    pub old_way: bool,
    /// The history is run twice for one seed in so many, and must be the same.
    pub twice: u64,
}

impl Default for Options {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (histories, minutes, show, shrink, without) = Default::default();
        Self { histories, minutes, seed: 0, show, shrink, without, threads, may_miss: false, old_way: false, twice: 20 }
    }
}

impl Options {
    fn time(&self) -> Option<Duration> {
        let two = self.histories.is_none().then_some(2);
        self.minutes.or(two).map(|minutes| Duration::from_secs(60 * minutes))
    }
}

/// Runs what the options say, and writes what came of it with `say`.
///
/// # Errors
/// Returns what is wrong, in one sentence.
pub fn run(options: &Options, say: Say<'_>) -> Result<(), String> {
    listen();
    panics::listen();
    match (options.show, options.shrink) {
        (Some(seed), _) => one(&Kit::new(options.old_way)?, seed, &options.without, say),
        (None, Some(seed)) => shrink(&Kit::new(options.old_way)?, seed, None, say),
        (None, None) => many(options, say),
    }
}

/// Plays a history. A panic, on whichever thread, is a broken promise as well.
fn played(kit: &Kit, seed: u64, without: &[usize], traced: bool) -> Outcome {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(kit, seed, without, traced)));
    let mut outcome = outcome.unwrap_or_default();
    if let Some(panic) = panics::heard() {
        outcome.fault = Some(panic);
    }
    outcome
}

fn one(kit: &Kit, seed: u64, without: &[usize], say: Say<'_>) -> Result<(), String> {
    let first = played(kit, seed, without, true);
    first.trace.iter().for_each(|line| say(line));
    let again = played(kit, seed, without, true);
    if let Some((line, other)) = first.trace.iter().zip(&again.trace).find(|(line, other)| line != other) {
        say(&format!("the second time it was not\n{line}\nbut\n{other}"));
    }
    say(&format!("seed {seed}: hash {:016x}, once more {:016x}", first.hash, again.hash));
    match first.fault {
        Some(why) => Err(format!("seed {seed}: {why}")),
        None if first.hash != again.hash => Err(format!("seed {seed} has another history the second time")),
        None => Ok(()),
    }
}

/// Leaves out actions while the history fails, for so long, and says how what is left is played.
fn shrink(kit: &Kit, seed: u64, most: Option<Duration>, say: Say<'_>) -> Result<(), String> {
    let began = now();
    let fails = |without: &BTreeSet<usize>| {
        let without: Vec<usize> = without.iter().copied().collect();
        played(kit, seed, &without, false).fault
    };
    let mut without = BTreeSet::new();
    let Some(mut why) = fails(&without) else { return Err(format!("seed {seed} does not fail")) };
    let all = actions(seed);
    let mut size = all.div_ceil(2);
    'shorter: loop {
        let left: Vec<usize> = (0..all).filter(|at| !without.contains(at)).collect();
        let mut shorter = false;
        for some in left.chunks(size) {
            if most.is_some_and(|most| passed(began) > most) {
                break 'shorter;
            }
            let mut tried = without.clone();
            tried.extend(some);
            if let Some(still) = fails(&tried) {
                (without, why, shorter) = (tried, still, true);
            }
        }
        if size == 1 && !shorter {
            break;
        }
        size = size.div_ceil(2).max(1);
    }
    say(&format!("seed {seed}: {} of {all} actions are left", all - without.len()));
    let list: Vec<usize> = without.into_iter().collect();
    let outcome = played(kit, seed, &list, true);
    outcome.trace.iter().for_each(|line| say(line));
    let list: Vec<String> = list.iter().map(usize::to_string).collect();
    say(&format!("once more: cargo xtask simulation --show {seed} --without {}", list.join(",")));
    Err(format!("seed {seed}: {}", outcome.fault.unwrap_or(why)))
}

/// What came of many histories.
#[derive(Default)]
struct Found {
    tally: Tally,
    /// The seeds that failed, with the reasons.
    faults: Vec<(u64, String)>,
    played: u64,
    twice: u64,
}

#[expect(clippy::disallowed_methods, reason = "histories are played beside each other, and know nothing of each other")]
fn many(options: &Options, say: Say<'_>) -> Result<(), String> {
    let began = now();
    let next = AtomicU64::new(options.seed);
    let stop = AtomicBool::new(false);
    let found = Mutex::new(Found::default());
    let work = || -> Result<(), String> {
        let kit = Kit::new(options.old_way)?;
        while !stop.load(Ordering::Relaxed) && options.time().is_none_or(|most| passed(began) < most) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if options.histories.is_some_and(|most| seed - options.seed >= most) {
                break;
            }
            let outcome = played(&kit, seed, &[], false);
            let mut fault = outcome.fault;
            let twice = fault.is_none() && options.twice > 0 && seed.is_multiple_of(options.twice);
            if twice && played(&kit, seed, &[], false).hash != outcome.hash {
                fault = Some("it has another history the second time".into());
            }
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.tally.merge(&outcome.tally);
            found.played += 1;
            found.twice += u64::from(twice);
            if let Some(why) = fault {
                say(&format!("seed {seed} fails after {:.1} s: {why}", passed(began).as_secs_f64()));
                say(&format!("once more: cargo xtask simulation --show {seed}"));
                found.faults.push((seed, why));
                if found.faults.len() >= ENOUGH {
                    stop.store(true, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.threads.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?)
    })?;
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.tally.merge(&heard());
    say(&found.tally.table());
    let took = passed(began).as_secs_f64();
    let Found { tally, faults, played, twice } = found;
    say(&format!("{played} histories in {took:.1} s, {:.1} each second", played as f64 / took.max(0.001)));
    if let Some((seed, _)) = faults.first() {
        let _ = shrink(&Kit::new(options.old_way)?, *seed, Some(SHRINKING), say);
    }
    let never = tally.never();
    let fired = if never.is_empty() { tally.brief() } else { format!("never: {}", never.join("; ")) };
    let seeds = format!("from seed {}, {twice} of them twice, {took:.0} s", options.seed);
    let found = faults.len();
    say(&format!("proof: simulation | tried {played} histories ({seeds}) | fired {fired} | found {found}"));
    if let Some((seed, why)) = faults.first() {
        return Err(format!("{} of {played} histories fail; seed {seed}: {why}", faults.len()));
    }
    if !never.is_empty() && !options.may_miss {
        return Err(format!("nothing is shown of what never fired: {}", never.join("; ")));
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "how long a run takes is no part of any history")]
fn now() -> Instant {
    Instant::now()
}

fn passed(began: Instant) -> Duration {
    now().saturating_duration_since(began)
}
