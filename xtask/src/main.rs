#![doc = include_str!("../README.md")]

mod api;
mod clients;
mod crash;
mod deny;
mod disk;
mod front;
mod full;
mod fuzz;
mod kafka;
mod licence;
mod metrics;
mod planted;
mod power;
mod process;
mod prove;
mod python;
mod simulation;
mod soak;
mod suite;
mod tutorial;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::process::say;

const USAGE: &str = "\
Runs the tests of setgate.

usage: cargo xtask <command>

commands:
  test                 everything: format, clippy, docs, licences, tests, doc tests, demo, tutorial, real clients and
                       brokers, crash tests
  test --only a,b      only the named steps; `cargo xtask steps` lists them
  steps                names the steps of `test`
  deny                 licences, sources and duplicates of the dependency tree
  crash [--kills N] [--seed N] [--keep]
                       kills a gateway under load N times (50) and has an outside checker compare the books
  power-cuts [--cuts N] [--seed N] [--keep] [--swallow all|directory|watermark|journal]
                       cuts the power of a gateway under load N times (50): its folder becomes what a disk may have then;
                       `--swallow` plants a fault, with which the test must fail
  prove [--hours N] [--only a,b] [--seed N]
                       tries to break each promise, in a short form or for N hours: a table says what was tried, how often
                       what fired, and what was found
  planted [--only a,b] [--sample N] [--seed N]
                       puts one fault at a time into a copy of the workspace; the tests named with it must fail
  planted --list       names the faults of tests/planted
  planted --write-docs writes docs/design/planted.md anew from them
  soak [--minutes N] [--streams N] [--seed N] [--keep] [--plant taken|forgotten|canary]
                       half load on N streams (1000) by every method for N minutes (60), receivers that die and kills every few
                       seconds: the sums add up, what the process takes is flat, no secret is in the log; `--plant` plants a
                       fault, with which the test must fail
  disk-errors [--runs N] [--seed N] [--keep] [--only KIND|KIND]
                       has the disk of a gateway under load fail N times, by default once in each way: writes, flushes,
                       reads, new files, renames, room; it must go on or end as it says, and lose nothing
  full-disk [--rounds N] [--seed N] [--keep]
                       fills a small file system with events N times (2): refused, delivered, trimmed, accepted again
  clients              Python, Node, a browser and nginx against the gateway
  kafka [--only a,b] [--keep]
                       what the gateway promises about Kafka, shown with a real Apache Kafka
  kafka crash [--kills N] [--seed N] [--keep]
                       kills gateway and broker in turn under load, N times (18), and reads the topics back
  kafka up [--three] [--folder F]
                       brings up a broker, or three, with TLS, users and ACLs, and stays until ^C
  bench-kafka [OPTIONS OF BENCH]
                       `setgate_bench kafka kafka-source` beside a broker that is brought up for it; a release build
  api-docs             writes docs/api.md anew from the OpenAPI documents
  tutorial             runs the commands of docs/tutorial.md
  simulation [--histories N] [--minutes N] [--seed N]
                       plays histories of router and store on a simulated clock, as many as fit into two minutes
  simulation --show N [--without 1,2,3] | --shrink N
                       plays the history of one seed and shows it; looks for what its failure does not need
  fuzz [--seconds N]   runs each fuzz target for N seconds (60); needs cargo-fuzz
  fuzz --replay        only the seeds and 10,000 mutations for each target; needs nothing
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    match words {
        [] | ["help" | "--help" | "-h"] => {
            say(USAGE);
            Ok(())
        }
        ["test"] => suite::test(None),
        ["test", "--only", names] => suite::test(Some(&names.split(',').collect::<Vec<_>>())),
        ["steps"] => {
            suite::names();
            Ok(())
        }
        ["deny"] => deny::check(),
        ["crash", options @ ..] => crash::run(&crash_options(crash::Options::default(), options)?),
        ["power-cuts", options @ ..] => power::run(&power_options(options)?),
        ["prove", options @ ..] => prove::run(&prove_options(options)?),
        ["planted", "--list"] => planted::list(),
        ["planted", "--write-docs"] => planted::write(),
        ["planted", options @ ..] => planted::run(&planted_options(options)?),
        ["soak", options @ ..] => soak::run(&soak_options(options)?),
        ["disk-errors", options @ ..] => disk::run(&disk_options(options)?),
        ["full-disk", options @ ..] => full::run(&full_options(options)?),
        ["clients"] => clients::run(),
        ["bench-kafka", options @ ..] => kafka::bench(options),
        ["kafka", "up", options @ ..] => kafka::up(options),
        ["kafka", "crash", options @ ..] => {
            kafka::crash(&crash_options(crash::Options { kills: kafka::KILLS, ..Default::default() }, options)?)
        }
        ["kafka", options @ ..] => kafka::claims(options),
        ["api-docs"] => api::write(),
        ["tutorial"] => tutorial::run(),
        ["simulation", options @ ..] => simulation::run(&simulation_options(options)?),
        ["fuzz"] => fuzz::run(60),
        ["fuzz", "--replay"] => fuzz::replay(),
        ["fuzz", "--seconds", seconds] => fuzz::run(number("--seconds", Some(seconds))?),
        [other, ..] => bail!("no command `{other}`; `cargo xtask help` lists them"),
    }
}

fn crash_options(mut options: crash::Options, words: &[&str]) -> Result<crash::Options> {
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match *word {
            "--kills" => options.kills = number(word, rest.next())?,
            "--seed" => options.seed = Some(number(word, rest.next())?),
            "--keep" => options.keep = true,
            other => bail!("crash has no option `{other}`"),
        }
    }
    Ok(options)
}

fn simulation_options(words: &[&str]) -> Result<simulation::Options> {
    let mut options = simulation::Options::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match *word {
            "--histories" => options.histories = Some(number(word, rest.next())?),
            "--minutes" => options.minutes = Some(number(word, rest.next())?),
            "--seed" => options.seed = Some(number(word, rest.next())?),
            // The program says itself what it has no option for.
            other => options.more.push(other.to_owned()),
        }
    }
    Ok(options)
}

fn power_options(words: &[&str]) -> Result<power::Options> {
    let mut options = power::Options::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match *word {
            "--cuts" => options.cuts = number(word, rest.next())?,
            "--seed" => options.seed = Some(number(word, rest.next())?),
            "--keep" => options.keep = true,
            "--swallow" | "--models" | "--ways" | "--moment" => {
                let value = rest.next().with_context(|| format!("{word} needs a value"))?;
                options.more.extend([(*word).to_owned(), (*value).to_owned()]);
            }
            other => bail!("power-cuts has no option `{other}`"),
        }
    }
    Ok(options)
}

fn prove_options(words: &[&str]) -> Result<prove::Options> {
    let mut options = prove::Options::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match *word {
            "--hours" => options.hours = Some(number(word, rest.next())?),
            "--seed" => options.seed = Some(number(word, rest.next())?),
            "--only" => {
                let names = rest.next().context("--only needs the names of parts")?;
                options.only = names.split(',').map(str::to_owned).collect();
            }
            other => bail!("prove has no option `{other}`"),
        }
    }
    Ok(options)
}

fn planted_options(words: &[&str]) -> Result<planted::Options> {
    let mut options = planted::Options::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match *word {
            "--only" => {
                let names = rest.next().context("--only needs names")?;
                options.only = names.split(',').map(str::to_owned).collect();
            }
            "--sample" => options.sample = Some(number(word, rest.next())?),
            "--seed" => options.seed = Some(number(word, rest.next())?),
            other => bail!("planted has no option `{other}`"),
        }
    }
    Ok(options)
}

fn soak_options(words: &[&str]) -> Result<soak::Options> {
    let mut options = soak::Options::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match *word {
            "--minutes" => options.minutes = number(word, rest.next())?,
            "--streams" => options.streams = number(word, rest.next())?,
            "--seed" => options.seed = Some(number(word, rest.next())?),
            "--keep" => options.keep = true,
            "--plant" => {
                let value = rest.next().with_context(|| format!("{word} needs a value"))?;
                options.more.extend([(*word).to_owned(), (*value).to_owned()]);
            }
            other => bail!("soak has no option `{other}`"),
        }
    }
    Ok(options)
}

fn disk_options(words: &[&str]) -> Result<disk::Options> {
    let mut options = disk::Options::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match *word {
            "--runs" => options.runs = Some(number(word, rest.next())?),
            "--seed" => options.seed = Some(number(word, rest.next())?),
            "--keep" => options.keep = true,
            "--verbose" => options.more.push((*word).to_owned()),
            "--only" => {
                let value = rest.next().with_context(|| format!("{word} needs a value"))?;
                options.more.extend([(*word).to_owned(), (*value).to_owned()]);
            }
            other => bail!("disk-errors has no option `{other}`"),
        }
    }
    Ok(options)
}

fn full_options(words: &[&str]) -> Result<full::Options> {
    let mut options = full::Options::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match *word {
            "--rounds" => options.rounds = number(word, rest.next())?,
            "--seed" => options.seed = Some(number(word, rest.next())?),
            "--keep" => options.keep = true,
            other => bail!("full-disk has no option `{other}`"),
        }
    }
    Ok(options)
}

fn number(name: &str, value: Option<&&str>) -> Result<u64> {
    let value = value.with_context(|| format!("{name} needs a number"))?;
    value.parse().with_context(|| format!("{name} needs a number, not `{value}`"))
}
