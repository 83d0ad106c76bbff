//! A change of the streams that broke off between its commit and its answer is finished from what the store holds.

use std::sync::Arc;

use store::{Durability, StreamNo, Unit};

use crate::{Inner, StartError, streams::Kept};

impl Inner {
    /// Puts in force what the store holds, where a change broke off: until then it answers every event that it is stale.
    pub(crate) async fn mend_streams(self: &Arc<Self>) {
        let Ok(mut kept) = self.kept.try_lock() else { return };
        if !kept.unsure {
            return;
        }
        tracing::warn!("a change of the streams broke off; they are read again");
        if let Err(error) = self.read_again(&mut kept).await {
            tracing::error!(%error, "the streams cannot be read; trying again");
        }
    }

    async fn read_again(self: &Arc<Self>, kept: &mut Kept) -> Result<(), StartError> {
        // Behind whatever still stands in the writer's queue.
        let barrier = Unit::Settle { fence: self.shared.store.fence(), what: vec![] };
        self.shared.store.commit(vec![barrier], Durability::Sync).await?;
        let version = self.shared.store.version();
        let streams = self.read_streams().await?;
        let last = self.shared.store.bounds().last;
        for (no, (stream, changed)) in &streams {
            if kept.streams.get(no).is_none_or(|(before, _)| before != stream) {
                self.put_in_force(stream, *changed, last).await?;
                kept.streams.insert(*no, (stream.clone(), *changed));
            }
        }
        let gone: Vec<_> = kept.streams.keys().filter(|no| !streams.contains_key(no)).copied().collect();
        gone.into_iter().for_each(|no| self.forget(kept, no));
        self.publish(kept, version);
        kept.unsure = false;
        Ok(())
    }

    /// A deleted stream is no more.
    pub(crate) fn forget(&self, kept: &mut Kept, no: StreamNo) {
        kept.streams.remove(&no);
        if let Some(feed) = self.feeds.write().remove(&no) {
            feed.end(delivery::Closed::Deleted);
        }
        self.shared.observed.counts.forget(no);
    }
}
