//! A cluster of the client library's own mock brokers, a method in front of it, and a reader behind it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::Headers,
    mocking::MockCluster,
    producer::DefaultProducerContext,
};
use serde_json::{Value as Json, json};
use setgate_delivery::{
    About, BrokerEvent, Env, Method,
    spi::AnyChannel,
    testkit::{
        Simulated, clock,
        net::{Outbound, OutboundConfig, OwnAddresses},
    },
};
use setgate_kafka::Kafka;
use tokio::sync::watch;

/// A cluster of mock brokers; all calls go to the thread that they live on.
pub(crate) struct Mock {
    brokers: MockCluster<'static, DefaultProducerContext>,
    pub(crate) bootstrap: String,
}

impl Mock {
    pub(crate) fn new(brokers: i32) -> Self {
        let brokers = MockCluster::new(brokers).unwrap();
        let bootstrap = brokers.bootstrap_servers();
        Self { brokers, bootstrap }
    }

    pub(crate) fn with(topic: &str, partitions: i32) -> Self {
        let mock = Self::new(1);
        mock.brokers.create_topic(topic, partitions, 1).unwrap();
        mock
    }

    pub(crate) fn brokers(&self) -> &MockCluster<'static, DefaultProducerContext> {
        &self.brokers
    }

    /// Starts a method with this cluster under the name `main`.
    pub(crate) async fn method(&self, options: Json) -> Started {
        start(&self.bootstrap, options).await
    }

    /// Reads a topic from its beginning until `count` records are there.
    pub(crate) fn read(&self, topic: &str, partitions: i32, count: usize) -> Vec<Read> {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &self.bootstrap).set("group.id", "reader").create().unwrap();
        let mut all = TopicPartitionList::new();
        for partition in 0..partitions {
            all.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&all).unwrap();
        let mut records = Vec::new();
        while records.len() < count {
            let Some(message) = consumer.poll(Duration::from_secs(20)) else {
                panic!("{} of {count} records are there", records.len())
            };
            records.push(Read::of(&message.unwrap()));
        }
        records
    }
}

/// A record as a reader has it.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) partition: i32,
    pub(crate) key: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) value: Vec<u8>,
    pub(crate) timestamp: i64,
}

impl Read {
    fn of(message: &impl Message<Headers = rdkafka::message::BorrowedHeaders>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let headers = message.headers().into_iter().flat_map(|headers| {
            headers.iter().map(|header| (header.key.to_owned(), text(header.value.unwrap()))).collect::<Vec<_>>()
        });
        Self {
            partition: message.partition(),
            key: message.key().map(text),
            headers: headers.collect(),
            value: message.payload().unwrap_or_default().to_vec(),
            timestamp: message.timestamp().to_millis().unwrap_or_default(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A method that was started, with what it reported of its brokers.
pub(crate) struct Started {
    pub(crate) kafka: Arc<Kafka>,
    events: Arc<Mutex<Vec<BrokerEvent>>>,
    changes: watch::Receiver<usize>,
}

pub(crate) async fn start(bootstrap: &str, options: Json) -> Started {
    let mut cluster =
        json!({ "bootstrap": [bootstrap], "linger": "1ms", "timeout": "30s", "statistics_interval": "1s" });
    cluster["bootstrap"] = bootstrap.split(',').collect();
    for (name, value) in options.as_object().unwrap() {
        cluster[name] = value.clone();
    }
    let section = serde_json::from_value(json!({ "clusters": { "main": cluster } })).unwrap();
    let runtime = clock::system();
    let config = OutboundConfig { system_roots: false, ..OutboundConfig::default() };
    let http = Outbound::new(&config, runtime.clone(), OwnAddresses::new()).unwrap();
    let events = Arc::new(Mutex::new(Vec::new()));
    let (tell, changes) = watch::channel(0);
    let seen = events.clone();
    let report = Arc::new(move |event| {
        seen.lock().unwrap().push(event);
        tell.send_modify(|changes| *changes += 1);
    });
    let kafka = Kafka::start(section, Env { http, runtime, report }).await.unwrap();
    Started { kafka: Arc::new(kafka), events, changes }
}

impl Started {
    pub(crate) fn channel(&self, terms: Json) -> Arc<dyn AnyChannel> {
        self.channel_of("stream", terms)
    }

    pub(crate) fn channel_of(&self, stream: &str, mut terms: Json) -> Arc<dyn AnyChannel> {
        terms["cluster"] = "main".into();
        let about = About { stream: stream.into(), issuer: "https://issuer.example/ä".into(), operator_owned: true };
        let terms = serde_json::from_value(terms).unwrap();
        Arc::new(self.kafka.channel(&about, terms, setgate_kafka::Grant::default()).unwrap())
    }

    /// Waits until the method reports such an event of its brokers, and returns it.
    pub(crate) async fn told(&self, what: impl Fn(&BrokerEvent) -> bool) -> BrokerEvent {
        let find = || self.events.lock().unwrap().iter().find(|event| what(event)).cloned();
        let mut changes = self.changes.clone();
        tokio::time::timeout(Duration::from_secs(40), changes.wait_for(|_| find().is_some())).await.unwrap().unwrap();
        find().unwrap()
    }

    pub(crate) fn ups_and_downs(&self) -> Vec<&'static str> {
        let name = |event: &BrokerEvent| match event {
            BrokerEvent::Up { .. } => Some("up"),
            BrokerEvent::Down { .. } => Some("down"),
            BrokerEvent::Figures { .. } => None,
        };
        self.events.lock().unwrap().iter().filter_map(name).collect()
    }
}

/// Returns a subscription of `count` SETs with `keys` order keys for a channel.
pub(crate) fn subscription(channel: &Arc<dyn AnyChannel>, count: usize, keys: usize) -> Simulated {
    Simulated::new(channel.profile(), count, keys)
}

/// Runs a channel on a subscription until nothing is owed.
pub(crate) async fn run(channel: &Arc<dyn AnyChannel>, subscription: &Simulated) -> setgate_delivery::Closed {
    let (of, consumer) = (subscription.subscription(), subscription.subscription().consumer());
    let mut running = std::pin::pin!(channel.clone().run(of, consumer));
    tokio::select! {
        end = &mut running => end,
        () = tokio::time::sleep(Duration::from_secs(25)) => {
            let windows = channel.profile().windows;
            let (handed, waiters) = (subscription.handed(), subscription.waiters());
            panic!("it hangs: {handed} handed over, {waiters} wait, {:?}, {:?} {:?}", subscription.causes(), windows, subscription.attempts())
        }
    }
}
