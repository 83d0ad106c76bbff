//! The test command: every step in order, each timed, with a summary at the end.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::process::{Watch, build_gateway, cargo, clock, finish, follow, need_curl, say};
use crate::{api, clients, crash, deny, front, kafka, metrics, tutorial};

/// The tests that a step has counted.
#[derive(Clone, Copy, Default)]
struct Count {
    passed: usize,
    failed: usize,
    ignored: usize,
}

struct Step {
    name: &'static str,
    what: &'static str,
    run: fn(&mut Count) -> Result<()>,
}

const STEPS: &[Step] = &[
    Step { name: "format", what: "the code is formatted", run: format },
    Step { name: "deny", what: "licences, sources and duplicates of the dependencies", run: |_| deny::check() },
    Step { name: "clippy", what: "clippy, warnings denied, with all features and with none", run: clippy },
    Step { name: "docs", what: "rustdoc, warnings denied", run: docs },
    Step { name: "api-docs", what: "docs/api.md is what the OpenAPI documents say", run: |_| api::check() },
    Step { name: "tests", what: "unit and integration tests of all crates", run: tests },
    Step {
        name: "metrics",
        what: "promtool finds nothing in the metrics of a gateway at work",
        run: |_| metrics::check(),
    },
    Step { name: "doctests", what: "examples in the documentation", run: doctests },
    Step { name: "examples", what: "the programs of examples/", run: examples },
    Step { name: "demo", what: "setgate demo prints what the README shows", run: demo },
    Step { name: "tutorial", what: "the commands of docs/tutorial.md", run: |_| tutorial::run() },
    Step { name: "kafka-tutorial", what: "the commands of docs/kafka.md", run: |_| tutorial::run_kafka() },
    Step {
        name: "clients",
        what: "clients that are not ours: Python, Node, a browser, nginx",
        run: |_| clients::run(),
    },
    Step {
        name: "crash",
        what: "50 kills under load, checked from outside",
        run: |_| crash::run(&crash::Options::default()),
    },
    Step { name: "kafka", what: "what is promised about Kafka, with a real Apache Kafka", run: |_| kafka::claims(&[]) },
    Step {
        name: "kafka-crash",
        what: "gateway and broker killed in turn, topics read back",
        run: |_| kafka::crash(&crash::Options { kills: kafka::KILLS, ..Default::default() }),
    },
];

/// Lists the steps.
pub(crate) fn names() {
    for step in STEPS {
        say(&format!("{:<11} {}", step.name, step.what));
    }
}

/// Runs the steps, all of them even when one fails.
///
/// # Errors
/// Returns an error when a step failed, or when `only` names one that does not exist.
pub(crate) fn test(only: Option<&[&str]>) -> Result<()> {
    if let Some(stranger) = only.unwrap_or_default().iter().find(|name| STEPS.iter().all(|step| step.name != **name)) {
        bail!("no step `{stranger}`; `cargo xtask steps` lists them");
    }
    let whole = Watch::start();
    let mut count = Count::default();
    let mut lines = Vec::new();
    let mut failed_steps = 0;
    for step in STEPS.iter().filter(|step| only.is_none_or(|names| names.contains(&step.name))) {
        say(&format!("==> {}: {} [{}]", step.name, step.what, clock(whole.elapsed())));
        let watch = Watch::start();
        let mut own = Count::default();
        let result = (step.run)(&mut own);
        let took = clock(watch.elapsed());
        let tests = if own.passed + own.failed > 0 {
            format!(" ({} tests passed, {} failed, {} ignored)", own.passed, own.failed, own.ignored)
        } else {
            String::new()
        };
        count = Count {
            passed: count.passed + own.passed,
            failed: count.failed + own.failed,
            ignored: count.ignored + own.ignored,
        };
        let line = match result {
            Ok(()) => format!("ok      {:<11} {took}{tests}", step.name),
            Err(error) => {
                failed_steps += 1;
                format!("FAILED  {:<11} {took}{tests}: {error:#}", step.name)
            }
        };
        say(&format!("<== {line}"));
        lines.push(line);
    }
    say("");
    for line in &lines {
        say(line);
    }
    let steps = lines.len();
    say(&format!("steps: {} passed, {failed_steps} failed, in {}", steps - failed_steps, clock(whole.elapsed())));
    say(&format!("tests: {} passed, {} failed, {} ignored", count.passed, count.failed, count.ignored));
    if failed_steps > 0 {
        bail!("{failed_steps} of {steps} steps failed");
    }
    Ok(())
}

fn format(_: &mut Count) -> Result<()> {
    finish(cargo().args(["fmt", "--all", "--check"]))
}

fn clippy(_: &mut Count) -> Result<()> {
    // With the simulation, and with the store's seams that it needs.
    let all = ["--features", "setgate_chaos/play", "--locked", "--all-targets", "--quiet"];
    finish(cargo().args(["clippy", "--workspace"]).args(all).args(["--", "--deny", "warnings"]))?;
    // Few build the smallest variant, so it is checked here. The whole workspace is named, so that the libraries have
    // the features of the first pass and are not checked again; only what depends on a feature is.
    let bare = ["--workspace", "--exclude", "setgate_kafka", "--no-default-features"];
    finish(cargo().arg("clippy").args(bare).args(all).args(["--", "--deny", "warnings"]))
}

fn docs(_: &mut Count) -> Result<()> {
    finish(cargo().env("RUSTDOCFLAGS", "--deny warnings").args([
        "doc",
        "--locked",
        "--workspace",
        "--no-deps",
        "--quiet",
    ]))
}

fn tests(count: &mut Count) -> Result<()> {
    need_curl()?;
    counted(&["test", "--locked", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"], 100, count)
}

fn doctests(count: &mut Count) -> Result<()> {
    counted(&["test", "--locked", "--workspace", "--doc", "--no-fail-fast"], 0, count)
}

/// Runs tests and counts them; fewer than `least` mean that they were not found, not that they passed.
fn counted(arguments: &[&str], least: usize, count: &mut Count) -> Result<()> {
    let result = follow(cargo().args(arguments), Duration::from_secs(2700), |line| {
        let own = counts(line);
        count.passed += own.passed;
        count.failed += own.failed;
        count.ignored += own.ignored;
    });
    result?;
    if count.passed < least {
        bail!("only {} tests ran, at least {least} are expected", count.passed);
    }
    if count.ignored > 0 {
        bail!("{} tests are ignored; none may be", count.ignored);
    }
    Ok(())
}

fn examples(_: &mut Count) -> Result<()> {
    // The whole workspace is built, so that the libraries are those that the tests were built with.
    finish(cargo().args(["build", "--locked", "--workspace", "--examples", "--quiet"]))
}

fn demo(_: &mut Count) -> Result<()> {
    let gateway = build_gateway()?;
    let mut printed = Vec::new();
    // Notes go to the standard error; a user in a terminal sees both.
    let mut both = std::process::Command::new("sh");
    both.args(["-c", "exec \"$0\" demo 2>&1"]).arg(gateway);
    follow(&mut both, Duration::from_secs(120), |line| printed.push(line.to_owned()))?;
    front::shows(&printed)
}

/// Parses `test result: ok. 12 passed; 0 failed; 1 ignored; ...`.
fn counts(line: &str) -> Count {
    let mut count = Count::default();
    let Some(rest) = line.trim_start().strip_prefix("test result:") else { return count };
    let words: Vec<&str> = rest.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
    for pair in words.windows(2) {
        if let [number, what] = pair
            && let Ok(number) = number.parse::<usize>()
        {
            match *what {
                "passed" => count.passed += number,
                "failed" => count.failed += number,
                "ignored" => count.ignored += number,
                _ => {}
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn reads_the_counts_of_a_result_line() {
        let count =
            counts("test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s");
        assert_eq!((count.passed, count.failed, count.ignored), (12, 3, 1));
    }

    #[test]
    fn counts_nothing_in_other_lines() {
        let count = counts("test the_name ... 12 passed");
        assert_eq!((count.passed, count.failed, count.ignored), (0, 0, 0));
    }
}
