//! The fuzz targets, with the standards' examples as seeds.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::process::{cargo, exists, finish, root, say, target};

/// Runs the replay of the seeds and their mutations, which needs no cargo-fuzz.
///
/// # Errors
/// Returns an error when a parser breaks, or when one is tried too little.
pub(crate) fn replay() -> Result<()> {
    say("==> replay of the corpus");
    finish(cargo().args(["test", "--package", "setgate", "--test", "it", "corpus::"]))
}

/// Replays the corpus and runs each target for some seconds.
///
/// # Errors
/// Returns an error when a target finds bytes that break a parser, or when cargo-fuzz is missing.
pub(crate) fn run(seconds: u64) -> Result<()> {
    replay()?;
    if !exists("cargo", &["fuzz", "--version"]) {
        bail!("cargo-fuzz is not installed: cargo install cargo-fuzz");
    }
    let manifest: toml::Table = std::fs::read_to_string(root().join("tests/fuzz/Cargo.toml"))?.parse()?;
    let targets = manifest.get("bin").and_then(toml::Value::as_array).context("no fuzz targets")?;
    for name in targets.iter().filter_map(|target| target.get("name")?.as_str()) {
        let corpus = target().join("fuzz-corpus").join(name);
        let count = seed(name, &corpus)?;
        say(&format!("==> fuzz {name}: {seconds} s from {count} seeds"));
        finish(
            cargo()
                .args(["fuzz", "run", "--fuzz-dir", "tests/fuzz", "--target-dir"])
                .arg(target().join("fuzz"))
                .args(["-s", "none", name])
                .arg(&corpus)
                .args(["--", &format!("-max_total_time={seconds}"), "-max_len=65536", "-print_final_stats=1"]),
        )?;
    }
    Ok(())
}

/// Writes the objects of the vectors, one per file, and returns how many there are.
fn seed(name: &str, corpus: &Path) -> Result<usize> {
    std::fs::create_dir_all(corpus)?;
    let mut seeds = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("tests/vectors"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "json") {
            objects(&std::fs::read_to_string(&path)?, &mut seeds);
        }
    }
    for (number, seed) in seeds.iter().enumerate() {
        // The first bytes of some targets choose what is tried.
        let prefix: &[u8] = match name {
            "answer" => b"\x01\x2c\n",
            "split" => b"\x0e",
            "multipush" => b"\x00\x64\x02\n",
            "poll" => b"en\n",
            "websocket" => b"\x00",
            "record" => b"content-type: application/cloudevents+json\n\n",
            _ => b"",
        };
        std::fs::write(corpus.join(format!("vector-{number}")), [prefix, seed.as_bytes()].concat())?;
    }
    Ok(seeds.len())
}

/// Finds every object of a JSON text, as it stands there: this uses none of the parsers under test, and well-formed
/// files need none.
fn objects(text: &str, found: &mut BTreeSet<String>) {
    let mut open = Vec::new();
    let (mut string, mut escape) = (false, false);
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escape => escape = false,
            '\\' if string => escape = true,
            '"' => string = !string,
            '{' if !string => open.push(at),
            '}' if !string => {
                if let Some(start) = open.pop()
                    && let Some(object) = text.get(start..=at)
                {
                    found.insert(object.to_owned());
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_object_and_no_brace_in_a_string() {
        let mut found = BTreeSet::new();
        objects(r#"[{"a":{"b":"}{\""}}, 1]"#, &mut found);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [r#"{"a":{"b":"}{\""}}"#, r#"{"b":"}{\""}"#]);
    }
}
