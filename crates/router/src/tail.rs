//! The tail of the ledger, which alone feeds the router, also with what this process accepted: there is no second path.

use std::{sync::Arc, time::Duration};

use setgate_store::{Entry, Position, StreamNo};
use setgate_telemetry::chain;

use crate::{Inner, hash::Map};

/// Passes to each stream the records that it is owed, in the order of the ledger, until the process ends.
pub(crate) async fn follow(router: Arc<Inner>, mut after: Position) {
    let store = router.shared.store.clone();
    let clock = router.shared.runtime.clock.clone();
    loop {
        let read = store.tail(after, 1024, Duration::from_secs(30)).await;
        let entries = match read {
            Ok(entries) => entries,
            Err(error) => {
                if *router.ended.borrow() {
                    return;
                }
                tracing::warn!(error = chain(&error), "cannot follow the ledger; trying again");
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
        let mut rest = entries.as_slice();
        while !rest.is_empty() {
            rest = tell(&router, rest);
        }
    }
}

/// Passes the first entries to their streams; returns those that are left.
///
/// Each stream is locked once for many records, and the memory held meanwhile is bounded however many streams want
/// each.
fn tell<'a>(router: &Inner, entries: &'a [Entry]) -> &'a [Entry] {
    const DELIVERIES: u64 = 65_536;
    let mut deliveries = 0;
    let fits = entries.iter().take_while(|entry| {
        deliveries += entry.targets.len();
        deliveries <= DELIVERIES
    });
    let (now, later) = entries.split_at(fits.count().max(1));
    if let [entry] = now {
        // One event may be for thousands of streams, so each of them gets it at once.
        for no in entry.targets.iter() {
            if let Some(subscription) = router.subscription(StreamNo(no)) {
                subscription.push(&[entry]);
            }
        }
        return later;
    }
    let mut of_stream: Map<StreamNo, Vec<&Entry>> = Map::default();
    for entry in now {
        for no in entry.targets.iter() {
            of_stream.entry(StreamNo(no)).or_default().push(entry);
        }
    }
    for (no, entries) in of_stream {
        if let Some(subscription) = router.subscription(no) {
            subscription.push(&entries);
        }
    }
    later
}
