//! The shape of one event for thousands of WebSocket subscribers, each with an audience and so a signature of its own.

use std::{sync::Arc, time::Duration};

use setgate_jose::Algorithm;

use crate::{
    Bench, BenchError, Figure, Promise, Shape, broadcast,
    child::{Gateway, Home, Stream},
    crowds::{Crowd, Way},
    end_to_end::count,
    event::{Maker, TYPE},
    idle::visitors,
    link::Asks,
    load::{Client, Target},
    measure::{cpu_time, rate},
    responder::{Bare, Made},
    sink::{Run, audience},
    verify,
};

/// The algorithms that are measured, each with the least ratio to the bare loop.
const ALGORITHMS: [(Algorithm, Option<f64>); 2] = [(Algorithm::Es256, Some(0.75)), (Algorithm::EdDSA, None)];

/// The pause between two rounds, in which subscribers that left are forgotten.
const REST: Duration = Duration::from_secs(1);

/// Measures each algorithm.
///
/// # Errors
/// Fails if the gateway does not run, or a subscriber does not get what it is owed.
pub(crate) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let mut figures = Vec::new();
    for (algorithm, least) in ALGORITHMS {
        figures.extend(one(bench, algorithm, least).await?);
    }
    Ok(figures)
}

async fn one(bench: &Bench<'_>, algorithm: Algorithm, least: Option<f64>) -> Result<Vec<Figure>, BenchError> {
    let (rounds, in_a_row) = bench.plan.scale.of((1, 3), (3, 5), (4, 10));
    let (subscribers, reduced) = visitors(bench);
    let client = Client::new(bench)?;
    let many = u32::try_from(subscribers).unwrap_or(u32::MAX);
    let stream = |no: u32| Stream::visited("websocket", format!("stream-{no}")).of(audience(no));
    let home = Home::open_to(bench, algorithm, &(0..many).map(stream).collect::<Vec<_>>(), subscribers)?;
    bench.watch.step(&format!("{algorithm}, a gateway with {subscribers} subscribers"));
    let gateway = home.start(bench, &client).await?;
    let bare = Bare::start(bench, &client, algorithm, home.issuer()).await?;
    let asks = |no| home.asks("websocket", &format!("stream-{no}"));
    let mut ours = Side {
        asks: (0..many).map(asks).collect::<Result<_, _>>()?,
        far: Far::Gateway(&gateway, Box::new(Target::intake(&client, &gateway, false)?), Maker::new("fan", 1)),
        passed: Passed::default(),
    };
    let mut theirs = Side {
        asks: (0..many).map(|no| bare.asks(format!("/socket/{no}"))).collect(),
        far: Far::Bare(&bare, Made::Claims),
        passed: Passed::default(),
    };
    for round in 0..rounds {
        for (side, name) in [(&mut theirs, "bare loop"), (&mut ours, "gateway")] {
            let what = format!("{algorithm}, {name}, round {} of {rounds}", round + 1);
            bench.watch.step(&format!("{what}: {subscribers} subscribers"));
            // The subscribers come anew for each round, since open files suffice for one side at a time.
            let crowd = Crowd::gather(bench, Way::Socket, side.asks.iter().cloned(), &Arc::new(Run::new(0, 0))).await?;
            bench.watch.step(&format!("{what}: {in_a_row} events"));
            side.events(bench, &client, crowd, round * in_a_row, in_a_row).await?;
            bench.clock.pause(REST).await;
        }
    }
    let from = rounds * in_a_row;
    // The algorithm makes no difference without signatures, so once is enough.
    let unsigned = match least {
        Some(_) => Some(broadcast::measure(bench, &client, &mut ours, &mut theirs, from).await?),
        None => None,
    };
    let (ours, theirs) = (ours.passed, theirs.passed);
    gateway.stop(bench).await?;
    let name = format!("one event for {subscribers} subscribers, {algorithm}");
    let promise = least.map(Promise::AtLeast);
    let signed = Figure::new(Shape::FanOut, name, rate(ours.sets, ours.time), "SETs/s")
        .beside("the bare loop", rate(theirs.sets, theirs.time), promise)
        .note(format!(
            "{}; {}the bare loop: {}",
            ours.note(),
            reduced.map_or_else(String::new, |why| format!("{why}; ")),
            theirs.note()
        ));
    Ok(std::iter::once(signed).chain(unsigned).collect())
}

/// The subscribers of one side, and the server that they subscribe to.
pub(crate) struct Side<'a> {
    pub(crate) asks: Vec<Asks>,
    pub(crate) far: Far<'a>,
    pub(crate) passed: Passed,
}

/// The server of the subscribers.
pub(crate) enum Far<'a> {
    /// The gateway, the place where events are put in, and the maker of the events.
    Gateway(&'a Gateway<'a>, Box<Target>, Maker),
    /// The bare loop.
    Bare(&'a Bare, Made),
}

/// The SETs that all subscribers got, and their cost.
#[derive(Default)]
pub(crate) struct Passed {
    pub(crate) events: u64,
    pub(crate) sets: u64,
    /// The time until the last acknowledgement was read, by the store's counters if there is a store.
    pub(crate) time: Duration,
    /// The sum over the events of the time until the last SET had arrived and its acknowledgement was written.
    pub(crate) written: Duration,
    pub(crate) server: Duration,
    pub(crate) receivers: Duration,
    pub(crate) verified: usize,
}

impl Passed {
    fn note(&self) -> String {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / self.sets.max(1) as f64;
        format!(
            "{} events one after the other, {} SETs, each signed for its subscriber, delivered once and acknowledged, {} signatures \
             verified; until the last acknowledgement is counted; {:.0} ms an event until the last one is written; CPU of a SET: \
             server {:.0} µs, subscribers {:.0} µs",
            self.events,
            self.sets,
            self.verified,
            self.written.as_secs_f64() * 1e3 / self.events.max(1) as f64,
            each(self.server),
            each(self.receivers),
        )
    }
}

impl Far<'_> {
    /// Returns the process of the server.
    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Gateway(gateway, ..) => gateway.pid(),
            Self::Bare(bare, _) => bare.pid(),
        }
    }

    /// Verifies the kept SETs against the published key set, and returns their number.
    pub(crate) async fn verified(&self, client: &Client, arrived: &Run) -> Result<usize, BenchError> {
        let (jwks, issuer) = match self {
            Self::Gateway(gateway, ..) => (gateway.jwks(client).await?, gateway.issuer()),
            Self::Bare(bare, _) => (bare.jwks(client).await?, bare.issuer()),
        };
        verify::samples(&arrived.samples(), &jwks, issuer)
    }
}

impl Side<'_> {
    /// Lets `events` events go to all subscribers, each as soon as the last one was acknowledged by all.
    async fn events(
        &mut self,
        bench: &Bench<'_>,
        client: &Client,
        mut crowd: Crowd,
        from: usize,
        events: usize,
    ) -> Result<(), BenchError> {
        let subscribers = self.asks.len();
        let pid = self.far.pid();
        let all = count(subscribers);
        let settled = match &self.far {
            Far::Gateway(gateway, ..) => {
                gateway.metrics(client).await?.sum("setgate_store_deliveries_settled_total") as u64
            }
            Far::Bare(..) => 0,
        };
        let own = std::process::id();
        for number in from..from + events {
            let arrived = Arc::new(Run::after(subscribers, u32::try_from(number).unwrap_or(u32::MAX)));
            crowd.count_in(&arrived);
            if let Far::Bare(bare, made) = &self.far {
                bare.build(client, *made, number, subscribers).await?;
            }
            let (server, receivers) = (cpu_time(pid)?, cpu_time(own)?);
            let began = bench.clock.now();
            match &mut self.far {
                Far::Gateway(_, target, maker) => {
                    target.events(maker.line_in(0, &[TYPE]), 1).await?;
                    crowd.acknowledged(bench, all).await?;
                    self.passed.written += bench.clock.since(began);
                }
                Far::Bare(bare, _) => {
                    let go = bare.go(client);
                    let written = async {
                        crowd.acknowledged(bench, all).await?;
                        Ok::<_, BenchError>(bench.clock.since(began))
                    };
                    let ((), written) = tokio::try_join!(go, written)?;
                    self.passed.written += written;
                }
            }
            if let (Far::Gateway(gateway, ..), true) = (&self.far, number + 1 == from + events) {
                gateway.settled(bench, client, settled + all * count(events)).await?;
            }
            self.passed.time += bench.clock.since(began);
            self.passed.server += cpu_time(pid)?.saturating_sub(server);
            self.passed.receivers += cpu_time(own)?.saturating_sub(receivers);
            arrived.check(all)?;
            self.passed.events += 1;
            self.passed.sets += all;
            self.passed.verified += self.far.verified(client, &arrived).await?;
        }
        Ok(())
    }
}
