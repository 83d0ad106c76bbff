//! How far it is, for a person who watches.

use indicatif::{ProgressBar, ProgressStyle};

use super::state::Run;
use crate::Context;

/// Refused events that are shown one by one.
const SHOWN: u64 = 20;

/// A bar on a terminal, nothing elsewhere.
pub(super) struct Progress {
    bar: ProgressBar,
    out: crate::Out,
    shown: std::sync::atomic::AtomicU64,
}

impl Progress {
    /// Begins; `count` is unknown where events are read from a file.
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

    /// Shows how far it came.
    pub(super) fn at(&self, run: &Run) {
        self.bar.set_position(run.done);
        if run.refused > 0 {
            self.bar.set_message(format!("({} refused)", run.refused));
        }
    }

    /// Says something beside the bar.
    pub(super) fn say(&self, text: &str) {
        self.bar.suspend(|| self.out.warn(text));
    }

    /// Says why an event was refused; after a few only the number grows.
    pub(super) fn refused(&self, number: u64, why: &str) {
        match self.shown.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            before if before < SHOWN => self.say(&format!("event {number} was refused: {why}")),
            before if before == SHOWN => self.say("further refused events are only counted"),
            _ => {}
        }
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
