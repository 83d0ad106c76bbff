//! Housekeeping, which frees what is no longer needed: segments, idempotency keys, parked SETs beyond their limits.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{Arc, atomic::Ordering, mpsc::SyncSender},
    time::Duration,
};

use fjall::PersistMode;
use roaring::RoaringTreemap;
use tokio::sync::oneshot;

use crate::{
    Durability, StoreError, StreamNo, Unit,
    fjall::{
        batch::{Failure, Filling},
        bucket::{Bucket, row_key},
        engine::{Engine, engine_error, held_key, key, parked_of, read_row, seq_of},
        guard::guarded,
        release::release_journals,
        segment::{Segment, SegmentKeyspaces},
        shared::Shared,
        writer::{Call, Job, Writer},
    },
    state::Ops,
    time::HeldBack,
};

/// A closed segment is condensed when fewer than its records divided by this number are owed.
const CONDENSE: u64 = 10;

/// The interval at which the age of parked SETs is checked.
const PARKED_EVERY: Duration = Duration::from_secs(60 * 60);

/// The owed records of one segment in the form of held ones: key and value.
type Rows = Vec<([u8; 9], Vec<u8>)>;

fn held_seq(key: &[u8; 9]) -> Option<u64> {
    key.get(1..).and_then(seq_of)
}

/// The plan of a trim.
#[derive(Default)]
pub(crate) struct Trim {
    /// The segments, by first position, of which nothing is owed.
    gone: Vec<u64>,
    /// A segment of which little is owed, with its owed rows.
    condense: Option<(u64, Rows)>,
    /// The keys of held records that are settled.
    swept: Vec<[u8; 9]>,
}

impl Trim {
    fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.condense.is_none() && self.swept.is_empty()
    }
}

/// Runs one round; if another one is running, after it. Two at once would read what the other deletes, and report it as
/// damaged.
pub(crate) async fn housekeep(shared: Arc<Shared>, queue: SyncSender<Job>) -> Result<(), StoreError> {
    let _alone = shared.housekeeping.lock().await;
    aside(&shared, fill_filters).await?;
    // What is trimmed must be settled on the disk, and its targets must not be needed for a replay.
    run_on_writer(&queue, Writer::settle_cursors).await?;
    loop {
        let trim = aside(&shared, plan_trim).await?;
        if trim.is_empty() {
            break;
        }
        let again = trim.condense.is_some();
        let given = trim.gone.len() + usize::from(again);
        tracing::debug!(
            gone = trim.gone.len(),
            condensed = usize::from(again),
            swept = trim.swept.len(),
            "segments are given up"
        );
        run_on_writer(&queue, move |writer| writer.trim(trim)).await?;
        tracing::debug!(segments = given, "segments were given up and are cleared away");
        aside(&shared, |_, engine| engine.clear_away(&engine.spare_segments)).await?;
        tracing::debug!("segments were cleared away");
        if !again {
            break;
        }
    }
    // Spares that an opening found, or that were emptied in an earlier round, are cleared also where nothing was given
    // up now: the engine keeps its journals for the rows of those that are not emptied.
    aside(&shared, |_, engine| engine.clear_away(&engine.spare_segments)).await?;
    aside(&shared, |_, engine| write_out_closed(engine)).await?;
    // The first measurement decides whether the journals must be released, the second whether a stream is cut.
    run_on_writer(&queue, Writer::measure_now).await?;
    aside(&shared, release_journals).await?;
    run_on_writer(&queue, Writer::measure_now).await?;
    forget_keys(&shared).await?;
    if !shared.sanity.check(&shared.runtime) {
        forget_parked(&shared, &queue).await?;
    }
    Ok(())
}

/// Runs work on the writer's thread.
pub(crate) async fn run_on_writer<T: Send + 'static>(
    queue: &SyncSender<Job>,
    work: impl FnOnce(&mut Writer) -> Result<T, Failure> + Send + 'static,
) -> Result<T, StoreError> {
    let gone = || StoreError::Unavailable("it is closed, or being opened again after a failed write".into());
    let (answer, done) = oneshot::channel();
    let task = move |writer: &mut Writer| {
        let (result, failure) = match work(writer) {
            Ok(done) => (Ok(done), None),
            Err(failure) => (Err(writer.trouble(&failure)), Some(failure)),
        };
        let _ = answer.send(result);
        failure.map_or(Ok(()), Err)
    };
    queue.try_send(Job::Task(Box::new(task))).map_err(|_| StoreError::Busy)?;
    #[cfg(any(test, feature = "testkit"))]
    super::cut::note_queued();
    done.await.unwrap_or_else(|_| Err(gone()))
}

/// Runs work with the engine on a thread for blocking work.
pub(crate) async fn aside<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared, &Engine) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    super::read_aside(shared.clone(), work).await
}

/// Returns everything that some stream is owed. The lock is released after every 64 streams, so that no caller waits
/// long; what is settled meanwhile counts as owed.
fn owed_by_anyone(shared: &Shared) -> RoaringTreemap {
    let streams: Vec<StreamNo> = shared.state.read().cursors.keys().copied().collect();
    let mut all = RoaringTreemap::new();
    for some in streams.chunks(64) {
        let state = shared.state.read();
        for stream in some {
            if let Some(cursor) = state.cursors.get(stream) {
                all |= &cursor.owed;
            }
        }
    }
    all
}

pub(crate) fn plan_trim(shared: &Shared, engine: &Engine) -> Result<Trim, StoreError> {
    let closed: Vec<Segment> =
        engine.segments.read().values().filter(|segment| segment.last.is_some()).cloned().collect();
    if closed.is_empty() {
        return Ok(Trim::default());
    }
    let owed = owed_by_anyone(shared);
    let now = shared.sanity.now(&shared.runtime);
    let keep = shared.options.keep_settled;
    let held_back = shared.state.read().held_back.clone();
    let frozen = shared.sanity.check(&shared.runtime);
    let mut trim = Trim::default();
    for segment in closed {
        let last = segment.last.unwrap_or(segment.first);
        let waiting = owed.range_cardinality(segment.first..=last);
        if segment.condensed {
            if waiting == 0 {
                trim.gone.push(segment.first);
            }
            match guarded(|| sweep(engine, &segment, &owed)) {
                Ok(swept) => trim.swept.extend(swept),
                Err(StoreError::Corrupt(why)) => {
                    tracing::error!(segment = segment.id, %why, "what is held of a segment cannot be read, and stays");
                }
                Err(error) => return Err(error),
            }
            continue;
        }
        let accepted = segment.accepted_last.map(|at| HeldBack::latest(&held_back, at));
        let young = accepted.is_none_or(|at| now.since(at) < keep);
        if !keep.is_zero() && (frozen || young) {
            continue;
        }
        if waiting == 0 {
            trim.gone.push(segment.first);
        } else if waiting * CONDENSE < last + 1 - segment.first && trim.condense.is_none() {
            trim.condense = little(&segment, last, &owed)?.map(|rows| (segment.first, rows));
        }
    }
    Ok(trim)
}

/// Returns the held records of a condensed segment that are settled by now.
fn sweep(engine: &Engine, segment: &Segment, owed: &RoaringTreemap) -> Result<Vec<[u8; 9]>, StoreError> {
    let mut swept = Vec::new();
    let last = segment.last.unwrap_or(segment.first);
    for item in engine.held.range(held_key(false, segment.first)..=held_key(false, last)) {
        let at = item.key().map_err(engine_error)?;
        if let Some(seq) = at.get(1..).and_then(seq_of)
            && !owed.contains(seq)
        {
            swept.extend([held_key(false, seq), held_key(true, seq)]);
        }
    }
    Ok(swept)
}

/// Returns the owed heads and bodies of a segment, as they are written, or `None` where one of them cannot be read.
fn little(segment: &Segment, last: u64, owed: &RoaringTreemap) -> Result<Option<Rows>, StoreError> {
    let Some(keyspaces) = &segment.keyspaces else { return Ok(None) };
    let mut rows = Rows::new();
    let mut some = owed.iter();
    some.advance_to(segment.first);
    for seq in some.take_while(|seq| *seq <= last) {
        for (body, keyspace) in [(false, &keyspaces.heads), (true, &keyspaces.bodies)] {
            match guarded(|| keyspace.get(key(seq)).map_err(engine_error)) {
                Ok(Some(value)) => rows.push((held_key(body, seq), value.to_vec())),
                // The other segments are trimmed all the same, or one damaged block would fill the disk.
                Ok(None) | Err(StoreError::Corrupt(_)) => {
                    tracing::error!(
                        segment = segment.id,
                        record = seq,
                        "an owed record cannot be read; its segment stays: stop the gateway and run `setgate store check`"
                    );
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Some(rows))
}

impl Writer {
    /// Makes settlements durable, moves the frontier past every closed segment, and removes the cursors of deleted
    /// streams.
    fn settle_cursors(&mut self) -> Result<(), Failure> {
        let Some(engine) = self.engine.clone() else { return Ok(()) };
        let behind =
            engine.segments.read().values().any(|segment| segment.last.is_some_and(|last| last > self.fold.frontier));
        let over = self.shared.state.read().cursors.values().any(|cursor| cursor.is_over());
        if behind || over { self.fold() } else { self.flush() }
    }

    /// Removes segments from the table, durably; their keyspaces are given up then.
    ///
    /// The plan was made earlier, concurrently with writes, and perhaps from an engine that was opened again since: it
    /// is checked again here, where there is no other writer.
    pub(crate) fn trim(&mut self, trim: Trim) -> Result<(), Failure> {
        // Settlements made during the planning must be durable before a body is deleted: after a kill it would be owed
        // again.
        self.flush()?;
        let Some(engine) = self.engine.clone() else { return Ok(()) };
        let trim = self.still_true(&engine, trim);
        if trim.is_empty() {
            return Ok(());
        }
        // Heads after the frontier are replayed at an opening, so none of them may be missing.
        let behind = self.gives_up_after(&engine, &trim, self.fold.frontier);
        if behind {
            tracing::debug!("what is given up is not folded yet, and is folded first");
        }
        #[cfg(any(test, feature = "testkit"))]
        let behind = behind && !self.shared.cut.old_way.load(Ordering::SeqCst);
        if behind {
            self.fold()?;
        }
        let mut filling = Filling::new(&engine, trim.swept.len() + 64);
        let mut segments = engine.segments.read().clone();
        let mut left = Vec::new();
        for first in &trim.gone {
            if let Some(segment) = segments.remove(first) {
                filling.batch.remove(&engine.meta, segment.key());
                left.extend(segment.keyspaces.map(|keyspaces| (segment.slot, keyspaces)));
            }
        }
        if let Some((first, rows)) = trim.condense
            && let Some(segment) = segments.get_mut(&first)
        {
            for (key, value) in rows {
                filling.batch.insert(&engine.held, key, value);
            }
            segment.condensed = true;
            left.extend(segment.keyspaces.take().map(|keyspaces| (segment.slot, keyspaces)));
            filling.segment(segment);
        }
        for key in trim.swept {
            filling.batch.remove(&engine.held, key);
        }
        self.commit_aside(&engine, filling)?;
        *engine.segments.write() = segments;
        left.into_iter().for_each(|(slot, keyspaces)| engine.spare_segments.leave(slot, keyspaces));
        let mut state = self.shared.state.write();
        state.first = engine.first(state.last);
        Ok(())
    }

    /// Returns the part of a plan that is still valid: only closed segments are removed, and nothing that is owed.
    fn still_true(&self, engine: &Engine, trim: Trim) -> Trim {
        let segments = engine.segments.read();
        let closed = |first: &u64| {
            let segment = segments.get(first)?;
            Some((segment, segment.first..=segment.last?))
        };
        let swept = trim.swept.iter().filter_map(held_seq).collect::<RoaringTreemap>();
        let mut all = swept;
        for (_, span) in trim.gone.iter().chain(trim.condense.iter().map(|(first, _)| first)).filter_map(closed) {
            all.insert_range(span);
        }
        let mut owed = RoaringTreemap::new();
        for cursor in self.shared.state.read().cursors.values() {
            if !cursor.owed.is_disjoint(&all) {
                owed |= &cursor.owed & &all;
            }
        }
        let nobody = |span: RangeInclusive<u64>| owed.range_cardinality(span) == 0;
        let gone = trim.gone.into_iter().filter(|first| closed(first).is_some_and(|(_, span)| nobody(span))).collect();
        let condense = trim.condense.filter(|(first, rows)| {
            let Some((segment, span)) = closed(first).filter(|(segment, _)| !segment.condensed) else { return false };
            let moved = rows.iter().filter_map(|(key, _)| held_seq(key)).collect::<RoaringTreemap>();
            debug_assert!(moved.iter().all(|seq| span.contains(&seq)), "rows of segment {}", segment.id);
            owed.range_cardinality(span.clone()) == (&owed & &moved).range_cardinality(span)
        });
        let swept = trim.swept.into_iter().filter(|key| held_seq(key).is_some_and(|seq| !owed.contains(seq))).collect();
        Trim { gone, condense, swept }
    }

    /// Returns whether the plan removes anything after a position.
    fn gives_up_after(&self, engine: &Engine, trim: &Trim, frontier: u64) -> bool {
        let segments = engine.segments.read();
        let mut all = trim.gone.iter().chain(trim.condense.iter().map(|(first, _)| first));
        let behind =
            |first: &u64| segments.get(first).is_some_and(|segment| segment.last.is_none_or(|last| last > frontier));
        all.any(behind) || trim.swept.iter().filter_map(held_seq).any(|seq| seq > frontier)
    }

    /// Commits a batch that changes nothing visible.
    pub(crate) fn commit_aside(&mut self, engine: &Engine, mut filling: Filling<'_>) -> Result<(), Failure> {
        let commit = self.commit + 1;
        filling.deltas(commit, &Ops::default());
        filling.touched.push(engine.held.clone());
        let Filling { batch, touched, .. } = filling;
        self.to_disk(engine, batch, &touched)?;
        self.commit = commit;
        self.mark(None, None)
    }
}

/// Adds the idempotency keys that existed when the engine was opened to their filters.
fn fill_filters(shared: &Shared, engine: &Engine) -> Result<(), StoreError> {
    let buckets = engine.once.read().clone();
    for (number, bucket) in buckets {
        let about = shared.keys.lock().get(&number).map_or(0, |counts| counts.values().sum());
        if let Err(error) = bucket.filter.fill(&bucket.keyspace, usize::try_from(about).unwrap_or_default()) {
            tracing::warn!(bucket = number, %error, "known ids cannot be read ahead; the engine is asked for each");
        }
    }
    Ok(())
}

/// Flushes closed segments that stay to tables, so that neither memory nor journals hold them.
fn write_out_closed(engine: &Engine) -> Result<(), StoreError> {
    let closed: Vec<SegmentKeyspaces> = {
        let mut segments = engine.segments.write();
        let closed = segments.values_mut().filter(|segment| segment.last.is_some() && !segment.written_out);
        closed
            .filter_map(|segment| {
                segment.written_out = true;
                segment.keyspaces.clone()
            })
            .collect()
    };
    for keyspaces in closed {
        keyspaces.heads.rotate_memtable().map_err(engine_error)?;
        keyspaces.bodies.rotate_memtable().map_err(engine_error)?;
    }
    Ok(())
}

/// Drops the buckets of idempotency keys that are older than the window, and shortens the window of producers that have
/// too many keys.
async fn forget_keys(shared: &Arc<Shared>) -> Result<(), StoreError> {
    aside(shared, |shared, engine| {
        let oldest = shared.oldest_bucket(engine);
        let past: BTreeMap<u64, Bucket> = {
            let mut once = engine.once.write();
            let kept = once.split_off(&oldest);
            std::mem::replace(&mut *once, kept)
        };
        shared.keys.lock().retain(|bucket, _| *bucket >= oldest);
        // The rows are removed first: a row promises that its bucket exists.
        let mut batch = engine.db.batch().durability(Some(PersistMode::SyncAll));
        past.keys().for_each(|number| batch.remove(&engine.meta, row_key(*number)));
        if !past.is_empty() {
            batch.commit().map_err(engine_error)?;
        }
        for bucket in past.into_values() {
            engine.spare_buckets.leave(bucket.slot, bucket.keyspace);
        }
        engine.clear_away(&engine.spare_buckets)?;
        shared.shorten(oldest);
        Ok(())
    })
    .await
}

/// Discards parked SETs that are too old, or beyond the count or bytes of their stream.
async fn forget_parked(shared: &Arc<Shared>, queue: &SyncSender<Job>) -> Result<(), StoreError> {
    let what = aside(shared, |shared, engine| {
        let options = &shared.options;
        let now = shared.runtime.clock.monotonic();
        let due = {
            let mut looked = shared.parked_looked.lock();
            let due = looked.is_none_or(|looked| now >= looked + PARKED_EVERY);
            if due {
                *looked = Some(now);
            }
            due
        };
        let mut what = Vec::new();
        if due {
            let limit = options.parked_age;
            let wall = shared.sanity.now(&shared.runtime);
            let held_back = shared.state.read().held_back.clone();
            for item in engine.parked.iter() {
                let row = match item.value().map_err(engine_error) {
                    Ok(value) => read_row(&value),
                    Err(StoreError::Corrupt(why)) => {
                        // The engine cannot read beyond this row.
                        tracing::error!(%why, "parked SETs do not read, and stay");
                        break;
                    }
                    Err(error) => return Err(error),
                };
                match row {
                    Ok(row) if wall.since(HeldBack::latest(&held_back, row.parked.parked_at)) > limit => {
                        what.push((row.parked.stream, row.parked.at));
                    }
                    Ok(_) => {}
                    Err(error) => tracing::error!(%error, "a parked SET does not read, and stays"),
                }
            }
        }
        let over: Vec<_> = {
            let state = shared.state.read();
            let counts = state.cursors.iter().map(|(stream, cursor)| (*stream, cursor.parked_now, cursor.parked_bytes));
            counts.filter(|(_, count, bytes)| *count > options.parked_count || *bytes > options.parked_bytes).collect()
        };
        for (stream, mut count, mut bytes) in over {
            for item in engine.parked.prefix(stream.0.to_be_bytes()) {
                if count <= options.parked_count && bytes <= options.parked_bytes {
                    break;
                }
                let (at, value) = item.into_inner().map_err(engine_error)?;
                let Some((stream, seq)) = parked_of(&at) else { continue };
                count -= 1;
                bytes = bytes.saturating_sub(read_row(&value).map_or(0, |row| row.bytes));
                what.push((stream, crate::Position::new(seq)));
            }
        }
        Ok(what)
    })
    .await?;
    if what.is_empty() {
        return Ok(());
    }
    tracing::warn!(count = what.len(), "parked SETs are beyond their limits and are forgotten");
    shared.observed.parked_forgotten.inc_by(what.len() as u64);
    let (answer, done) = oneshot::channel();
    let units = vec![Unit::Discard { fence: shared.fence, what }];
    shared.queued.fetch_add(units.len(), Ordering::Relaxed);
    let call = Call { units, how: Durability::Sync, bytes: 0, since: shared.runtime.clock.monotonic(), answer };
    queue.try_send(Job::Commit(Box::new(call))).map_err(|_| StoreError::Busy)?;
    #[cfg(any(test, feature = "testkit"))]
    super::cut::note_queued();
    done.await.map_err(|_| StoreError::Unavailable("it is closed".into()))?.map(drop)
}
