//! The fold: all cursors are written as a whole, so that an opening has little to replay.

use crate::{
    StreamNo,
    fjall::{
        batch::{Failure, Filling},
        engine::Engine,
        open::adopted,
        replay::{COUNTERS, Fold, KEYS, write_counters, write_keys},
        writer::Writer,
    },
    plan::Plan,
};

/// The number of commits after which the cursors are folded.
const FOLD_COMMITS: u64 = 4096;
/// The number of deltas after which the cursors are folded.
const FOLD_DELTAS: u64 = 200_000;

impl Writer {
    /// Makes everything that is visible durable.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        let Some(engine) = self.engine.clone() else { return Ok(()) };
        if !self.pending.is_empty() {
            self.write(&engine, &Plan::default())?;
            self.fold_if_due()?;
        }
        Ok(())
    }

    pub(crate) fn fold_if_due(&mut self) -> Result<(), Failure> {
        let last = self.shared.state.read().last;
        let due = self.commit - self.fold.commit >= FOLD_COMMITS
            || self.deltas_since_fold >= FOLD_DELTAS
            || last - self.fold.frontier >= self.shared.options.segment_records;
        if due { self.fold() } else { Ok(()) }
    }

    /// Writes all cursors as a whole.
    pub(crate) fn fold(&mut self) -> Result<(), Failure> {
        let Some(engine) = self.engine.clone() else { return Ok(()) };
        self.flush_pending_only(&engine)?;
        if self.commit == self.fold.commit {
            return Ok(());
        }
        let now = {
            let state = self.shared.state.read();
            let bytes = engine.segments.read().values().next_back().map_or(0, |segment| segment.bytes);
            Fold {
                commit: self.commit + 1,
                frontier: state.last,
                chain: self.chain,
                accepted: state.last_accepted,
                bytes,
            }
        };
        tracing::debug!(frontier = now.frontier, "cursors are written down");
        let mut filling = Filling::new(&engine, 64);
        filling.fold(&self.shared.state.read(), &self.fold, &now);
        filling.batch.insert(&engine.meta, KEYS, write_keys(&self.shared.keys.lock()));
        let Filling { batch, touched, .. } = filling;
        self.to_disk(&engine, batch, &touched)?;
        tracing::debug!(frontier = now.frontier, "cursors were written down");
        self.commit = now.commit;
        self.fold = now;
        self.deltas_since_fold = 0;
        let mut state = self.shared.state.write();
        let dirty = std::mem::take(&mut state.dirty);
        for stream in dirty {
            if let Some(cursor) = state.cursors.get_mut(&StreamNo(stream)) {
                cursor.dirty.clear();
            }
        }
        state.cursors.retain(|_, cursor| !cursor.is_over());
        drop(state);
        self.mark(None, None)
    }

    fn flush_pending_only(&mut self, engine: &Engine) -> Result<(), Failure> {
        if self.pending.is_empty() { Ok(()) } else { self.write(engine, &Plan::default()) }
    }

    /// Advances the numbers of streams, issuers and producers, as the adoption of a copy requires.
    pub(crate) fn move_numbers_on(&mut self) -> Result<(), Failure> {
        let Some(engine) = self.engine.clone() else { return Ok(()) };
        let (counters, numbers) = {
            let state = self.shared.state.read();
            let numbers = adopted(state.numbers);
            (write_counters(state.version, state.membership, numbers), numbers)
        };
        let mut filling = Filling::new(&engine, 2);
        filling.batch.insert(&engine.meta, COUNTERS, counters);
        self.commit_aside(&engine, filling)?;
        self.shared.state.write().numbers = numbers;
        Ok(())
    }
}
