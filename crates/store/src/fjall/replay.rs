//! The replay from the disk to memory: chunks and rows, then the heads after the frontier, then the deltas.

use setgate_set::Timestamp;

use crate::{
    ProducerNo, StoreError, StreamNo, Version,
    codec::{In, Out, damaged, read_chunk, read_cursor, read_delta},
    fjall::{
        believe::{HELD_BACK, read_held_back},
        engine::{Engine, engine_error, parked_of, read_row, seq_of},
        gaps::Gaps,
        shared::Keys,
    },
    state::{Numbers, State},
};

/// The point at which the cursors were last written as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fold {
    /// The commit of the fold.
    pub(crate) commit: u64,
    /// The last position at the fold.
    pub(crate) frontier: u64,
    pub(crate) chain: u32,
    pub(crate) accepted: Timestamp,
    /// The bytes of bodies in the open segment at the fold.
    pub(crate) bytes: u64,
}

impl Fold {
    pub(crate) const KEY: &'static str = "fold";

    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = Out::new(48);
        for number in [self.commit, self.frontier, u64::from(self.chain), self.accepted.as_millis(), self.bytes] {
            out.number(number);
        }
        out.sealed()
    }

    pub(crate) fn read(value: &[u8]) -> Option<Self> {
        let mut from = In::sealed(value)?;
        Some(Self {
            commit: from.number()?,
            frontier: from.number()?,
            chain: from.small()?,
            accepted: Timestamp::from_millis(from.number()?),
            bytes: from.number()?,
        })
    }
}

/// The key of the counters that change with few commits.
pub(crate) const COUNTERS: &str = "counters";

pub(crate) fn write_counters(version: Version, membership: Version, numbers: Numbers) -> Vec<u8> {
    let mut out = Out::new(32);
    let numbers = [numbers.stream, numbers.issuer, numbers.producer].map(u64::from);
    for number in [version.0, membership.0].into_iter().chain(numbers) {
        out.number(number);
    }
    out.sealed()
}

pub(crate) fn read_counters(value: &[u8]) -> Option<(Version, Version, Numbers)> {
    let mut from = In::sealed(value)?;
    let versions = (Version(from.number()?), Version(from.number()?));
    let numbers = Numbers { stream: from.small()?, issuer: from.small()?, producer: from.small()? };
    Some((versions.0, versions.1, numbers))
}

/// The key of the counts of idempotency keys. They are written with each fold; keys after the last fold are not counted
/// after a crash.
pub(crate) const KEYS: &str = "keys";

pub(crate) fn write_keys(keys: &Keys) -> Vec<u8> {
    let mut out = Out::new(64);
    for (bucket, counts) in keys {
        for (producer, count) in counts {
            for number in [*bucket, u64::from(producer.0), *count] {
                out.number(number);
            }
        }
    }
    out.sealed()
}

pub(crate) fn read_keys(value: &[u8]) -> Option<Keys> {
    let mut from = In::sealed(value)?;
    let mut keys = Keys::new();
    while !from.is_empty() {
        let (bucket, producer, count) = (from.number()?, ProducerNo(from.small()?), from.number()?);
        keys.entry(bucket).or_default().insert(producer, count);
    }
    Some(keys)
}

/// The key of the count of openings.
pub(crate) const EPOCH: &str = "epoch";

/// The content of a store, as read into memory.
pub(crate) struct Loaded {
    pub(crate) state: State,
    pub(crate) fold: Fold,
    /// The last commit.
    pub(crate) commit: u64,
    pub(crate) chain: u32,
    /// The openings before this one.
    pub(crate) epoch: u64,
    /// The heads and deltas that were replayed.
    pub(crate) replayed: u64,
    /// The checksums up to each replayed head, starting with the fold's, for the comparison with the mark. `None` where
    /// heads are gone.
    pub(crate) chains: Vec<Option<u32>>,
    pub(crate) keys: Keys,
}

/// Reads everything that is kept in memory.
pub(crate) fn load(engine: &Engine) -> Result<Loaded, StoreError> {
    let one = |name: &str| engine.meta.get(name).map_err(engine_error);
    let fold = one(Fold::KEY)?
        .map(|value| Fold::read(&value).ok_or_else(|| damaged("the fold")))
        .transpose()?
        .unwrap_or_default();
    let counters =
        one(COUNTERS)?.map(|value| read_counters(&value).ok_or_else(|| damaged("the counters"))).transpose()?;
    let (version, membership, numbers) = counters.unwrap_or_default();
    let epoch = one(EPOCH)?.and_then(|value| seq_of(&value)).unwrap_or_default();
    let keys = one(KEYS)?.map(|value| read_keys(&value).ok_or_else(|| damaged("the counts of ids"))).transpose()?;
    let held_back = one(HELD_BACK)?.map(|value| read_held_back(&value)).transpose()?.unwrap_or_default();
    let mut state = State {
        held_back,
        version,
        membership,
        numbers,
        last: fold.frontier,
        last_accepted: fold.accepted,
        ..State::default()
    };
    load_cursors(engine, &mut state)?;
    load_parked(engine, &mut state)?;
    let (chains, gaps) = load_heads(engine, &mut state, &fold)?;
    let (commit, deltas) = load_deltas(engine, &mut state, &fold)?;
    gaps.nothing_owed_is_missing(engine, &state)?;
    let chain = chains.last().copied().flatten();
    let chain = chain.ok_or_else(|| StoreError::Corrupt(format!("record {} is missing", state.last).into()))?;
    let replayed = state.last - fold.frontier + deltas;
    learn_times(engine)?;
    state.first = engine.first(state.last);
    for (stream, cursor) in &state.cursors {
        let tally = &cursor.tally;
        let ended = tally.acknowledged_receiver
            + tally.acknowledged_broker
            + tally.parked
            + tally.dropped.values().sum::<u64>();
        if tally.waiting != cursor.owed.len() || tally.owed != ended + tally.waiting {
            return Err(StoreError::Corrupt(format!("the counts of stream {stream} do not add up").into()));
        }
    }
    Ok(Loaded { state, fold, commit, chain, epoch, replayed, chains, keys: keys.unwrap_or_default() })
}

/// Returns the key of a cursor's row.
pub(crate) fn row_key(stream: StreamNo) -> [u8; 5] {
    let mut key = [b'c'; 5];
    key.iter_mut().skip(1).zip(stream.0.to_be_bytes()).for_each(|(to, from)| *to = from);
    key
}

/// Returns the key of a chunk.
pub(crate) fn chunk_key(stream: StreamNo, chunk: u32) -> [u8; 9] {
    let mut key = [b'o'; 9];
    let parts = stream.0.to_be_bytes().into_iter().chain(chunk.to_be_bytes());
    key.iter_mut().skip(1).zip(parts).for_each(|(to, from)| *to = from);
    key
}

pub(crate) fn numbers_of(key: &[u8]) -> Option<(StreamNo, u32)> {
    let (stream, rest) = key.get(1..)?.split_at_checked(4)?;
    let chunk = if rest.is_empty() { 0 } else { u32::from_be_bytes(rest.try_into().ok()?) };
    Some((StreamNo(u32::from_be_bytes(stream.try_into().ok()?)), chunk))
}

fn load_cursors(engine: &Engine, state: &mut State) -> Result<(), StoreError> {
    for item in engine.cursor.prefix("c") {
        let (key, value) = item.into_inner().map_err(engine_error)?;
        let read = || Some((numbers_of(&key)?.0, read_cursor(&value)?));
        let (stream, (tally, dropped_through, control)) = read().ok_or_else(|| damaged("a cursor"))?;
        let cursor = state.cursors.entry(stream).or_default();
        state.waiting += tally.waiting;
        (cursor.tally, cursor.dropped_through) = (tally, dropped_through);
        cursor.control.extend(control);
    }
    for item in engine.cursor.prefix("o") {
        let (key, value) = item.into_inner().map_err(engine_error)?;
        let read = || Some((numbers_of(&key)?, read_chunk(&value)?));
        let ((stream, chunk), (owed, attempts)) = read().ok_or_else(|| damaged("a chunk of a cursor"))?;
        let cursor = state.cursors.entry(stream).or_default();
        let base = u64::from(chunk) << 16;
        let in_order = cursor.owed.append(owed.iter().map(|low| base + u64::from(low))).is_ok();
        if !in_order {
            return Err(damaged("a chunk of a cursor"));
        }
        cursor.attempts.extend(attempts);
    }
    Ok(())
}

fn load_parked(engine: &Engine, state: &mut State) -> Result<(), StoreError> {
    for item in engine.parked.iter() {
        let (key, value) = item.into_inner().map_err(engine_error)?;
        let (stream, _) = parked_of(&key).ok_or_else(|| damaged("a parked SET"))?;
        state.parked(stream, 1, i64::try_from(read_row(&value)?.bytes).unwrap_or_default());
    }
    Ok(())
}

fn load_heads(engine: &Engine, state: &mut State, fold: &Fold) -> Result<(Vec<Option<u32>>, Gaps), StoreError> {
    let mut chain = Some(fold.chain);
    let mut chains = vec![chain];
    let mut gaps = Gaps::default();
    let segments: Vec<_> = engine.segments.read().values().cloned().collect();
    let mut before = 0;
    for segment in segments {
        let ids = std::mem::replace(&mut before, segment.id)..segment.id;
        if segment.last.is_some_and(|last| last <= fold.frontier) {
            continue;
        }
        // A deleted segment is no longer in the table, so its number is missing, too.
        if segment.first > state.last + 1 && ids.end > ids.start + 1 {
            gaps.pass(engine, fold, state, segment.first - 1)?;
            chain = None;
        }
        let Some(keyspaces) = &segment.keyspaces else {
            gaps.pass(engine, fold, state, segment.last.unwrap_or(segment.first))?;
            state.last_accepted = state.last_accepted.max(segment.accepted_last.unwrap_or_default());
            chain = None;
            continue;
        };
        chains.resize(index_of(state.last, fold), None);
        let mut bytes = if segment.first <= fold.frontier { fold.bytes } else { 0 };
        for item in keyspaces.heads.range((fold.frontier + 1).max(segment.first).to_be_bytes()..) {
            let (key, value) = item.into_inner().map_err(engine_error)?;
            let next = state.last + 1;
            if seq_of(&key) != Some(next) {
                return Err(StoreError::Corrupt(format!("record {next} is missing").into()));
            }
            let written = crate::codec::read_head(next, &value)?;
            // The checksum of the head before a gap is unknown.
            if chain.is_some_and(|chain| !written.follows(chain)) {
                return Err(StoreError::Corrupt(format!("record {next} does not follow the one before it").into()));
            }
            chain = Some(written.chain);
            chains.push(chain);
            bytes += u64::from(written.head.body_len);
            state.record(&crate::Entry { head: written.head, targets: written.targets });
        }
        if segment.last.is_some_and(|last| last != state.last) {
            return Err(StoreError::Corrupt(format!("record {} is missing", state.last + 1).into()));
        }
        if let Some(known) = engine.segments.write().get_mut(&segment.first).filter(|known| known.last.is_none()) {
            // The segment holds the last record; its row was written when it had none.
            (known.bytes, known.accepted_last) = (bytes, Some(state.last_accepted));
        }
    }
    chains.resize(index_of(state.last, fold), None);
    Ok((chains, gaps))
}

/// Determines when the last record of a closed segment was accepted where its row does not have it: an earlier release
/// closed it at the first append of an opening, and did not know the time then.
fn learn_times(engine: &Engine) -> Result<(), StoreError> {
    for segment in engine.segments.write().values_mut() {
        if let (Some(last), Some(keyspaces), None) = (segment.last, &segment.keyspaces, segment.accepted_last) {
            let value = keyspaces.heads.get(last.to_be_bytes()).map_err(engine_error)?;
            let value = value.ok_or_else(|| StoreError::Corrupt(format!("record {last} is missing").into()))?;
            segment.accepted_last = Some(crate::codec::read_head(last, &value)?.head.accepted);
        }
    }
    Ok(())
}

/// Returns the number of checksums up to a position, from that of the fold to its own, which is also the index of the
/// next one.
fn index_of(seq: u64, fold: &Fold) -> usize {
    usize::try_from(seq - fold.frontier).unwrap_or(usize::MAX).saturating_add(1)
}

fn load_deltas(engine: &Engine, state: &mut State, fold: &Fold) -> Result<(u64, u64), StoreError> {
    let mut commit = fold.commit;
    for item in engine.delta.range((fold.commit + 1).to_be_bytes()..) {
        let (key, value) = item.into_inner().map_err(engine_error)?;
        if seq_of(&key) != Some(commit + 1) {
            return Err(StoreError::Corrupt(format!("commit {} is missing", commit + 1).into()));
        }
        commit += 1;
        state.deltas(&read_delta(commit, &value)?);
    }
    Ok((commit, commit - fold.commit))
}
