//! The shape of several SETs per request beside one per request, over a connection with 20 ms of round trip.

use std::time::Duration;

use setgate_jose::Algorithm;

use crate::{
    Bench, BenchError, Figure, Promise, Shape,
    child::{Home, Stream},
    end_to_end::{Passed, Run},
    event::{self, KEYS, LINES, Maker},
    load::{Client, PRODUCERS},
    proxy::Proxy,
    sink::Sink,
};

/// The delay of a byte in each direction.
const DELAY: Duration = Duration::from_millis(10);
/// The least ratio of several SETs per request to one per request.
const LEAST: f64 = 5.0;
/// The requests under way at once, of single push and of multi-SET push: the defaults of both.
const REQUESTS: [usize; 2] = [64, 4];

/// Measures both methods with their defaults, and single push with as few requests under way as multi-SET push has.
///
/// # Errors
/// Fails if the gateway does not run, or what arrives is not what was accepted.
pub(crate) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let scale = bench.plan.scale;
    let several = scale.of(6_000, 40_000, 160_000);
    let (single, few) = (several / 4, several / 80);
    let client = Client::new(bench)?;
    let sink = Sink::open(&bench.clock).await?;
    let proxy = Proxy::open(sink.address(), DELAY, &bench.clock).await?;
    let [requests, batches] = REQUESTS;
    let push = format!("http://{}/", proxy.address());
    let multi = sink.batch_url().replace(&sink.address().to_string(), &proxy.address().to_string());
    let (mut singly, mut fewer, mut batched) = (Passed::default(), Passed::default(), Passed::default());
    let stream = |method: &str, to: &str| Stream::pushed(method, method, to);
    let slow = format!("grant = {{ window = {batches} }}");
    let plans = [
        (stream("push", &push).with(&format!("grant = {{ window = {requests} }}")), single, &mut singly),
        (stream("multipush", &multi), several, &mut batched),
        (stream("push", &push).with(&slow), few, &mut fewer),
    ];
    // Each stream has a gateway of its own: one gateway would deliver every event to both streams.
    for (no, (stream, events, passed)) in plans.into_iter().enumerate() {
        let home = Home::make(bench, Algorithm::Es256, &[stream])?;
        let gateway = home.start(bench, &client).await?;
        for round in 1..=scale.of(1, 2, 3) {
            let what = ["one SET a request", "several SETs a request", "one SET a request, fewer requests"];
            bench.watch.step(&format!("{}, round {round}", what.get(no).copied().unwrap_or_default()));
            let runs = ["first", "second", "third"];
            let lines = Maker::new(runs.get(round - 1).copied().unwrap_or("more"), KEYS).lines(events);
            let run = Run { requests: event::requests(&lines, LINES, PRODUCERS), several: true };
            *passed += run.through(bench, &gateway, &client, &sink).await?;
        }
        gateway.stop(bench).await?;
    }
    let name = "multi-SET push, ES256, 20 ms there and back";
    Ok(vec![
        Figure::new(Shape::Batches, name, batched.rate(), "SETs/s")
            .beside(format!("single push with {requests} requests under way"), singly.rate(), Some(Promise::AtLeast(LEAST)))
            .note(format!(
                "{batches} requests under way, each of up to 200 SETs; both methods as they are by default; {}; single push: {}",
                batched.note(),
                singly.note()
            )),
        Figure::new(Shape::Batches, "the same, as many requests under way", batched.rate(), "SETs/s")
            .beside(format!("single push with {batches} requests under way"), fewer.rate(), None)
            .note(fewer.note()),
    ])
}
