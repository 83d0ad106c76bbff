//! The metrics of the process.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::{
    encoding::text::encode,
    registry::{self, Metric},
};

/// The registry in which every crate registers its metrics and from which the admin listener reads them. Clones share
/// one registry.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Mutex<registry::Registry>>);

impl Registry {
    /// The content type of [`Registry::text`].
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Creates an empty registry; all names get the prefix `setgate_`.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(registry::Registry::with_prefix("setgate"))))
    }

    /// Registers a metric; keep a clone of it to count with. The encoder adds the suffix `_total` to counters.
    pub fn register(&self, name: &'static str, help: &'static str, metric: impl Metric) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).register(name, help, metric);
    }

    /// Gives access to the inner registry, for a crate that registers many metrics at once.
    pub fn lend<T>(&self, register: impl FnOnce(&mut registry::Registry) -> T) -> T {
        register(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns all metrics as OpenMetrics text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.0.lock().unwrap_or_else(PoisonError::into_inner));
        text
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn shows_what_was_counted_under_the_prefix() {
        let registry = Registry::new();
        let counter: Counter = Counter::default();
        registry.clone().register("events", "Events taken", counter.clone());
        counter.inc_by(3);
        assert!(registry.text().contains("setgate_events_total 3\n"), "{}", registry.text());
        assert!(registry.text().ends_with("# EOF\n"));
    }
}
