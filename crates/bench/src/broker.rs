//! The broker of the Kafka figures: the topics of one run, its CPU time, and a reader of the records in a topic.

use std::{
    collections::BTreeMap,
    fs,
    net::ToSocketAddrs as _,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    message::{BorrowedMessage, Headers as _},
};

use crate::{Bench, BenchError, measure::cpu_time};

/// The number of partitions of every topic.
pub(crate) const PARTITIONS: usize = 3;
/// The longest time for the broker to do what it is asked.
const PATIENCE: Duration = Duration::from_secs(20);

/// A broker without TLS, named by the operator.
pub(crate) struct Broker {
    bootstrap: String,
    admin: AdminClient<DefaultClientContext>,
    /// The process of the broker, if it runs on this machine.
    pid: Option<u32>,
    /// A number that keeps the names of one run from those of another.
    run: u64,
    topics: Mutex<Vec<String>>,
    groups: Mutex<Vec<String>>,
}

impl Broker {
    /// Connects to the broker of the plan.
    ///
    /// # Errors
    /// Fails if none was named, or it does not answer.
    pub(crate) fn of(bench: &Bench<'_>) -> Result<Self, BenchError> {
        let bootstrap = bench.plan.kafka.as_deref().ok_or_else(|| BenchError::Unfit(crate::NO_BROKER.to_owned()))?;
        let admin: AdminClient<DefaultClientContext> = config(bootstrap).create().map_err(failed("the broker"))?;
        let metadata = admin.inner().fetch_metadata(None, PATIENCE);
        let metadata = metadata.map_err(failed(&format!("no broker answers at {bootstrap}")))?;
        if metadata.brokers().is_empty() {
            return Err(BenchError::Failed(format!("no broker answers at {bootstrap}")));
        }
        let pid = bootstrap.split(',').next().and_then(listener);
        let run = setgate_clock::Clock::wall_millis(&*bench.clock.runtime().clock);
        let (topics, groups) = (Mutex::default(), Mutex::default());
        Ok(Self { bootstrap: bootstrap.to_owned(), admin, pid, run, topics, groups })
    }

    /// Returns the addresses at which the broker answers.
    pub(crate) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Returns the CPU time that the broker's process has used; zero if it runs elsewhere.
    ///
    /// # Errors
    /// Fails if the process has ended.
    pub(crate) fn cpu(&self) -> Result<Duration, BenchError> {
        self.pid.map_or(Ok(Duration::ZERO), cpu_time)
    }

    /// Returns the broker's CPU time of one record, as text for people.
    pub(crate) fn each(&self, time: Duration, records: u64) -> String {
        match self.pid {
            Some(_) => format!("{:.1} µs", time.as_secs_f64() * 1e6 / records.max(1) as f64),
            None => "elsewhere".to_owned(),
        }
    }

    /// Creates a topic with a name that no run had before.
    ///
    /// # Errors
    /// Fails if the broker does not create it.
    pub(crate) async fn topic(&self, what: &str) -> Result<String, BenchError> {
        let name = format!("setgate-bench-{}-{what}", self.run);
        let partitions = i32::try_from(PARTITIONS).unwrap_or(1);
        // -1 stands for as many copies as the broker makes by default.
        let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(-1));
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let made = self.admin.create_topics([&topic], &options).await.map_err(failed("no topic"))?;
        for one in made {
            one.map_err(|(topic, code)| BenchError::Failed(format!("the topic {topic} is not made: {code}")))?;
        }
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
        Ok(name)
    }

    /// Returns the name of a consumer group that no run had before.
    pub(crate) fn group(&self, what: &str) -> String {
        let name = format!("setgate-bench-{}-{what}", self.run);
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
        name
    }

    /// Deletes the topics and groups of this run; what cannot be deleted stays.
    pub(crate) async fn clear(&self) {
        let taken = |of: &Mutex<Vec<String>>| std::mem::take(&mut *of.lock().unwrap_or_else(PoisonError::into_inner));
        let (topics, groups) = (taken(&self.topics), taken(&self.groups));
        // A topic that stays does not make the figures wrong.
        if !groups.is_empty() {
            let _ = self.admin.delete_groups(&names(&groups), &AdminOptions::new()).await;
        }
        if !topics.is_empty() {
            let _ = self.admin.delete_topics(&names(&topics), &AdminOptions::new()).await;
        }
    }

    /// Returns the number of records in a topic.
    ///
    /// # Errors
    /// Fails if the broker does not report the watermarks.
    pub(crate) fn lying(&self, topic: &str) -> Result<u64, BenchError> {
        let mut sum = 0;
        for partition in 0..PARTITIONS {
            let partition = i32::try_from(partition).unwrap_or_default();
            let (low, high) =
                self.admin.inner().fetch_watermarks(topic, partition, PATIENCE).map_err(failed("the watermarks"))?;
            sum += u64::try_from(high - low).unwrap_or_default();
        }
        Ok(sum)
    }

    /// Returns the number of records of a topic that a group has committed.
    ///
    /// # Errors
    /// Fails if the broker does not report the committed offsets.
    pub(crate) fn committed(&self, topic: &str, group: &str) -> Result<u64, BenchError> {
        let mut config = config(&self.bootstrap);
        config.set("group.id", group);
        let consumer: BaseConsumer = config.create().map_err(failed("no consumer"))?;
        let committed = consumer.committed_offsets(all(topic, Offset::Invalid)?, PATIENCE);
        let committed = committed.map_err(failed("the committed offsets"))?;
        let offsets = committed.elements().into_iter().filter_map(|one| u64::try_from(one.offset().to_raw()?).ok());
        Ok(offsets.sum())
    }
}

fn names(of: &[String]) -> Vec<&str> {
    of.iter().map(String::as_str).collect()
}

/// Returns the configuration that every client of the measurements begins with.
pub(crate) fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("client.id", "setgate-bench");
    config
}

pub(crate) fn failed(what: &str) -> impl FnOnce(rdkafka::error::KafkaError) -> BenchError {
    let what = what.to_owned();
    move |error| BenchError::Failed(format!("{what}: {error}"))
}

fn all(topic: &str, offset: Offset) -> Result<TopicPartitionList, BenchError> {
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        let partition = i32::try_from(partition).unwrap_or_default();
        list.add_partition_offset(topic, partition, offset).map_err(failed("the partitions"))?;
    }
    Ok(list)
}

/// The sums of the sizes of a topic's records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weighed {
    records: u64,
    key: usize,
    value: usize,
    /// The bytes of all values, by the name of the header.
    headers: BTreeMap<String, usize>,
}

impl Weighed {
    fn add(&mut self, record: &BorrowedMessage<'_>) {
        self.records += 1;
        self.key += record.key().map_or(0, <[u8]>::len);
        self.value += record.payload().map_or(0, <[u8]>::len);
        for header in record.headers().into_iter().flat_map(|headers| headers.iter()) {
            let size = header.value.map_or(0, <[u8]>::len);
            if let Some(sum) = self.headers.get_mut(header.key) {
                *sum += size;
            } else {
                self.headers.insert(header.key.to_owned(), size);
            }
        }
    }

    fn each(&self, sum: usize) -> f64 {
        sum as f64 / self.records.max(1) as f64
    }

    /// Returns the average sizes of one record as text: key, headers, value.
    pub(crate) fn text(&self) -> String {
        let headers: usize =
            self.headers.iter().map(|(name, size)| self.each(*size).round() as usize + name.len()).sum();
        format!(
            "{:.0} B of value, {:.0} B of key, {} headers of {headers} B",
            self.each(self.value),
            self.each(self.key),
            self.headers.len()
        )
    }

    /// Returns whether one record is like one of the other: the same headers, and each part within two hundredths or
    /// two bytes.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let like = |one: usize, two: usize| {
            let (one, two) = (self.each(one), other.each(two));
            (one - two).abs() <= 2.0_f64.max(one * 0.02)
        };
        like(self.key, other.key)
            && like(self.value, other.value)
            && self.headers.len() == other.headers.len()
            && self.headers.iter().zip(&other.headers).all(|(one, two)| one.0 == two.0 && like(*one.1, *two.1))
    }
}

/// A reader of a topic from its beginning, partition by partition in order.
pub(crate) struct Reader {
    consumer: BaseConsumer,
    pub(crate) weighed: Weighed,
}

impl Reader {
    /// Opens a reader before the first record.
    ///
    /// # Errors
    /// Fails if there is no client.
    pub(crate) fn open(broker: &Broker, topic: &str) -> Result<Self, BenchError> {
        let mut config = config(broker.bootstrap());
        config.set("group.id", "setgate-bench-reader").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().map_err(failed("no consumer"))?;
        consumer.assign(&all(topic, Offset::Beginning)?).map_err(failed("no partitions"))?;
        Ok(Self { consumer, weighed: Weighed::default() })
    }

    /// Returns the number of records that were read.
    pub(crate) const fn records(&self) -> u64 {
        self.weighed.records
    }

    /// Reads the next `count` records and passes the value of each to `each`.
    ///
    /// # Errors
    /// Fails if there are fewer records.
    pub(crate) fn read(&mut self, count: u64, mut each: impl FnMut(&[u8])) -> Result<(), BenchError> {
        for read in 0..count {
            let record = self.consumer.poll(PATIENCE).ok_or_else(|| {
                BenchError::Miscounted(format!("no figure: {count} records were acknowledged, {read} are in the topic"))
            })?;
            let record = record.map_err(failed("the topic cannot be read"))?;
            self.weighed.add(&record);
            each(record.payload().unwrap_or_default());
        }
        Ok(())
    }
}

/// Returns the process that listens at an address of this machine.
fn listener(address: &str) -> Option<u32> {
    let place = address.to_socket_addrs().ok()?.find(|place| place.ip().is_loopback())?;
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let inode = tables.iter().flat_map(|table| table.lines()).find_map(|line| listening(line, place.port()))?;
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // The processes of other users do not show their files.
        let files = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        if files.filter_map(|file| fs::read_link(file.path()).ok()).any(|link| link.as_os_str() == wanted.as_str()) {
            return Some(pid);
        }
    }
    None
}

/// Returns the inode of the socket in this line of the table, if it listens at the port.
fn listening(line: &str, port: u16) -> Option<u64> {
    let words: Vec<_> = line.split_whitespace().collect();
    let ends = words.get(1)?.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
    // The state 0A is LISTEN.
    (ends == Some(port) && *words.get(3)? == "0A").then(|| words.get(9)?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_listens_is_found() {
        let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = socket.local_addr().unwrap().to_string();
        assert_eq!(listener(&address), Some(std::process::id()));
        drop(socket);
        assert_eq!(listener(&address), None);
        assert_eq!(listener("192.0.2.1:9092"), None);
    }

    #[test]
    fn records_are_alike_when_each_part_is() {
        let headers = |jti: usize| BTreeMap::from([("set_jti".to_owned(), jti), ("set_iss".to_owned(), 300)]);
        let one = Weighed { records: 10, key: 160, value: 15_000, headers: headers(260) };
        let two = Weighed { records: 20, key: 320, value: 30_100, headers: headers(520) };
        assert!(!one.is_like(&two), "set_iss weighs half as much");
        let two = Weighed { headers: two.headers.into_iter().map(|(k, v)| (k, v.max(600))).collect(), ..two };
        assert!(one.is_like(&Weighed {
            headers: BTreeMap::from([("set_jti".into(), 520), ("set_iss".into(), 600)]),
            ..two.clone()
        }));
        assert!(!one.is_like(&Weighed { value: 33_000, ..two.clone() }));
        assert!(!one.is_like(&Weighed { headers: BTreeMap::new(), ..two }));
    }
}
