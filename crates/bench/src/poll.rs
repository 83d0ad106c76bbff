//! The shape of polls of a backlog, beside a bare responder that signs and answers the same.

use std::{sync::Arc, time::Duration};

use setgate_jose::Algorithm;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    Bench, BenchError, Figure, Promise, Shape,
    child::{Gateway, Home, Stream},
    end_to_end::count,
    event::{self, KEYS, LINES, Maker},
    link::{Asks, Link},
    load::{Client, PRODUCERS, Target, join, send_all},
    measure::{Clock, cpu_time, rate},
    responder::{BATCH, Bare},
    sink::Run,
    talk, verify,
};

/// The numbers of pollers of one stream at once.
const POLLERS: [usize; 2] = [1, 4];
/// The least ratio to the bare responder.
const LEAST: f64 = 0.8;

/// Measures each number of pollers.
///
/// # Errors
/// Fails if the gateway does not run, or what arrives is not what was accepted.
pub(crate) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let algorithm = Algorithm::Es256;
    let (rounds, share) = bench.plan.scale.of((1, 4_000), (3, 20_000), (5, 60_000));
    let client = Client::new(bench)?;
    let home = Home::open_to(bench, algorithm, &[Stream::visited("poll", "one")], POLLERS.len())?;
    let gateway = home.start(bench, &client).await?;
    let bare = Bare::start(bench, &client, algorithm, home.issuer()).await?;
    let asks = home.asks("poll", "one")?;
    let (mut maker, mut figures) = (Maker::new("poll", KEYS), Vec::new());
    for pollers in POLLERS {
        let (mut ours, mut theirs) = (Drained::default(), Drained::default());
        for round in 1..=rounds {
            let name = format!("{pollers} at once, round {round} of {rounds}");
            bench.watch.step(&format!("bare, {name}"));
            bare.backlog(&client, share).await?;
            let arrived = Arc::new(Run::new(share, 0));
            theirs += drain(bench, &bare.asks("/poll"), pollers, share, &arrived, bare.pid(), async || Ok(())).await?;
            arrived.check(count(share))?;
            verify::samples(&arrived.samples(), &bare.jwks(&client).await?, home.issuer())?;

            bench.watch.step(&format!("the gateway, {name}"));
            let lines = maker.lines(share);
            let settled = settled(&gateway, &client).await?;
            let requests = event::requests(&lines, LINES, PRODUCERS);
            let accepted = send_all(&Target::intake(&client, &gateway, true)?, &requests).await?;
            let arrived = Arc::new(Run::new(KEYS, 0));
            let all_settled = async || gateway.settled(bench, &client, settled + accepted).await;
            ours += drain(bench, &asks, pollers, share, &arrived, gateway.pid(), all_settled).await?;
            arrived.check(accepted)?;
            ours.verified += verify::samples(&arrived.samples(), &gateway.jwks(&client).await?, gateway.issuer())?;
            maker = maker.next_run();
        }
        figures.push(figure(algorithm, pollers, &ours, &theirs));
    }
    gateway.stop(bench).await?;
    Ok(figures)
}

fn figure(algorithm: Algorithm, pollers: usize, ours: &Drained, theirs: &Drained) -> Figure {
    let name = format!("poll, {algorithm}, batches of {BATCH}, {pollers} at once");
    Figure::new(Shape::Poll, name, rate(ours.sets, ours.time), "SETs/s")
        .beside("the bare responder", rate(theirs.sets, theirs.time), Some(Promise::AtLeast(LEAST)))
        .note(format!(
            "{} events, all accepted before the first poll: accepted = delivered = settled, in order, no duplicate, {} signatures \
             verified; until the last acknowledgement is in the store's counters; CPU of a SET: gateway {:.0} µs, its receivers \
             {:.0} µs; bare responder {:.0} µs, its receivers {:.0} µs",
            ours.sets,
            ours.verified,
            ours.each(ours.server),
            ours.each(ours.receivers),
            theirs.each(theirs.server),
            theirs.each(theirs.receivers),
        ))
}

async fn settled(gateway: &Gateway<'_>, client: &Client) -> Result<u64, BenchError> {
    Ok(gateway.metrics(client).await?.sum("setgate_store_deliveries_settled_total") as u64)
}

/// The SETs that were polled, and their cost.
#[derive(Default)]
struct Drained {
    sets: u64,
    /// The time from the first poll to the end.
    time: Duration,
    /// The CPU time of the responder.
    server: Duration,
    /// The CPU time of this process.
    receivers: Duration,
    verified: usize,
}

impl std::ops::AddAssign for Drained {
    fn add_assign(&mut self, other: Self) {
        self.sets += other.sets;
        self.time += other.time;
        self.server += other.server;
        self.receivers += other.receivers;
        self.verified += other.verified;
    }
}

impl Drained {
    fn each(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.sets.max(1) as f64
    }
}

/// Polls until `sets` SETs have come and are acknowledged, and `end` is done too.
async fn drain(
    bench: &Bench<'_>,
    asks: &Asks,
    pollers: usize,
    sets: usize,
    arrived: &Arc<Run>,
    pid: u32,
    end: impl AsyncFnOnce() -> Result<(), BenchError>,
) -> Result<Drained, BenchError> {
    let (server, receivers) = (cpu_time(pid)?, cpu_time(std::process::id())?);
    let began = bench.clock.now();
    let mut tasks = JoinSet::new();
    let (done, _) = watch::channel(false);
    for _ in 0..pollers {
        let poller = Poller { asks: asks.clone(), arrived: arrived.clone(), all: count(sets), done: done.clone() };
        let clock = bench.clock.clone();
        tasks.spawn(async move { poller.run(&clock).await });
    }
    let all = tokio::time::timeout(Duration::from_secs(120), join(tasks)).await;
    all.map_err(|_| BenchError::Miscounted(format!("no figure: {} of {sets} SETs came", arrived.delivered())))??;
    end().await?;
    Ok(Drained {
        sets: count(sets),
        time: bench.clock.since(began),
        server: cpu_time(pid)?.saturating_sub(server),
        receivers: cpu_time(std::process::id())?.saturating_sub(receivers),
        verified: 0,
    })
}

/// A poller of a stream.
struct Poller {
    asks: Asks,
    arrived: Arc<Run>,
    /// The number of SETs for all pollers together.
    all: u64,
    done: watch::Sender<bool>,
}

impl Poller {
    /// Sends one poll after the other, each with the acknowledgements of what the last one brought.
    async fn run(self, clock: &Clock) -> Result<u64, BenchError> {
        let mut link = Link::open(self.asks.address).await?;
        let mut done = self.done.subscribe();
        let (mut acks, mut taken) = (talk::ack([], Some(BATCH)), 0);
        loop {
            link.send(&Link::post(&self.asks, &acks)).await?;
            let look = |status: u16, answer: &[u8]| self.read_answer(status, answer, clock);
            let came = tokio::select! {
                biased;
                came = link.answer(look) => Some(came??),
                // All other SETs came, so there is nothing to wait for.
                _ = done.changed() => None,
            };
            let Some(came) = came else {
                link = Link::open(self.asks.address).await?;
                break;
            };
            taken += came.0;
            acks = came.1;
            if self.arrived.delivered() >= self.all {
                self.done.send_replace(true);
                break;
            }
        }
        // The last acknowledgements are sent here, once more if they were under way with a poll that was given up.
        acks.truncate(acks.len() - 1);
        acks.splice(acks.len().., *b",\"returnImmediately\":true}");
        link.send(&Link::post(&self.asks, &acks)).await?;
        link.answer(|_, _| ()).await?;
        Ok(taken)
    }

    fn read_answer(&self, status: u16, answer: &[u8], clock: &Clock) -> Result<(u64, Vec<u8>), BenchError> {
        if status != 200 {
            return Err(BenchError::Failed(format!("a poll was answered {status}")));
        }
        let now = clock.nanos();
        let mut ids = Vec::with_capacity(BATCH);
        for (id, token) in talk::sets(answer) {
            self.arrived.arrived(token, now);
            ids.push(id);
        }
        Ok((count(ids.len()), talk::ack(ids, Some(BATCH))))
    }
}
