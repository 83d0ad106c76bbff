//! How long and how much a stream may keep waiting: the oldest are dropped first, counted and visible.

use std::{sync::Arc, time::Duration};

use set::Timestamp;
use store::{Done, Durability, Health, Heaviest, Position, Rule, StoreError, StreamNo, Unit};

use crate::{Inner, counts::rule_name, feed::Feed};

/// Looks at all streams now and then, and lets the store free what nobody needs.
pub(crate) async fn watch(inner: Arc<Inner>) {
    let clock = inner.shared.house.clock.clone();
    let every = Duration::from_secs(inner.shared.config.retention_every_s.max(1));
    while !*inner.ended.borrow() {
        clock.sleep(every).await;
        for feed in inner.feeds() {
            if let Err(error) = look(&inner, &feed).await {
                tracing::warn!(stream = %feed.served.load().stream.id, %error, "cannot apply the stream's limits");
            }
        }
        if let Err(error) = relieve(&inner).await {
            tracing::warn!(%error, "the store could not tidy up");
        }
    }
}

async fn look(inner: &Inner, feed: &Arc<Feed>) -> Result<(), StoreError> {
    let store = &inner.shared.store;
    let waiting = store.waiting(feed.no);
    let health = store.health();
    if waiting == 0 {
        return Ok(());
    }
    let retention = feed.served.load().stream.retention;
    if waiting > retention.sets
        && let Some(keep_from) = store.nth_newest(feed.no, retention.sets.saturating_sub(1))
    {
        cut(inner, feed, keep_from, Rule::TooMany).await?;
    }
    if !health.clock_suspect {
        let now = Timestamp::from_millis(inner.shared.house.clock.wall_millis());
        let keep_from = store.first_accepted_at(now.minus(retention.age)).await?;
        cut(inner, feed, keep_from, Rule::TooOld).await?;
    }
    let share = health.budget / 100 * u64::from(retention.budget_percent);
    if share == 0 || !is_pressed(&health) {
        return Ok(());
    }
    let cursor = store.cursor(feed.no).await?;
    if cursor.bytes > share {
        let keep = u128::from(cursor.tally.waiting) * u128::from(share) / u128::from(cursor.bytes.max(1));
        let keep = u64::try_from(keep).unwrap_or(u64::MAX).max(1);
        if let Some(keep_from) = store.nth_newest(feed.no, keep - 1) {
            cut(inner, feed, keep_from, Rule::TooLarge).await?;
        }
    }
    Ok(())
}

/// Whether so much of the budget is taken that the largest holders are cut.
pub(crate) fn is_pressed(health: &Health) -> bool {
    health.bytes > health.budget / 5 * 4
}

/// How many streams are cut at most before the next look at everything else.
const CUTS: usize = 16;

/// Frees what nobody needs; and while more than 80 % of the budget is taken, cuts the largest holder of waiting SETs, oldest first,
/// until a little less is.
///
/// What a cut frees is known only afterwards: what others are owed as well stays. So the store is measured after each, and the next
/// cut is of whoever is the largest holder then.
pub(crate) async fn relieve(inner: &Arc<Inner>) -> Result<(), StoreError> {
    let store = &inner.shared.store;
    store.housekeep().await?;
    for _ in 0..CUTS {
        let health = store.health();
        if !is_pressed(&health) {
            break;
        }
        let excess = health.bytes.saturating_sub(health.budget / 4 * 3);
        let Some(holder) = store.heaviest(excess).await? else { break };
        let dropped = match inner.feed(holder.stream) {
            Some(feed) => cut(inner, &feed, holder.keep_from, Rule::TooLarge).await?,
            None => cut_without_feed(inner, &holder).await?,
        };
        if dropped == 0 {
            break;
        }
        store.housekeep().await?;
    }
    Ok(())
}

/// The same for a stream whose method or issuer this gateway does not have.
async fn cut_without_feed(inner: &Inner, holder: &Heaviest) -> Result<usize, StoreError> {
    let store = &inner.shared.store;
    let unit =
        Unit::Retain { fence: store.fence(), stream: holder.stream, below: holder.keep_from, rule: Rule::TooLarge };
    let done = store.commit(vec![unit], Durability::Sync).await?;
    let Some(Done::Retained(dropped)) = done.into_iter().next() else { return Ok(0) };
    if dropped > 0 {
        tracing::warn!(stream = holder.stream.0, dropped, rule = "too_large", "{CUT}");
        let labels = [("method", "none"), ("rule", "too_large")];
        inner.shared.observed.dropped.get_or_create(&labels).inc_by(dropped as u64);
        inner.limit(holder.stream, Rule::TooLarge, dropped as u64);
    }
    Ok(dropped)
}

/// What the log says when a limit drops something.
const CUT: &str = "a stream passed its limit; its oldest SETs were dropped";

/// What a limit dropped of a stream since the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limited {
    /// The limit.
    pub(crate) rule: Rule,
    /// How many SETs it dropped since the start.
    pub(crate) dropped: u64,
    /// When it did last.
    pub(crate) at: Timestamp,
}

impl Inner {
    /// Remembers what a limit dropped, so that whoever looks at the stream sees it.
    fn limit(&self, stream: StreamNo, rule: Rule, dropped: u64) {
        let at = Timestamp::from_millis(self.shared.house.clock.wall_millis());
        let mut all = self.limited.lock();
        let before = all.get(&stream).map_or(0, |limited| limited.dropped);
        all.insert(stream, Limited { rule, dropped: before + dropped, at });
    }
}

async fn cut(inner: &Inner, feed: &Arc<Feed>, below: Position, rule: Rule) -> Result<usize, StoreError> {
    let store = &inner.shared.store;
    if store.owed(feed.no, Position::START, 1).await?.first().is_none_or(|oldest| oldest.at >= below) {
        return Ok(0);
    }
    let unit = Unit::Retain { fence: store.fence(), stream: feed.no, below, rule };
    let done = store.commit(vec![unit], Durability::Sync).await?;
    let Some(Done::Retained(dropped)) = done.into_iter().next() else { return Ok(0) };
    if dropped > 0 {
        let name = rule_name(rule);
        tracing::warn!(stream = %feed.served.load().stream.id, dropped, rule = name, "{CUT}");
        inner.limit(feed.no, rule, dropped as u64);
        feed.forget_below(below.seq);
    }
    Ok(dropped)
}
