//! `docs/design/planted.md`: the table of the faults, made from their files.

use std::fs;

use anyhow::{Context, Result};

use super::fault::{FOLDER, read_all};
use crate::process::{root, say};

/// The path of the page.
const PAGE: &str = "docs/design/planted.md";

const HEAD: &str = "\
# Planted faults

A test that never fails shows nothing. `cargo xtask planted` copies the workspace to `target/planted`, puts one of the faults below into the copy,
builds the tests that are named beside it, and demands that each of them fails; before that they must pass without the fault. A fault that a
test does not notice *survives*, and the command fails. `--only NAME,NAME` takes some, `--sample N --seed N` draws some, `--list` prints them.

Each fault is a file in [`tests/planted`](../../tests/planted): the sentence, the [promise](promises.md) that it breaks or the
[threat](hardening.md) that it lets in, the texts that are changed, and the tests. The tests of `xtask` hold the files to the code: each text that
is changed must stand in its file exactly once, and each test must exist. Whoever changes the code changes the fault with it. Whoever adds a
promise, or repairs what broke one, adds the fault, so that the test that keeps it is known to fail.

Made by `cargo xtask planted --write-docs`.
";

/// Writes the page.
///
/// # Errors
/// Returns an error when a fault does not read or the page cannot be written.
pub(crate) fn write() -> Result<()> {
    fs::write(root().join(PAGE), page()?).with_context(|| format!("could not write {PAGE}"))?;
    say(&format!("{PAGE} is written"));
    Ok(())
}

fn page() -> Result<String> {
    let mut faults = read_all(&root())?;
    faults.sort_by_key(|fault| {
        let (kind, number) = fault.promise.split_at_checked(1).unwrap_or_default();
        (kind != "P", number.parse::<u8>().unwrap_or_default(), fault.name.clone())
    });
    let mut page = format!("{HEAD}\n| fault | | breaks | noticed by |\n|---|---|---|---|\n");
    for fault in faults {
        let tests: Vec<String> = super::caught_by(&fault).iter().map(|test| format!("`{test}`")).collect();
        page += &format!(
            "| [{name}](../../{FOLDER}/{name}.toml) | {} | {} | {} |\n",
            fault.fault.replace('|', "\\|"),
            fault.promise,
            tests.join(", "),
            name = fault.name
        );
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_what_the_files_say() {
        let there = fs::read_to_string(root().join(PAGE)).unwrap();
        assert_eq!(there, page().unwrap(), "run `cargo xtask planted --write-docs`");
    }
}
