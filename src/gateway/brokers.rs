//! The state of brokers and sources: a gauge for each, and a line in the log on change.

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{
        MetricType,
        counter::ConstCounter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};
use setgate_delivery::BrokerEvent;

/// The values that each broker reported last, by figure.
type Told = BTreeMap<&'static str, BTreeMap<Arc<str>, f64>>;

/// The most brokers that are remembered. They are named in the configuration, so there are few.
const MOST: usize = 4096;

/// The brokers of the gateway. Clones share their state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Brokers {
    up: Family<[(&'static str, String); 1], Gauge>,
    figures: Figures,
    /// Each broker with the code of its failure; `None` while it is up.
    known: Arc<Mutex<BTreeMap<Arc<str>, Option<&'static str>>>>,
}

impl Brokers {
    /// Creates the metrics of brokers and registers them under `/metrics`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register("broker_up", "Whether a broker or source is there, by its name: 1 or 0", this.up.clone());
        registry.register_collector(Box::new(this.figures.clone()));
        this
    }

    /// Records what a method reported.
    pub(crate) fn report(&self, event: BrokerEvent) {
        match event {
            BrokerEvent::Up { broker } => {
                if self.changed(&broker, None) {
                    tracing::info!(%broker, "the broker is there");
                }
            }
            BrokerEvent::Down { broker, cause } => {
                if self.changed(&broker, Some(cause.code)) {
                    tracing::warn!(%broker, code = cause.code, cause = %cause.text, "the broker is not there");
                }
            }
            BrokerEvent::Figures { broker, figures } => {
                if self.known.lock().len() >= MOST {
                    return;
                }
                let mut kept = self.figures.0.lock();
                for (figure, value) in figures {
                    kept.entry(figure).or_default().insert(broker.clone(), value);
                }
            }
        }
    }

    fn changed(&self, broker: &Arc<str>, now: Option<&'static str>) -> bool {
        let mut known = self.known.lock();
        if known.len() >= MOST && !known.contains_key(broker) {
            return false;
        }
        self.up.get_or_create(&[("broker", broker.to_string())]).set(i64::from(now.is_none()));
        known.insert(broker.clone(), now) != Some(now)
    }
}

/// The figures that brokers and sources report: a gauge for each, or a counter where the figure's name ends in
/// `_total`.
#[derive(Clone, Debug, Default)]
struct Figures(Arc<Mutex<Told>>);

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (figure, values) in &*self.0.lock() {
            let counter = figure.strip_suffix("_total");
            let name = counter.unwrap_or(figure);
            let help = format!("The {} of a broker or source, as it tells them.", name.replace('_', " "));
            let kind = if counter.is_some() { MetricType::Counter } else { MetricType::Gauge };
            let name = format!("broker_{name}");
            let mut family = encoder.encode_descriptor(&name, &help, None, kind)?;
            for (broker, value) in values {
                let label = [("broker", &**broker)];
                let one = family.encode_family(&label)?;
                match kind {
                    MetricType::Counter => ConstCounter::new(*value).encode(one)?,
                    _ => ConstGauge::new(*value).encode(one)?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use setgate_delivery::Cause;

    use super::*;

    #[test]
    fn gauges_follow_what_is_told_and_a_change_is_told_once() {
        let registry = setgate_telemetry::Registry::new();
        let brokers = registry.lend(Brokers::register);
        let broker: Arc<str> = "kafka/main".into();
        let down = |code| BrokerEvent::Down { broker: broker.clone(), cause: Cause::new(code, "x") };
        assert!(brokers.changed(&broker, None) && !brokers.changed(&broker, None));
        brokers.report(down("tls"));
        assert!(!brokers.changed(&broker, Some("tls")) && brokers.changed(&broker, Some("credentials")));
        let figures = vec![("lag_records", 7.5), ("taken_records_total", 3.0)];
        brokers.report(BrokerEvent::Figures { broker: broker.clone(), figures });
        let text = registry.text();
        assert!(text.contains("# TYPE setgate_broker_taken_records counter\n"), "{text}");
        assert!(text.contains("setgate_broker_taken_records_total{broker=\"kafka/main\"} 3.0\n"), "{text}");
        assert!(text.contains("setgate_broker_up{broker=\"kafka/main\"} 0\n"), "{text}");
        assert!(text.contains("setgate_broker_lag_records{broker=\"kafka/main\"} 7.5\n"), "{text}");
        brokers.report(BrokerEvent::Up { broker });
        assert!(registry.text().contains("setgate_broker_up{broker=\"kafka/main\"} 1\n"));
    }
}
