//! The shape of events from a topic to the ledger, beside a bare loop that consumes and parses the same records and
//! appends them to the same store.

use std::{ops::AddAssign, sync::Arc, time::Duration};

use bytes::Bytes;
use rdkafka::{
    Message as _,
    consumer::{BaseConsumer, Consumer as _},
};
use setgate_jose::Algorithm;
use setgate_store::{Durability, Kind, NewEvent, ProducerNo, Store, Streams, Unit};

use crate::{
    Bench, BenchError, Figure, Promise, Shape,
    broker::{Broker, config, failed},
    child::{Home, Stream},
    end_to_end::count,
    event::{KEYS, Maker},
    kafka::{cluster, next_look, plain},
    load::Client,
    measure::{cpu_time, rate},
    producing::{Bare, Record},
    waiting,
};

/// The longest time without progress.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest wait for a record.
const TICK: Duration = Duration::from_millis(100);

/// Measures both sides in turn, over the same topic.
///
/// # Errors
/// Fails if there is no broker, or the gateway does not take each record once.
pub(crate) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let broker = Broker::of(bench)?;
    let figures = all(bench, &broker).await;
    broker.clear().await;
    figures
}

async fn all(bench: &Bench<'_>, broker: &Broker) -> Result<Vec<Figure>, BenchError> {
    let events = bench.plan.scale.of(10_000, 100_000, 400_000);
    let client = Client::new(bench)?;
    bench.watch.step("events for the source");
    let lines = Maker::new("source", KEYS).lines(events);
    let topic = broker.topic("source").await?;
    let records: Vec<_> = lines.iter().map(Record::event).collect();
    let bare = Bare::new(broker)?;
    bare.produce(bench, broker, &topic, &records, plain)?;
    drop(records);

    let rounds = bench.plan.scale.of(1, 3, 3);
    let (mut taken, mut alone) = (Taken::default(), Taken::default());
    for round in 1..=rounds {
        bench.watch.step(&format!("Kafka to the ledger, gateway, {round} of {rounds}"));
        let took = gateway(bench, broker, &client, &topic, events, round).await?;
        taken += took;
        bench.watch.step(&format!("Kafka to the ledger, bare loop, {round} of {rounds}"));
        alone += bare_loop(bench, broker, &client, &topic, events, round, took.group()).await?;
    }
    let figure = Figure::new(Shape::KafkaSource, "Kafka to the ledger", taken.rate(), "records/s")
        .beside(
            format!("consuming, parsing and appending {} at a time", taken.group()),
            alone.rate(),
            Some(Promise::AtLeast(0.5)),
        )
        .note(format!(
            "{} records: appended = in the topic = committed; {} a sync; CPU of a record: gateway {:.1} µs, broker {}; of the loop's: \
             client {:.1} µs, broker {}; load {}",
            taken.all,
            taken.group(),
            taken.each(taken.busy),
            broker.each(taken.broker, taken.all),
            alone.each(alone.busy),
            broker.each(alone.broker, alone.all),
            crate::machine::load(),
        ));
    Ok(vec![figure])
}

/// The cost of one side. Its time begins with the first records that it had, since joining a group is not what is
/// measured.
#[derive(Clone, Copy, Default)]
struct Taken {
    /// The number of all records.
    all: u64,
    /// The number of records within the time.
    records: u64,
    time: Duration,
    /// The CPU time of the program, from its start or the loop's.
    busy: Duration,
    broker: Duration,
    syncs: u64,
}

impl AddAssign for Taken {
    fn add_assign(&mut self, other: Self) {
        self.all += other.all;
        self.records += other.records;
        self.time += other.time;
        self.busy += other.busy;
        self.broker += other.broker;
        self.syncs += other.syncs;
    }
}

impl Taken {
    fn rate(&self) -> f64 {
        rate(self.records, self.time)
    }

    fn each(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.all.max(1) as f64
    }

    /// Returns the average number of records that shared one sync.
    fn group(&self) -> usize {
        usize::try_from(self.all / self.syncs.max(1)).unwrap_or(1).max(1)
    }
}

/// Returns a paused stream: every event is owed to it, and nothing is delivered.
fn stream() -> Stream {
    Stream::new("one", "http://127.0.0.1:9/").with("status = \"paused\"")
}

async fn gateway(
    bench: &Bench<'_>,
    broker: &Broker,
    client: &Client,
    topic: &str,
    events: usize,
    round: usize,
) -> Result<Taken, BenchError> {
    let group = broker.group(&format!("gateway-{round}"));
    let home = Home::make(bench, Algorithm::Es256, &[])?;
    let source = format!(
        "[[sources]]\nname = \"topic\"\nkind = \"kafka\"\nissuer = \"{}\"\nevents = \"all\"\nsubjects = \"any\"\n\
         from = {{ cluster = \"bench\", topics = [\"{topic}\"], group = \"{group}\" }}\n",
        home.issuer()
    );
    let home = home.with(&cluster(broker)).with(&source);
    home.declare(&[stream()])?;
    let broker_busy = broker.cpu()?;
    let gateway = home.start(bench, client).await?;
    let expected = count(events);
    let (mut first, mut last) = (None, (0, bench.clock.now()));
    let metrics = loop {
        let metrics = gateway.metrics(client).await?;
        let (appended, now) = (metrics.sum("setgate_store_records_appended_total") as u64, bench.clock.now());
        if appended > last.0 {
            last = (appended, now);
            first.get_or_insert(last);
        }
        if appended >= expected {
            break metrics;
        }
        if bench.clock.since(last.1) > PATIENCE {
            return Err(BenchError::Miscounted(format!("no figure: {appended} of {events} records were appended")));
        }
        let pause = first.map_or(Duration::from_millis(2), |(before, began): (u64, Duration)| {
            next_look(appended - before, expected - before, now.saturating_sub(began))
        });
        bench.clock.pause(pause).await;
    };
    let busy = cpu_time(gateway.pid())?;
    let broker_busy = broker.cpu()?.saturating_sub(broker_busy);
    let syncs = metrics.sum("setgate_store_sync_duration_seconds_count") as u64;
    bench.clock.pause(Duration::from_millis(100)).await;
    let appended = gateway.metrics(client).await?.sum("setgate_store_records_appended_total") as u64;
    gateway.stop(bench).await?;
    let committed = broker.committed(topic, &group)?;
    if appended != expected || committed != expected {
        return Err(BenchError::Miscounted(format!(
            "no figure: {events} records, {appended} appended, {committed} committed"
        )));
    }
    let (before, began) = first.unwrap_or(last);
    Ok(Taken {
        all: expected,
        records: expected - before,
        time: last.1.saturating_sub(began),
        busy,
        broker: broker_busy,
        syncs,
    })
}

async fn bare_loop(
    bench: &Bench<'_>,
    broker: &Broker,
    client: &Client,
    topic: &str,
    events: usize,
    round: usize,
    group: usize,
) -> Result<Taken, BenchError> {
    // The gateway creates the store, and then the loop has it alone.
    let home = Home::make(bench, Algorithm::Es256, &[stream()])?;
    home.start(bench, client).await?.stop(bench).await?;
    let secret = waiting::secret(home.folder())?;
    let store: Arc<dyn Store> = waiting::open(home.folder(), &secret, &bench.clock)?.store;
    let issuer = waiting::issuer_number(&store).await?;
    let target: Streams = waiting::stream_numbers(&store).await?.into_iter().collect();
    let target = Arc::new(target);

    let (busy, broker_busy) = (cpu_time(std::process::id())?, broker.cpu()?);
    let mut config = config(broker.bootstrap());
    config
        .set("group.id", broker.group(&format!("bare-{round}")))
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("queued.max.messages.kbytes", "16384")
        .set("queued.min.messages", "10000")
        .set("fetch.queue.backoff.ms", "20")
        .set("fetch.max.bytes", "8388608")
        .set("statistics.interval.ms", "10000")
        .set("partition.assignment.strategy", "cooperative-sticky");
    let consumer: BaseConsumer = config.create().map_err(failed("no consumer"))?;
    consumer.subscribe(&[topic]).map_err(failed("no subscription"))?;
    let expected = count(events);
    let (mut first, mut done, mut syncs) = (None, 0, 0);
    let mut last = bench.clock.now();
    while done < expected {
        let many = group.min(usize::try_from(expected - done).unwrap_or(group));
        let mut made = Vec::with_capacity(many);
        while made.len() < many {
            let Some(record) = consumer.poll(TICK) else {
                // The poll also returns without a record when partitions were assigned.
                if bench.clock.since(last) > PATIENCE {
                    let text = format!("no figure: the bare loop got {done} of {events} records");
                    return Err(BenchError::Miscounted(text));
                }
                continue;
            };
            let record = record.map_err(failed("the topic cannot be read"))?;
            first.get_or_insert_with(|| bench.clock.now());
            let payload = record.payload().unwrap_or_default();
            let value: serde_json::Value =
                serde_json::from_slice(payload).map_err(|error| BenchError::Failed(error.to_string()))?;
            let key = value.get("sub_id").and_then(|subject| subject.get("sub")).and_then(|sub| sub.as_str());
            made.push(NewEvent {
                kind: Kind::Intake,
                issuer,
                producer: ProducerNo(1),
                config: store.version(),
                order: store.names().order(key.unwrap_or_default()),
                targets: target.clone(),
                body: Bytes::copy_from_slice(payload),
                once: None,
            });
        }
        done += count(made.len());
        syncs += 1;
        last = bench.clock.now();
        store.commit(vec![Unit::Append { events: made }], Durability::Sync).await.map_err(waiting::failed)?;
    }
    let time = bench.clock.since(first.unwrap_or_default());
    let busy = cpu_time(std::process::id())?.saturating_sub(busy);
    let broker_busy = broker.cpu()?.saturating_sub(broker_busy);
    drop(consumer);
    store.close().await.map_err(waiting::failed)?;
    Ok(Taken { all: expected, records: expected, time, busy, broker: broker_busy, syncs })
}
