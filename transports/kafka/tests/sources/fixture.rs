//! Mock brokers, records in their topics, and a ledger that a source fills.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::{Header, Headers as _, OwnedHeaders},
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _},
};
use serde_json::{Value as Json, json};
use setgate_delivery::{
    Answer, BoxFuture, BrokerEvent, Bytes, Env, ErrorCode, Identity, Incoming, Ingest, Method as _, Refusal, Rejected,
    testkit::{
        clock,
        net::{Outbound, OutboundConfig, OwnAddresses},
    },
};
use setgate_kafka::Kafka;
use tokio::{sync::watch, task::JoinHandle};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A record to write: partition, headers, value.
pub(crate) type Written = (i32, Vec<(String, Vec<u8>)>, Option<Vec<u8>>);

pub(crate) struct Mock {
    brokers: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
    /// The last report on the cluster itself: true for up, false for down.
    cluster: Arc<Mutex<Option<bool>>>,
}

impl Mock {
    pub(crate) fn new(topics: &[(&str, i32)]) -> Self {
        let brokers = MockCluster::new(1).unwrap();
        for (topic, partitions) in topics {
            brokers.create_topic(topic, *partitions, 1).unwrap();
        }
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers.bootstrap_servers()).set("linger.ms", "0");
        config.set("message.max.bytes", "20000000");
        Self { producer: config.create().unwrap(), brokers, cluster: Arc::default() }
    }

    pub(crate) fn brokers(&self) -> &MockCluster<'static, DefaultProducerContext> {
        &self.brokers
    }

    pub(crate) fn write(&self, topic: &str, all: impl IntoIterator<Item = Written>) {
        for (partition, headers, value) in all {
            let headers = headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
                all.insert(Header { key, value: Some(value.as_slice()) })
            });
            let mut record =
                BaseRecord::<[u8], [u8]>::to(topic).partition(partition).key(b"key".as_slice()).headers(headers);
            if let Some(value) = &value {
                record = record.payload(value);
            }
            self.producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        self.producer.flush(PATIENCE).unwrap();
    }

    /// Returns whether the cluster was reported up, or `None` before the first report.
    pub(crate) fn cluster_is_up(&self) -> Option<bool> {
        *self.cluster.lock()
    }

    /// Waits until this is the committed offset of partition 0, and returns the last one that was seen.
    pub(crate) fn committed(&self, group: &str, topic: &str, wanted: i64) -> Option<i64> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers.bootstrap_servers()).set("group.id", group);
        let consumer: BaseConsumer = config.create().unwrap();
        let mut last = None;
        // Brokers do not announce commits, so they are asked again and again.
        for _ in 0..400 {
            let mut all = TopicPartitionList::new();
            all.add_partition(topic, 0);
            let known = consumer.committed_offsets(all, PATIENCE).unwrap();
            last = known.find_partition(topic, 0).and_then(|one| one.offset().to_raw());
            if last == Some(wanted) {
                break;
            }
            assert!(consumer.poll(Duration::from_millis(50)).is_none());
        }
        last
    }

    /// Returns the records of partition 0 of a topic, each with its headers as text and its value.
    pub(crate) fn read(&self, topic: &str, count: usize) -> Vec<(BTreeMap<String, String>, Vec<u8>)> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers.bootstrap_servers()).set("group.id", "reader");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut all = TopicPartitionList::new();
        all.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
        consumer.assign(&all).unwrap();
        let mut records = Vec::new();
        while records.len() < count {
            let message = consumer.poll(PATIENCE).expect("too few records").unwrap();
            let text = |header: Header<'_, &[u8]>| {
                (header.key.to_owned(), String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned())
            };
            let headers = message.headers().map(|all| all.iter().map(text).collect()).unwrap_or_default();
            records.push((headers, message.payload().unwrap_or_default().to_vec()));
        }
        records
    }

    pub(crate) async fn method(&self) -> Arc<Kafka> {
        let cluster = json!({
            "bootstrap": self.brokers.bootstrap_servers().split(',').collect::<Vec<_>>(),
            "linger": "1ms", "timeout": "30s", "statistics_interval": "1s",
            // The mock is late to answer a fetch at the end of a partition.
            "properties": { "fetch.wait.max.ms": "50" },
        });
        let section = serde_json::from_value(json!({ "clusters": { "main": cluster, "other": cluster } })).unwrap();
        let runtime = clock::system();
        let http = Outbound::new(&OutboundConfig::default(), runtime.clone(), OwnAddresses::new()).unwrap();
        let cluster = self.cluster.clone();
        let report = Arc::new(move |event| match event {
            BrokerEvent::Up { .. } => *cluster.lock() = Some(true),
            BrokerEvent::Down { .. } => *cluster.lock() = Some(false),
            BrokerEvent::Figures { .. } => {}
        });
        let env = Env { http, runtime, report };
        Arc::new(Kafka::start(section, env).await.unwrap())
    }

    /// Starts a source with a member of its own.
    pub(crate) async fn collect(&self, ledger: &Arc<Ledger>, from: Json) -> Running {
        let method = self.method().await;
        let (stop, stopped) = watch::channel(false);
        let into: Arc<dyn Ingest> = ledger.clone();
        let kept = method.clone();
        let task =
            tokio::spawn(async move { method.collect(from, into, stopped).await.map_err(|error| error.to_string()) });
        Running { stop, task, _method: kept }
    }
}

/// A running source.
pub(crate) struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), String>>,
    _method: Arc<Kafka>,
}

impl Running {
    /// Ends the source in order.
    pub(crate) async fn end(self) {
        self.stop.send_replace(true);
        tokio::time::timeout(PATIENCE, self.task).await.expect("it does not end").unwrap().unwrap();
    }

    /// Ends the source at once: nothing more is committed of what was in hand.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

pub(crate) fn from(more: Json) -> Json {
    let mut from = json!({ "cluster": "main", "topics": ["events"], "group": "gate" });
    for (name, value) in more.as_object().unwrap() {
        from[name] = value.clone();
    }
    from
}

/// A ledger of what sources put in: each identity once, with its body, in the order of arrival.
pub(crate) struct Ledger {
    pub(crate) state: Mutex<State>,
    /// Changes whenever something was put in, parked or reported.
    changed: watch::Sender<usize>,
    takes: AtomicUsize,
}

#[derive(Default)]
pub(crate) struct State {
    known: HashMap<String, Bytes>,
    pub(crate) order: Vec<(String, Bytes)>,
    pub(crate) repeated: usize,
    pub(crate) parked: Vec<Rejected>,
    /// The number of calls that parked something.
    pub(crate) parks: usize,
    pub(crate) told: Vec<BrokerEvent>,
    /// The number of takes that are still answered "not now".
    pub(crate) busy: usize,
    /// True if takes append their events and never answer.
    pub(crate) hangs: bool,
    pub(crate) largest: usize,
}

impl Ledger {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: watch::channel(0).0, takes: AtomicUsize::new(0) })
    }

    /// Returns the number of takes.
    pub(crate) fn takes(&self) -> usize {
        self.takes.load(Ordering::SeqCst)
    }

    /// Waits until the condition holds.
    pub(crate) async fn until(&self, so: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        let waited = tokio::time::timeout(PATIENCE, changed.wait_for(|_| so(&self.state.lock()))).await;
        if waited.is_err() {
            let state = self.state.lock();
            panic!("{} came, {} are parked, told {:?}", state.order.len(), state.parked.len(), state.told.last());
        }
    }

    /// Returns the bodies of one partition, in the order of arrival.
    pub(crate) fn of(&self, partition: i32) -> Vec<u64> {
        let state = self.state.lock();
        let prefix = format!("kafka:main:events/{partition}/");
        let of = state.order.iter().filter(|(id, _)| id.starts_with(&prefix));
        of.map(|(_, body)| serde_json::from_slice::<Json>(body).unwrap()["n"].as_u64().unwrap()).collect()
    }
}

impl Ingest for Ledger {
    fn accept<'a>(&'a self, _: &'a str, what: Vec<Incoming>) -> BoxFuture<'a, Vec<Answer>> {
        Box::pin(async move {
            self.takes.fetch_add(1, Ordering::SeqCst);
            let (answers, hangs) = {
                let mut state = self.state.lock();
                state.largest = state.largest.max(what.len());
                if state.busy > 0 {
                    state.busy -= 1;
                    (vec![Answer::Busy { after: Duration::from_millis(300) }; what.len()], false)
                } else {
                    let answers = what.into_iter().map(|one| state.one(one)).collect();
                    (answers, state.hangs)
                }
            };
            self.changed.send_modify(|count| *count += 1);
            if hangs {
                std::future::pending::<()>().await;
            }
            answers
        })
    }

    fn park(&self, what: Vec<Rejected>) -> BoxFuture<'_, bool> {
        {
            let mut state = self.state.lock();
            state.parks += 1;
            state.parked.extend(what);
        }
        self.changed.send_modify(|count| *count += 1);
        Box::pin(std::future::ready(true))
    }

    fn report(&self, event: BrokerEvent) {
        self.state.lock().told.push(event);
        self.changed.send_modify(|count| *count += 1);
    }
}

impl State {
    fn one(&mut self, one: Incoming) -> Answer {
        let Incoming::Event { id: Identity::Given(id) | Identity::OrElse(id), body } = one else { panic!("{one:?}") };
        if serde_json::from_slice::<Json>(&body).is_err() {
            let description = Some("no JSON".into());
            return Answer::Refused(Refusal { code: ErrorCode::InvalidRequest, description, language: None });
        }
        match self.known.get(&id) {
            Some(first) => {
                assert_eq!(*first, body, "another event under {id}");
                self.repeated += 1;
            }
            None => {
                self.known.insert(id.clone(), body.clone());
                self.order.push((id, body));
            }
        }
        Answer::Taken
    }
}
