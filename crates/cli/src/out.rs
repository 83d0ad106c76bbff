//! The output of the commands.

use std::io::{self, IsTerminal as _, Write as _};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::args::Color;

/// The style of headings.
pub(crate) const HEAD: Style = Style::new().bold();
/// The style of a healthy state.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// The style of a state that needs attention.
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default();
/// The style of a faulty state.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// The style of less important text.
pub(crate) const DIM: Style = Style::new().dimmed();

/// Sets the use of colours for the whole process.
pub(crate) fn choose(color: Color) {
    match color {
        Color::Auto => {}
        Color::Always => anstream::ColorChoice::Always.write_global(),
        Color::Never => anstream::ColorChoice::Never.write_global(),
    }
}

/// The output of a command: results go to standard output, all other text to standard error.
///
/// A reader that has gone away (`| head`) is not an error of the command.
#[derive(Clone, Copy, Debug, Default)]
pub struct Out {
    json: bool,
}

impl Out {
    /// Creates an output that prints results as JSON, or as text.
    #[must_use]
    pub const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Returns whether results are JSON.
    #[must_use]
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// Returns whether standard error is a terminal; progress bars and questions make sense only then.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        io::stderr().is_terminal()
    }

    /// Prints a line of the result for people. With `--json` it prints nothing.
    pub fn line(&self, text: impl AsRef<str>) {
        if !self.json {
            let _ = writeln!(anstream::stdout(), "{}", text.as_ref());
        }
    }

    /// Prints a line of the result in either mode: JSON lines, configuration to paste.
    pub fn raw(&self, text: impl AsRef<str>) {
        let _ = writeln!(anstream::stdout(), "{}", text.as_ref());
    }

    /// Prints the result for machines. Without `--json` it prints nothing.
    pub fn value(&self, value: &impl Serialize) {
        if self.json
            && let Ok(text) = serde_json::to_string(value)
        {
            self.raw(setgate_telemetry::clean_json(text));
        }
    }

    /// Prints information that is not the result.
    pub fn note(&self, text: impl AsRef<str>) {
        let _ = writeln!(anstream::stderr(), "{}", text.as_ref());
    }

    /// Prints a warning.
    pub fn warn(&self, text: impl AsRef<str>) {
        self.note(format!("{WARN}warning:{WARN:#} {}", text.as_ref()));
    }

    /// Prints the error that ended the command.
    pub fn error(&self, text: impl AsRef<str>) {
        self.note(format!("{BAD}error:{BAD:#} {}", text.as_ref()));
    }

    /// Asks the user a question, and returns whether the answer is yes; without a terminal the answer is no.
    pub fn confirm(&self, question: &str) -> bool {
        if !io::stdin().is_terminal() || !self.is_watched() {
            return false;
        }
        let _ = write!(anstream::stderr(), "{question} [y/N] ");
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
    }
}
