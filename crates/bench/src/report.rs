//! Figures with their limits, for people and for machines.

use serde::Serialize;

use crate::{BenchError, Machine, Shape};

/// A measured figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The name of the shape that the figure belongs to.
    pub shape: &'static str,
    /// The name of the figure.
    pub name: String,
    /// The value.
    pub value: f64,
    /// The unit of the value.
    pub unit: &'static str,
    /// The limit that the value is measured against.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// A note on where the time went and what was counted.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// The limit of a figure, measured in the same run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limit {
    /// The name of the limit.
    pub what: String,
    /// The value of the limit, in the unit of the figure.
    pub value: f64,
    /// The figure divided by the limit.
    pub ratio: f64,
    /// The promise about the ratio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promise: Option<Promise>,
    /// True if the promise is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<bool>,
}

/// A promise about a ratio.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// The ratio is at least this.
    AtLeast(f64),
    /// The ratio is at most this.
    AtMost(f64),
}

impl Promise {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
        }
    }
}

impl Figure {
    pub(crate) fn new(shape: Shape, name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { shape: shape.name(), name: name.into(), value, unit, limit: None, note: String::new() }
    }

    /// Sets the figure beside a limit of the same run.
    pub(crate) fn beside(mut self, what: impl Into<String>, limit: f64, promise: Option<Promise>) -> Self {
        let ratio = self.value / if limit == 0.0 { f64::MIN_POSITIVE } else { limit };
        let kept = promise.map(|promise| promise.holds(ratio));
        self.limit = Some(Limit { what: what.into(), value: limit, ratio, promise, kept });
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Returns whether the promise is kept, if there is one.
    #[must_use]
    pub fn kept(&self) -> Option<bool> {
        self.limit.as_ref()?.kept
    }

    /// Returns the figure beside its limit, for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{:<44} {:>14}", self.name, quantity(self.value, self.unit));
        if let Some(limit) = &self.limit {
            let ratio = match limit.promise {
                Some(Promise::AtMost(_)) => format!("{:.2} times", limit.ratio),
                _ => format!("{:.0} %", limit.ratio * 100.0),
            };
            text.push_str(&format!("  {ratio} of {} ({})", limit.what, quantity(limit.value, self.unit)));
            let verdict = |kept| if kept { "kept" } else { "NOT KEPT" };
            match limit.promise {
                Some(Promise::AtLeast(least)) => {
                    text.push_str(&format!("; at least {:.0} %: {}", least * 100.0, verdict(limit.kept == Some(true))));
                }
                Some(Promise::AtMost(most)) => {
                    text.push_str(&format!("; at most {most}: {}", verdict(limit.kept == Some(true))));
                }
                None => {}
            }
        }
        text
    }
}

fn quantity(value: f64, unit: &str) -> String {
    let number = if value.abs() >= 1000.0 {
        let mut digits = format!("{value:.0}");
        let mut at = digits.len();
        while at > 3 {
            at -= 3;
            digits.insert(at, ',');
        }
        digits
    } else if value.abs() >= 100.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    };
    format!("{number} {unit}")
}

/// The results of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The machine that was measured.
    pub machine: Machine,
    /// The figures whose counts were correct.
    pub figures: Vec<Figure>,
    /// The shapes that gave no figure, each with the reason.
    pub failures: Vec<String>,
    /// The duration of the run in seconds.
    pub seconds: f64,
}

impl Report {
    pub(crate) const fn new(machine: Machine) -> Self {
        Self { machine, figures: Vec::new(), failures: Vec::new(), seconds: 0.0 }
    }

    /// Returns the number of promises that were kept, and the number of those that were not.
    #[must_use]
    pub fn promises(&self) -> (usize, usize) {
        let count = |wanted| self.figures.iter().filter(|figure| figure.kept() == Some(wanted)).count();
        (count(true), count(false))
    }
}

/// A watcher that follows a run.
pub trait Watch: Send + Sync {
    /// Called when the machine was examined.
    fn machine(&self, machine: &Machine);
    /// Called when a group of figures begins.
    fn begin(&self, shape: Shape);
    /// Called at each step, with what is done now.
    fn step(&self, what: &str);
    /// Called for each figure.
    fn figure(&self, figure: &Figure);
    /// Called when a group of figures cannot be measured.
    fn failed(&self, shape: Shape, error: &BenchError);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_stands_beside_its_limit_with_the_verdict() {
        let figure = Figure::new(Shape::EndToEnd, "RS256", 4500.0, "SETs/s").beside(
            "the bare loop",
            5000.0,
            Some(Promise::AtLeast(0.9)),
        );
        assert_eq!(figure.kept(), Some(true));
        let text = figure.text();
        assert!(text.ends_with("4,500 SETs/s  90 % of the bare loop (5,000 SETs/s); at least 90 %: kept"), "{text}");
        let missed = Figure::new(Shape::Routing, "x", 1.6, "µs").beside("ten", 1.0, Some(Promise::AtMost(1.5)));
        assert_eq!(missed.kept(), Some(false));
        assert!(missed.text().ends_with("1.60 times of ten (1 µs); at most 1.5: NOT KEPT"), "{}", missed.text());
    }

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!(quantity(1_234_567.0, "B"), "1,234,567 B");
        assert_eq!(quantity(999.4, "B"), "999 B");
        assert_eq!(quantity(12.345, "µs"), "12.35 µs");
    }
}
