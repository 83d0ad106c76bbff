//! Delivery reports, collected on the library's thread and settled batch by batch beside it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use setgate_delivery::{Attempt, Cause, Jti, Outcome, Subscription};
use tokio::sync::{Notify, oneshot};

/// The run of a channel to which the outcomes of its records go.
pub(crate) struct DeliveryContext {
    pub(crate) subscription: Subscription,
    pub(crate) topic: Arc<str>,
}

/// The value that travels with a record and comes back with its delivery report.
pub(crate) enum PendingRecord {
    /// A SET.
    Set {
        /// The run that handed the SET over.
        context: Arc<DeliveryContext>,
        /// The `jti` of the SET.
        jti: Jti,
        /// The delivery attempt that the record stands for.
        attempt: Attempt,
        /// The time of the hand-over, by the monotonic clock.
        since: Duration,
    },
    /// A single record whose sender waits for the outcome.
    Single {
        /// The topic of the record.
        topic: Arc<str>,
        /// The time of the hand-over, by the monotonic clock.
        since: Duration,
        /// The channel to the waiting sender.
        answer: oneshot::Sender<Result<(), Cause>>,
    },
}

struct Report {
    context: Arc<DeliveryContext>,
    jti: Jti,
    attempt: Attempt,
    outcome: Outcome,
}

/// Reports that are not settled yet, never more than the window has records.
#[derive(Default)]
pub(crate) struct Reports {
    all: Mutex<Vec<Report>>,
    some: Notify,
    settling: AtomicBool,
    over: AtomicBool,
    quiet: Notify,
}

impl Reports {
    /// Adds a report, and wakes the drainer if the buffer was empty.
    pub(crate) fn add(&self, context: Arc<DeliveryContext>, jti: Jti, attempt: Attempt, outcome: Outcome) {
        let mut all = self.all.lock();
        all.push(Report { context, jti, attempt, outcome });
        let first = all.len() == 1;
        drop(all);
        if first {
            self.some.notify_one();
        }
    }

    /// Settles incoming reports until [`Reports::end`], and calls `on_success` whenever an acknowledgement is among
    /// them.
    pub(crate) async fn drain(&self, on_success: impl Fn()) {
        loop {
            let all = {
                let mut all = self.all.lock();
                self.settling.store(!all.is_empty(), Ordering::Release);
                std::mem::take(&mut *all)
            };
            if !all.is_empty() {
                if all.iter().any(|report| report.outcome.is_ok()) {
                    on_success();
                }
                settle(all);
                // Reports gather meanwhile, so that the next lock of a subscription settles more of them.
                tokio::task::yield_now().await;
                continue;
            }
            self.quiet.notify_waiters();
            if self.over.load(Ordering::Acquire) {
                return;
            }
            self.some.notified().await;
        }
    }

    /// Waits until every report that was added before is settled.
    pub(crate) async fn settled(&self) {
        loop {
            let quiet = self.quiet.notified();
            tokio::pin!(quiet);
            quiet.as_mut().enable();
            if self.all.lock().is_empty() && !self.settling.load(Ordering::Acquire) {
                return;
            }
            quiet.await;
        }
    }

    /// Ends the drainer once all reports are settled.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.some.notify_one();
    }
}

/// Settles the reports with one lock of a subscription for all of its own.
fn settle(mut all: Vec<Report>) {
    all.sort_by_key(|report| Arc::as_ptr(&report.context).addr());
    let mut all = all.into_iter().peekable();
    while let Some(first) = all.next() {
        let context = first.context;
        let mut outcomes = vec![(first.jti, Some(first.attempt), first.outcome)];
        while let Some(next) = all.next_if(|next| Arc::ptr_eq(&next.context, &context)) {
            outcomes.push((next.jti, Some(next.attempt), next.outcome));
        }
        context.subscription.settle_all(outcomes);
    }
}
