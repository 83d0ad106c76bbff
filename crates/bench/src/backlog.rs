//! The shape of one stream that drains a backlog beside others with their daily work.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use setgate_jose::Algorithm;

use crate::{
    Bench, BenchError, Figure, Promise, Shape,
    child::{Home, Stream},
    crowd::{CrowdEvents, Load, lanes, wants},
    event::{self, KEYS, LINES, Maker},
    load::{Client, PRODUCERS, Target, send_all},
    measure::{median, rate},
    sink::{Run, Sink},
    verify,
};

/// The number of streams beside the deep one.
const STREAMS: usize = 999;
/// The event type of the deep stream.
const DEEP: &str = "https://bench.example/type/deep";

/// Measures the delivered rate of the other streams without and with the drain.
///
/// # Errors
/// Fails if the gateway does not run, or a stream does not get what was accepted for it.
pub(crate) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let depth = bench.plan.scale.of(20_000, 100_000, 1_000_000);
    let client = Client::new(bench)?;
    let (sink, deep_sink) = (Sink::open(&bench.clock).await?, Sink::open(&bench.clock).await?);
    let mut streams: Vec<_> =
        (0..STREAMS).map(|no| Stream::new(format!("stream-{no}"), sink.url()).with(&wants(no))).collect();
    streams.push(Stream::new("deep", deep_sink.url()).with(&format!("events = [\"{DEEP}\"]")));
    let home = Home::make(bench, Algorithm::Es256, &streams)?;
    bench.watch.step(&format!("a gateway with {STREAMS} streams, and one with {depth} SETs waiting"));
    let gateway = home.start(bench, &client).await?;
    control(bench, &home, "pause")?;
    let target = Target::intake(&client, &gateway, true)?;
    let deep = deep_sink.begin(KEYS, 0);
    let mut maker = Maker::new("deep", KEYS);
    let mut waiting = 0;
    while waiting < depth {
        let many = (depth - waiting).min(50_000);
        let lines: Vec<_> = (0..many).map(|_| maker.line(&[DEEP])).collect();
        send_all(&target, &event::requests(&lines, LINES, PRODUCERS)).await?;
        waiting += many;
    }
    let depth = crate::end_to_end::count(depth);

    let arrived = sink.begin(lanes(STREAMS), 0);
    let sources = CrowdEvents::all("crowd", STREAMS, STREAMS);
    let load = Load::begin(bench, &target, &sources, &arrived);
    bench.watch.step("full load, without and with the drain in turn");
    let full = turns(bench, &home, &load, &deep).await?;
    bench.watch.step("half load, without and with the drain in turn");
    load.pace(full.without / 2.0);
    let half = turns(bench, &home, &load, &deep).await?;
    let left = depth.saturating_sub(deep.delivered());
    control(bench, &home, "resume")?;
    let accepted = load.end().await?;
    arrived.all(accepted, &bench.clock).await?;
    arrived.check(accepted)?;
    deep.all(depth, &bench.clock).await?;
    deep.check(depth)?;
    let jwks = gateway.jwks(&client).await?;
    verify::samples(&arrived.samples(), &jwks, gateway.issuer())?;
    verify::samples(&deep.samples(), &jwks, gateway.issuer())?;
    gateway.stop(bench).await?;
    if left == 0 {
        return Err(BenchError::Miscounted("no figure: the backlog was empty before the measurement ended".into()));
    }
    let figure = |name: &str, turns: &Turns| {
        Figure::new(Shape::Backlog, format!("one stream drains, {name}, the others get"), turns.with, "SETs/s")
            .beside("no stream drains", turns.without, Some(Promise::AtLeast(0.95)))
            .note(format!("the draining stream got {:.0} SETs a second", turns.drained))
    };
    Ok(vec![
        figure("full load", &full),
        figure("half load", &half).note(format!(
            "the draining stream got {:.0} SETs a second; of its {depth}, {left} were left at the end",
            half.drained
        )),
    ])
}

/// The rates in turns without and with the drain, in SETs a second.
struct Turns {
    without: f64,
    with: f64,
    /// The rate of the draining stream.
    drained: f64,
}

/// Measures without and with the drain in turn, so that a disturbance meets both, and takes the medians.
async fn turns(bench: &Bench<'_>, home: &Home, load: &Load, deep: &Run) -> Result<Turns, BenchError> {
    let scale = bench.plan.scale;
    let time = Duration::from_millis(scale.of(500, 1000, 10_000));
    let (mut without, mut with, mut drained) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..scale.of(1, 3, 3) {
        without.push(load.rate(bench, time / 2, time).await);
        control(bench, home, "resume")?;
        bench.clock.pause(time / 4).await;
        let (before, began) = (deep.delivered(), bench.clock.now());
        with.push(load.rate(bench, Duration::ZERO, time).await);
        drained.push(rate(deep.delivered() - before, bench.clock.since(began)));
        control(bench, home, "pause")?;
    }
    Ok(Turns { without: median(&mut without), with: median(&mut with), drained: median(&mut drained) })
}

fn control(bench: &Bench<'_>, home: &Home, verb: &str) -> Result<(), BenchError> {
    let done = Command::new(&bench.plan.program)
        .args(["streams", verb, "deep", "--config"])
        .arg(home.folder().join("setgate.toml"))
        .stdin(Stdio::null())
        .output()
        .map_err(BenchError::failed("the program cannot be started"))?;
    if done.status.success() {
        return Ok(());
    }
    Err(BenchError::Failed(format!("`streams {verb}`: {}", String::from_utf8_lossy(&done.stderr).trim())))
}
