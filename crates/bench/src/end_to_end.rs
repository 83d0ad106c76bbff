//! The shape from the producer's request to the settled SET, beside the bare loop of the same run.

use std::{ops::AddAssign, sync::Arc, time::Duration};

use bytes::Bytes;
use setgate_jose::{Algorithm, Key, RsaBits, Signer};

use crate::{
    Bench, BenchError, Figure, Promise, Shape,
    bare::{self, Took},
    child::{Gateway, Home, Stream},
    event::{self, KEYS, LINES, Maker, Requests},
    load::{Client, PRODUCERS, SINGLE_PRODUCERS, Target, send_all},
    measure::{cpu_time, rate},
    sink::Sink,
    verify,
};

/// Measures every algorithm of the plan.
///
/// # Errors
/// Fails if the gateway does not run, or what arrives is not what was accepted.
pub(crate) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let mut figures = Vec::new();
    for algorithm in &bench.plan.algorithms {
        figures.extend(one(bench, *algorithm).await?);
    }
    Ok(figures)
}

async fn one(bench: &Bench<'_>, algorithm: Algorithm) -> Result<Vec<Figure>, BenchError> {
    let scale = bench.plan.scale;
    let events = if algorithm.is_rsa() { scale.of(3_000, 15_000, 60_000) } else { scale.of(6_000, 40_000, 160_000) };
    let client = Client::new(bench)?;
    let sink = Sink::open(&bench.clock).await?;
    let key = Key::generate(algorithm, RsaBits::default()).map_err(|error| BenchError::Failed(error.to_string()))?;
    let home = Home::make(bench, algorithm, &[Stream::new("one", sink.url())])?;
    let gateway = home.start(bench, &client).await?;

    let lines = Maker::new("lines", KEYS).lines(events);
    let claims = event::claims(&lines, home.issuer())?;
    let receiver = Target::receiver(&client, &sink.url())?;
    // The bare loop runs in turn with what it is compared with, so that a disturbance meets both.
    let rounds = scale.of(1, 3, 5);
    let share = events.div_ceil(rounds);
    let (mut bare, mut through) = (Took::default(), Passed::default());
    let mut maker = Maker::new("through", KEYS);
    for (round, part) in claims.chunks(share).enumerate() {
        let part = Arc::new(part.to_vec());
        bench.watch.step(&format!("{algorithm}, bare loop, {} of {rounds}", round + 1));
        bare += bare::sign_and_post(bench, &receiver, &sink, key.signer(), &part).await?;
        bench.watch.step(&format!("{algorithm}, NDJSON of {LINES}, {} of {rounds}", round + 1));
        let lines = maker.lines(part.len());
        let several = Run { requests: event::requests(&lines, LINES, PRODUCERS), several: true };
        through += several.through(bench, &gateway, &client, &sink).await?;
        maker = maker.next_run();
    }
    let loop_rate = rate(count(events), bare.time);
    let bare_busy = bare.busy.as_secs_f64() * 1e6 / events.max(1) as f64;

    bench.watch.step(&format!("{algorithm}, single POSTs"));
    let singles = Maker::new("singles", KEYS).lines(events / 3);
    let single = Run { requests: event::requests(&singles, 1, SINGLE_PRODUCERS), several: false };
    let singly = single.through(bench, &gateway, &client, &sink).await?;

    bench.watch.step(&format!("{algorithm}, bare posting"));
    let posting = posting(bench, &receiver, &sink, key.signer(), &claims).await?;
    gateway.stop(bench).await?;

    let least = if algorithm.is_rsa() { 0.9 } else { 0.65 };
    let figure = |name: &str, passed: &Passed| {
        Figure::new(Shape::EndToEnd, format!("end to end, {algorithm}, {name}"), passed.rate(), "SETs/s")
    };
    Ok(vec![
        figure("NDJSON of 100", &through)
            .beside("the bare loop", loop_rate, Some(Promise::AtLeast(least)))
            .note(format!("{}, the bare loop {bare_busy:.0} µs", through.note())),
        figure("single POSTs", &singly).beside("the bare loop", loop_rate, None).note(singly.note()),
        Figure::new(Shape::EndToEnd, format!("bare posting, {algorithm} tokens"), posting, "SETs/s")
            .note("tokens signed beforehand, the same client, the same sink"),
    ])
}

async fn posting(
    bench: &Bench<'_>,
    receiver: &Target,
    sink: &Sink,
    signer: &Arc<Signer>,
    claims: &[Vec<u8>],
) -> Result<f64, BenchError> {
    let most = bench.plan.scale.of(1_000, 10_000, 40_000);
    let sign =
        |claims: &Vec<u8>| signer.sign(claims).map(Bytes::from).map_err(|error| BenchError::Failed(error.to_string()));
    // Signing is not measured here, so one token in eight is enough for an algorithm that is slow.
    let few = if event::is_slow(signer.algorithm()) { most / 8 } else { most };
    let signed = claims.iter().take(few).map(sign).collect::<Result<Vec<_>, _>>()?;
    let tokens: Arc<Vec<Bytes>> = Arc::new(signed.iter().cycle().take(most).cloned().collect());
    let took = bare::post(bench, receiver, sink, &tokens).await?;
    Ok(rate(count(tokens.len()), took.time))
}

pub(crate) fn count(of: usize) -> u64 {
    u64::try_from(of).unwrap_or(u64::MAX)
}

/// The events that are put in, and the form of their requests.
pub(crate) struct Run {
    pub(crate) requests: Vec<Requests>,
    pub(crate) several: bool,
}

/// The events that passed through the gateway with correct counts, and their cost.
#[derive(Default)]
pub(crate) struct Passed {
    events: u64,
    /// The time from the first request to the last answer.
    intake: Duration,
    /// The time from the first request to the last settled SET.
    whole: Duration,
    gateway: Duration,
    /// The CPU time of this process: producers and sink.
    around: Duration,
    verified: usize,
}

impl Run {
    /// Puts all events in, waits until all SETs are settled and checks what arrived.
    ///
    /// # Errors
    /// Fails if a SET was refused, lost, repeated, out of order or wrongly signed.
    pub(crate) async fn through(
        self,
        bench: &Bench<'_>,
        gateway: &Gateway<'_>,
        client: &Client,
        sink: &Sink,
    ) -> Result<Passed, BenchError> {
        let target = Target::intake(client, gateway, self.several)?;
        let settled = gateway.metrics(client).await?.sum("setgate_store_deliveries_settled_total") as u64;
        let arrived = sink.begin(KEYS, 0);
        let (busy, own) = (cpu_time(gateway.pid())?, cpu_time(std::process::id())?);
        let began = bench.clock.now();
        let events = send_all(&target, &self.requests).await?;
        let intake = bench.clock.since(began);
        arrived.all(events, &bench.clock).await?;
        gateway.settled(bench, client, settled + events).await?;
        let whole = bench.clock.since(began);
        let gateway_time = cpu_time(gateway.pid())?.saturating_sub(busy);
        let around = cpu_time(std::process::id())?.saturating_sub(own);
        arrived.check(events)?;
        let verified = verify::samples(&arrived.samples(), &gateway.jwks(client).await?, gateway.issuer())?;
        Ok(Passed { events, intake, whole, gateway: gateway_time, around, verified })
    }
}

impl AddAssign for Passed {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.intake += other.intake;
        self.whole += other.whole;
        self.gateway += other.gateway;
        self.around += other.around;
        self.verified += other.verified;
    }
}

impl Passed {
    pub(crate) fn rate(&self) -> f64 {
        rate(self.events, self.whole)
    }

    pub(crate) fn note(&self) -> String {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / self.events.max(1) as f64;
        format!(
            "{} events: accepted = delivered = settled, in order, no duplicate, {} signatures verified; all were accepted after {:.2} s of \
             {:.2} s; CPU of a SET: gateway {:.0} µs, producers and sink {:.0} µs",
            self.events,
            self.verified,
            self.intake.as_secs_f64(),
            self.whole.as_secs_f64(),
            each(self.gateway),
            each(self.around)
        )
    }
}
