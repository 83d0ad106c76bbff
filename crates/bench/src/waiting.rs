//! The shape of a million waiting deliveries: their memory, and the duration of a start with them.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use setgate_jose::{Algorithm, Kek};
use setgate_set::Receipt;
use setgate_store::{
    Appended, Done, Durability, FjallStore, IssuerNo, Key, Kind, Names, NewEvent, Note, Opened, Options, Position,
    ProducerNo, Settlement, Store, StorePlace, StreamNo, Streams, Unit,
};

use crate::{
    Bench, BenchError, Figure, Promise, Shape,
    child::{Home, Stream},
    end_to_end::count,
    event::Maker,
    load::Client,
    measure::{Clock, Dice, resident},
};

/// The number of streams that events are owed to.
const STREAMS: usize = 1000;
/// The number of streams that one event is owed to.
const TARGETS: usize = 10;
/// The most MiB of memory that a million deliveries may take.
const MEMORY: f64 = 64.0;
/// The most seconds that a start with them may take.
const RESTART: f64 = 5.0;
const MIB: f64 = 1024.0 * 1024.0;

/// Measures the store alone, then the gateway as a whole.
///
/// # Errors
/// Fails if the gateway does not run, or does not owe what it was given.
pub(crate) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let events = bench.plan.scale.of(10_000, 200_000, 200_000);
    let client = Client::new(bench)?;
    // Nothing listens at the endpoint, so a stream that is not paused tries in vain.
    let streams = |status: &str| -> Vec<_> {
        let stream =
            |no| Stream::new(format!("stream-{no}"), "http://127.0.0.1:9/").with(&format!("status = \"{status}\""));
        (0..STREAMS).map(stream).collect()
    };
    let home = Home::make(bench, Algorithm::Es256, &streams("paused"))?;
    bench.watch.step("a gateway with 1,000 streams and nothing waiting");
    let gateway = home.start(bench, &client).await?;
    let (idle, started) = (quiet(bench, gateway.pid()).await?, gateway.ready_after);
    gateway.stop(bench).await?;

    bench.watch.step(&format!("{} deliveries, half of them settled", grouped(count(events * TARGETS))));
    let filled = far_side(bench, "fill", home.folder(), events)?;
    bench.watch.step("opening the store");
    let opened = far_side(bench, "open", home.folder(), 0)?;
    bench.watch.step("starting the gateway, streams paused");
    let gateway = home.start(bench, &client).await?;
    let (paused, restart) = (quiet(bench, gateway.pid()).await?, gateway.ready_after);
    let waiting = gateway.metrics(&client).await?.sum("setgate_store_deliveries_waiting");
    gateway.stop(bench).await?;
    bench.watch.step("starting the gateway, receivers refuse");
    home.declare(&streams("enabled"))?;
    let gateway = home.start(bench, &client).await?;
    let (refused, restart_refused) = (quiet(bench, gateway.pid()).await?, gateway.ready_after);
    gateway.stop(bench).await?;
    if filled.waiting != opened.waiting || (waiting - opened.waiting as f64).abs() > 0.5 {
        return Err(BenchError::Miscounted(format!(
            "no figure: {} deliveries were left waiting, the store found {}, the gateway {waiting}",
            filled.waiting, opened.waiting
        )));
    }
    let (name, millions) = (grouped(filled.waiting), filled.waiting as f64 / 1e6);
    let memory = |what: &str, value: f64| {
        Figure::new(Shape::Waiting, format!("{name} waiting, {what}"), value / MIB, "MiB").beside(
            "the promise",
            MEMORY,
            Some(Promise::AtMost(1.0)),
        )
    };
    let time = |what: &str, value: Duration| {
        Figure::new(Shape::Waiting, format!("{name} waiting, {what}"), value.as_secs_f64(), "s").beside(
            "the promise",
            RESTART,
            Some(Promise::AtMost(1.0)),
        )
    };
    Ok(vec![
        memory("store, as filled", filled.added() as f64).note(format!(
            "{} events of 1 KB, {TARGETS} of {STREAMS} streams each; filling took {:.1} s",
            grouped(count(events)),
            filled.seconds
        )),
        memory("store, opened again", opened.added() as f64).note(format!(
            "resident memory added by opening, the engine included; {:.0} B a delivery",
            opened.added() as f64 / millions / 1e6
        )),
        memory("gateway, streams paused", paused.saturating_sub(idle) as f64).note(format!(
            "{:.0} MiB, and {:.0} MiB with the same streams and nothing waiting",
            paused as f64 / MIB,
            idle as f64 / MIB
        )),
        memory("gateway, receivers refuse", refused.saturating_sub(idle) as f64)
            .note(format!("{:.0} MiB: every stream has SETs ready, and tries", refused as f64 / MIB)),
        time("opening the store", Duration::from_secs_f64(opened.seconds)),
        time("starting the gateway, receivers refuse", restart_refused),
        time("starting the gateway, streams paused", restart).note(format!(
            "until it is ready; {:.2} s when it made the store and its {STREAMS} streams",
            started.as_secs_f64()
        )),
    ])
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let parts: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    parts.join(",")
}

/// Waits until the resident memory does not change any more, and returns it.
async fn quiet(bench: &Bench<'_>, pid: u32) -> Result<u64, BenchError> {
    let mut last = resident(pid)?;
    for _ in 0..10 {
        bench.clock.pause(Duration::from_millis(400)).await;
        let now = resident(pid)?;
        if now.abs_diff(last) < 1 << 20 {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

/// The findings of the far side.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    /// The resident memory before the store was opened, in bytes.
    before: u64,
    /// The resident memory afterwards, in bytes.
    after: u64,
    seconds: f64,
    waiting: u64,
}

impl Found {
    fn added(&self) -> u64 {
        self.after.saturating_sub(self.before)
    }
}

fn far_side(bench: &Bench<'_>, what: &str, folder: &Path, events: usize) -> Result<Found, BenchError> {
    let task = format!("{what}:{events}:{}", folder.display());
    let done = Command::new(&bench.plan.own).args(["--task", &task]).output();
    let done = done.map_err(BenchError::failed("the far side cannot be started"))?;
    serde_json::from_slice(&done.stdout)
        .map_err(|_| BenchError::Failed(format!("{what}: {}", String::from_utf8_lossy(&done.stderr).trim())))
}

/// Runs the far side, `fill:EVENTS:FOLDER` or `open:0:FOLDER`.
///
/// # Errors
/// Fails if there is no such task, or the store is not what it should be.
pub(crate) async fn task(task: &str) -> Result<String, BenchError> {
    let unknown = || BenchError::Failed(format!("`{task}` is no task"));
    let (what, rest) = task.split_once(':').ok_or_else(unknown)?;
    let (events, folder) = rest.split_once(':').ok_or_else(unknown)?;
    let (events, folder) = (events.parse().map_err(|_| unknown())?, Path::new(folder));
    let clock = Clock::new();
    let secret = secret(folder)?;
    let before = resident(std::process::id())?;
    let began = clock.now();
    let opened = open(folder, &secret, &clock)?;
    let store: Arc<dyn Store> = opened.store;
    match what {
        "fill" => fill(&store, events).await?,
        "open" => {}
        _ => return Err(unknown()),
    }
    let seconds = clock.since(began).as_secs_f64();
    // Memory that was used for the work is released soon.
    clock.pause(Duration::from_millis(300)).await;
    let found = Found { before, after: resident(std::process::id())?, seconds, waiting: store.health().waiting };
    store.close().await.map_err(failed)?;
    serde_json::to_string(&found).map_err(|error| BenchError::Failed(error.to_string()))
}

pub(crate) fn failed(error: setgate_store::StoreError) -> BenchError {
    BenchError::Failed(format!("the store: {error}"))
}

/// Returns the secret by which the store names things, as the gateway keeps it.
pub(crate) fn secret(folder: &Path) -> Result<[u8; Names::SECRET], BenchError> {
    let wrong = |why: String| BenchError::Failed(format!("the secrets of the gateway: {why}"));
    let kek = Kek::load(&folder.join("secrets/kek")).map_err(|error| wrong(error.to_string()))?;
    let text = std::fs::read_to_string(folder.join("secrets/store-names")).map_err(|error| wrong(error.to_string()))?;
    let sealed = STANDARD.decode(text.trim()).map_err(|error| wrong(error.to_string()))?;
    let plain = kek.open_secret("gateway/store-names", &sealed).map_err(|error| wrong(error.to_string()))?;
    plain.as_slice().try_into().map_err(|_| wrong("of the wrong length".into()))
}

pub(crate) fn open(folder: &Path, secret: &[u8; Names::SECRET], clock: &Clock) -> Result<Opened, BenchError> {
    let place = StorePlace { store: folder.join("store"), owner: folder.join("secrets/store-owner") };
    FjallStore::open(&place, &Options::default(), secret, &clock.runtime(), setgate_store::Observed::default())
        .map_err(|error| BenchError::Failed(format!("the store: {error}")))
}

/// Appends the events, then settles half of what is owed for them, chosen at random.
async fn fill(store: &Arc<dyn Store>, events: usize) -> Result<(), BenchError> {
    let numbers = stream_numbers(store).await?;
    if numbers.len() != STREAMS {
        return Err(BenchError::Failed(format!("{} streams are there", numbers.len())));
    }
    let issuer = issuer_number(store).await?;
    let bodies: Vec<Bytes> =
        Maker::new("waiting", 256).lines(256).iter().map(|line| line.slice(..line.len() - 1)).collect();
    let (mut dice, mut coin) = (Dice::new(10), Dice::new(11));
    let mut owed: Vec<(Position, Arc<Streams>)> = Vec::with_capacity(4096);
    let mut done = 0;
    while done < events {
        let many = (events - done).min(4096);
        let made: Vec<NewEvent> = (done..done + many)
            .map(|at| {
                let targets = Arc::new(targets(&numbers, &mut dice));
                let body = bodies.get(at % bodies.len().max(1)).cloned().unwrap_or_default();
                NewEvent {
                    kind: Kind::Intake,
                    issuer,
                    producer: ProducerNo(1),
                    config: store.version(),
                    order: store.names().order(&format!("waiting-{}", at % 10_000)),
                    targets,
                    body,
                    once: None,
                }
            })
            .collect();
        let targets: Vec<_> = made.iter().map(|event| event.targets.clone()).collect();
        let units = made.chunks(128).map(|part| Unit::Append { events: part.to_vec() }).collect();
        let appended = store.commit(units, Durability::Sync).await.map_err(failed)?;
        let positions = appended.into_iter().flat_map(|done| match done {
            Done::Appended(all) => all,
            _ => Vec::new(),
        });
        for (appended, targets) in positions.zip(targets) {
            match appended {
                Appended::New { at, .. } => owed.push((at, targets)),
                other => return Err(BenchError::Failed(format!("the store did not append: {other:?}"))),
            }
        }
        settle_half(store, &mut owed, &mut coin).await?;
        done += many;
    }
    Ok(())
}

fn targets(numbers: &[u32], dice: &mut Dice) -> Streams {
    let mut targets = Streams::new();
    while targets.len() < count(TARGETS.min(numbers.len())) {
        let at = usize::try_from(dice.below(count(numbers.len()))).unwrap_or_default();
        targets.extend(numbers.get(at));
    }
    targets
}

async fn settle_half(
    store: &Arc<dyn Store>,
    owed: &mut Vec<(Position, Arc<Streams>)>,
    coin: &mut Dice,
) -> Result<(), BenchError> {
    let mut what = Vec::new();
    for (at, targets) in owed.drain(..) {
        for stream in targets.iter().filter(|_| coin.below(2) == 0) {
            what.push(Settlement { stream: StreamNo(stream), at, note: Note::Acknowledged(Receipt::Receiver) });
        }
    }
    let fence = store.fence();
    let units = what.chunks(1000).map(|part| Unit::Settle { fence, what: part.to_vec() }).collect();
    store.commit(units, Durability::Sync).await.map_err(failed).map(|_| ())
}

pub(crate) async fn stream_numbers(store: &Arc<dyn Store>) -> Result<Vec<u32>, BenchError> {
    let records = store.range(Key::from("stream/")).await.map_err(failed)?;
    let number = |record: &setgate_store::Record| {
        let value: Value = serde_json::from_slice(&record.value).ok()?;
        u32::try_from(value.get("no")?.as_u64()?).ok()
    };
    let numbers: Vec<u32> = records.iter().filter_map(number).collect();
    Ok(numbers)
}

pub(crate) async fn issuer_number(store: &Arc<dyn Store>) -> Result<IssuerNo, BenchError> {
    let records = store.range(Key::from("issuer/")).await.map_err(failed)?;
    let number = records.first().and_then(|record| {
        let value: Value = serde_json::from_slice(&record.value).ok()?;
        u32::try_from(value.get("no")?.as_u64()?).ok()
    });
    number.map(IssuerNo).ok_or_else(|| BenchError::Failed("the store knows no issuer".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_as_many_as_wanted_and_spread() {
        let numbers: Vec<u32> = (1..=1000).collect();
        let mut dice = Dice::new(1);
        let mut all = Streams::new();
        for _ in 0..1000 {
            let some = targets(&numbers, &mut dice);
            assert_eq!(some.len(), 10);
            all |= some;
        }
        assert_eq!(all.len(), 1000);
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(
            (grouped(7).as_str(), grouped(1000).as_str(), grouped(1_234_567).as_str()),
            ("7", "1,000", "1,234,567")
        );
    }
}
