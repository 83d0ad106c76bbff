//! The progress of a command that takes long, shown to a user at a terminal.

use indicatif::{ProgressBar, ProgressStyle};

use crate::Out;

/// A progress bar on a terminal; hidden elsewhere and with `--json`. The bar is removed when it is dropped.
#[derive(Debug)]
pub struct Steps(ProgressBar);

impl Steps {
    /// Creates a bar for `count` steps, none of which is done.
    #[must_use]
    pub fn new(out: &Out, count: usize) -> Self {
        if !out.is_watched() || out.is_json() {
            return Self(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len} {msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(ProgressBar::new(u64::try_from(count).unwrap_or(u64::MAX)).with_style(style))
    }

    /// Counts one more step as done.
    pub fn done(&self, what: &str) {
        self.0.set_message(what.to_owned());
        self.0.inc(1);
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
