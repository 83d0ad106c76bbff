//! How far a command is that takes long, for a person who watches.

use indicatif::{ProgressBar, ProgressStyle};

use crate::Out;

/// A bar on a terminal, nothing elsewhere and nothing beside JSON. It goes when it is dropped.
#[derive(Debug)]
pub struct Steps(ProgressBar);

impl Steps {
    /// Begins with nothing done.
    #[must_use]
    pub fn new(out: &Out, count: usize) -> Self {
        if !out.is_watched() || out.is_json() {
            return Self(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len} {msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(ProgressBar::new(u64::try_from(count).unwrap_or(u64::MAX)).with_style(style))
    }

    /// One more is done.
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
