//! The progress of a run, shown to a user at a terminal.

use indicatif::{ProgressBar, ProgressStyle};

use super::state::Run;
use crate::Context;

/// The number of refused events that are shown one by one.
const SHOWN: u64 = 20;

/// A progress bar on a terminal; hidden elsewhere and with `--json`.
pub(super) struct Progress {
    bar: ProgressBar,
    out: crate::Out,
    shown: std::sync::atomic::AtomicU64,
}

impl Progress {
    /// Starts the bar; `count` is `None` when events are read from a file.
    pub(super) fn start(context: &Context, count: Option<u64>, done: u64) -> Self {
        let watched = context.out.is_watched() && !context.out.is_json();
        let bar = match (watched, count) {
            (false, _) => ProgressBar::hidden(),
            (true, Some(count)) => {
                ProgressBar::new(count).with_style(style("{bar:32} {pos}/{len} events, {per_sec}, {eta} left {msg}"))
            }
            (true, None) => ProgressBar::new_spinner().with_style(style("{spinner} {pos} events, {per_sec} {msg}")),
        };
        bar.set_position(done);
        bar.reset_eta();
        Self { bar, out: context.out, shown: std::sync::atomic::AtomicU64::new(0) }
    }

    /// Shows the progress of a run.
    pub(super) fn at(&self, run: &Run) {
        self.bar.set_position(run.done);
        if run.refused > 0 {
            self.bar.set_message(format!("({} refused)", run.refused));
        }
    }

    /// Prints a warning above the bar.
    pub(super) fn say(&self, text: &str) {
        self.bar.suspend(|| self.out.warn(text));
    }

    /// Prints why an event was refused; after the first few, refused events are only counted.
    pub(super) fn refused(&self, number: u64, why: &str) {
        match self.shown.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            before if before < SHOWN => self.say(&format!("event {number} was refused: {why}")),
            before if before == SHOWN => self.say("further refused events are only counted"),
            _ => {}
        }
    }

    /// Removes the bar.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
