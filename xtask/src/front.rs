//! The output of `setgate demo`, compared with the one in the README.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::process::root;
use crate::tutorial::{Block, blocks, compare};

/// The path of the page.
const PAGE: &str = "README.md";
const COMMAND: &str = " -- demo";

/// Compares the output of the demo with the lines that the page shows; `…` stands for anything.
///
/// # Errors
/// Returns an error when a line of the page was not printed in this order.
pub(crate) fn shows(printed: &[String]) -> Result<()> {
    let page = fs::read_to_string(root().join(PAGE)).with_context(|| format!("could not read {PAGE}"))?;
    compare(&shown(&page)?, printed).with_context(|| format!("{PAGE} and `setgate demo` differ"))
}

/// Returns the lines of the first block of output after the command; other commands may stand between.
fn shown(page: &str) -> Result<Vec<String>> {
    let after = blocks(page)?
        .into_iter()
        .skip_while(|block| !matches!(block, Block::Run { text, .. } if text.ends_with(COMMAND)));
    let shown = after.skip(1).find_map(|block| match block {
        Block::Shows { lines, .. } => Some(lines),
        _ => None,
    });
    match shown {
        Some(lines) if lines.len() > 5 => Ok(lines),
        _ => bail!("{PAGE} does not show what `{COMMAND}` prints, in a `text` block after the command"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMO: &str = "a\nb 1\nc\nd\ne\nf\n";

    fn page(shown: &str) -> String {
        format!("```sh\nls\n```\n```text\nx\n```\n```sh\ncargo run -- demo\n```\nIt prints:\n```text\n{shown}```\n")
    }

    #[test]
    fn reads_the_block_after_the_command() {
        assert_eq!(shown(&page(DEMO)).unwrap(), ["a", "b 1", "c", "d", "e", "f"]);
        assert!(shown(&page("a\n")).is_err());
        assert!(shown("```sh\ncargo run -- demo\n```\n").is_err());
    }

    #[test]
    fn the_front_page_shows_the_end_of_every_stream() {
        let page = fs::read_to_string(root().join(PAGE)).unwrap();
        let lines = shown(&page).unwrap();
        assert!(lines.iter().filter(|line| line.contains("owed = ")).count() > 2, "{lines:?}");
        assert!(shows(&lines[1..]).is_err());
        assert!(shows(&lines.iter().map(|line| line.replace("mail", "post")).collect::<Vec<_>>()).is_err());
    }
}
