//! The callbacks of the client library: errors, logs, statistics and tokens.

use std::{error::Error, sync::Arc};

use rdkafka::{
    ClientContext, client::OAuthToken, config::RDKafkaLogLevel, consumer::ConsumerContext, error::KafkaError,
};
use serde::Deserialize;
use setgate_delivery::{BrokerEvent, clean};

use crate::{
    reported::{self, ReportedHealth},
    tokens::Tokens,
};

/// The context of every client that carries records of one cluster or creates its topics, whatever its role.
pub(crate) struct Context {
    reported: Arc<ReportedHealth>,
    tokens: Option<Arc<Tokens>>,
    report: Arc<dyn Fn(BrokerEvent) + Send + Sync>,
}

impl Context {
    pub(crate) fn new(
        reported: Arc<ReportedHealth>,
        tokens: Option<Arc<Tokens>>,
        report: Arc<dyn Fn(BrokerEvent) + Send + Sync>,
    ) -> Self {
        Self { reported, tokens, report }
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        let (broker, text) = (self.reported.broker(), clean(text, 400));
        // Errors also come through `error`, which logs those that are worth a warning.
        match level {
            // Among the library's warnings only one has this facility: an offset is not in the topic any more.
            RDKafkaLogLevel::Warning if facility == "OFFSET" => {
                tracing::warn!(%broker, text, "a source stood where its topic has no record any more: some may be lost, or come again");
            }
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::warn!(%broker, facility, text, "the Kafka client is in trouble");
            }
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => {
                tracing::info!(%broker, facility, text, "the Kafka client says");
            }
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(%broker, facility, text, "the Kafka client says");
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if reported::is_of_credentials(&error)
            && let Some(tokens) = &self.tokens
        {
            tokens.refused();
        }
        self.reported.on_error(&error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) else { return };
        if statistics.connected() > 0 {
            self.reported.connected();
        }
        let broker = self.reported.broker().clone();
        (self.report)(BrokerEvent::Figures { broker, figures: statistics.figures() });
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        match &self.tokens {
            Some(tokens) => tokens.current(),
            None => Err("this cluster is not configured for bearer tokens".into()),
        }
    }
}

impl ConsumerContext for Context {}

/// The part of the library's statistics that is reported.
#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    msg_cnt: u64,
    #[serde(default)]
    msg_size: u64,
    #[serde(default)]
    txmsgs: u64,
    #[serde(default)]
    brokers: std::collections::BTreeMap<String, Broker>,
}

#[derive(Deserialize)]
struct Broker {
    #[serde(default)]
    nodeid: i64,
    #[serde(default)]
    state: String,
    #[serde(default)]
    rtt: Option<Spread>,
}

#[derive(Deserialize)]
struct Spread {
    #[serde(default)]
    p99: u64,
}

impl Statistics {
    /// Returns the brokers of the cluster, without the entries of the bootstrap list, which have no number yet.
    fn nodes(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values().filter(|broker| broker.nodeid >= 0)
    }

    fn connected(&self) -> usize {
        self.nodes().filter(|broker| broker.state == "UP").count()
    }

    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn figures(&self) -> Vec<(&'static str, f64)> {
        let slowest =
            self.nodes().filter_map(|broker| broker.rtt.as_ref()).map(|rtt| rtt.p99).max().unwrap_or_default();
        vec![
            ("brokers", self.nodes().count() as f64),
            ("brokers_connected", self.connected() as f64),
            ("queue_records", self.msg_cnt as f64),
            ("queue_bytes", self.msg_size as f64),
            ("sent_records_total", self.txmsgs as f64),
            ("round_trip_p99_seconds", slowest as f64 / 1e6),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_cluster_and_nothing_of_its_topics() {
        let text = r#"{"name":"rdkafka#producer-1","msg_cnt":22,"msg_size":704010,"txmsgs":9,"topics":{"sets.acme":{}},"brokers":{
            "a:9092/1":{"nodeid":1,"state":"UP","rtt":{"p99":1500}},"b:9092/2":{"nodeid":2,"state":"TRY_CONNECT","rtt":{"p99":2500}},
            "a:9092/bootstrap":{"nodeid":-1,"state":"UP","rtt":{"p99":9000000}}}}"#;
        let statistics: Statistics = serde_json::from_str(text).unwrap();
        assert_eq!(
            statistics.figures(),
            [
                ("brokers", 2.0),
                ("brokers_connected", 1.0),
                ("queue_records", 22.0),
                ("queue_bytes", 704_010.0),
                ("sent_records_total", 9.0),
                ("round_trip_p99_seconds", 0.0025)
            ]
        );
        assert!(serde_json::from_str::<Statistics>("{}").unwrap().figures().iter().all(|(_, value)| *value == 0.0));
    }
}
