//! The recovery from a failed write: the store is read from the disk again, in the same process, where that can be
//! trusted.

use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use setgate_clock::{Backoff, Jitter};

use crate::{
    StoreError,
    fjall::{
        batch::Failure,
        engine::Engine,
        guard::guarded,
        replay::load,
        shared::{LITTLE, Shared},
        writer::{Job, Writer},
    },
};

/// The most openings after a failure without a successful commit; after them the process must end.
const VAIN: u32 = 3;
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const PAUSES: Backoff = Backoff::new(Duration::from_millis(250), LONGEST_PAUSE);

impl Writer {
    /// Opens the engine again. Returns whether the writer continues.
    ///
    /// A write that the engine did not accept has no further consequence: the engine is opened again, as often as
    /// necessary while the disk is full, three times otherwise. A flush that the disk did not confirm is never tried
    /// again (the system may have discarded what it could not write, and would confirm the second attempt): the process
    /// must end.
    pub(crate) fn recover(&mut self, failure: Failure, queue: &Receiver<Job>) -> bool {
        let (mut error, lost) = match failure {
            Failure::Write(error) => (error, self.engine.as_ref().is_some_and(|engine| engine.unconfirmed().is_some())),
            Failure::Sync(error) => (error, true),
            // Where the disk had free space all the time, a lack of it was not the cause: the disk failed a worker as it
            // may fail the writer. The engine reports that a worker stopped only to the next commit, when there may be
            // space again.
            Failure::Stopped(error) => (error, !(self.has_no_room() || self.was_full)),
            #[cfg(any(test, feature = "testkit"))]
            Failure::Cut => {
                self.give_up_engine();
                self.shared.closed.store(true, Ordering::Release);
                self.lock = None;
                return false;
            }
        };
        loop {
            tracing::error!(%error, "the store could not write");
            *self.shared.trouble.lock() = Some(error.clone());
            // A worker of the engine that met a full disk reports only that it stopped.
            let full = matches!(error, StoreError::Full(_)) || self.has_no_room();
            self.vain += u32::from(!full);
            if lost {
                self.leave_engine();
                return self.die(&error, queue);
            }
            if matches!(error, StoreError::Corrupt(_)) || self.vain > VAIN || !self.give_up_engine() {
                return self.die(&error, queue);
            }
            // The pause grows from one failure to the next until a write had space: a full disk must not be tried
            // without end.
            self.pauses = self.pauses.saturating_add(1);
            if !self.refuse_for(PAUSES.wait(self.pauses, Jitter::None), queue) {
                return false;
            }
            match self.reopen() {
                Ok(()) => {
                    tracing::warn!("the store is open again");
                    self.shared.observed.reopened.inc();
                    *self.shared.trouble.lock() = None;
                    return true;
                }
                Err(next) => error = next,
            }
        }
    }

    /// Leaves the engine as it is until the process ends. The engine flushes its journal when it is dropped, and a flush
    /// that the disk did not confirm must not be tried again.
    fn leave_engine(&mut self) {
        #[cfg(any(test, feature = "testkit"))]
        if self.shared.cut.lets_go() {
            self.give_up_engine();
            return;
        }
        let shared = self.shared.engine.write().take();
        std::mem::forget(self.engine.take().or(shared));
    }

    /// Returns whether a failure counts as one of space.
    fn has_no_room(&self) -> bool {
        self.shared.free_space().is_ok_and(|free| {
            self.shared.free.store(free, Ordering::Relaxed);
            free < LITTLE
        })
    }

    /// Opens the engine and makes its content visible. Deltas that were visible but not durable are applied again.
    fn reopen(&mut self) -> Result<(), StoreError> {
        let (engine, mut loaded) = guarded(|| {
            let engine = Engine::open(&self.shared.place.engine())?;
            let loaded = load(&engine)?;
            engine.date_buckets(&self.shared.options, self.shared.sanity.now(&self.shared.runtime))?;
            Ok((engine, loaded))
        })?;
        if loaded.commit < self.commit {
            return Err(StoreError::Corrupt(format!("commit {} is missing", loaded.commit + 1).into()));
        }
        loaded.state.deltas(&self.pending);
        (self.commit, self.chain, self.fold) = (loaded.commit, loaded.chain, loaded.fold);
        let engine = Arc::new(engine);
        let last = loaded.state.last;
        self.shared.set_boot(Shared::fresh_boot(&self.shared.runtime));
        self.shared.ring.write().clear();
        {
            let mut state = self.shared.state.write();
            if let Some(witness) = &*self.shared.witness.lock() {
                witness.saw(&loaded.state.since(&state), loaded.state.waiting);
            }
            *state = loaded.state;
        }
        self.engine = Some(engine.clone());
        *self.shared.engine.write() = Some(engine);
        self.shared.last.send_replace(last);
        Ok(())
    }

    /// Refuses everything in the queue for a while. Returns whether the store is still in use.
    fn refuse_for(&mut self, pause: Duration, queue: &Receiver<Job>) -> bool {
        if let Some(job) = self.after.take()
            && !self.refuse(job)
        {
            return false;
        }
        let until = self.shared.runtime.clock.monotonic() + pause;
        loop {
            let left = until.saturating_sub(self.shared.runtime.clock.monotonic());
            if left.is_zero() {
                return true;
            }
            match queue.recv_timeout(left) {
                Ok(job) => {
                    if !self.refuse(job) {
                        return false;
                    }
                }
                // The store's clock decides whether the time has come.
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Refuses a job. Returns whether the store is still in use.
    pub(crate) fn refuse(&mut self, job: Job) -> bool {
        match job {
            Job::Commit(call) => {
                self.shared.queued.fetch_sub(call.units.len(), Ordering::Relaxed);
                self.shared.queued_bytes.fetch_sub(call.bytes, Ordering::Relaxed);
                let trouble = self.shared.trouble.lock().clone();
                let error = match trouble {
                    Some(StoreError::Full(text)) => StoreError::Full(text),
                    _ => StoreError::Unavailable("it is being opened again after a failed write".into()),
                };
                let _ = call.answer.send(Err(error));
                true
            }
            // The caller of a task gets an error when the task is dropped.
            Job::Task(_) => true,
            Job::Close(answer) => {
                self.shared.closed.store(true, Ordering::Release);
                let trouble = self.shared.trouble.lock().clone();
                self.lock = None;
                let _ = answer.send(trouble.map_or(Ok(()), Err));
                false
            }
            Job::Abandon(answer) => {
                self.shared.closed.store(true, Ordering::Release);
                self.lock = None;
                let _ = answer.send(());
                false
            }
        }
    }

    /// Reports that the process must end, and refuses everything until it does.
    fn die(&mut self, error: &StoreError, queue: &Receiver<Job>) -> bool {
        tracing::error!(%error, "the store cannot go on");
        self.shared.fatal.send_replace(Some(error.to_string()));
        self.give_up_engine();
        while self.refuse_for(LONGEST_PAUSE, queue) {}
        false
    }
}
