//! The content of a store compared with the model.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use setgate_store::{FjallStore, ParkedFilter, Position, Store, StoreError, StreamNo};

use crate::{
    desk::wait_for,
    model::{Counts, Model, Moment, numbers},
};

fn read<T>(what: &str, read: Result<T, StoreError>) -> Result<T, String> {
    read.map_err(|error| format!("{what} cannot be read: {error}"))
}

/// Returns what is parked in a store.
fn parked(store: &FjallStore) -> Result<Vec<setgate_store::Parked>, String> {
    let all = ParkedFilter { most: usize::MAX, ..ParkedFilter::default() };
    read("what is parked", wait_for(store.parked(all)))
}

/// Lets the model forget the parked SETs that the store forgot by its limits. Returns their number.
pub(crate) fn forget_parked(store: &FjallStore, model: &mut Model, now: Moment) -> Result<u64, String> {
    let left: BTreeSet<_> = parked(store)?.iter().map(|parked| (parked.stream.0, parked.at.seq)).collect();
    model.forgotten(&left, now)
}

/// Lets the model take back the lazy ends that the store lost in a crash, and only those.
pub(crate) fn take_back(store: &FjallStore, model: &mut Model) {
    for (stream, seq, _) in std::mem::take(&mut model.loose) {
        if store.is_owed(StreamNo(stream), Position::new(seq)) {
            model.take_back(stream, seq);
        }
    }
}

/// Compares everything.
pub(crate) fn compare(store: &Arc<FjallStore>, model: &Model) -> Result<(), String> {
    let bounds = store.bounds();
    if bounds.last.seq != model.last {
        return Err(format!("law 1: the last record is {}, and the model has {}", bounds.last.seq, model.last));
    }
    if store.version().0 != model.version {
        return Err(format!("the records are of version {}, and the model has {}", store.version(), model.version));
    }
    tail(store, model)?;
    for no in numbers(model) {
        stream(store, model, no)?;
    }
    let rows = parked(store)?;
    let found: BTreeSet<_> = rows.iter().map(|parked| (parked.stream.0, parked.at.seq)).collect();
    let expected: BTreeSet<_> = model.parked.keys().copied().collect();
    if found != expected {
        return Err(format!("parked are {found:?}, and the model has {expected:?}"));
    }
    if let Some(row) = rows.iter().find(|row| model.records.get(&row.at.seq).is_none_or(|kept| kept.body != row.body)) {
        return Err(format!("the parked SET {}/{} has another body", row.stream, row.at.seq));
    }
    let records = read("the records", wait_for(store.range("stream/".into())))?;
    let found: BTreeSet<u32> =
        records.iter().filter_map(|record| record.key.0.strip_prefix("stream/")?.parse().ok()).collect();
    if !found.iter().eq(model.streams.keys()) {
        return Err(format!("the streams are {found:?}, and the model has {:?}", model.streams.keys()));
    }
    Ok(())
}

/// Compares the tail: in order, without a hole from the first kept record on, and with everything that is owed.
fn tail(store: &Arc<FjallStore>, model: &Model) -> Result<(), String> {
    let mut told = Vec::new();
    let mut after = Position::START;
    loop {
        let some = read("the tail", wait_for(store.tail(after, 64, Duration::ZERO)))?;
        let Some(last) = some.last() else { break };
        after = last.head.at;
        for entry in some {
            let seq = entry.head.at.seq;
            let known =
                model.records.get(&seq).ok_or_else(|| format!("the tail has record {seq}, which nobody wrote"))?;
            if entry.head.order.bits() != known.order || entry.targets.iter().collect::<BTreeSet<_>>() != known.targets
            {
                return Err(format!("record {seq} is another one in the tail: {entry:?}"));
            }
            told.push(seq);
        }
    }
    if !told.is_sorted_by(|a, b| a < b) {
        return Err(format!("law 2: the tail is not in order: {told:?}"));
    }
    let first = store.bounds().first.seq;
    let told: BTreeSet<u64> = told.into_iter().collect();
    if let Some(hole) = (first.max(1)..=model.last).find(|seq| !told.contains(seq)) {
        return Err(format!("law 1: record {hole} is not in the tail, which starts with {first}"));
    }
    let owed: BTreeSet<u64> = model.owed.values().flatten().copied().collect();
    match owed.difference(&told).next() {
        Some(lost) => Err(format!("law 7: record {lost} is owed and not in the tail")),
        None => Ok(()),
    }
}

/// Compares what one stream is owed, with its bodies and counts.
fn stream(store: &Arc<FjallStore>, model: &Model, no: StreamNo) -> Result<(), String> {
    let expected: Vec<u64> = model.owed.get(&no.0).into_iter().flatten().copied().collect();
    let heads = read("what is owed", wait_for(store.owed(no, Position::START, usize::MAX)))?;
    let found: Vec<u64> = heads.iter().map(|head| head.at.seq).collect();
    if found != expected {
        return Err(format!("stream {no} is owed {found:?}, and the model has {expected:?}"));
    }
    let at: Vec<Position> = expected.iter().copied().map(Position::new).collect();
    let bodies = read("bodies", wait_for(store.bodies(at)))?;
    for (seq, body) in expected.iter().zip(bodies) {
        if body.as_ref() != model.records.get(seq).map(|kept| &kept.body) {
            return Err(format!("law 7: record {seq} has another body, or none: {body:?}"));
        }
    }
    // The cursor of a deleted stream is removed with the next fold.
    if model.deleted.contains(&no.0) {
        return Ok(());
    }
    let tally = read("a cursor", wait_for(store.cursor(no)))?.tally;
    let acknowledged = tally.acknowledged_receiver + tally.acknowledged_broker;
    let found = Counts { owed: tally.owed, acknowledged, parked: tally.parked, dropped: tally.dropped.clone() };
    let expected = model.counts.get(&no.0).cloned().unwrap_or_default();
    if found != expected {
        return Err(format!("law 8: stream {no} has {found:?}, and the model has {expected:?}"));
    }
    let ended = acknowledged + tally.parked + tally.dropped.values().sum::<u64>();
    if tally.owed != ended + tally.waiting {
        return Err(format!("law 8: the counts of stream {no} do not add up: {tally:?}"));
    }
    Ok(())
}
