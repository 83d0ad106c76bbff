//! The metric of the tasks that run.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};
use tokio::runtime::{Handle, RuntimeMetrics};

/// Counts the tasks of a runtime when the metrics are read.
struct Tasks(RuntimeMetrics);

/// Registers the metric for the runtime that this is called on.
pub(super) fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(Tasks(Handle::current().metrics())));
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tasks")
    }
}

impl Collector for Tasks {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let tasks = i64::try_from(self.0.num_alive_tasks()).unwrap_or(i64::MAX);
        let help = "Tasks of the process that have not ended, which its timers are parts of.";
        let descriptor = encoder.encode_descriptor("tasks", help, None, MetricType::Gauge)?;
        ConstGauge::new(tasks).encode(descriptor)
    }
}

#[cfg(test)]
mod tests {
    use setgate_telemetry::Registry;

    #[tokio::test]
    async fn the_metric_counts_tasks_that_have_not_ended() {
        let registry = Registry::new();
        registry.lend(super::register);
        assert!(registry.text().contains("setgate_tasks 0\n"), "{}", registry.text());
        let task = tokio::spawn(std::future::pending::<()>());
        assert!(registry.text().contains("setgate_tasks 1\n"), "{}", registry.text());
        task.abort();
        assert!(task.await.is_err());
        assert!(registry.text().contains("setgate_tasks 0\n"), "{}", registry.text());
    }
}
