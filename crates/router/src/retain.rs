//! The limits on how long and how much may wait for a stream: the oldest SETs are dropped first, counted and visible.

use std::{sync::Arc, time::Duration};

use setgate_set::Timestamp;
use setgate_store::{Done, Durability, Health, Position, Rule, StoreError, StreamNo, Unit};
use setgate_stream::Stream;
use setgate_telemetry::chain;

use crate::{Inner, counts::rule_name};

/// Checks all streams at each `retention_interval`, and lets the store free what is no longer needed.
pub(crate) async fn watch(inner: Arc<Inner>) {
    let clock = inner.shared.runtime.clock.clone();
    let every = inner.shared.config.retention_interval.max(Duration::from_secs(1));
    while !*inner.ended.borrow() {
        clock.sleep(every).await;
        // Streams that nothing can deliver now are included: what they keep waiting has limits all the same.
        let streams: Vec<_> = inner.kept.lock().await.streams.values().map(|(stream, _)| stream.clone()).collect();
        for stream in streams {
            if let Err(error) = look(&inner, &stream).await {
                tracing::warn!(stream = %stream.id, error = chain(&error), "cannot apply the stream's limits");
            }
        }
        if let Err(error) = relieve(&inner).await {
            tracing::warn!(error = chain(&error), "the store could not tidy up");
        }
        // The store may have forgotten parked SETs.
        for subscription in inner.subscriptions() {
            inner.let_go_what_is_not_parked(subscription.no).await;
        }
    }
}

/// Applies a stream's limits of number and age.
async fn look(inner: &Inner, stream: &Stream) -> Result<(), StoreError> {
    let store = &inner.shared.store;
    let no = StreamNo(stream.no);
    let waiting = store.waiting(no);
    if waiting == 0 {
        return Ok(());
    }
    let retention = stream.retention;
    if waiting > retention.sets {
        let keep_from = match retention.sets.checked_sub(1) {
            Some(oldest) => store.nth_newest(no, oldest),
            // No SET at all may wait.
            None => Some(Position { seq: store.bounds().last.seq + 1, ..Position::START }),
        };
        if let Some(keep_from) = keep_from {
            cut(inner, no, keep_from, Rule::TooMany).await?;
        }
    }
    // The clock is read once, since it could jump between two readings.
    let time = store.time();
    if !time.suspect {
        let keep_from = store.first_accepted_at(time.now.minus(retention.age)).await?;
        cut(inner, no, keep_from, Rule::TooOld).await?;
    }
    Ok(())
}

/// Returns whether so much of the budget is used that the largest holders are cut.
pub(crate) fn is_pressed(health: &Health) -> bool {
    health.bytes > health.budget / 5 * 4
}

/// The most streams that are cut before everything else is checked again.
const CUTS: usize = 16;

/// Frees what is no longer needed. While more than 80 % of the budget is used, cuts each stream to its share of it, and
/// then the largest holder of waiting SETs, oldest first, until a little less is used.
///
/// The room that a cut frees is known only afterwards, since what others are owed as well stays. So the store is
/// measured after each cut, and the next one is of the largest holder then.
pub(crate) async fn relieve(inner: &Arc<Inner>) -> Result<(), StoreError> {
    let store = &inner.shared.store;
    // Housekeeping comes first: no stream is cut for room that comes back by itself, such as that of the engine's
    // journals.
    store.housekeep().await?;
    if is_pressed(&store.health()) && cut_to_shares(inner).await? > 0 {
        store.housekeep().await?;
    }
    for _ in 0..CUTS {
        let health = store.health();
        if !is_pressed(&health) {
            break;
        }
        let excess = health.bytes.saturating_sub(health.budget / 4 * 3);
        let Some(holder) = store.heaviest(excess).await? else { break };
        if cut(inner, holder.stream, holder.keep_from, Rule::TooLarge).await? == 0 {
            break;
        }
        store.housekeep().await?;
    }
    Ok(())
}

/// Cuts each stream that holds more of the budget than its `retention.budget_percent`; returns the number of SETs
/// dropped.
async fn cut_to_shares(inner: &Inner) -> Result<usize, StoreError> {
    let store = &inner.shared.store;
    let budget = store.health().budget;
    let of = |stream: &Stream| (StreamNo(stream.no), budget / 100 * u64::from(stream.retention.budget_percent));
    let shares: Vec<_> = inner.kept.lock().await.streams.values().map(|(stream, _)| of(stream)).collect();
    let mut dropped = 0;
    for (no, share) in shares.into_iter().filter(|(_, share)| *share > 0) {
        let cursor = store.cursor(no).await?;
        if cursor.bytes <= share {
            continue;
        }
        let keep = u128::from(cursor.tally.waiting) * u128::from(share) / u128::from(cursor.bytes.max(1));
        let keep = u64::try_from(keep).unwrap_or(u64::MAX).max(1);
        if let Some(keep_from) = store.nth_newest(no, keep - 1) {
            dropped += cut(inner, no, keep_from, Rule::TooLarge).await?;
        }
    }
    Ok(dropped)
}

/// The SETs that limits dropped of a stream since the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limited {
    /// The limit that dropped SETs last.
    pub(crate) rule: Rule,
    /// The number of SETs that limits dropped since the start.
    pub(crate) dropped: u64,
    /// The time at which SETs were dropped last.
    pub(crate) at: Timestamp,
}

impl Inner {
    /// Remembers what a limit dropped, so that the view of the stream shows it.
    fn limit(&self, stream: StreamNo, rule: Rule, dropped: u64) {
        let at = Timestamp::from_millis(self.shared.runtime.clock.wall_millis());
        let mut all = self.limited.lock();
        let before = all.get(&stream).map_or(0, |limited| limited.dropped);
        all.insert(stream, Limited { rule, dropped: before + dropped, at });
    }
}

async fn cut(inner: &Inner, stream: StreamNo, below: Position, rule: Rule) -> Result<usize, StoreError> {
    let store = &inner.shared.store;
    if store.owed(stream, Position::START, 1).await?.first().is_none_or(|oldest| oldest.at >= below) {
        return Ok(0);
    }
    let unit = Unit::Retain { fence: store.fence(), stream, below, rule };
    let done = store.commit(vec![unit], Durability::Sync).await?;
    let Some(Done::Retained(dropped)) = done.into_iter().next() else { return Ok(0) };
    if dropped > 0 {
        let kept = inner.kept.lock().await;
        let id = kept.streams.values().find(|(known, _)| known.no == stream.0).map(|(known, _)| known.id.to_string());
        drop(kept);
        tracing::warn!(
            stream = id.unwrap_or_else(|| format!("number {}", stream.0)),
            dropped,
            rule = rule_name(rule),
            "a stream passed its limit; its oldest SETs were dropped"
        );
        inner.limit(stream, rule, dropped as u64);
        if let Some(subscription) = inner.subscription(stream) {
            subscription.forget_below(below.seq);
        }
    }
    Ok(dropped)
}
