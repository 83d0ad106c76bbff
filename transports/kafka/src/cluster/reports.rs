//! Delivery reports: collected on the library's thread, settled batch by batch beside it.

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

/// One run of a channel: where the outcomes of its records go.
pub(crate) struct DeliveryContext {
    pub(crate) subscription: Subscription,
    pub(crate) topic: Arc<str>,
}

/// What travels with a record and comes back with its delivery report.
pub(crate) enum PendingRecord {
    /// A SET.
    Set {
        /// The run that handed it over.
        context: Arc<DeliveryContext>,
        /// Its identity.
        jti: Jti,
        /// Its attempt.
        attempt: Attempt,
        /// When it was handed over, of the monotonic clock.
        since: Duration,
    },
    /// A record of somebody who waits for it.
    Single {
        /// Its topic.
        topic: Arc<str>,
        /// When it was handed over, of the monotonic clock.
        since: Duration,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<(), Cause>>,
    },
}

struct Report {
    context: Arc<DeliveryContext>,
    jti: Jti,
    attempt: Attempt,
    outcome: Outcome,
}

/// Reports that are not settled yet. There are never more than the window has records.
#[derive(Default)]
pub(crate) struct Reports {
    all: Mutex<Vec<Report>>,
    some: Notify,
    settling: AtomicBool,
    over: AtomicBool,
    quiet: Notify,
}

impl Reports {
    /// Takes one; whoever finds the buffer empty wakes the drainer.
    pub(crate) fn add(&self, context: Arc<DeliveryContext>, jti: Jti, attempt: Attempt, outcome: Outcome) {
        let mut all = self.all.lock();
        all.push(Report { context, jti, attempt, outcome });
        let first = all.len() == 1;
        drop(all);
        if first {
            self.some.notify_one();
        }
    }

    /// Settles what comes until [`Reports::end`]; `on_success` is called when an acknowledgement is among it.
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
                // Reports gather meanwhile: the next lock of a subscription settles more of them.
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

    /// Ends when everything that was added before is settled.
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

    /// Ends the drainer when all is settled.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.some.notify_one();
    }
}

/// One lock of a subscription for all of its reports.
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
