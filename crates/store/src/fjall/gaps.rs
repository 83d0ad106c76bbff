//! The replay of records that were deleted before their end was folded.
//!
//! A segment is deleted only once its end has been folded. Stores of older versions may have deleted a segment whose
//! heads would be replayed. Nothing that is owed is missing then: it was moved to the held before, in the same commit.
//! The deltas since the fold replace the rest of the heads: they say how each of their deliveries ended.

use std::collections::BTreeMap;

use crate::{
    Boot, Entry, Head, IssuerNo, Kind, Position, ProducerNo, StoreError, Streams, Version,
    codec::read_delta,
    fjall::{
        engine::{Engine, engine_error, held_key, seq_of},
        replay::Fold,
    },
    state::State,
};

/// Runs of positions without heads.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    /// The first and last position of each run.
    runs: Vec<(u64, u64)>,
    /// The deliveries of these positions that ended, by position, as the deltas report them.
    ended: Option<BTreeMap<u64, Streams>>,
}

impl Gaps {
    /// Adds what is known of the records after the last one, up to `last`.
    ///
    /// Deliveries that a limit dropped all at once are not known individually: they are counted neither as owed nor as
    /// dropped.
    pub(crate) fn pass(
        &mut self,
        engine: &Engine,
        fold: &Fold,
        state: &mut State,
        last: u64,
    ) -> Result<(), StoreError> {
        let first = state.last + 1;
        if first > last {
            return Ok(());
        }
        tracing::warn!(
            first,
            last,
            "these records were given up before it was written down that they were settled; what is owed of them is there"
        );
        self.runs.push((first, last));
        let ended = match &mut self.ended {
            Some(ended) => ended,
            none => none.insert(ends(engine, fold)?),
        };
        let mut held: BTreeMap<u64, Entry> = BTreeMap::new();
        for written in engine.held_heads(first, last, usize::MAX)? {
            held.insert(written.head.at.seq, Entry { head: written.head, targets: written.targets });
        }
        for (seq, streams) in ended.range(first..=last) {
            held.entry(*seq).or_insert_with(|| Entry { head: unknown(*seq), targets: streams.clone().into() });
        }
        for entry in held.values() {
            state.record(entry);
        }
        state.last = last;
        Ok(())
    }

    /// Checks that every record of these runs that is still owed has its body among the held.
    ///
    /// # Errors
    /// Returns [`StoreError::Corrupt`] where such a body is missing.
    pub(crate) fn nothing_owed_is_missing(&self, engine: &Engine, state: &State) -> Result<(), StoreError> {
        for (first, last) in &self.runs {
            for cursor in state.cursors.values() {
                let mut owed = cursor.owed.iter();
                owed.advance_to(*first);
                for seq in owed.take_while(|seq| seq <= last) {
                    if !engine.held.contains_key(held_key(true, seq)).map_err(engine_error)? {
                        return Err(StoreError::Corrupt(
                            format!("record {seq} is owed and its body is missing").into(),
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Returns the deliveries that ended since the fold.
fn ends(engine: &Engine, fold: &Fold) -> Result<BTreeMap<u64, Streams>, StoreError> {
    let mut ended: BTreeMap<u64, Streams> = BTreeMap::new();
    for item in engine.delta.range((fold.commit + 1).to_be_bytes()..) {
        let (key, value) = item.into_inner().map_err(engine_error)?;
        let commit = seq_of(&key).unwrap_or_default();
        for one in read_delta(commit, &value)?.ended {
            ended.entry(one.seq).or_default().insert(one.stream.0);
        }
    }
    Ok(ended)
}

/// Returns the head of a record that is settled completely: only its position matters.
fn unknown(seq: u64) -> Head {
    Head {
        at: Position::new(seq),
        boot: Boot::default(),
        kind: Kind::Intake,
        issuer: IssuerNo::default(),
        producer: ProducerNo::default(),
        config: Version::default(),
        accepted: setgate_set::Timestamp::default(),
        order: setgate_set::OrderKey::from_bits(0),
        body_len: 0,
    }
}
