//! How long and how much a stream may keep waiting: the oldest are dropped first, counted and visible.

use std::{sync::Arc, time::Duration};

use set::Timestamp;
use store::{Done, Durability, Position, Rule, StoreError, Unit};

use crate::{Inner, feed::Feed};

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
        if let Err(error) = inner.shared.store.housekeep().await {
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
    let cursor = store.cursor(feed.no).await?;
    // At 80 % of the budget the largest holders are cut, not intake; below it nobody is.
    if share > 0 && cursor.bytes > share && health.bytes > health.budget / 5 * 4 {
        let keep = u128::from(cursor.tally.waiting) * u128::from(share) / u128::from(cursor.bytes.max(1));
        let keep = u64::try_from(keep).unwrap_or(u64::MAX).max(1);
        if let Some(keep_from) = store.nth_newest(feed.no, keep - 1) {
            cut(inner, feed, keep_from, Rule::TooLarge).await?;
        }
    }
    Ok(())
}

async fn cut(inner: &Inner, feed: &Arc<Feed>, below: Position, rule: Rule) -> Result<(), StoreError> {
    let store = &inner.shared.store;
    if store.owed(feed.no, Position::START, 1).await?.first().is_none_or(|oldest| oldest.at >= below) {
        return Ok(());
    }
    let unit = Unit::Retain { fence: store.fence(), stream: feed.no, below, rule };
    let done = store.commit(vec![unit], Durability::Sync).await?;
    if let Some(Done::Retained(dropped)) = done.into_iter().next()
        && dropped > 0
    {
        let name = crate::feed::rule_name(rule);
        tracing::warn!(stream = %feed.served.load().stream.id, dropped, rule = name, "a stream passed its limit; its oldest SETs were dropped");
        inner
            .shared
            .observed
            .dropped
            .get_or_create(&[("method", feed.served.load().method), ("rule", name)])
            .inc_by(dropped as u64);
        feed.forget_below(below.seq);
    }
    Ok(())
}
