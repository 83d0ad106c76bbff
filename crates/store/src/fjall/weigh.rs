//! The choice of the stream that uses the most space, and of the point up to which to cut it.

use std::cmp::Reverse;

use crate::{
    Heaviest, Position, StoreError, StreamNo,
    fjall::{engine::Engine, segment::Segment, shared::Shared},
};

/// A stream that holds no more than the budget divided by this number is not cut, since it is not what fills the disk.
const SMALL: u64 = 200;
/// The number of streams that are weighed, those with the most waiting SETs.
const WEIGHED: usize = 64;

/// Returns the largest holder, with the position from which on it may keep what it is owed.
///
/// Only closed segments count: the open one cannot be deleted, whichever streams are owed records of it.
pub(crate) fn heaviest(shared: &Shared, engine: &Engine, excess: u64) -> Result<Option<Heaviest>, StoreError> {
    let closed: Vec<Segment> =
        engine.segments.read().values().filter(|segment| segment.last.is_some()).cloned().collect();
    let mut most: Vec<(u64, StreamNo)> =
        shared.state.read().cursors.iter().map(|(stream, cursor)| (cursor.tally.waiting, *stream)).collect();
    most.sort_unstable_by_key(|(waiting, stream)| Reverse((*waiting, stream.0)));
    most.truncate(WEIGHED);
    let mut largest: Option<Heaviest> = None;
    for (_, stream) in most.into_iter().filter(|(waiting, _)| *waiting > 0) {
        let Some(weighed) = weigh(shared, stream, &closed, excess) else { continue };
        if largest.is_none_or(|largest| weighed.bytes > largest.bytes) {
            largest = Some(weighed);
        }
    }
    Ok(largest.filter(|largest| largest.bytes > shared.budget / SMALL))
}

/// Returns the bytes that a stream is owed in closed segments, and the end of a cut of `excess` bytes, which is the end
/// of a segment.
fn weigh(shared: &Shared, stream: StreamNo, closed: &[Segment], excess: u64) -> Option<Heaviest> {
    let state = shared.state.read();
    let owed = &state.cursors.get(&stream)?.owed;
    let mut bytes = 0;
    let mut keep_from = None;
    for segment in closed {
        let last = segment.last?;
        let count = last + 1 - segment.first;
        bytes += owed.range_cardinality(segment.first..=last) * (segment.bytes / count.max(1));
        if keep_from.is_none() && bytes >= excess {
            keep_from = Some(last + 1);
        }
    }
    let end = closed.last()?.last? + 1;
    (bytes > 0).then(|| Heaviest { stream, bytes, keep_from: Position::new(keep_from.unwrap_or(end)) })
}
