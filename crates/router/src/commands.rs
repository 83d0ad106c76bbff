//! The commands that subscriptions send to the router from any thread, carried out in one task.

use std::{sync::Arc, time::Duration};

use setgate_clock::{Backoff, Jitter};
use setgate_delivery::{Cause, Closed, Outcome};
use setgate_set::Jti;
use setgate_store::{Durability, Named, Settlement, Unit};
use setgate_telemetry::chain;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::{
    Inner,
    contract::Core,
    shared::{Command, Shared},
    slot::Slot,
    subscription::Subscription,
};

/// Carries out commands until the router is gone.
pub(crate) async fn obey(router: Arc<Inner>, mut inbox: UnboundedReceiver<Command>) {
    let mut all = Vec::new();
    while inbox.recv_many(&mut all, 256).await > 0 {
        let (mut ends, mut slots) = (Vec::new(), Vec::new());
        for command in all.drain(..) {
            match command {
                Command::Run(subscription) => run(&router, subscription),
                Command::Scan(subscription) => router.shared.runtime.spawn("scan", subscription.scan()),
                Command::End(subscription, slot, settlement) => {
                    ends.push(settlement);
                    slots.push((subscription, slot));
                }
                Command::Pause(no, why) => {
                    let router = router.clone();
                    router.clone().shared.runtime.spawn("pause", async move { router.pause_by_fault(no, why).await });
                }
                Command::Abandoned(no) => {
                    let router = router.clone();
                    router.clone().shared.runtime.spawn("pause", async move { router.pause_by_absence(no).await });
                }
                Command::Wake(subscriptions) => {
                    for subscription in subscriptions.iter().filter_map(std::sync::Weak::upgrade) {
                        subscription.tick();
                    }
                }
                Command::WakeAll => router.subscriptions().iter().for_each(|subscription| _ = subscription.tick()),
                Command::Late(subscription, all) => router.shared.runtime.spawn("late", settle_late(subscription, all)),
            }
        }
        if !ends.is_empty() {
            let shared = router.shared.clone();
            router.shared.runtime.spawn("park", write_ends(shared, ends, slots));
        }
    }
}

/// The back-off after a store did not take an end.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_millis(6400));

/// Parks and drops SETs, durably before anything later of the same order key leaves. A store that cannot write is tried
/// again without end.
async fn write_ends(shared: Arc<Shared>, ends: Vec<Settlement>, slots: Vec<(Arc<Subscription>, Slot)>) {
    let mut failures = 0u32;
    loop {
        let unit = Unit::Settle { fence: shared.store.fence(), what: ends.clone() };
        match shared.store.commit(vec![unit], Durability::Sync).await {
            Ok(_) => break,
            Err(error) => {
                tracing::error!(error = chain(&error), "cannot write what was parked or dropped; trying again");
                failures += 1;
                shared.runtime.clock.sleep(RETRY.wait(failures, Jitter::None)).await;
            }
        }
    }
    for (subscription, slot) in slots {
        subscription.ended(&slot);
    }
}

/// The time that late outcomes wait at most for earlier ones to be visible.
const VISIBLE: Duration = Duration::from_secs(1);

/// Settles outcomes of SETs that are not fetched: one read identifies the SETs, one commit settles them.
async fn settle_late(subscription: Arc<Subscription>, mut all: Vec<(Named, Jti, Outcome)>) {
    let store = subscription.shared.store.clone();
    // A repeated outcome counts once, so what is settled already must be visible. A store in trouble is not waited for,
    // since consumers wait.
    tokio::select! {
        biased;
        () = subscription.shared.settler.flush() => {}
        () = subscription.shared.runtime.clock.sleep(VISIBLE) => {}
    }
    all.sort_by_key(|(named, ..)| named.at);
    let heads = match store.heads(all.iter().map(|(named, ..)| named.at).collect()).await {
        Ok(heads) => heads,
        Err(error) => {
            tracing::warn!(
                error = chain(&error),
                "cannot read what late outcomes are about; their SETs will be handed over again"
            );
            subscription.settle_late(Vec::new());
            return;
        }
    };
    let known = heads.into_iter().zip(all).filter_map(|(head, (named, jti, outcome))| {
        head.filter(|head| head.boot == named.boot).map(|head| (head, jti, outcome))
    });
    let settled = subscription.settle_late(known.collect());
    if !settled.is_empty() {
        subscription.shared.settler.flush().await;
        subscription.visible(&settled);
    }
}

/// A guard that tells the subscription when its channel has ended, also when the method's code panicked.
struct Running(Arc<Subscription>, Option<Closed>);

impl Drop for Running {
    fn drop(&mut self) {
        let closed = self
            .1
            .take()
            .unwrap_or_else(|| Closed::Fault(Cause::new("panic", "the delivery method ended unexpectedly")));
        self.0.channel_ended(&closed);
    }
}

fn run(router: &Inner, subscription: Arc<Subscription>) {
    // Channel and consumer are of one delivery, also when the stream is moved to another before the task begins.
    let served = subscription.served.load_full();
    let running = Running(subscription.clone(), None);
    router.shared.runtime.spawn("channel", async move {
        let mut running = running;
        let channel = served.channel.clone();
        let core = setgate_delivery::Subscription::new(Arc::new(Core::new(subscription, served)));
        let consumer = core.consumer();
        running.1 = Some(channel.run(core, consumer).await);
    });
}
