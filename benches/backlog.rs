//! One stream that drains a backlog beside others that have their daily work.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use jose::Algorithm;

use crate::{
    Bench, BenchError, Figure, Promise, Shape,
    child::{Home, Stream},
    crowd::{Load, Source, lanes, wants},
    event::{self, KEYS, LINES, Maker},
    load::{Client, PRODUCERS, Target, send_all},
    measure::rate,
    sink::Sink,
    verify,
};

/// Streams beside the deep one.
const STREAMS: usize = 999;
/// The event type of the deep stream.
const DEEP: &str = "https://bench.example/type/deep";

/// Measures the delivered rate of the others without and with the drain.
///
/// # Errors
/// When the gateway does not run, or a stream does not get what was accepted for it.
pub(crate) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let depth = bench.plan.scale.of(10_000, 80_000, 1_000_000);
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
    let sources = Source::all("crowd", STREAMS, STREAMS);
    let time = bench.plan.scale.of(Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(30));
    bench.watch.step("without the drain");
    let load = Load::begin(bench, &target, &sources, &arrived);
    let without = load.rate(bench, time / 3, time).await;
    bench.watch.step("with the drain");
    control(bench, &home, "resume")?;
    let (began, drained) = (bench.clock.now(), deep.delivered());
    let with = load.rate(bench, Duration::from_millis(200), time).await;
    let draining = rate(deep.delivered() - drained, bench.clock.since(began));
    let left = depth - deep.delivered();
    let accepted = load.end().await?;
    arrived.all(accepted, &bench.clock).await?;
    arrived.judge(accepted)?;
    deep.all(depth, &bench.clock).await?;
    deep.judge(depth)?;
    let jwks = gateway.jwks(&client).await?;
    verify::samples(&arrived.samples(), &jwks, gateway.issuer())?;
    verify::samples(&deep.samples(), &jwks, gateway.issuer())?;
    gateway.stop(bench).await?;
    if left == 0 {
        return Err(BenchError::Miscounted("no figure: the backlog was empty before the measurement ended".into()));
    }
    Ok(vec![
        Figure::new(Shape::Backlog, "one stream drains, the 999 others get", with, "SETs/s")
            .beside("no stream drains", without, Some(Promise::AtLeast(0.95)))
            .note(format!(
                "the deep stream had {depth} SETs waiting and got {draining:.0} a second meanwhile; {left} were left at the end of the measurement"
            )),
    ])
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
