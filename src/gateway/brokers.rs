//! What becomes of what many streams share (clusters, connections) and of sources: a gauge each, and a line in the log on change.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
};

use parking_lot::Mutex;
use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use setgate_delivery::BrokerEvent;

type Labels<const N: usize> = [(&'static str, String); N];

/// Brokers that are remembered: they are named in the configuration, so there are few.
const MOST: usize = 4096;

/// The brokers of the gateway. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Brokers {
    up: Family<Labels<1>, Gauge>,
    figures: Family<Labels<2>, Gauge<f64, AtomicU64>>,
    /// Whether each is there, and by which code it is not.
    known: Arc<Mutex<BTreeMap<Arc<str>, Option<&'static str>>>>,
}

impl Brokers {
    /// Brokers that are shown under `/metrics`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register("carrier_up", "Whether what several streams share is there: 1 or 0", this.up.clone());
        registry.register("carrier_figure", "What a broker or source tells of itself", this.figures.clone());
        this
    }

    /// Takes what a method told.
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
                for (figure, value) in figures {
                    let labels = [("carrier", broker.to_string()), ("figure", figure.to_owned())];
                    self.figures.get_or_create(&labels).set(value);
                }
            }
        }
    }

    fn changed(&self, broker: &Arc<str>, now: Option<&'static str>) -> bool {
        let mut known = self.known.lock();
        if known.len() >= MOST && !known.contains_key(broker) {
            return false;
        }
        self.up.get_or_create(&[("carrier", broker.to_string())]).set(i64::from(now.is_none()));
        known.insert(broker.clone(), now) != Some(now)
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
        let figures = vec![("lag_records", 7.5)];
        brokers.report(BrokerEvent::Figures { broker: broker.clone(), figures });
        let text = registry.text();
        assert!(text.contains("setgate_carrier_up{carrier=\"kafka/main\"} 0\n"), "{text}");
        assert!(text.contains("setgate_carrier_figure{carrier=\"kafka/main\",figure=\"lag_records\"} 7.5\n"), "{text}");
        brokers.report(BrokerEvent::Up { broker });
        assert!(registry.text().contains("setgate_carrier_up{carrier=\"kafka/main\"} 1\n"));
    }
}
