//! The repair of a change of the streams that broke off between its commit and its answer, finished from what the store
//! holds.

use std::sync::Arc;

use setgate_store::{Durability, ParkedFilter, Position, StoreError, StreamNo, Unit};
use setgate_telemetry::chain;

use crate::{Inner, StartError, streams::StreamTable};

impl Inner {
    /// Puts in force what the store holds after a change broke off; until then the store answers every event as stale.
    pub(crate) async fn repair_streams(self: &Arc<Self>) {
        let Ok(mut kept) = self.kept.try_lock() else { return };
        if !kept.unsure {
            if !kept.swept {
                self.sweep(&mut kept).await;
            }
            return;
        }
        tracing::warn!("a change of the streams broke off; they are read again");
        if let Err(error) = self.read_again(&mut kept).await {
            tracing::error!(error = chain(&error), "the streams cannot be read; trying again");
        }
    }

    async fn read_again(self: &Arc<Self>, kept: &mut StreamTable) -> Result<(), StartError> {
        // The barrier stands behind everything that is still in the writer's queue.
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

    /// Drops parked SETs of streams that are gone. A failure is tried again at the next call.
    pub(crate) async fn sweep(&self, kept: &mut StreamTable) {
        match self.parked_of_nobody(kept).await {
            Ok(()) => kept.swept = true,
            Err(error) => {
                tracing::debug!(error = chain(&error), "cannot drop what is parked of deleted streams; trying again")
            }
        }
    }

    async fn parked_of_nobody(&self, kept: &StreamTable) -> Result<(), StoreError> {
        let store = &self.shared.store;
        let mut from = (StreamNo(0), Position::START);
        loop {
            // The loop reads one parked SET of each stream that exists, and all of those that do not.
            let which = ParkedFilter { stream: None, code: None, from: Some(from), most: 1 };
            let Some(first) = store.parked(which).await?.into_iter().next() else { return Ok(()) };
            let no = first.stream;
            if !kept.streams.contains_key(&no) {
                let what: Vec<_> = self.all_parked(no).await?.iter().map(|parked| (no, parked.at)).collect();
                tracing::info!(stream = no.0, parked = what.len(), "what is parked of a deleted stream is deleted");
                store.commit(vec![Unit::Discard { fence: store.fence(), what }], Durability::Sync).await?;
            }
            let Some(next) = no.0.checked_add(1) else { return Ok(()) };
            from = (StreamNo(next), Position::START);
        }
    }

    /// Removes a stream that was deleted.
    pub(crate) fn forget(&self, kept: &mut StreamTable, no: StreamNo) {
        kept.streams.remove(&no);
        if let Some(subscription) = self.subscriptions.write().remove(&no) {
            subscription.end(setgate_delivery::Closed::Deleted);
        }
        self.shared.observed.counts.forget(no);
    }
}
