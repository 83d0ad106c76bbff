//! What the commands print.

use std::io::{self, IsTerminal as _, Write as _};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::args::Color;

/// Headings.
pub(crate) const HEAD: Style = Style::new().bold();
/// What is well.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// What needs a look.
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default();
/// What is wrong.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// What matters less.
pub(crate) const DIM: Style = Style::new().dimmed();

/// Chooses colours for the whole process.
pub(crate) fn choose(color: Color) {
    match color {
        Color::Auto => {}
        Color::Always => anstream::ColorChoice::Always.write_global(),
        Color::Never => anstream::ColorChoice::Never.write_global(),
    }
}

/// Where a command prints: results to standard output, everything else to standard error.
///
/// A reader that has gone away (`| head`) is not an error of the command.
#[derive(Clone, Copy, Debug, Default)]
pub struct Out {
    json: bool,
}

impl Out {
    /// Prints JSON, or text.
    #[must_use]
    pub const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether results are JSON.
    #[must_use]
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person watches standard error: progress bars and questions make sense only then.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        io::stderr().is_terminal()
    }

    /// A line of the result, for people. With `--json` nothing is printed.
    pub fn line(&self, text: impl AsRef<str>) {
        if !self.json {
            let _ = writeln!(anstream::stdout(), "{}", text.as_ref());
        }
    }

    /// A line of the result in whatever form: JSON lines, configuration to paste.
    pub fn raw(&self, text: impl AsRef<str>) {
        let _ = writeln!(anstream::stdout(), "{}", text.as_ref());
    }

    /// The result for machines. Without `--json` nothing is printed.
    pub fn value(&self, value: &impl Serialize) {
        if self.json
            && let Ok(text) = serde_json::to_string(value)
        {
            self.raw(setgate_telemetry::clean_json(text));
        }
    }

    /// Something to know that is not the result.
    pub fn note(&self, text: impl AsRef<str>) {
        let _ = writeln!(anstream::stderr(), "{}", text.as_ref());
    }

    /// Something to look at.
    pub fn warn(&self, text: impl AsRef<str>) {
        self.note(format!("{WARN}warning:{WARN:#} {}", text.as_ref()));
    }

    /// Why it ended badly.
    pub fn error(&self, text: impl AsRef<str>) {
        self.note(format!("{BAD}error:{BAD:#} {}", text.as_ref()));
    }

    /// Asks a person; without one the answer is no.
    pub fn confirm(&self, question: &str) -> bool {
        if !io::stdin().is_terminal() || !self.is_watched() {
            return false;
        }
        let _ = write!(anstream::stderr(), "{question} [y/N] ");
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
    }
}
