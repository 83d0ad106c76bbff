//! The bare loop of the Kafka figures: as many threads as cores sign and produce the same bytes with the same settings,
//! nothing else.

use std::{
    borrow::Cow,
    ops::AddAssign,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use rdkafka::{
    ClientContext,
    config::FromClientConfigAndContext as _,
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer},
};

use crate::{
    Bench, BenchError,
    broker::{Broker, config, failed},
    child::AUDIENCE,
    end_to_end::count,
    event::{self, Mark},
    measure::{Dice, cpu_time, rate},
};

/// The number of records under way at once: the default of a cluster.
const IN_FLIGHT: usize = 10_000;
/// The number of records under way at which a waiting sender goes on.
const ROOM: usize = IN_FLIGHT - 256;

/// A record as the gateway makes it, but for the signature.
pub(crate) struct Record {
    key: String,
    headers: Vec<(&'static str, String)>,
    /// The claims, which are signed or are the value itself.
    pub(crate) value: Vec<u8>,
}

impl Record {
    /// Returns an event for a source: the line without its end, in a partition of its subject.
    pub(crate) fn event(line: &Bytes) -> Self {
        let lane = Mark::find(line).map_or(0, |mark| mark.lane);
        Self { key: format!("{lane:08}"), headers: Vec::new(), value: line.trim_ascii_end().to_vec() }
    }
}

/// Returns the records that the gateway would make of these lines.
///
/// # Errors
/// Fails if a line is no event.
pub(crate) fn records(lines: &[Bytes], issuer: &str, stream: &str, kind: &str) -> Result<Vec<Record>, BenchError> {
    let made = |(number, line): (usize, &Bytes)| {
        let (jti, value) = event::claim(line, issuer, AUDIENCE, number)?;
        let lane = Mark::find(line).map_or(0, |mark| mark.lane);
        let txn = serde_json::from_slice::<serde_json::Value>(line).ok();
        let txn = txn.and_then(|line| Some(line.get("txn")?.as_str()?.to_owned())).unwrap_or_default();
        let headers = vec![
            ("content-type", kind.to_owned()),
            ("set_jti", jti.to_string()),
            ("set_iss", issuer.to_owned()),
            ("set_txn", txn),
            ("set_stream", stream.to_owned()),
            ("set_event", event::TYPE.to_owned()),
            ("set_iat", "1700000000".to_owned()),
        ];
        // The gateway's key is a keyed hash of the subject; this one has as many digits, as evenly spread.
        Ok(Record { key: format!("{:016x}", Dice::new(lane.into()).roll()), headers, value })
    };
    lines.iter().enumerate().map(made).collect()
}

/// The cost of one side of the comparison.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Took {
    pub(crate) records: u64,
    /// The time from the first to the last acknowledgement.
    pub(crate) time: Duration,
    /// The CPU time of the program that is compared: gateway or loop.
    pub(crate) program: Duration,
    /// The CPU time of the producers over HTTP in front of it.
    pub(crate) before: Duration,
    /// The CPU time of the broker.
    pub(crate) broker: Duration,
}

impl AddAssign for Took {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.time += other.time;
        self.program += other.program;
        self.before += other.before;
        self.broker += other.broker;
    }
}

impl Took {
    pub(crate) fn rate(&self) -> f64 {
        rate(self.records, self.time)
    }

    /// Returns the microseconds of one record.
    pub(crate) fn each(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.records.max(1) as f64
    }
}

/// A producer context that counts the records under way.
struct Counted {
    under_way: AtomicUsize,
    delivered: AtomicU64,
    refused: AtomicU64,
    why: Mutex<String>,
    room: Condvar,
    lock: Mutex<()>,
}

impl ClientContext for Counted {}

impl ProducerContext for Counted {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => self.delivered.fetch_add(1, Ordering::Relaxed),
            Err((error, record)) => {
                let text = format!("a record of {} bytes: {error}", record.payload_len());
                *self.why.lock().unwrap_or_else(PoisonError::into_inner) = text;
                self.refused.fetch_add(1, Ordering::Relaxed)
            }
        };
        if self.under_way.fetch_sub(1, Ordering::AcqRel) == ROOM {
            let _held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.room.notify_all();
        }
    }
}

impl Counted {
    fn wait_for_room(&self) {
        if self.under_way.fetch_add(1, Ordering::AcqRel) < IN_FLIGHT {
            return;
        }
        let held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // The reports of other records wake this thread; the time-out is only for a broker that is gone.
        let full = |_: &mut ()| self.under_way.load(Ordering::Acquire) > ROOM;
        let _ = self.room.wait_timeout_while(held, Duration::from_secs(60), full);
    }
}

/// A producer with the settings that the gateway has by default.
pub(crate) struct Bare {
    producer: ThreadedProducer<Counted>,
}

impl Bare {
    /// Creates a producer.
    ///
    /// # Errors
    /// Fails if the client library does not create one.
    pub(crate) fn new(broker: &Broker) -> Result<Self, BenchError> {
        let mut config = config(broker.bootstrap());
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("batch.size", "1000000")
            .set("message.max.bytes", "1000000")
            .set("max.in.flight.requests.per.connection", "5")
            .set("queue.buffering.max.messages", (2 * IN_FLIGHT + 1000).to_string())
            .set("partitioner", "murmur2_random")
            .set("compression.type", "none")
            .set("message.timeout.ms", "60000")
            .set("statistics.interval.ms", "10000");
        let counted = Counted {
            under_way: AtomicUsize::new(0),
            delivered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            why: Mutex::default(),
            room: Condvar::new(),
            lock: Mutex::new(()),
        };
        let producer = ThreadedProducer::from_config_and_context(&config, counted).map_err(failed("no producer"))?;
        Ok(Self { producer })
    }

    /// Makes the value of each record, produces it, and waits for the last acknowledgement.
    ///
    /// # Errors
    /// Fails if a record is not acknowledged.
    pub(crate) fn produce<M>(
        &self,
        bench: &Bench<'_>,
        broker: &Broker,
        topic: &str,
        records: &[Record],
        make: M,
    ) -> Result<Took, BenchError>
    where
        M: Fn(&[u8]) -> Result<Cow<'_, [u8]>, BenchError> + Sync,
    {
        let counted = self.producer.context();
        let before = counted.delivered.load(Ordering::Acquire);
        let (busy, broker_busy) = (cpu_time(std::process::id())?, broker.cpu()?);
        let began = bench.clock.now();
        let next = AtomicUsize::new(0);
        let work = || -> Result<(), BenchError> {
            while let Some(record) = records.get(next.fetch_add(1, Ordering::Relaxed)) {
                let value = make(&record.value)?;
                counted.wait_for_room();
                let headers = OwnedHeaders::new_with_capacity(record.headers.len());
                let headers = record
                    .headers
                    .iter()
                    .fold(headers, |all, (key, value)| all.insert(Header { key, value: Some(value.as_str()) }));
                let record = BaseRecord::to(topic).key(&record.key).payload(value.as_ref()).headers(headers);
                self.producer
                    .send(record)
                    .map_err(|(error, _)| BenchError::Failed(format!("the bare loop cannot produce: {error}")))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..crate::machine::cores()).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().map_err(|_| BenchError::Failed("a thread of the bare loop has ended".into()))?
            })
        })?;
        self.producer.flush(Duration::from_secs(60)).map_err(failed("the bare loop's records"))?;
        let time = bench.clock.since(began);
        let delivered = counted.delivered.load(Ordering::Acquire) - before;
        if counted.refused.load(Ordering::Acquire) > 0 || delivered != count(records.len()) {
            let why = counted.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
            return Err(BenchError::Miscounted(format!(
                "no figure: the bare loop produced {} records, {delivered} were acknowledged {why}",
                records.len()
            )));
        }
        Ok(Took {
            records: delivered,
            time,
            program: cpu_time(std::process::id())?.saturating_sub(busy),
            before: Duration::ZERO,
            broker: broker.cpu()?.saturating_sub(broker_busy),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Maker;

    #[test]
    fn records_carry_what_the_gateways_do() {
        let lines = Maker::new("test", 5).lines(20);
        let records = records(&lines, "https://idp.example", "one", "application/json").unwrap();
        for (line, record) in lines.iter().zip(&records) {
            assert_eq!(record.key.len(), 16);
            assert_eq!(Mark::find(line), Mark::find(&record.value));
            let jti = &record.headers[1].1;
            assert!(memchr::memmem::find(&record.value, jti.as_bytes()).is_some());
            assert!(record.headers[3].1.starts_with("test-"));
        }
        let key = |lane| records.iter().zip(&lines).filter(move |(_, line)| Mark::find(line).unwrap().lane == lane);
        assert!(key(1).all(|(record, _)| record.key == key(1).next().unwrap().0.key));
        assert_ne!(key(1).next().unwrap().0.key, key(2).next().unwrap().0.key);
    }
}
