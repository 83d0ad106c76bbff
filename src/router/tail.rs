//! The router is fed by the ledger's tail alone, also for what this process accepted: there is no second path.

use std::{collections::HashMap, sync::Arc, time::Duration};

use store::{Limits, Position, StreamNo};

use crate::{Inner, feed::Feed};

/// Tells each stream of the records it is owed, in the order of the ledger, until the process ends.
pub(crate) async fn follow(router: Arc<Inner>, mut after: Position) {
    let store = router.shared.store.clone();
    let clock = router.shared.house.clock.clone();
    loop {
        let read = store.tail(after, Limits { records: 1024, bytes: usize::MAX }, Duration::from_secs(30)).await;
        let entries = match read {
            Ok(entries) => entries,
            Err(error) => {
                if *router.ended.borrow() {
                    return;
                }
                tracing::warn!(%error, "cannot follow the ledger; trying again");
                clock.sleep(Duration::from_millis(500)).await;
                continue;
            }
        };
        let Some(last) = entries.last() else {
            if *router.ended.borrow() {
                return;
            }
            continue;
        };
        after = last.head.at;
        // One look at each stream for the whole read: under load a read holds many records of one stream.
        let mut of_stream: HashMap<StreamNo, Vec<_>> = HashMap::new();
        for entry in &entries {
            for no in entry.targets.iter() {
                of_stream.entry(StreamNo(no)).or_default().push(entry.clone());
            }
        }
        for (no, entries) in of_stream {
            if let Some(feed) = router.feed(no) {
                Feed::push(&feed, &entries);
            }
        }
    }
}
