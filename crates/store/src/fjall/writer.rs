//! The writer, a single thread: everything queued becomes one batch and one flush, and is answered after it.

use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use fjall::{Keyspace, OwnedWriteBatch};
use tokio::sync::oneshot;

use crate::{
    Done, Durability, StoreError, Unit, Why,
    fjall::{
        batch::{Failure, confirm, settle_down},
        engine::Engine,
        identity::Instance,
        place::Lock,
        replay::Fold,
        shared::{LITTLE, Shared},
        watermark::{Mark, Watermark},
    },
    state::Ops,
};

/// The interval at which an idle store writes its heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// The interval at which the size on the disk is measured.
const MEASURE: Duration = Duration::from_secs(2);
/// The interval at which it is measured while there is no space for events.
const MEASURE_SHUT: Duration = Duration::from_millis(250);
/// The time that acknowledgements wait to be made durable when even the reserve is nearly used up.
const FLUSH_SHORT: Duration = Duration::from_secs(1);

pub(crate) type Outcome = Result<Vec<Done>, StoreError>;

/// A call of `commit`.
pub(crate) struct Call {
    pub(crate) units: Vec<Unit>,
    pub(crate) how: Durability,
    pub(crate) bytes: usize,
    pub(crate) since: Duration,
    pub(crate) answer: oneshot::Sender<Outcome>,
}

/// Work for the writer's thread other than units.
pub(crate) type WriterTask = Box<dyn FnOnce(&mut Writer) -> Result<(), Failure> + Send>;

/// An entry of the queue.
pub(crate) enum Job {
    Commit(Box<Call>),
    Task(WriterTask),
    Close(oneshot::Sender<Result<(), StoreError>>),
    /// Ends the writer as a killed process ends: nothing is written.
    Abandon(oneshot::Sender<()>),
}

/// The state from which the writer continues.
pub(crate) struct Ledge {
    pub(crate) commit: u64,
    pub(crate) chain: u32,
    pub(crate) fold: Fold,
}

/// The writer of a store.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) engine: Option<Arc<Engine>>,
    pub(crate) watermark: Watermark,
    /// The deltas that are visible but not durable yet.
    pub(crate) pending: Ops,
    pub(crate) pending_since: Duration,
    pub(crate) commit: u64,
    pub(crate) chain: u32,
    pub(crate) fold: Fold,
    pub(crate) deltas_since_fold: u64,
    measured: Duration,
    /// The bytes of bodies written since the last measurement.
    pub(crate) unmeasured: u64,
    beaten: Duration,
    mark_is_dirty: bool,
    /// The openings after a failure since the last commit that succeeded.
    pub(crate) vain: u32,
    /// True when the disk was full at some moment since the last commit that succeeded.
    pub(crate) was_full: bool,
    /// The pauses before the engine was opened again since a write last had space; each makes the next one longer.
    pub(crate) pauses: u32,
    /// A job that was read from the queue after a group and not done yet. Whatever happens to the group, the job is
    /// answered.
    pub(crate) after: Option<Job>,
    /// The identity whose token the opening had no space to renew.
    pub(crate) unrenewed: Option<Instance>,
    /// The lock, which is held until everything is closed.
    pub(crate) lock: Option<Lock>,
}

/// The next step of the loop.
pub(crate) enum Next {
    On,
    Over,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, engine: Arc<Engine>, watermark: Watermark, lock: Lock, from: Ledge) -> Self {
        let now = shared.runtime.clock.monotonic();
        Self {
            shared,
            engine: Some(engine),
            watermark,
            pending: Ops::default(),
            pending_since: now,
            commit: from.commit,
            chain: from.chain,
            fold: from.fold,
            deltas_since_fold: 0,
            measured: Duration::ZERO,
            unmeasured: 0,
            beaten: now,
            mark_is_dirty: false,
            vain: 0,
            was_full: false,
            pauses: 0,
            after: None,
            unrenewed: None,
            lock: Some(lock),
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.shared.runtime.clock.monotonic()
    }

    /// Runs the writer until the store is closed.
    pub(crate) fn run(mut self, queue: &Receiver<Job>) {
        loop {
            let next = self.after.take().map_or_else(|| queue.recv_timeout(self.patience()), Ok);
            let job = match next {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    let _ = self.shut();
                    return;
                }
            };
            let next = match (self.watch_clock(), job) {
                (Ok(()), None) => self.tick(),
                (Ok(()), Some(Job::Commit(first))) => self.gather(*first, queue),
                (Ok(()), Some(other)) => self.other(other),
                (Err(failure), job) => {
                    self.trouble(&failure);
                    if job.is_some_and(|job| !self.refuse(job)) {
                        return;
                    }
                    Err(failure)
                }
            };
            match next {
                Ok(Next::On) => {}
                Ok(Next::Over) => return,
                Err(failure) => {
                    if !self.recover(failure, queue) {
                        return;
                    }
                }
            }
        }
    }

    /// Returns the time for which the queue may stay silent before something is due.
    fn patience(&self) -> Duration {
        #[cfg(any(test, feature = "testkit"))]
        if self.shared.cut.is_by_hand() {
            return Duration::from_secs(3600);
        }
        let now = self.now();
        if !self.pending.is_empty() {
            return (self.pending_since + self.flush_after()).saturating_sub(now);
        }
        if self.shared.shut.lock().is_some() {
            MEASURE_SHUT
        } else if self.mark_is_dirty {
            Duration::from_secs(1)
        } else {
            (self.beaten + HEARTBEAT).saturating_sub(now).max(Duration::from_millis(1))
        }
    }

    /// Returns whether so little of the reserve is left that every commit counts.
    pub(crate) fn is_short(&self) -> bool {
        self.shared.free.load(Ordering::Relaxed) < (self.shared.reserve / 8).min(LITTLE)
    }

    /// Returns the time that acknowledgements wait to be made durable.
    fn flush_after(&self) -> Duration {
        let flush = self.shared.options.flush;
        if self.is_short() { flush.max(FLUSH_SHORT) } else { flush }
    }

    pub(crate) fn other(&mut self, job: Job) -> Result<Next, Failure> {
        Ok(match job {
            Job::Commit(call) => {
                // Calls are handled by `gather` alone.
                let _ = call.answer.send(Err(StoreError::Busy));
                Next::On
            }
            Job::Task(task) => {
                task(self)?;
                Next::On
            }
            Job::Close(answer) => {
                let done = self.shut();
                self.lock = None;
                let _ = answer.send(done);
                Next::Over
            }
            Job::Abandon(answer) => {
                self.give_up_engine();
                self.shared.closed.store(true, Ordering::Release);
                self.lock = None;
                let _ = answer.send(());
                Next::Over
            }
        })
    }

    /// Writes a batch and waits for the disk.
    pub(crate) fn to_disk(&self, engine: &Engine, batch: OwnedWriteBatch, touched: &[Keyspace]) -> Result<(), Failure> {
        #[cfg(any(test, feature = "testkit"))]
        if let Some(fault) = self.shared.faults.lock().pop_front() {
            return Err(fault);
        }
        #[cfg(any(test, feature = "testkit"))]
        self.shared.cut.pass()?;
        settle_down(engine, batch, touched)?;
        #[cfg(any(test, feature = "testkit"))]
        self.shared.cut.pass()?;
        Ok(())
    }

    /// Waits until the disk has everything that any thread has written.
    pub(crate) fn confirm(&mut self) -> Result<(), Failure> {
        let Some(engine) = &self.engine else { return Ok(()) };
        #[cfg(any(test, feature = "testkit"))]
        if let Some(fault) = self.shared.faults.lock().pop_front() {
            return Err(fault);
        }
        confirm(engine)
    }

    /// Writes the mark of what is durable now, beside the engine.
    pub(crate) fn mark(&mut self, last: Option<u64>, version: Option<u64>) -> Result<(), Failure> {
        let mark = self.current_mark(last, version);
        let now = self.now();
        let written = self.watermark.write(mark);
        self.mark_is_dirty = true;
        self.beaten = now;
        written.map_err(|error| Failure::Write(of_watermark(error)))?;
        self.watermark.sync_sometimes(now).map_err(|error| Failure::Sync(of_watermark(error)))?;
        #[cfg(any(test, feature = "testkit"))]
        self.shared.cut.pass()?;
        Ok(())
    }

    pub(crate) fn current_mark(&self, last: Option<u64>, version: Option<u64>) -> Mark {
        let (heartbeat, beat) = self.shared.sanity.beat(&self.shared.runtime);
        let state = self.shared.state.read();
        Mark {
            number: 0,
            epoch: self.shared.fence.epoch,
            boot: self.shared.boot().0,
            commit: self.commit,
            last: last.unwrap_or(state.last),
            chain: self.chain,
            version: version.unwrap_or(state.version.0),
            heartbeat,
            beat: Some(beat),
            clean: false,
        }
    }

    pub(crate) fn tick(&mut self) -> Result<Next, Failure> {
        let now = self.now();
        if !self.pending.is_empty() && now >= self.pending_since + self.flush_after() {
            self.flush()?;
        } else if self.mark_is_dirty {
            self.mark_is_dirty = false;
            self.watermark.sync().map_err(|error| Failure::Sync(of_watermark(error)))?;
        } else if now >= self.beaten + HEARTBEAT {
            self.mark(None, None)?;
        }
        self.measure();
        Ok(Next::On)
    }

    /// Measures the free space, and periodically the space in use. Renews a token that an earlier attempt had no space
    /// for.
    pub(crate) fn measure(&mut self) {
        if let Ok(free) = self.shared.free_space() {
            self.shared.free.store(free, Ordering::Relaxed);
            self.was_full |= free < LITTLE;
        }
        let every = if self.shared.shut.lock().is_some() { MEASURE_SHUT } else { MEASURE };
        if self.now() >= self.measured + every || self.measured.is_zero() || self.unmeasured > self.shared.budget / 64 {
            self.measure_bytes();
        }
        if let Some(instance) = &mut self.unrenewed
            && self.shared.place.renew(instance, &self.shared.runtime).is_ok()
        {
            self.unrenewed = None;
        }
        self.shared.check_room();
    }

    /// Measures the free space and the space in use immediately.
    pub(crate) fn measure_now(&mut self) -> Result<(), Failure> {
        self.measure_bytes();
        self.measure();
        Ok(())
    }

    /// Measures the space in use immediately.
    pub(crate) fn measure_bytes(&mut self) {
        let Some(engine) = &self.engine else { return };
        (self.measured, self.unmeasured) = (self.now().max(Duration::from_nanos(1)), 0);
        if let Ok(bytes) = engine.disk_space() {
            self.shared.bytes.store(bytes, Ordering::Relaxed);
        }
    }

    /// Drops the engine. Returns whether it is closed, and not still held by a read.
    pub(crate) fn give_up_engine(&mut self) -> bool {
        let shared = self.shared.engine.write().take();
        let own = self.engine.take();
        let Some(engine) = own.or(shared) else { return true };
        let closed = (0..5000).any(|_| {
            let only = Arc::strong_count(&engine) == 1;
            if !only {
                std::thread::sleep(Duration::from_millis(1));
            }
            only
        });
        drop(engine);
        closed
    }

    /// Writes everything and closes in order.
    fn shut(&mut self) -> Result<(), StoreError> {
        self.shared.closed.store(true, Ordering::Release);
        let folded = self.fold().map_err(|failure| failure.error());
        let engine_was_open = self.engine.is_some();
        self.give_up_engine();
        folded?;
        if engine_was_open {
            let mark = Mark { clean: true, ..self.current_mark(None, None) };
            let sealed = self.watermark.write(mark).and_then(|()| self.watermark.sync());
            sealed.map_err(of_watermark)?;
        }
        Ok(())
    }
}

fn of_watermark(error: std::io::Error) -> StoreError {
    StoreError::Poisoned(Why::because(format!("the watermark: {error}"), error))
}
