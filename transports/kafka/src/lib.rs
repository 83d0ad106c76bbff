#![doc = include_str!("../README.md")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use setgate_delivery::{About, Cause, Entry, Env, Fault, Finding, Ingest, Json, Method, Places, Stop};

mod client;
mod cluster;
mod config;
mod context;
mod probe;
mod receiver;
mod reported;
mod sender;
mod tokens;
mod wire;
mod words;

use cluster::Cluster;
pub use config::{
    CloudEvents, ClusterSection, Compression, Format, From, Grant, Key, KnownBy, Password, RecordTime, SaslSection,
    Section, Start, Terms, TlsSection, TokenSection, TopicShape, Value,
};
pub use receiver::record;
pub use sender::KafkaChannel;

/// The method's URI, in a namespace of the gateway's own, since no specification defines one.
const URI: &str = "urn:setgate:delivery:kafka";

/// The delivery method that sends SETs as records of a topic, and collects a topic's records as events.
pub struct Kafka {
    section: Section,
    clusters: BTreeMap<String, Arc<Cluster>>,
    /// The topics that sources read, each with the [`Section::same`] name of its cluster; no stream may write there.
    taken: Mutex<BTreeSet<(String, String)>>,
}

impl Kafka {
    /// Reads and checks the `from` of a source.
    fn from(&self, from: Json) -> Result<From, Fault> {
        let invalid = |error: serde_json::Error| Fault::Terms {
            pointer: String::new(),
            cause: Cause::configuration("invalid", error.to_string()),
        };
        let from: From = serde_json::from_value(from).map_err(invalid)?;
        from.validate(&self.section)?;
        Ok(from)
    }

    /// Returns the cluster of that name.
    fn cluster(&self, name: &str) -> Result<&Arc<Cluster>, Fault> {
        // Terms and sources were checked before, so the cluster exists.
        self.clusters.get(name).ok_or(Fault::Unsupported("there is no such cluster"))
    }
}

impl Method for Kafka {
    const ENTRY: Entry = Entry { name: "kafka", uri: URI, aliases: &[] };
    type Section = Section;
    type Grant = Grant;
    type Terms = Terms;
    type Channel = KafkaChannel;

    async fn start(section: Section, env: Env) -> Result<Self, Fault> {
        section.validate()?;
        let mut clusters = BTreeMap::new();
        for (name, one) in &section.clusters {
            clusters.insert(name.clone(), Cluster::new(name, one, &env)?);
        }
        Ok(Self { section, clusters, taken: Mutex::default() })
    }

    fn channel(self: &Arc<Self>, about: &About, terms: Terms, grant: Grant) -> Result<KafkaChannel, Fault> {
        terms.validate(&self.section, &grant, about.operator_owned)?;
        let cluster = self.section.same(&terms.cluster).to_owned();
        if self.taken.lock().contains(&(cluster, terms.topic.clone())) {
            let why = "a source of this gateway takes from this topic: what the stream writes there would come back";
            return Err(Fault::Terms { pointer: "/topic".to_owned(), cause: Cause::configuration("invalid", why) });
        }
        Ok(KafkaChannel::new(self.cluster(&terms.cluster)?.clone(), about, &terms))
    }

    fn publish(&self, terms: &Terms, _at: &str) -> Json {
        wire::publish(terms, URI)
    }

    fn source(&self, from: Json) -> Result<(), Fault> {
        let from = self.from(from)?;
        let cluster = self.section.same(&from.cluster);
        self.taken.lock().extend(from.topics.into_iter().map(|topic| (cluster.to_owned(), topic)));
        Ok(())
    }

    fn places(&self, from: &Json) -> Places {
        let Ok(from) = self.from(from.clone()) else { return Places::default() };
        let cluster = self.section.same(&from.cluster);
        let topic = |topic: &String| format!("the topic `{topic}` of the cluster `{cluster}`");
        Places {
            reads: from.topics.iter().map(topic).collect(),
            writes: from.error_topic.iter().map(topic).collect(),
            joins: Some(format!("the group `{}` of the cluster `{cluster}`", from.group)),
        }
    }

    async fn collect(self: &Arc<Self>, from: Json, into: Arc<dyn Ingest>, stop: Stop) -> Result<(), Fault> {
        let from = self.from(from)?;
        let cluster = self.cluster(&from.cluster)?.clone();
        receiver::collect(&cluster, from, into, stop).await
    }

    fn is_offered(&self) -> bool {
        !self.clusters.is_empty()
    }

    async fn probe(&self) -> Vec<Finding> {
        let each = self.clusters.values().map(|cluster| async { probe::cluster(&probe::Subject::of(cluster)).await });
        join_all(each).await.into_iter().flatten().collect()
    }

    async fn probe_source(&self, from: Json) -> Vec<Finding> {
        let refused =
            |remedy: String| vec![Finding { what: "kafka: `from` of the source".to_owned(), good: false, remedy }];
        let from: From = match serde_json::from_value(from) {
            Ok(from) => from,
            Err(error) => return refused(error.to_string()),
        };
        match from.validate(&self.section).and_then(|()| self.cluster(&from.cluster)) {
            Ok(cluster) => probe::source(&probe::Subject::of(cluster), &from).await,
            Err(fault) => refused(fault.to_string()),
        }
    }

    async fn close(&self, within: Duration) {
        join_all(self.clusters.values().map(|cluster| cluster.close(within))).await;
    }
}

setgate_delivery::register!(Kafka);
