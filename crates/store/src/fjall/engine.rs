//! The engine's keyspaces, and reads from them.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Slice, config::BlockSizePolicy};
use parking_lot::{Mutex, RwLock};
use setgate_set::Timestamp;

use crate::{
    Head, Key, Parked, ParkedFilter, ProducerNo, Record, StoreError, StreamNo, Version, Why,
    codec::{In, Out, WrittenHead, damaged, read_body, read_head},
    fjall::{
        bloom_filter::{BloomFilter, MemoryBudget},
        bucket::Bucket,
        guard::guarded,
        place::{is_full, sync_folder},
        seal,
        segment::{Segment, SegmentKeyspaces},
        spare::{EMPTIED, Emptied, Spares},
        turnover::FILLER,
    },
    plan::{IdempotencyRecord, ParkedRow},
};

const MIB: u64 = 1024 * 1024;

/// The open engine. It is closed when the last holder drops it.
pub(crate) struct Engine {
    pub(crate) db: Database,
    folder: PathBuf,
    /// The error of a flush, made to create or empty a keyspace, that the disk did not confirm.
    unconfirmed: Mutex<Option<StoreError>>,
    /// Makes the flush of a new keyspace's name fail.
    #[cfg(test)]
    pub(crate) loses_names: std::sync::atomic::AtomicBool,
    /// Counters, the fold and the table of segments.
    pub(crate) meta: Keyspace,
    /// The control-plane records.
    pub(crate) control: Keyspace,
    /// The cursor rows and chunks.
    pub(crate) cursor: Keyspace,
    /// The deltas, one row for each commit.
    pub(crate) delta: Keyspace,
    pub(crate) parked: Keyspace,
    pub(crate) parked_bodies: Keyspace,
    /// The heads and bodies that outlived their segment.
    pub(crate) held: Keyspace,
    /// The segments of the ledger by their first position.
    pub(crate) segments: RwLock<BTreeMap<u64, Segment>>,
    /// The idempotency keys by bucket.
    pub(crate) once: RwLock<BTreeMap<u64, Bucket>>,
    /// The keyspaces of segments, and of buckets, that were given up.
    pub(crate) spare_segments: Spares<SegmentKeyspaces>,
    pub(crate) spare_buckets: Spares<Keyspace>,
    filter_budget: MemoryBudget,
}

/// Converts an error of the engine.
pub(crate) fn engine_error(error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) if is_full(&error) => {
            StoreError::Full(Why::of(error))
        }
        fjall::Error::Io(error) => StoreError::Poisoned(Why::of(error)),
        fjall::Error::Storage(fjall::LsmError::Io(error)) => StoreError::Poisoned(Why::of(error)),
        fjall::Error::Poisoned => StoreError::Poisoned("the engine stopped after an earlier failure".into()),
        fjall::Error::Locked => StoreError::Unavailable("the engine is still in use".into()),
        fjall::Error::KeyspaceDeleted => StoreError::Unavailable("the segment was trimmed".into()),
        other => StoreError::Corrupt(Why::of(other)),
    }
}

fn shape(memtable: u64, block: u32) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(memtable)
        .data_block_size_policy(BlockSizePolicy::all(block))
        .manual_journal_persist(true)
}

/// Flushes the folder in which the folder of a keyspace, and of every other, has its name.
fn flush_name(keyspace: &Keyspace) -> Result<(), StoreError> {
    sync_folder(keyspace.path()).map_err(|error| engine_error(error.into()))
}

/// Returns the key of a position.
pub(crate) fn key(seq: u64) -> [u8; 8] {
    seq.to_be_bytes()
}

/// Returns the position of a key.
pub(crate) fn seq_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.try_into().ok()?))
}

/// Returns the key of a head (or of a body) that outlived its segment.
pub(crate) fn held_key(body: bool, seq: u64) -> [u8; 9] {
    let mut key = [u8::from(body); 9];
    key.iter_mut().skip(1).zip(seq.to_be_bytes()).for_each(|(to, from)| *to = from);
    key
}

/// Returns the key of a parked SET.
pub(crate) fn parked_key(stream: StreamNo, seq: u64) -> [u8; 12] {
    let mut key = [0u8; 12];
    let parts = stream.0.to_be_bytes().into_iter().chain(seq.to_be_bytes());
    key.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
    key
}

/// Returns the stream and position of a parked SET's key.
pub(crate) fn parked_of(key: &[u8]) -> Option<(StreamNo, u64)> {
    let (stream, seq) = key.split_at_checked(4)?;
    Some((StreamNo(u32::from_be_bytes(stream.try_into().ok()?)), seq_of(seq)?))
}

impl Engine {
    /// Opens the engine in a folder, or creates it.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let wrong = seal::check(path).map_err(|error| StoreError::Poisoned(Why::of(error)))?;
        if let Some(first) = wrong.into_iter().next() {
            return Err(StoreError::Corrupt(first.into()));
        }
        let builder = Database::builder(path)
            .worker_threads(1)
            .cache_size(16 * MIB)
            .max_journaling_size(128 * MIB)
            .max_cached_files(Some(256))
            .manual_journal_persist(true);
        let db = builder.open().map_err(engine_error)?;
        let small = |name: &str| db.keyspace(name, || shape(2 * MIB, 4096)).map_err(engine_error);
        let mut engine = Self {
            meta: small("meta")?,
            control: small("control")?,
            cursor: small("cursor")?,
            delta: small("delta")?,
            parked: small("parked")?,
            parked_bodies: db.keyspace("parked-bodies", || shape(4 * MIB, 16 * 1024)).map_err(engine_error)?,
            held: db.keyspace("held", || shape(4 * MIB, 16 * 1024)).map_err(engine_error)?,
            segments: RwLock::default(),
            once: RwLock::default(),
            spare_segments: Spares::default(),
            spare_buckets: Spares::default(),
            filter_budget: MemoryBudget::new(),
            folder: path.to_owned(),
            unconfirmed: Mutex::default(),
            #[cfg(test)]
            loses_names: std::sync::atomic::AtomicBool::default(),
            db,
        };
        // Also the names of those that the process before made and did not come to flush.
        flush_name(&engine.meta)?;
        if engine.db.keyspace_exists(FILLER) {
            // A turnover was interrupted.
            engine.db.delete_keyspace(engine.filler()?).map_err(engine_error)?;
        }
        engine.find_segments()?;
        engine.find_buckets()?;
        Ok(engine)
    }

    /// Reads the table of segments, opens their keyspaces, and marks the keyspaces of no segment as spare.
    fn find_segments(&mut self) -> Result<(), StoreError> {
        let mut segments = BTreeMap::new();
        for item in self.meta.prefix("segment/") {
            let mut segment =
                Segment::read(&item.value().map_err(engine_error)?).ok_or_else(|| damaged("the table of segments"))?;
            if !segment.condensed {
                for name in [Segment::heads_name(segment.slot), Segment::bodies_name(segment.slot)] {
                    if !self.db.keyspace_exists(&name) {
                        return Err(StoreError::Corrupt(format!("segment {} is missing", segment.id).into()));
                    }
                }
                segment.keyspaces = Some(self.keyspaces(segment.slot)?);
            }
            segments.insert(segment.first, segment);
        }
        let slots = self.db.list_keyspace_names().into_iter().filter_map(|name| {
            name.strip_prefix("heads-").or_else(|| name.strip_prefix("bodies-")).and_then(|slot| slot.parse().ok())
        });
        for slot in slots.collect::<BTreeSet<u64>>() {
            self.spare_segments.seen(slot);
            if !segments.values().any(|segment| segment.slot == slot && !segment.condensed) {
                // The keyspaces were made or given up by a commit that did not take place, or were not cleared yet; or
                // they were kept for later.
                self.spare_segments.found(slot, self.keyspaces(slot)?);
            }
        }
        self.segments = RwLock::new(segments);
        Ok(())
    }

    /// Opens a keyspace. A new one is durable together with its name: the engine flushes what is in its folder, and not
    /// the folder above it.
    fn keyspace(&self, name: &str, memtable: u64, block: u32) -> Result<Keyspace, StoreError> {
        if self.db.keyspace_exists(name) {
            return self.db.keyspace(name, || shape(memtable, block)).map_err(engine_error);
        }
        let made = self.db.keyspace(name, || shape(memtable, block)).map_err(engine_error);
        let named = made.and_then(|keyspace| self.flush_new_name(&keyspace).map(|()| keyspace));
        named.inspect_err(|error| self.doubt(error))
    }

    /// Empties spare keyspaces.
    ///
    /// # Errors
    /// Returns [`StoreError`]; the next round continues.
    pub(crate) fn clear_away<K: Emptied>(&self, spares: &Spares<K>) -> Result<(), StoreError> {
        spares.clear_away().inspect_err(|error| self.doubt(error))
    }

    /// Takes an error of the disk, met where the engine creates or empties keyspaces, for an unconfirmed flush: the
    /// engine flushes what it changes there, and does not report whether a write or a flush failed.
    fn doubt(&self, error: &StoreError) {
        if matches!(error, StoreError::Poisoned(why) if why.source().is_some()) {
            *self.unconfirmed.lock() = Some(error.clone());
        }
    }

    fn flush_new_name(&self, keyspace: &Keyspace) -> Result<(), StoreError> {
        #[cfg(test)]
        if self.loses_names.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(StoreError::Poisoned(Why::of(std::io::Error::other("the test lost the name"))));
        }
        flush_name(keyspace)
    }

    /// Returns the error of a flush, made to create or empty a keyspace, that the disk did not confirm.
    pub(crate) fn unconfirmed(&self) -> Option<StoreError> {
        self.unconfirmed.lock().clone()
    }

    /// Opens the keyspaces of a segment with this number in their names.
    pub(crate) fn keyspaces(&self, slot: u64) -> Result<SegmentKeyspaces, StoreError> {
        Ok(SegmentKeyspaces {
            heads: self.keyspace(&Segment::heads_name(slot), 2 * MIB, 4096)?,
            bodies: self.keyspace(&Segment::bodies_name(slot), 8 * MIB, 16 * 1024)?,
        })
    }

    /// Opens the keyspace of a bucket of idempotency keys, with this number in its name.
    pub(crate) fn bucket(&self, slot: u64, until: Option<Timestamp>) -> Result<Bucket, StoreError> {
        let keyspace = self.keyspace(&format!("once-{slot}"), 2 * MIB, 4096)?;
        let empty = keyspace.range([EMPTIED.as_slice(), &[0]].concat()..).next().is_none();
        let filter = BloomFilter::new(empty, &self.filter_budget);
        Ok(Bucket { slot, keyspace, filter: filter.into(), until })
    }

    /// Opens the keyspace that fills up journals.
    pub(crate) fn filler(&self) -> Result<Keyspace, StoreError> {
        self.keyspace(FILLER, 4 * MIB, 16 * 1024)
    }

    /// Returns the bytes that the store uses on the disk: those that the engine counts, and its list of keyspaces,
    /// which it does not count.
    pub(crate) fn disk_space(&self) -> Result<u64, StoreError> {
        let list = self.folder.join("keyspaces/0");
        let files =
            [list.join("tables"), list].into_iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
        let listed: u64 = files.filter_map(|file| file.ok()?.metadata().ok()).map(|about| about.len()).sum();
        Ok(self.db.disk_space().map_err(engine_error)? + listed)
    }

    /// Returns every keyspace that is open.
    pub(crate) fn all(&self) -> Vec<Keyspace> {
        let fixed = [&self.meta, &self.control, &self.cursor, &self.delta];
        let rest = [&self.parked, &self.parked_bodies, &self.held];
        let mut all: Vec<Keyspace> = fixed.into_iter().chain(rest).cloned().collect();
        all.extend(
            self.segments
                .read()
                .values()
                .filter_map(|segment| segment.keyspaces.clone())
                .flat_map(SegmentKeyspaces::both),
        );
        all.extend(self.once.read().values().map(|bucket| bucket.keyspace.clone()));
        all
    }

    /// Waits until the engine can accept more without stalling inside a commit, where nothing could wake it after a
    /// failure.
    pub(crate) fn await_room<'a>(&self, keyspaces: impl Iterator<Item = &'a Keyspace>) -> fjall::Result<()> {
        for keyspace in keyspaces {
            while keyspace.sealed_memtable_count() >= 3 || keyspace.l0_table_count() >= 18 {
                self.db.persist(PersistMode::Buffer)?;
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Returns the segment that holds, or held, a position.
    fn segment(&self, seq: u64) -> Option<Segment> {
        let segments = self.segments.read();
        let (_, segment) = segments.range(..=seq).next_back()?;
        (segment.last.is_none_or(|last| seq <= last)).then(|| segment.clone())
    }

    /// Returns a head with its targets.
    pub(crate) fn head(&self, seq: u64) -> Result<Option<WrittenHead>, StoreError> {
        self.stored(seq, false)?.map(|value| read_head(seq, &value)).transpose()
    }

    /// Returns a body.
    pub(crate) fn body(&self, seq: u64) -> Result<Option<Bytes>, StoreError> {
        self.stored(seq, true)?.map(|value| read_body(seq, &value)).transpose()
    }

    fn stored(&self, seq: u64, body: bool) -> Result<Option<Slice>, StoreError> {
        if let Some(keyspaces) = self.segment(seq).and_then(|segment| segment.keyspaces) {
            let keyspace = if body { keyspaces.bodies } else { keyspaces.heads };
            if let Some(value) = keyspace.get(key(seq)).map_err(engine_error)? {
                return Ok(Some(value));
            }
            // The segment may be deleted at this moment: what is owed of it was moved to the held before.
        }
        self.held.get(held_key(body, seq)).map_err(engine_error)
    }

    /// Returns up to `max` heads from `from` to `last`. Of deleted segments it returns only the heads that are still
    /// held.
    pub(crate) fn heads_from(&self, from: u64, last: u64, max: usize) -> Result<Vec<WrittenHead>, StoreError> {
        let mut heads = Vec::new();
        let mut next = from;
        while heads.len() < max && next <= last {
            let Some(segment) = self.segment_from(next) else { break };
            next = next.max(segment.first);
            let end = segment.last.unwrap_or(last).min(last);
            let room = max - heads.len();
            if segment.condensed {
                let held = self.held_heads(next, end, room)?;
                next = if held.len() < room { end + 1 } else { last + 1 };
                heads.extend(held);
                continue;
            }
            let Some(keyspaces) = segment.keyspaces else {
                return Err(StoreError::Corrupt(format!("segment {} is missing", segment.id).into()));
            };
            for item in keyspaces.heads.range(key(next)..=key(end)).take(room) {
                let (at, value) = item.into_inner().map_err(engine_error)?;
                if seq_of(&at) != Some(next) {
                    return Err(StoreError::Corrupt(format!("record {next} is missing").into()));
                }
                heads.push(read_head(next, &value)?);
                next += 1;
            }
            if heads.len() < max && next <= end && self.has_keyspaces(next) {
                return Err(StoreError::Corrupt(format!("record {next} is missing").into()));
            }
            // Or the segment was deleted while it was read: the rest of it is among the held.
        }
        Ok(heads)
    }

    fn has_keyspaces(&self, seq: u64) -> bool {
        self.segment(seq).is_some_and(|segment| segment.keyspaces.is_some())
    }

    /// Returns the heads that outlived their segment, within bounds, at most `max`.
    pub(crate) fn held_heads(&self, first: u64, last: u64, max: usize) -> Result<Vec<WrittenHead>, StoreError> {
        let all = self.held.range(held_key(false, first)..=held_key(false, last)).take(max);
        all.map(|item| {
            let (at, value) = item.into_inner().map_err(engine_error)?;
            let seq = at.get(1..).and_then(seq_of).ok_or_else(|| damaged("a held record"))?;
            read_head(seq, &value)
        })
        .collect()
    }

    /// Returns the segment that holds, or held, a position, or else the first one after it.
    fn segment_from(&self, seq: u64) -> Option<Segment> {
        self.segment(seq).or_else(|| Some(self.segments.read().range(seq..).next()?.1.clone()))
    }

    /// Returns the first kept record that was accepted at or after `when`, or the position after the last where there
    /// is none.
    pub(crate) fn first_accepted_at(&self, when: Timestamp, last: u64) -> Result<u64, StoreError> {
        let segments: Vec<Segment> = self.segments.read().values().cloned().collect();
        for segment in segments {
            if segment.last.is_some() && segment.accepted_last.is_some_and(|at| at < when) {
                continue;
            }
            let end = segment.last.unwrap_or(last);
            let (mut low, mut high) = (segment.first, end + 1);
            let Some(keyspaces) = &segment.keyspaces else {
                match guarded(|| self.first_held_at(when, segment.first, end)) {
                    Ok(Some(found)) => return Ok(found),
                    Ok(None) => continue,
                    // No record of the segment counts as older; it ages with its last record.
                    Err(StoreError::Corrupt(_)) => return Ok(segment.first),
                    Err(error) => return Err(error),
                }
            };
            while low < high {
                let middle = low + (high - low) / 2;
                let read = || {
                    let head = keyspaces.heads.get(key(middle)).map_err(engine_error)?;
                    head.map(|head| Ok(read_head(middle, &head)?.head.accepted < when)).transpose()
                };
                let Some(is_older) = or_else_kept(guarded(read))? else {
                    if self.has_keyspaces(middle) {
                        return Err(StoreError::Corrupt(format!("record {middle} is missing").into()));
                    }
                    // The segment was deleted while it was searched.
                    return self.first_accepted_at(when, last);
                };
                if is_older { low = middle + 1 } else { high = middle }
            }
            if low <= end {
                return Ok(low);
            }
        }
        Ok(last + 1)
    }

    fn first_held_at(&self, when: Timestamp, first: u64, last: u64) -> Result<Option<u64>, StoreError> {
        for item in self.held.range(held_key(false, first)..=held_key(false, last)) {
            let (at, value) = item.into_inner().map_err(engine_error)?;
            let seq = at.get(1..).and_then(seq_of).ok_or_else(|| damaged("a held record"))?;
            if or_else_kept(read_head(seq, &value).map(|head| Some(head.head.accepted < when)))? == Some(false) {
                return Ok(Some(seq));
            }
        }
        Ok(None)
    }

    /// Returns the event that an idempotency key stands for; the newest bucket is searched first.
    pub(crate) fn kept(
        &self,
        producer: ProducerNo,
        key: &[u8; 16],
        since: u64,
    ) -> Result<Option<IdempotencyRecord>, StoreError> {
        let buckets = self.once.read();
        let full = once_key(producer, key);
        for (_, bucket) in buckets.range(since..).rev().filter(|(_, bucket)| bucket.filter.may_have(&full)) {
            if let Some(value) = bucket.keyspace.get(full).map_err(engine_error)? {
                return read_kept(&value).map(Some).ok_or_else(|| damaged("an idempotency key"));
            }
        }
        Ok(None)
    }

    /// Returns a parked SET, with its body.
    pub(crate) fn parked_row(&self, stream: StreamNo, seq: u64) -> Result<Option<ParkedRow>, StoreError> {
        let at = parked_key(stream, seq);
        let Some(value) = self.parked.get(at).map_err(engine_error)? else { return Ok(None) };
        let mut row = read_row(&value)?;
        let body = self.parked_bodies.get(at).map_err(engine_error)?;
        row.parked.body = read_body(seq, &body.ok_or_else(|| damaged("the body of a parked SET"))?)?;
        Ok(Some(row))
    }

    /// Returns the parked SETs that pass a filter.
    pub(crate) fn parked_rows(&self, which: &ParkedFilter) -> Result<Vec<Parked>, StoreError> {
        let lowest = which.stream.map_or((StreamNo(0), 0), |stream| (stream, 0));
        let (stream, seq) = which.from.map_or(lowest, |(stream, at)| (stream, at.seq)).max(lowest);
        let mut found = Vec::new();
        for item in self.parked.range(parked_key(stream, seq)..) {
            if found.len() >= which.most {
                break;
            }
            let mut row = read_row(&item.value().map_err(engine_error)?)?;
            if which.stream.is_some_and(|stream| row.parked.stream > stream) {
                break;
            }
            if which.takes(&row.parked) {
                let at = parked_key(row.parked.stream, row.parked.at.seq);
                let body = guarded(|| {
                    let body = self.parked_bodies.get(at).map_err(engine_error)?;
                    read_body(row.parked.at.seq, &body.ok_or_else(|| damaged("the body of a parked SET"))?)
                });
                row.parked.body = match body {
                    Err(StoreError::Corrupt(why)) => {
                        tracing::error!(jti = %row.parked.jti, %why, "what a parked SET says does not read");
                        Bytes::new()
                    }
                    read => read?,
                };
                found.push(row.parked);
            }
        }
        Ok(found)
    }

    /// Returns a control-plane record.
    pub(crate) fn record(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let value = self.control.get(control_key(key)).map_err(engine_error)?;
        value.map(|value| read_record(key.clone(), &value)).transpose()
    }

    /// Returns the control-plane records whose key starts with `prefix`.
    pub(crate) fn records(&self, prefix: &Key) -> Result<Vec<Record>, StoreError> {
        let mut found = Vec::new();
        for item in self.control.prefix(control_key(prefix)) {
            let (key, value) = item.into_inner().map_err(engine_error)?;
            let text = key.get(1..).and_then(|key| std::str::from_utf8(key).ok()).ok_or_else(|| damaged("a key"))?;
            found.push(read_record(text.into(), &value)?);
        }
        Ok(found)
    }

    /// Returns the lowest position from which on every record is kept.
    pub(crate) fn first(&self, last: u64) -> u64 {
        let mut first = last + 1;
        for segment in self.segments.read().values().rev() {
            if segment.condensed || segment.last.is_some_and(|end| end + 1 != first) {
                break;
            }
            first = segment.first;
        }
        first
    }

    /// Returns the mean length of the bodies around a position.
    pub(crate) fn mean_length(&self, seq: u64, last: u64) -> u64 {
        self.segment(seq).map_or(0, |segment| {
            segment.bytes / (segment.last.unwrap_or(last) + 1).saturating_sub(segment.first).max(1)
        })
    }
}

/// Returns whether a record is older, if it can be read: a damaged record counts as young, and does not stop the
/// search.
fn or_else_kept(is_older: Result<Option<bool>, StoreError>) -> Result<Option<bool>, StoreError> {
    if matches!(is_older, Err(StoreError::Corrupt(_))) { Ok(Some(false)) } else { is_older }
}

/// Returns the stored form of an idempotency key, which keeps the keys of one producer together.
pub(crate) fn once_key(producer: ProducerNo, key: &[u8; 16]) -> [u8; 20] {
    let mut full = [0u8; 20];
    full.iter_mut().zip(producer.0.to_be_bytes().into_iter().chain(*key)).for_each(|(to, from)| *to = from);
    full
}

pub(crate) fn write_kept(seq: u64, digest: &[u8; 16], txn: &str) -> Vec<u8> {
    let mut out = Out::new(64);
    out.fixed(seq);
    out.raw(digest);
    out.bytes(txn.as_bytes());
    out.sealed()
}

pub(crate) fn read_kept(value: &[u8]) -> Option<IdempotencyRecord> {
    let mut from = In::sealed(value)?;
    let (seq, digest) = (from.fixed()?, from.take(16)?.try_into().ok()?);
    Some(IdempotencyRecord { seq, digest, txn: std::str::from_utf8(from.bytes()?).ok()?.into() })
}

/// Encodes the row of a parked SET, without its body.
pub(crate) fn write_row(row: &ParkedRow) -> Result<Vec<u8>, StoreError> {
    let text = serde_json::to_vec(row).map_err(|error| StoreError::Corrupt(Why::of(error)))?;
    let mut out = Out::new(text.len() + 8);
    out.raw(&text);
    Ok(out.sealed())
}

/// Reads the row of a parked SET.
pub(crate) fn read_row(value: &[u8]) -> Result<ParkedRow, StoreError> {
    let read = || serde_json::from_slice(In::sealed(value)?.rest()).ok();
    read().ok_or_else(|| damaged("a parked SET"))
}

/// Returns the stored form of a key. The engine accepts no empty key, so every key gets a first byte.
pub(crate) fn control_key(key: &Key) -> Vec<u8> {
    let mut full = Vec::with_capacity(key.0.len() + 1);
    full.push(b'/');
    full.extend_from_slice(key.0.as_bytes());
    full
}

pub(crate) fn write_record(version: Version, value: &[u8]) -> Vec<u8> {
    let mut out = Out::new(value.len() + 16);
    out.fixed(version.0);
    out.raw(value);
    out.sealed()
}

pub(crate) fn read_record(key: Key, value: &[u8]) -> Result<Record, StoreError> {
    let read = || {
        let mut from = In::sealed(value)?;
        Some((Version(from.fixed()?), Bytes::copy_from_slice(from.rest())))
    };
    let (version, value) = read().ok_or_else(|| damaged(format_args!("the record {}", key.0)))?;
    Ok(Record { key, version, value })
}

/// Returns the head alone, for readers.
pub(crate) fn bare(written: Option<WrittenHead>) -> Option<Head> {
    written.map(|written| written.head)
}
