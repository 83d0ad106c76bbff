//! The shape of thousands of waiting receivers: the cost of each, and how soon one of them gets what has come for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use setgate_jose::Algorithm;
use tokio::task::JoinSet;

use crate::{
    Bench, BenchError, Figure, Promise, Shape,
    child::{Home, Stream},
    crowd::{kind, wants},
    crowds::{Crowd, Way},
    end_to_end::count,
    event::Maker,
    load::{Client, Target, join},
    machine::open_files,
    measure::{Dice, Resident, cpu_time, percentile, socket_memory},
    sink::{Run, audience},
    verify,
};

/// The number of receivers that are wanted.
pub(crate) const VISITORS: usize = 10_000;
/// The number of files that a process has open beside its connections.
const OTHER_FILES: u64 = 1_000;
/// The most KiB of memory that one receiver may take.
const MEMORY: f64 = 16.0;
/// The milliseconds within which ninety-nine of a hundred SETs must have arrived.
const HANDED_OVER: f64 = 5.0;
/// The number of events a second.
const PACE: u64 = 100;
const KIB: f64 = 1024.0;

/// Measures long polls, then WebSocket subscribers.
///
/// # Errors
/// Fails if the gateway does not run, a receiver is turned away, or what arrives is not what was accepted.
pub(crate) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let (visitors, reduced) = visitors(bench);
    let mut figures = Vec::new();
    for way in [Way::Poll, Way::Socket] {
        figures.extend(one(bench, way, visitors).await?.into_iter().map(|figure| match &reduced {
            Some(why) => {
                let note = format!("{}; {why}", figure.note);
                figure.note(note)
            }
            None => figure,
        }));
    }
    Ok(figures)
}

/// Returns the number of receivers that there can be, and the reason if it is less than wanted.
pub(crate) fn visitors(bench: &Bench<'_>) -> (usize, Option<String>) {
    let wanted = bench.plan.scale.of(300, VISITORS, VISITORS);
    let most = open_files();
    let room = usize::try_from(most.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX);
    let reduced =
        (room < wanted).then(|| format!("the system permits {most} open files: fewer receivers than {wanted}"));
    (wanted.min(room), reduced)
}

/// Returns the streams whose receivers come by this method, each with an audience and an event type of its own.
fn streams(way: Way, many: u32) -> Vec<Stream> {
    let stream = |no: u32| {
        let place = usize::try_from(no).unwrap_or_default();
        Stream::visited(way.method(), format!("stream-{no}")).of(audience(no)).with(&wants(place))
    };
    (0..many).map(stream).collect()
}

async fn one(bench: &Bench<'_>, way: Way, visitors: usize) -> Result<Vec<Figure>, BenchError> {
    let name = match way {
        Way::Poll => "long polls",
        _ => "WebSocket subscribers",
    };
    let client = Client::new(bench)?;
    let streams = streams(way, u32::try_from(visitors).unwrap_or(u32::MAX));
    let home = Home::open_to(bench, Algorithm::Es256, &streams, visitors)?;
    bench.watch.step(&format!("a gateway with {visitors} streams"));
    let gateway = home.start(bench, &client).await?;
    let first_start = gateway.ready_after;
    gateway.stop(bench).await?;
    let gateway = home.start(bench, &client).await?;
    let start = gateway.ready_after;
    let base = quiet(bench, gateway.pid()).await?;
    let kernel = socket_memory();

    bench.watch.step(&format!("{visitors} {name}"));
    let samples = bench.plan.scale.of(50, 1_000, 3_000);
    let arrived = Arc::new(Run::new(visitors, samples));
    let began = bench.clock.now();
    let asks =
        (0..visitors).map(|no| home.asks(way.method(), &format!("stream-{no}"))).collect::<Result<Vec<_>, _>>()?;
    let mut crowd = Crowd::gather(bench, way, asks.into_iter(), &arrived).await?;
    let gathered = bench.clock.since(began);
    let full = quiet(bench, gateway.pid()).await?;
    let kernel = socket_memory().zip(kernel).map(|(now, before)| now.saturating_sub(before));
    crowd.here()?;

    bench.watch.step(&format!("one SET for one of them at a time, {samples} times"));
    let busy = cpu_time(gateway.pid())?;
    let target = Target::intake(&client, &gateway, false)?;
    let times = sample(bench, &target, &arrived, visitors, samples).await?;
    crowd.acknowledged(bench, count(samples)).await?;
    gateway.settled(bench, &client, count(samples)).await?;
    let busy = cpu_time(gateway.pid())?.saturating_sub(busy);
    arrived.check(count(samples))?;
    let verified = verify::samples(&arrived.samples(), &gateway.jwks(&client).await?, gateway.issuer())?;
    let after = Resident::of(gateway.pid())?;
    crowd.here()?;
    drop(crowd);
    gateway.stop(bench).await?;

    let each = |bytes: u64| bytes as f64 / KIB / visitors.max(1) as f64;
    let added = full.sum().saturating_sub(base.sum());
    let kernel = kernel.map_or_else(String::new, |bytes| {
        format!("; the kernel's socket buffers of both ends took {:.2} KiB each", each(bytes))
    });
    let memory = Figure::new(Shape::Idle, format!("{visitors} idle {name}, memory of each"), each(added), "KiB")
        .beside("the promise", MEMORY, Some(Promise::AtMost(1.0)))
        .note(format!(
            "resident memory above that of the gateway with the same streams ({:.0} MiB): own {:.2} KiB, of files {:.2} KiB each; \
             {:.2} KiB each after the SETs{kernel}; they came within {:.1} s; ready {:.2} s after the start with {visitors} streams, \
             {:.2} s when they were new",
            base.sum() as f64 / KIB / KIB,
            each(full.own.saturating_sub(base.own)),
            each(full.files.saturating_sub(base.files)),
            each(after.sum().saturating_sub(base.sum())),
            gathered.as_secs_f64(),
            start.as_secs_f64(),
            first_start.as_secs_f64(),
        ));
    let took = |share: f64| percentile(&times, share) as f64 / 1e6;
    let latency = |label: &str, share: f64| {
        Figure::new(Shape::Idle, format!("202 to one of {visitors} {name}, {label}"), took(share), "ms")
    };
    Ok(vec![
        memory,
        latency("p50", 0.5),
        latency("p99", 0.99).beside("the promise", HANDED_OVER, Some(Promise::AtMost(1.0))).note(format!(
            "{samples} events at {PACE} a second, each for one stream: accepted = delivered = settled, no duplicate, {verified} \
             signatures verified; the slowest {:.1} ms; the gateway used {:.1} ms of CPU an event, the waiting of the others included",
            took(1.0),
            busy.as_secs_f64() * 1e3 / samples.max(1) as f64
        )),
    ])
}

/// Puts in one event after the other, each for one stream chosen at random, and returns the sorted times from 202 to
/// arrival.
async fn sample(
    bench: &Bench<'_>,
    target: &Target,
    arrived: &Arc<Run>,
    visitors: usize,
    samples: usize,
) -> Result<Vec<u64>, BenchError> {
    let answered: Arc<Vec<AtomicU64>> = Arc::new((0..samples).map(|_| AtomicU64::new(0)).collect());
    let (mut maker, mut dice) = (Maker::new("idle", visitors), Dice::new(15));
    let (mut sending, began) = (JoinSet::new(), bench.clock.now());
    for at in 0..samples {
        let stream = usize::try_from(dice.below(count(visitors))).unwrap_or_default();
        let line = maker.line_in(stream, &[&kind(stream)]);
        let (target, answered, clock) = (target.clone(), answered.clone(), bench.clock.clone());
        sending.spawn(async move {
            let accepted = target.events(line, 1).await?;
            if let Some(when) = answered.get(at) {
                when.store(clock.nanos(), Ordering::Relaxed);
            }
            Ok(accepted)
        });
        let due = began
            + Duration::from_secs(1) * u32::try_from(at + 1).unwrap_or(u32::MAX) / u32::try_from(PACE).unwrap_or(1);
        bench.clock.pause(due.saturating_sub(bench.clock.now())).await;
    }
    let accepted = join(sending).await?;
    arrived.all(accepted, &bench.clock).await?;
    let between = |at: usize| Some(arrived.arrival(at)?.saturating_sub(answered.get(at)?.load(Ordering::Relaxed)));
    let mut times: Vec<u64> = (0..samples).filter_map(between).collect();
    if times.len() != samples {
        return Err(BenchError::Miscounted("no figure: an event has no time of arrival".into()));
    }
    times.sort_unstable();
    Ok(times)
}

/// Waits until the resident memory does not change any more, and returns it.
async fn quiet(bench: &Bench<'_>, pid: u32) -> Result<Resident, BenchError> {
    let mut last = Resident::of(pid)?;
    for _ in 0..20 {
        bench.clock.pause(Duration::from_millis(500)).await;
        let now = Resident::of(pid)?;
        if now.sum().abs_diff(last.sum()) < 256 << 10 {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}
