//! Receivers that come for their SETs by the thousand, each with one task and one connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::{
    Bench, BenchError,
    link::{Asks, Link},
    measure::Clock,
    sink::Run,
    talk,
};

/// The most connections that are being opened at once.
const AT_ONCE: usize = 128;
/// The most SETs that one subscriber may hold.
const CREDIT: usize = 64;
/// The time without any progress after which a SET is considered lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// The way in which receivers come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A series of long polls (RFC 8936 §2.4).
    Poll,
    /// A WebSocket of `setgate.v1`.
    Socket,
    /// A WebSocket on which nothing is acknowledged.
    Silent,
    /// A WebSocket that takes nothing before `Crowd::start_taking`.
    Patient,
}

impl Way {
    /// Returns the name of the delivery method.
    pub(crate) const fn method(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Socket | Self::Silent | Self::Patient => "websocket",
        }
    }
}

/// Many receivers, each with a stream of its own. They leave when the value is dropped.
pub(crate) struct Crowd {
    tasks: JoinSet<Result<(), BenchError>>,
    shared: Arc<Shared>,
}

struct Shared {
    /// The run that counts what arrives; it is exchanged between runs.
    run: watch::Sender<Arc<Run>>,
    /// True if SETs may come.
    open: watch::Sender<bool>,
    /// The number of acknowledgements that were written, for SETs that arrived.
    acknowledged: AtomicU64,
    clock: Clock,
}

impl Crowd {
    /// Lets all receivers come, and waits until each has asked or has its socket.
    ///
    /// # Errors
    /// Fails if one is turned away.
    pub(crate) async fn gather(
        bench: &Bench<'_>,
        way: Way,
        asks: impl Iterator<Item = Asks>,
        run: &Arc<Run>,
    ) -> Result<Self, BenchError> {
        let shared = Arc::new(Shared {
            run: watch::channel(run.clone()).0,
            open: watch::channel(way != Way::Patient).0,
            acknowledged: AtomicU64::new(0),
            clock: bench.clock.clone(),
        });
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let mut tasks = JoinSet::new();
        let mut many = 0;
        for (asks, no) in asks.zip(0..) {
            let (shared, permits) = (shared.clone(), permits.clone());
            many += 1;
            tasks.spawn(async move {
                let entering = permits.acquire_owned().await;
                match way {
                    Way::Poll => {
                        let mut link = Link::open(asks.address).await?;
                        link.send(&Link::post(&asks, b"{}")).await?;
                        drop(entering);
                        shared.polls(&mut link, &asks).await
                    }
                    Way::Socket | Way::Silent | Way::Patient => {
                        let mut link = Link::socket(&asks).await?;
                        let credit = crate::frame::text(&talk::ack([], Some(CREDIT)));
                        let mut open = shared.open.subscribe();
                        if way == Way::Patient {
                            drop(entering);
                            let _ = open.wait_for(|open| *open).await;
                            link.send(&credit).await?;
                        } else {
                            link.send(&credit).await?;
                            drop(entering);
                        }
                        drop(open);
                        shared.socket(&mut link, no, way != Way::Silent).await
                    }
                }
            });
        }
        let mut crowd = Self { tasks, shared };
        // A receiver that has come in has released its permit.
        let began = bench.clock.now();
        while Arc::strong_count(&permits) > 1 {
            crowd.here()?;
            if bench.clock.since(began) > PATIENCE * 2 {
                return Err(BenchError::Failed(format!("{many} receivers do not come in")));
            }
            bench.clock.pause(Duration::from_millis(5)).await;
        }
        crowd.here()?;
        Ok(crowd)
    }

    /// Checks that all receivers are still there.
    ///
    /// # Errors
    /// The reason why the first one left.
    pub(crate) fn here(&mut self) -> Result<(), BenchError> {
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(Ok(left)) => left,
            Some(Err(error)) => Err(BenchError::Failed(error.to_string())),
        }
    }

    /// Makes this run count what arrives from now on.
    pub(crate) fn count_in(&self, run: &Arc<Run>) {
        self.shared.run.send_replace(run.clone());
        self.shared.acknowledged.store(0, Ordering::Release);
    }

    /// Lets patient receivers take SETs from now on.
    pub(crate) fn start_taking(&self) {
        self.shared.open.send_replace(true);
    }

    /// Waits until `expected` SETs have arrived and their acknowledgements are written.
    ///
    /// # Errors
    /// Fails if a receiver leaves, or no acknowledgement comes any more.
    pub(crate) async fn acknowledged(&mut self, bench: &Bench<'_>, expected: u64) -> Result<(), BenchError> {
        let (mut seen, mut since) = (0, bench.clock.now());
        loop {
            let now = self.shared.acknowledged.load(Ordering::Acquire);
            if now >= expected {
                return Ok(());
            }
            if now != seen {
                (seen, since) = (now, bench.clock.now());
            } else if bench.clock.since(since) > PATIENCE {
                return Err(BenchError::Miscounted(format!("no figure: of {expected} SETs {now} were acknowledged")));
            }
            self.here()?;
            bench.clock.pause(Duration::from_millis(1)).await;
        }
    }
}

impl Shared {
    async fn polls(&self, link: &mut Link, asks: &Asks) -> Result<(), BenchError> {
        loop {
            let (came, body) = link
                .answer(|status, body| {
                    if status != 200 {
                        return Err(BenchError::Failed(format!("a poll was answered {status}")));
                    }
                    let (ids, run, now) = (ids(body), self.run.borrow().clone(), self.clock.nanos());
                    talk::sets(body).for_each(|(_, token)| run.arrived(token, now));
                    Ok((ids.len(), if ids.is_empty() { b"{}".to_vec() } else { talk::ack(ids, None) }))
                })
                .await??;
            link.send(&Link::post(asks, &body)).await?;
            self.acknowledged.fetch_add(crate::end_to_end::count(came), Ordering::Release);
        }
    }

    async fn socket(&self, link: &mut Link, no: u32, acknowledges: bool) -> Result<(), BenchError> {
        loop {
            let (came, frame) = link
                .message(|text| {
                    let (ids, run, now) = (ids(text), self.run.borrow().clone(), self.clock.nanos());
                    talk::sets(text).for_each(|(_, token)| run.arrived_at(no, token, now));
                    // The credit grows again by the SETs that were taken.
                    let many = ids.len();
                    (many, crate::frame::text(&talk::ack(ids, Some(many))))
                })
                .await?;
            if came > 0 && acknowledges {
                link.send(&frame).await?;
                self.acknowledged.fetch_add(crate::end_to_end::count(came), Ordering::Release);
            }
        }
    }
}

fn ids(text: &[u8]) -> Vec<&[u8]> {
    talk::sets(text).map(|(id, _)| id).collect()
}
