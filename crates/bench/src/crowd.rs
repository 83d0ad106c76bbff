//! A gateway with many streams, each with an event type of its own, and a load that keeps a bounded number of SETs
//! under way.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut as _, BytesMut};
use tokio::task::JoinSet;

use crate::{
    Bench, BenchError,
    end_to_end::count,
    event::{LINES, Maker},
    load::{PRODUCERS, Target, join},
    measure::{Dice, rate},
    sink::Run,
};

/// The order keys of each stream: one for each producer, so that the events of a lane have an order.
const KEYS: usize = PRODUCERS;
/// The most SETs that are accepted and not delivered: enough to keep every healthy stream at work, few enough for a
/// steady state.
const UNDER_WAY: u64 = 8_000;

/// Returns the event type of a stream.
pub(crate) fn kind(stream: usize) -> String {
    format!("https://bench.example/type/{stream}")
}

/// Returns the line of a stream's section that names its event type.
pub(crate) fn wants(stream: usize) -> String {
    format!("events = [\"{}\"]", kind(stream))
}

/// Returns the number of lanes that the events of `streams` streams have.
pub(crate) const fn lanes(streams: usize) -> usize {
    streams * KEYS
}

/// A maker of events for streams chosen at random.
pub(crate) struct CrowdEvents {
    maker: Maker,
    dice: Dice,
    kinds: Vec<String>,
    /// The place of the producer among the keys of each stream.
    key: usize,
    /// The number of healthy streams, which come first.
    healthy: usize,
    /// The share of events for streams that are not healthy, as one in this many; 0 means none.
    sick_every: u64,
}

impl CrowdEvents {
    /// Returns the sources of all producers.
    pub(crate) fn all(run: &'static str, streams: usize, healthy: usize) -> Vec<Arc<Mutex<Self>>> {
        (0..PRODUCERS).map(|key| Arc::new(Mutex::new(Self::new(run, key, streams, healthy)))).collect()
    }

    fn new(run: &'static str, key: usize, streams: usize, healthy: usize) -> Self {
        Self {
            // The number of an event names it within its own source only, so sources begin at different numbers.
            maker: Maker::new(run, lanes(streams)).numbered_from(u32::try_from(key).unwrap_or_default() << 23),
            dice: Dice::new(12 + count(key)),
            key,
            kinds: (0..streams).map(kind).collect(),
            healthy,
            sick_every: 0,
        }
    }

    /// Makes one event of `every` go to a stream that is not healthy, from now on.
    pub(crate) fn sick(&mut self, every: u64) {
        self.sick_every = every;
    }

    /// Returns one request, and the number of its events for healthy streams.
    fn request(&mut self) -> (bytes::Bytes, u64) {
        let mut body = BytesMut::with_capacity(LINES * crate::event::SIZE);
        let mut healthy = 0;
        for _ in 0..LINES {
            let sick = self.sick_every > 0 && self.dice.below(self.sick_every) == 0;
            let (first, many) = if sick { (self.healthy, self.kinds.len() - self.healthy) } else { (0, self.healthy) };
            let stream = first + usize::try_from(self.dice.below(count(many))).unwrap_or_default();
            let kind = self.kinds.get(stream).map(String::as_str).unwrap_or_default();
            body.put_slice(&self.maker.line_in(stream * KEYS + self.key, &[kind]));
            healthy += u64::from(!sick);
        }
        (body.freeze(), healthy)
    }
}

/// The load on a gateway, while it lasts.
pub(crate) struct Load {
    producers: JoinSet<Result<u64, BenchError>>,
    /// The most events a second; 0 means as fast as healthy streams deliver.
    pace: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    arrived: Arc<Run>,
}

impl Load {
    /// Begins the load: producers send as fast as healthy streams deliver.
    pub(crate) fn begin(
        bench: &Bench<'_>,
        target: &Target,
        sources: &[Arc<Mutex<CrowdEvents>>],
        arrived: &Arc<Run>,
    ) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(arrived.delivered())));
        let pace = Arc::new(AtomicU64::new(0));
        let mut producers = JoinSet::new();
        for source in sources {
            let (target, source, arrived) = (target.clone(), source.clone(), arrived.clone());
            let (stop, sent, pace, clock) = (stop.clone(), sent.clone(), pace.clone(), bench.clock.clone());
            producers.spawn(async move {
                let (mut healthy_accepted, mut due) = (0, clock.now());
                while !stop.load(Ordering::Acquire) {
                    if sent.load(Ordering::Acquire).saturating_sub(arrived.delivered()) >= UNDER_WAY {
                        clock.pause(Duration::from_millis(1)).await;
                        continue;
                    }
                    let pace = pace.load(Ordering::Acquire);
                    if pace > 0 {
                        clock.pause(due.saturating_sub(clock.now())).await;
                        let beat = Duration::from_secs_f64((LINES * PRODUCERS) as f64 / pace as f64);
                        // A producer that was late does not catch up by more than one request.
                        due = (due + beat).max(clock.now());
                    }
                    let (body, healthy) = source.lock().unwrap_or_else(PoisonError::into_inner).request();
                    sent.fetch_add(healthy, Ordering::AcqRel);
                    target.events(body, LINES).await?;
                    healthy_accepted += healthy;
                }
                Ok(healthy_accepted)
            });
        }
        Self { producers, pace, stop, arrived: arrived.clone() }
    }

    /// Makes producers send this many events a second, from now on.
    pub(crate) fn pace(&self, events: f64) {
        self.pace.store(events as u64, Ordering::Release);
    }

    /// Waits for `run_in`, then returns the number of SETs that healthy streams get a second.
    pub(crate) async fn rate(&self, bench: &Bench<'_>, run_in: Duration, time: Duration) -> f64 {
        bench.clock.pause(run_in).await;
        let (before, began) = (self.arrived.delivered(), bench.clock.now());
        bench.clock.pause(time).await;
        rate(self.arrived.delivered() - before, bench.clock.since(began))
    }

    /// Ends the load and returns the number of events that were accepted for healthy streams.
    ///
    /// # Errors
    /// Fails if an event was refused.
    pub(crate) async fn end(self) -> Result<u64, BenchError> {
        self.stop.store(true, Ordering::Release);
        join(self.producers).await
    }
}
