//! The shape from the producer's request to the acknowledged record in Kafka, beside a bare loop that signs and
//! produces the same bytes.

use std::{borrow::Cow, ops::AddAssign as _, time::Duration};

use setgate_jose::{Algorithm, Key, RsaBits};

use crate::{
    Bench, BenchError, Figure, Promise, Shape,
    broker::{Broker, Reader},
    child::{Gateway, Home, Stream},
    end_to_end::count,
    event::{self, KEYS, LINES, Maker},
    load::{Client, PRODUCERS, Target, send_all},
    measure::cpu_time,
    producing::{self, Bare, Took},
    sink::Run,
    verify,
};

/// The number of records that warm up broker and producers before anything is measured.
const WARM: usize = 20_000;
/// The longest time without progress.
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures signed SETs, and claims without signature.
///
/// # Errors
/// Fails if no broker was named or none answers, or the records in a topic are not what was accepted.
pub(crate) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let broker = Broker::of(bench)?;
    let figures = all(bench, &broker).await;
    broker.clear().await;
    figures
}

async fn all(bench: &Bench<'_>, broker: &Broker) -> Result<Vec<Figure>, BenchError> {
    let mut figures = Vec::new();
    for algorithm in &bench.plan.algorithms {
        figures.push(one(bench, broker, Value::Signed(*algorithm)).await?.0);
    }
    let (figure, raw) = one(bench, broker, Value::Claims).await?;
    figures.push(figure);
    figures.push(backlog(bench, broker, raw).await?);
    Ok(figures)
}

/// The content of a record's value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    Signed(Algorithm),
    Claims,
}

impl Value {
    fn name(self) -> String {
        match self {
            Self::Signed(algorithm) => algorithm.to_string(),
            Self::Claims => "claims".to_owned(),
        }
    }

    const fn terms(self) -> &'static str {
        match self {
            Self::Signed(_) => "set",
            Self::Claims => "claims",
        }
    }

    const fn kind(self) -> &'static str {
        match self {
            Self::Signed(_) => "application/secevent+jwt",
            Self::Claims => "application/json",
        }
    }

    const fn promise(self) -> Option<Promise> {
        match self {
            Self::Signed(Algorithm::Es256) => Some(Promise::AtLeast(0.6)),
            Self::Signed(Algorithm::Rs256) => Some(Promise::AtLeast(0.9)),
            Self::Signed(_) => None,
            Self::Claims => Some(Promise::AtLeast(0.4)),
        }
    }
}

/// Returns the figure, and the cost of the bare loop.
async fn one(bench: &Bench<'_>, broker: &Broker, value: Value) -> Result<(Figure, Took), BenchError> {
    let (scale, name) = (bench.plan.scale, value.name());
    let (algorithm, events) = match value {
        Value::Signed(algorithm) if algorithm.is_rsa() => (algorithm, scale.of(3_000, 18_000, 60_000)),
        Value::Signed(algorithm) => (algorithm, scale.of(6_000, 120_000, 400_000)),
        Value::Claims => (Algorithm::Es256, scale.of(6_000, 180_000, 600_000)),
    };
    let client = Client::new(bench)?;
    let key = Key::generate(algorithm, RsaBits::default()).map_err(|error| BenchError::Failed(error.to_string()))?;
    let topics = (broker.topic(&format!("{name}-bare")).await?, broker.topic(&format!("{name}-gateway")).await?);
    let stream = Stream::carried("kafka", "one", &terms(&topics.1, value));
    let home = Home::make(bench, algorithm, &[])?.with(&cluster(broker));
    home.declare(&[stream])?;
    let gateway = home.start(bench, &client).await?;
    let bare = Bare::new(broker)?;
    let issuer = home.issuer().to_owned();

    bench.watch.step(&format!("{name}, warming up"));
    let warm = producing::records(&Maker::new("warm", KEYS).lines(WARM.min(events)), &issuer, "one", value.kind())?;
    bare.produce(bench, broker, &broker.topic(&format!("{name}-warm")).await?, &warm, plain)?;
    drop(warm);
    let mut reader = Reader::open(broker, &topics.1)?;
    let mut bare_reader = Reader::open(broker, &topics.0)?;
    let few = Maker::new("first", KEYS).lines(1_000);
    through(bench, broker, &gateway, &client, &few, &mut reader, value).await?;

    // The bare loop runs before what it is compared with, round by round, so that a disturbance meets both.
    let rounds = scale.of(1, 3, 5);
    let share = events.div_ceil(rounds);
    let (mut loop_took, mut took, mut verified) = (Took::default(), Took::default(), 0);
    let mut maker = Maker::new("through", KEYS);
    for round in 1..=rounds {
        bench.watch.step(&format!("{name}, bare loop, {round} of {rounds}"));
        let lines = maker.lines(share);
        let records = producing::records(&lines, &issuer, "one", value.kind())?;
        let ran = match value {
            Value::Claims => bare.produce(bench, broker, &topics.0, &records, plain)?,
            Value::Signed(_) => bare.produce(bench, broker, &topics.0, &records, |claims| {
                let signed = key.signer().sign(claims);
                signed.map(Cow::Owned).map_err(|error| BenchError::Failed(error.to_string()))
            })?,
        };
        loop_took.add_assign(ran);
        bare_reader.read(ran.records, |_| ())?;
        drop(records);
        bench.watch.step(&format!("{name}, NDJSON of {LINES}, {round} of {rounds}"));
        let (ran, right) = through(bench, broker, &gateway, &client, &lines, &mut reader, value).await?;
        took.add_assign(ran);
        verified += right;
        maker = maker.next_run();
    }
    gateway.stop(bench).await?;
    for (topic, reader) in [(&topics.0, &bare_reader), (&topics.1, &reader)] {
        let lying = broker.lying(topic)?;
        if lying != reader.records() {
            return Err(BenchError::Miscounted(format!(
                "no figure: {} records were read, {lying} lie there",
                reader.records()
            )));
        }
    }
    if !reader.weighed.is_like(&bare_reader.weighed) {
        return Err(BenchError::Miscounted(format!(
            "no figure: the gateway's records have {}, the bare loop's {}",
            reader.weighed.text(),
            bare_reader.weighed.text()
        )));
    }
    let what = match value {
        Value::Signed(_) => "the bare loop that signs and produces",
        Value::Claims => "raw produce",
    };
    let figure = Figure::new(Shape::Kafka, format!("intake to Kafka, {name}"), took.rate(), "records/s")
        .beside(what, loop_took.rate(), value.promise())
        .note(format!(
            "{} events: accepted = acknowledged = in the topic, in order, no duplicate, {verified} {}; {}; CPU of a record: gateway {:.1} µs, \
             producers {:.1} µs, broker {}; of the loop's: client {:.1} µs, broker {}; load {}",
            took.records,
            if value == Value::Claims { "looked at" } else { "signatures verified" },
            reader.weighed.text(),
            took.each(took.program),
            took.each(took.before),
            broker.each(took.broker, took.records),
            loop_took.each(loop_took.program),
            broker.each(loop_took.broker, loop_took.records),
            crate::machine::load(),
        ));
    Ok((figure, loop_took))
}

/// Measures delivery to the topic without the intake, of events that were accepted before. Its time begins when some of
/// them have gone.
async fn backlog(bench: &Bench<'_>, broker: &Broker, raw: Took) -> Result<Figure, BenchError> {
    let events = bench.plan.scale.of(6_000, 120_000, 400_000);
    bench.watch.step("claims, a backlog");
    let client = Client::new(bench)?;
    let topic = broker.topic("backlog").await?;
    let home = Home::make(bench, Algorithm::Es256, &[])?.with(&cluster(broker));
    let stream = || Stream::carried("kafka", "one", &terms(&topic, Value::Claims));
    home.declare(&[stream().with("status = \"paused\"")])?;
    let gateway = home.start(bench, &client).await?;
    let lines = Maker::new("backlog", KEYS).lines(events);
    let target = Target::intake(&client, &gateway, true)?;
    let accepted = send_all(&target, &event::requests(&lines, LINES, PRODUCERS)).await?;
    gateway.stop(bench).await?;
    home.declare(&[stream().with("status = \"enabled\"")])?;
    let gateway = home.start(bench, &client).await?;
    let (mut first, mut since) = (None, bench.clock.now());
    let mut seen = 0;
    let (settled, now) = loop {
        let settled = gateway.metrics(&client).await?.sum("setgate_store_deliveries_settled_total") as u64;
        let now = bench.clock.now();
        if settled > accepted / 20 && first.is_none() {
            first = Some((settled, now, cpu_time(gateway.pid())?, broker.cpu()?));
        }
        if settled >= accepted {
            break (settled, now);
        }
        if settled > seen {
            (seen, since) = (settled, now);
        } else if bench.clock.since(since) > PATIENCE {
            return Err(BenchError::Miscounted(format!("no figure: {accepted} accepted, {settled} settled")));
        }
        let pause = first.map_or(Duration::from_millis(2), |(before, began, ..)| {
            next_look(settled - before, accepted - before, now.saturating_sub(began))
        });
        bench.clock.pause(pause).await;
    };
    let (before, began, busy, broker_busy) =
        first.ok_or_else(|| BenchError::Miscounted("no figure: nothing settled".into()))?;
    let took = Took {
        records: settled - before,
        time: now.saturating_sub(began),
        program: cpu_time(gateway.pid())?.saturating_sub(busy),
        before: Duration::ZERO,
        broker: broker.cpu()?.saturating_sub(broker_busy),
    };
    let mut reader = Reader::open(broker, &topic)?;
    let arrived = Run::new(KEYS, 0);
    reader.read(accepted, |record| arrived.arrived_bare(record))?;
    arrived.check(accepted)?;
    let looked = verify::bare(&arrived.samples(), gateway.issuer())?;
    gateway.stop(bench).await?;
    Ok(Figure::new(Shape::Kafka, "a backlog to Kafka, claims", took.rate(), "records/s").beside("raw produce", raw.rate(), None).note(format!(
        "{accepted} events: accepted = settled = in the topic, in order, no duplicate, {looked} looked at; CPU of a record: gateway {:.1} µs, broker {}; load {}",
        took.each(took.program),
        broker.each(took.broker, took.records),
        crate::machine::load(),
    )))
}

/// Returns the value as it is.
pub(crate) fn plain(value: &[u8]) -> Result<Cow<'_, [u8]>, BenchError> {
    Ok(Cow::Borrowed(value))
}

/// Returns the section of the cluster, with its defaults.
pub(crate) fn cluster(broker: &Broker) -> String {
    let bootstrap: Vec<_> = broker.bootstrap().split(',').map(|one| format!("\"{one}\"")).collect();
    format!("[methods.kafka.clusters.bench]\nbootstrap = [{}]\nallow_plaintext = true\n", bootstrap.join(", "))
}

fn terms(topic: &str, value: Value) -> String {
    format!("cluster = \"bench\", topic = \"{topic}\", value = \"{}\"", value.terms())
}

/// Waits until `events` more are settled. The more is left, the more rarely it asks, since each question costs the
/// gateway that is measured.
async fn settle(
    bench: &Bench<'_>,
    gateway: &Gateway<'_>,
    client: &Client,
    before: u64,
    events: u64,
    began: Duration,
) -> Result<(), BenchError> {
    let (mut seen, mut since) = (0, bench.clock.now());
    loop {
        let settled = (gateway.metrics(client).await?.sum("setgate_store_deliveries_settled_total") as u64)
            .saturating_sub(before);
        let now = bench.clock.now();
        if settled >= events {
            return Ok(());
        }
        if settled > seen {
            (seen, since) = (settled, now);
        } else if bench.clock.since(since) > PATIENCE {
            return Err(BenchError::Miscounted(format!("no figure: {events} accepted, {settled} settled")));
        }
        bench.clock.pause(next_look(settled, events, now.saturating_sub(began))).await;
    }
}

/// Returns a third of the time that the rest is expected to take.
pub(crate) fn next_look(done: u64, of: u64, after: Duration) -> Duration {
    let left = after.mul_f64(of.saturating_sub(done) as f64 / done.max(1) as f64) / 3;
    left.clamp(Duration::from_millis(2), Duration::from_millis(200))
}

/// Puts the events in, waits until all of them are settled, and checks the records in the topic.
async fn through(
    bench: &Bench<'_>,
    broker: &Broker,
    gateway: &Gateway<'_>,
    client: &Client,
    lines: &[bytes::Bytes],
    reader: &mut Reader,
    value: Value,
) -> Result<(Took, usize), BenchError> {
    let requests = event::requests(lines, LINES, PRODUCERS);
    let target = Target::intake(client, gateway, true)?;
    let settled = gateway.metrics(client).await?.sum("setgate_store_deliveries_settled_total") as u64;
    let (busy, own, broker_busy) = (cpu_time(gateway.pid())?, cpu_time(std::process::id())?, broker.cpu()?);
    let began = bench.clock.now();
    let events = send_all(&target, &requests).await?;
    settle(bench, gateway, client, settled, events, began).await?;
    let took = Took {
        records: events,
        time: bench.clock.since(began),
        program: cpu_time(gateway.pid())?.saturating_sub(busy),
        before: cpu_time(std::process::id())?.saturating_sub(own),
        broker: broker.cpu()?.saturating_sub(broker_busy),
    };
    if events != count(lines.len()) {
        return Err(BenchError::Miscounted(format!("no figure: {} events, {events} accepted", lines.len())));
    }
    let arrived = Run::new(KEYS, 0);
    match value {
        Value::Signed(_) => reader.read(events, |record| arrived.arrived(record, 0))?,
        Value::Claims => reader.read(events, |record| arrived.arrived_bare(record))?,
    }
    arrived.check(events)?;
    let samples = arrived.samples();
    let right = match value {
        Value::Signed(_) => verify::samples(&samples, &gateway.jwks(client).await?, gateway.issuer())?,
        Value::Claims => verify::bare(&samples, gateway.issuer())?,
    };
    Ok((took, right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_rarely_while_much_is_left_and_often_at_the_end() {
        let after = Duration::from_secs(1);
        assert_eq!(next_look(0, 100, after), Duration::from_millis(200));
        assert_eq!(next_look(80, 100, after), Duration::from_secs_f64(0.25 / 3.0));
        assert_eq!(next_look(1_000, 1_001, after), Duration::from_millis(2));
    }
}
