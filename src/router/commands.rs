//! What feeds ask of the router from any thread, done in one task.

use std::{sync::Arc, time::Duration};

use delivery::{Cause, Closed};
use store::{Durability, Settlement, Unit};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::{
    Inner,
    feed::{Core, Feed},
    lane::Slot,
    shared::{Command, Shared},
};

/// Obeys until the router is gone.
pub(crate) async fn obey(router: Arc<Inner>, mut inbox: UnboundedReceiver<Command>) {
    let mut all = Vec::new();
    while inbox.recv_many(&mut all, 256).await > 0 {
        let (mut ends, mut slots) = (Vec::new(), Vec::new());
        for command in all.drain(..) {
            match command {
                Command::Run(feed) => run(&router, feed),
                Command::Scan(feed) => router.shared.house.spawn("scan", feed.scan()),
                Command::End(feed, slot, settlement) => {
                    ends.push(settlement);
                    slots.push((feed, slot));
                }
                Command::Pause(no, why) => {
                    let router = router.clone();
                    router.clone().shared.house.spawn("pause", async move { router.pause_by_fault(no, why).await });
                }
                Command::Late(feed, named, receipt) => {
                    router.shared.house.spawn("late", async move {
                        let head = feed
                            .shared
                            .store
                            .heads(vec![named.at])
                            .await
                            .ok()
                            .and_then(|heads| heads.into_iter().next().flatten());
                        if let Some(head) = head.filter(|head| head.boot == named.boot) {
                            feed.settle_late(&head, receipt);
                        }
                    });
                }
            }
        }
        if !ends.is_empty() {
            let shared = router.shared.clone();
            router.shared.house.spawn("park", write_ends(shared, ends, slots));
        }
    }
}

/// Parks and drops, durably before anything later of the same order key leaves. A store that cannot write is waited for.
async fn write_ends(shared: Arc<Shared>, ends: Vec<Settlement>, slots: Vec<(Arc<Feed>, Slot)>) {
    let mut failures = 0u32;
    loop {
        let unit = Unit::Settle { fence: shared.store.fence(), what: ends.clone() };
        match shared.store.commit(vec![unit], Durability::Sync).await {
            Ok(_) => break,
            Err(error) => {
                tracing::error!(%error, "cannot write what was parked or dropped; trying again");
                failures += 1;
                shared.house.clock.sleep(Duration::from_millis(100u64 << failures.min(6))).await;
            }
        }
    }
    for (feed, slot) in slots {
        feed.ended(&slot);
    }
}

/// Tells the feed that its line has ended, also when the method's code panicked.
struct Running(Arc<Feed>, Option<Closed>);

impl Drop for Running {
    fn drop(&mut self) {
        let closed = self
            .1
            .take()
            .unwrap_or_else(|| Closed::Fault(Cause::new("panic", "the delivery method ended unexpectedly")));
        self.0.line_ended(&closed);
    }
}

fn run(router: &Inner, feed: Arc<Feed>) {
    let line = feed.served.load().line.clone();
    let running = Running(feed.clone(), None);
    router.shared.house.spawn("line", async move {
        let mut running = running;
        let core = delivery::Feed::new(Arc::new(Core(feed)));
        let tap = core.tap();
        running.1 = Some(line.run(core, tap).await);
    });
}
