//! The shape from the answer 202 until the SET arrives, at half load.

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
    Bench, BenchError, Figure, Shape,
    child::{Home, Stream},
    end_to_end::{Run, count},
    event::{self, KEYS, Maker, TYPE},
    load::{Client, SINGLE_PRODUCERS, Target, join},
    measure::percentile,
    sink::Sink,
    verify,
};

/// The time between two sendings of new events.
const BEAT: Duration = Duration::from_millis(2);

/// Measures the first algorithms of the plan: one at quick scale, two at normal and four at full scale.
///
/// # Errors
/// Fails if the gateway does not run, or what arrives is not what was accepted.
pub(crate) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let mut figures = Vec::new();
    for algorithm in bench.plan.algorithms.iter().take(bench.plan.scale.of(1, 2, 4)) {
        figures.extend(one(bench, *algorithm).await?);
    }
    Ok(figures)
}

async fn one(bench: &Bench<'_>, algorithm: Algorithm) -> Result<Vec<Figure>, BenchError> {
    let scale = bench.plan.scale;
    let client = Client::new(bench)?;
    let sink = Sink::open(&bench.clock).await?;
    let home = Home::make(bench, algorithm, &[Stream::new("one", sink.url())])?;
    let gateway = home.start(bench, &client).await?;

    bench.watch.step(&format!("{algorithm}, full load by single POSTs"));
    let lines =
        Maker::new("warm", KEYS).lines(scale.of(1_500, if algorithm.is_rsa() { 6_000 } else { 12_000 }, 24_000));
    let warm = Run { requests: event::requests(&lines, 1, SINGLE_PRODUCERS), several: false };
    let full = warm.through(bench, &gateway, &client, &sink).await?.rate();

    let seconds = scale.of(1.0, 3.0, 20.0);
    let events = (full / 2.0 * seconds) as usize;
    bench.watch.step(&format!("{algorithm}, half load: {:.0} events/s", full / 2.0));
    // The lanes take turns: requests are under way together, and two of one lane must not be.
    let mut maker = Maker::new("paced", KEYS);
    let lines: Arc<Vec<_>> = Arc::new((0..events).map(|at| maker.line_in(at % KEYS, &[TYPE])).collect());
    let arrived = sink.begin(KEYS, events);
    let answered: Arc<Vec<AtomicU64>> = Arc::new((0..events).map(|_| AtomicU64::new(0)).collect());
    let target = Target::intake(&client, &gateway, false)?;
    let mut sending = JoinSet::new();
    let began = bench.clock.now();
    let mut next = 0;
    while next < events {
        let due = ((bench.clock.since(began).as_secs_f64() * full / 2.0) as usize).min(events);
        for at in next..due {
            let (target, lines, answered, clock) =
                (target.clone(), lines.clone(), answered.clone(), bench.clock.clone());
            sending.spawn(async move {
                let Some(line) = lines.get(at) else { return Ok(0) };
                let accepted = target.events(line.clone(), 1).await?;
                if let Some(when) = answered.get(at) {
                    when.store(clock.nanos(), Ordering::Relaxed);
                }
                Ok(accepted)
            });
        }
        next = due;
        bench.clock.pause(BEAT).await;
    }
    let accepted = join(sending).await?;
    arrived.all(accepted, &bench.clock).await?;
    arrived.check(accepted)?;
    verify::samples(&arrived.samples(), &gateway.jwks(&client).await?, gateway.issuer())?;
    gateway.stop(bench).await?;

    let between = |at: usize| Some(arrived.arrival(at)?.saturating_sub(answered.get(at)?.load(Ordering::Relaxed)));
    let mut times: Vec<u64> = (0..events).filter_map(between).collect();
    if count(times.len()) != accepted {
        return Err(BenchError::Miscounted("no figure: an event has no time of arrival".into()));
    }
    times.sort_unstable();
    let figure = |name: &str, share: f64| {
        let value = percentile(&times, share) as f64 / 1e6;
        Figure::new(Shape::Latency, format!("202 to delivered, {algorithm}, {name}"), value, "ms")
            .note(format!("{events} single POSTs at {:.0} events/s, half of what passes at full load", full / 2.0))
    };
    Ok(vec![figure("p50", 0.5), figure("p99", 0.99), figure("p99.9", 0.999)])
}
