//! The shape of routing: the cost of deciding among streams that do not match, and what one event for many streams
//! writes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use serde_json::json;
use setgate_router::{EventOrigin, Index, Router};
use setgate_set::{Event, EventLimits, JsonLimits, Subject, Timestamp};
use setgate_store::{FjallStore, ProducerNo, Store, StorePlace, Version};
use setgate_stream::{DefaultSubjects, Delivery, EventsWanted, OnRefusal, Owner, Retention, Roster, Status, Stream};

use crate::{
    Bench, BenchError, Figure, Promise, Shape,
    end_to_end::count,
    event::{LINES, Maker, TYPE},
    measure::{Dice, median, written},
    quiet::{ISSUER, Parts, Quiet},
};

/// The number of streams that an event is routed among, in the small case.
const FEW: usize = 10;
/// The number of streams in the large case, and of those that one event goes to.
const MANY: usize = 10_000;
/// The number of subjects of each stream's list.
const LISTED: usize = 10;
/// The number of rounds of deciding, small and large case in turn.
const ROUNDS: usize = 9;

/// Measures deciding among streams that do not match, and one event for all streams.
///
/// # Errors
/// Fails if store or router do not work, or a count is wrong.
pub(crate) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let mut figures = Vec::new();
    for crowd in [Crowd::OtherSubjects, Crowd::Removed, Crowd::OtherTypes] {
        bench.watch.step(&format!("deciding among {MANY} streams, {}", crowd.name()));
        figures.push(decide(bench, crowd)?);
    }
    bench.watch.step(&format!("one event for {MANY} streams"));
    figures.extend(fan_out(bench).await?);
    Ok(figures)
}

/// The reason why streams do not match (hardening H47).
#[derive(Clone, Copy)]
enum Crowd {
    /// Streams of the same type, each listing other subjects, with the default NONE.
    OtherSubjects,
    /// Streams of the same type with the default ALL, from each of which this subject and others are removed.
    Removed,
    /// Streams of other event types.
    OtherTypes,
}

impl Crowd {
    const fn name(self) -> &'static str {
        match self {
            Self::OtherSubjects => "other subjects",
            Self::Removed => "subject removed",
            Self::OtherTypes => "other types",
        }
    }

    fn stream(self, no: u32) -> Result<Arc<Stream>, BenchError> {
        let wrong = |error: serde_json::Error| BenchError::Failed(format!("a stream of the bench: {error}"));
        let subject = |sub: String| -> Result<Subject, BenchError> {
            serde_json::from_value(json!({ "format": "iss_sub", "iss": "https://idp.example.com/", "sub": sub }))
                .map_err(wrong)
        };
        let mut roster = Roster::default();
        let own = (0..LISTED).map(|at| subject(format!("listed-{no}-{at}")));
        let (types, default_subjects) = match self {
            Self::OtherSubjects => {
                for subject in own {
                    roster.add(&subject?);
                }
                (TYPE.to_owned(), DefaultSubjects::None)
            }
            Self::Removed => {
                for subject in own {
                    roster.remove(&subject?);
                }
                for lane in 0..LINES {
                    roster.remove(&subject(format!("routing-{lane:08}"))?);
                }
                (TYPE.to_owned(), DefaultSubjects::All)
            }
            Self::OtherTypes => (format!("https://bench.example/type/{no}"), DefaultSubjects::All),
        };
        Ok(Arc::new(Stream {
            no,
            id: format!("stream-{no}").parse().map_err(|_| BenchError::Failed("a stream id".into()))?,
            issuer: ISSUER.into(),
            audience: setgate_set::Audience::One("https://sink.example".into()),
            delivery: Delivery { method: Quiet::URI.into(), terms: json!({}), grant: json!({}) },
            events: EventsWanted::Exact([types].into()),
            default_subjects,
            roster,
            algorithm: "ES256".into(),
            status: Status::Enabled,
            owner: Owner::Operator,
            description: None,
            retention: Retention::default(),
            on_refusal: OnRefusal::Continue,
            match_by_the_letter: false,
            batch: setgate_stream::Batching::default(),
            inactivity_timeout_seconds: None,
            created: Timestamp::default(),
        }))
    }
}

fn parse(line: &Bytes) -> Result<Event, BenchError> {
    let value =
        setgate_set::parse_json(line, &JsonLimits::default()).map_err(|error| BenchError::Failed(error.to_string()))?;
    Event::parse(value, &EventLimits::default()).map_err(|error| BenchError::Failed(error.to_string()))
}

fn decide(bench: &Bench<'_>, crowd: Crowd) -> Result<Figure, BenchError> {
    let mut maker = Maker::new("routing", LINES);
    let events = (0..LINES).map(|lane| parse(&maker.line_in(lane, &[TYPE]))).collect::<Result<Vec<_>, _>>()?;
    let among = |many: usize| -> Result<Index, BenchError> {
        let streams =
            (1..=many).map(|no| crowd.stream(u32::try_from(no).unwrap_or(u32::MAX))).collect::<Result<Vec<_>, _>>()?;
        Ok(Index::build(&streams, Version(1)))
    };
    let (few, many) = (among(FEW)?, among(MANY)?);
    let time = bench.plan.scale.loop_time() / 16;
    let (mut small, mut large) = (Vec::new(), Vec::new());
    let mut dice = Dice::new(7);
    for _ in 0..ROUNDS {
        small.push(rounds(bench, &few, &events, time, &mut dice)?);
        large.push(rounds(bench, &many, &events, time, &mut dice)?);
    }
    Ok(Figure::new(Shape::Routing, format!("deciding, {MANY} streams, {}", crowd.name()), median(&mut large), "ns")
        .beside(format!("{FEW} streams"), median(&mut small), Some(Promise::AtMost(1.5))))
}

/// Returns the nanoseconds of one decision.
fn rounds(
    bench: &Bench<'_>,
    index: &Index,
    events: &[Event],
    time: Duration,
    dice: &mut Dice,
) -> Result<f64, BenchError> {
    let began = bench.clock.now();
    let mut done = 0u32;
    while bench.clock.since(began) < time {
        for _ in 0..64 {
            let at = usize::try_from(dice.below(count(events.len()))).unwrap_or_default();
            let Some(event) = events.get(at) else { continue };
            if !std::hint::black_box(index.decide(ISSUER, event)).targets.is_empty() {
                return Err(BenchError::Miscounted("no figure: an event matched a stream that it must not".into()));
            }
            done += 1;
        }
    }
    Ok(bench.clock.since(began).as_nanos() as f64 / f64::from(done.max(1)))
}

async fn fan_out(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let folder = tempfile::Builder::new().prefix("setgate-bench-").tempdir_in(&bench.plan.folder);
    let folder = folder.map_err(BenchError::failed("no folder for the store"))?;
    let runtime = bench.clock.runtime();
    let place = StorePlace { store: folder.path().join("store"), owner: folder.path().join("owner") };
    let unopened = |error: setgate_store::OpenError| BenchError::Failed(format!("the store: {error}"));
    let (options, secret, observed) =
        (setgate_store::Options::default(), [7; setgate_store::Names::SECRET], setgate_store::Observed::default());
    FjallStore::init(&place, &options, &secret, &runtime).map_err(unopened)?;
    let opened = FjallStore::open(&place, &options, &secret, &runtime, observed.clone()).map_err(unopened)?;
    let store: Arc<dyn Store> = opened.store;
    let handed = Arc::new(AtomicU64::new(0));
    let router = Quiet::router(Parts { runtime, store: store.clone(), handed: handed.clone() }).await?;
    let declared = (0..MANY).map(|no| Quiet::declared(no, &json!("all"))).collect::<Result<Vec<_>, _>>()?;
    let began = bench.clock.now();
    router.reconcile(declared, true).await.map_err(|error| BenchError::Failed(error.to_string()))?;
    let declaring = bench.clock.since(began);

    let lines = Maker::new("fan-out", 1).lines(bench.plan.scale.of(2, 5, 20));
    let many = count(MANY);
    let (mut accepting, mut settling, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for (at, line) in lines.iter().enumerate() {
        let event = parse(line)?;
        let (appended, wrote, began) = (observed.appended.get(), written(std::process::id())?, bench.clock.now());
        accept(&router, event).await?;
        accepting.push(bench.clock.since(began).as_secs_f64() * 1000.0);
        let owed = many * (count(at) + 1);
        while handed.load(Ordering::Acquire) < owed || store.health().waiting > 0 || observed.settled.get() < owed {
            if bench.clock.since(began) > Duration::from_secs(60) {
                return Err(BenchError::Miscounted(format!(
                    "no figure: {owed} owed, {} settled",
                    observed.settled.get()
                )));
            }
            bench.clock.pause(Duration::from_millis(1)).await;
        }
        settling.push(bench.clock.since(began).as_secs_f64() * 1000.0);
        bytes.push((written(std::process::id())? - wrote) as f64);
        let appended = observed.appended.get() - appended;
        if appended != 1 {
            return Err(BenchError::Miscounted(format!("no figure: one event took {appended} appends")));
        }
    }
    router.drain(Duration::from_secs(5)).await;
    store.close().await.map_err(|error| BenchError::Failed(error.to_string()))?;
    let per = median(&mut settling) * 1000.0 / MANY as f64;
    Ok(vec![
        Figure::new(Shape::Routing, format!("one event for {MANY} streams"), 1.0, "append").beside(
            "one append",
            1.0,
            Some(Promise::AtMost(1.0)),
        ),
        Figure::new(Shape::Routing, "the same, until it is accepted", median(&mut accepting), "ms"),
        Figure::new(Shape::Routing, "the same, until all have acknowledged", median(&mut settling), "ms").note(format!(
            "{per:.1} µs a delivery; unsigned, handed to a method that acknowledges at once; declaring the streams took {:.1} s",
            declaring.as_secs_f64()
        )),
        Figure::new(Shape::Routing, "the same, bytes written", median(&mut bytes), "B")
            .note("by system calls, acknowledgements included"),
    ])
}

async fn accept(router: &Router, event: Event) -> Result<(), BenchError> {
    let issuer = router.issuer(ISSUER).ok_or_else(|| BenchError::Failed("the router has no issuer".into()))?;
    match router.accept(EventOrigin { issuer, producer: ProducerNo(1) }, vec![event]).await.pop() {
        Some(setgate_router::Accepted::New { .. }) => Ok(()),
        other => Err(BenchError::Failed(format!("the router does not accept an event: {other:?}"))),
    }
}
