//! The translation of a plan into one batch of the engine, and its way to the disk.

use fjall::{Keyspace, OwnedWriteBatch, PersistMode};

use crate::{
    StoreError,
    codec::{write_body, write_chunk, write_cursor, write_delta, write_head},
    fjall::{
        engine::{Engine, control_key, engine_error, key, once_key, parked_key, write_kept, write_record, write_row},
        replay::{COUNTERS, Fold, chunk_key, row_key, write_counters},
        segment::Segment,
    },
    plan::Plan,
    state::{Cursor, Ops, State, chunk},
};

/// The reason why a batch is not on the disk.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The engine did not accept the batch. It may be opened again.
    Write(StoreError),
    /// The disk did not confirm the batch. Nothing that was read back afterwards could be believed (an fsync is never
    /// tried twice).
    Sync(StoreError),
    /// A worker of the engine failed earlier, and the engine accepts nothing more. It does not report the reason.
    Stopped(StoreError),
    /// A test ended the process here.
    #[cfg(any(test, feature = "testkit"))]
    Cut,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Write(error) | Self::Sync(error) | Self::Stopped(error) => error.fmt(f),
            #[cfg(any(test, feature = "testkit"))]
            Self::Cut => f.write_str("the test ended the process here"),
        }
    }
}

impl Failure {
    /// Returns the error.
    pub(crate) fn error(&self) -> StoreError {
        match self {
            Self::Write(error) | Self::Sync(error) | Self::Stopped(error) => error.clone(),
            #[cfg(any(test, feature = "testkit"))]
            Self::Cut => StoreError::Poisoned(self.to_string().into()),
        }
    }
}

/// Writes a batch and waits until the disk has it.
pub(crate) fn settle_down(engine: &Engine, batch: OwnedWriteBatch, touched: &[Keyspace]) -> Result<(), Failure> {
    engine.await_room(touched.iter()).map_err(not_taken)?;
    batch.durability(Some(PersistMode::Buffer)).commit().map_err(not_taken)?;
    confirm(engine)
}

/// Waits until the disk has everything that was written.
pub(crate) fn confirm(engine: &Engine) -> Result<(), Failure> {
    if let Some(error) = engine.unconfirmed() {
        return Err(Failure::Sync(error));
    }
    engine.db.persist(PersistMode::SyncData).map_err(|error| match error {
        // No flush was requested of the disk.
        fjall::Error::Poisoned => not_taken(error),
        other => Failure::Sync(engine_error(other)),
    })
}

fn not_taken(error: fjall::Error) -> Failure {
    let stopped = matches!(error, fjall::Error::Poisoned);
    let error = engine_error(error);
    if stopped { Failure::Stopped(error) } else { Failure::Write(error) }
}

/// A batch that is being filled.
pub(crate) struct Filling<'a> {
    engine: &'a Engine,
    pub(crate) batch: OwnedWriteBatch,
    pub(crate) touched: Vec<Keyspace>,
}

impl<'a> Filling<'a> {
    pub(crate) fn new(engine: &'a Engine, capacity: usize) -> Self {
        Self {
            engine,
            batch: OwnedWriteBatch::with_capacity(engine.db.clone(), capacity),
            touched: vec![engine.delta.clone()],
        }
    }

    pub(crate) fn touch(&mut self, keyspace: &Keyspace) {
        if !self.touched.contains(keyspace) {
            self.touched.push(keyspace.clone());
        }
    }

    /// Adds the records of a plan to a segment and their idempotency keys to a bucket. Returns the chain after them.
    pub(crate) fn records(
        &mut self,
        plan: &Plan,
        segment: &Segment,
        bucket: Option<&Keyspace>,
        chain: u32,
    ) -> Result<u32, StoreError> {
        let keyspaces = segment
            .keyspaces
            .as_ref()
            .ok_or_else(|| StoreError::Corrupt("the open segment has no keyspaces".into()))?;
        let mut chain = chain;
        for fresh in &plan.records {
            let head = &fresh.entry.head;
            let (value, next) = write_head(head, &fresh.entry.targets, chain);
            chain = next;
            self.batch.insert(&keyspaces.heads, key(head.at.seq), value);
            self.batch.insert(&keyspaces.bodies, key(head.at.seq), write_body(head.at.seq, &fresh.body));
            if let (Some(once), Some(bucket)) = (&fresh.once, bucket) {
                let kept = write_kept(head.at.seq, &once.digest, &once.txn);
                self.batch.insert(bucket, once_key(head.producer, &once.key), kept);
            }
        }
        self.touch(&keyspaces.heads);
        self.touch(&keyspaces.bodies);
        if let Some(bucket) = bucket {
            self.touch(bucket);
        }
        Ok(chain)
    }

    /// Adds everything of a plan but its records and deltas.
    pub(crate) fn rest(&mut self, plan: &Plan, state: &State) -> Result<(), StoreError> {
        let engine = self.engine;
        for ((stream, seq), row) in &plan.rows {
            let at = parked_key(*stream, *seq);
            match row {
                Some(row) => {
                    self.batch.insert(&engine.parked, at, write_row(row)?);
                    self.batch.insert(&engine.parked_bodies, at, write_body(*seq, &row.parked.body));
                }
                None => {
                    self.batch.remove(&engine.parked, at);
                    self.batch.remove(&engine.parked_bodies, at);
                }
            }
        }
        if !plan.rows.is_empty() {
            self.touch(&engine.parked);
            self.touch(&engine.parked_bodies);
        }
        for (key, (version, value)) in &plan.puts {
            match value {
                Some(value) => self.batch.insert(&engine.control, control_key(key), write_record(*version, value)),
                None => self.batch.remove(&engine.control, control_key(key)),
            }
        }
        if !plan.puts.is_empty() {
            self.touch(&engine.control);
        }
        if plan.version.is_some() || plan.numbers.is_some() {
            let version = plan.version.unwrap_or(state.version);
            let membership = plan.membership.unwrap_or(state.membership);
            let counters = write_counters(version, membership, plan.numbers.unwrap_or(state.numbers));
            self.batch.insert(&engine.meta, COUNTERS, counters);
        }
        Ok(())
    }

    /// Adds the row of this commit, with its deltas.
    pub(crate) fn deltas(&mut self, commit: u64, ops: &Ops) {
        self.batch.insert(&self.engine.delta, key(commit), write_delta(ops));
    }

    /// Adds a row of the table of segments.
    pub(crate) fn segment(&mut self, segment: &Segment) {
        self.batch.insert(&self.engine.meta, segment.key(), segment.write());
    }

    /// Adds every cursor that changed; the deltas up to here are no longer needed.
    pub(crate) fn fold(&mut self, state: &State, before: &Fold, now: &Fold) {
        for stream in &state.dirty {
            let stream = crate::StreamNo(stream);
            if let Some(cursor) = state.cursors.get(&stream).filter(|cursor| !cursor.is_over()) {
                self.cursor(stream, cursor, cursor.dirty.iter());
            }
        }
        for (stream, cursor) in state.cursors.iter().filter(|(_, cursor)| cursor.is_over()) {
            self.batch.remove(&self.engine.cursor, row_key(*stream));
            // Chunks in which nothing is owed are removed when they are folded; these have not been folded yet.
            for chunk in &cursor.dirty {
                self.batch.remove(&self.engine.cursor, chunk_key(*stream, chunk));
            }
        }
        for commit in before.commit + 1..now.commit {
            self.batch.remove(&self.engine.delta, key(commit));
        }
        self.batch.insert(&self.engine.meta, Fold::KEY, now.write());
        self.touch(&self.engine.cursor);
    }

    /// Adds every cursor as a whole, where nothing was written before.
    pub(crate) fn fold_all(&mut self, state: &State, now: &Fold) {
        for (stream, cursor) in &state.cursors {
            let chunks: std::collections::BTreeSet<u32> = cursor.owed.iter().map(chunk).collect();
            self.cursor(*stream, cursor, chunks.into_iter());
        }
        self.batch.insert(&self.engine.meta, Fold::KEY, now.write());
        self.touch(&self.engine.cursor);
    }

    /// Adds one cursor, with some of its chunks.
    fn cursor(&mut self, stream: crate::StreamNo, cursor: &Cursor, chunks: impl Iterator<Item = u32>) {
        let engine = self.engine;
        let row = write_cursor(&cursor.tally, cursor.dropped_through, cursor.control.iter());
        self.batch.insert(&engine.cursor, row_key(stream), row);
        for chunk in chunks {
            let base = u64::from(chunk) << 16;
            let mut all = cursor.owed.iter();
            all.advance_to(base);
            // The positions of one chunk differ only in their low 16 bits.
            let mut owed: crate::Streams = all
                .take_while(|seq| *seq < base + 0x1_0000)
                .map(|seq| u32::try_from(seq & 0xffff).unwrap_or_default())
                .collect();
            if owed.is_empty() {
                self.batch.remove(&engine.cursor, chunk_key(stream, chunk));
                continue;
            }
            owed.optimize();
            let attempts = cursor.attempts.range(base..base + 0x1_0000).map(|(seq, attempted)| (*seq, attempted));
            self.batch.insert(&engine.cursor, chunk_key(stream, chunk), write_chunk(&owed, attempts));
        }
    }
}
