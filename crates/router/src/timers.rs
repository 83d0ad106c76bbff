//! The timers, which wake subscriptions and endpoints when a time has come.

#[cfg(test)]
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use setgate_store::StreamNo;
use tokio::sync::Notify;

use crate::{endpoint::Endpoint, hash::Map, shared::Shared, subscription::Subscription};

/// The timers of all subscriptions and endpoints, served by one task.
#[derive(Default)]
pub(crate) struct Timers {
    due: Mutex<Due>,
    sooner: Notify,
    /// The number of times that are kept, as the metrics show it.
    shown: Gauge,
    #[cfg(test)]
    rung: AtomicUsize,
}

#[derive(Default)]
struct Due {
    /// The soonest time of each subscription.
    subscriptions: Map<StreamNo, (Duration, Weak<Subscription>)>,
    /// The same times, in their order.
    in_order: BTreeSet<(Duration, StreamNo)>,
    /// The times of the endpoints, which are few.
    endpoints: Vec<(Duration, Weak<Endpoint>)>,
}

impl Due {
    fn show(&self, shown: &Gauge) {
        shown.set(i64::try_from(self.in_order.len() + self.endpoints.len()).unwrap_or(i64::MAX));
    }
}

impl Timers {
    /// Creates timers whose number is shown by this gauge.
    pub(crate) fn shown_by(shown: Gauge) -> Self {
        Self { shown, ..Self::default() }
    }

    /// Wakes the subscription at this time at the latest; an earlier time stays.
    pub(crate) fn at(&self, when: Duration, subscription: &Arc<Subscription>) {
        let mut due = self.due.lock();
        let Due { subscriptions, in_order, .. } = &mut *due;
        if let Some((at, _)) = subscriptions.get(&subscription.no) {
            if *at <= when {
                return;
            }
            in_order.remove(&(*at, subscription.no));
        }
        subscriptions.insert(subscription.no, (when, Arc::downgrade(subscription)));
        in_order.insert((when, subscription.no));
        let soonest = in_order.first() == Some(&(when, subscription.no));
        due.show(&self.shown);
        if soonest {
            self.sooner.notify_one();
        }
    }

    /// Removes a subscription that is gone.
    pub(crate) fn forget(&self, no: StreamNo) {
        let mut due = self.due.lock();
        let Due { subscriptions, in_order, .. } = &mut *due;
        if let Some((at, _)) = subscriptions.remove(&no) {
            in_order.remove(&(at, no));
        }
        due.show(&self.shown);
    }

    /// Wakes the endpoint at this time at the latest; an earlier time stays.
    pub(crate) fn at_endpoint(&self, when: Duration, endpoint: &Arc<Endpoint>) {
        let mut due = self.due.lock();
        let scheduled = due.endpoints.iter_mut().find(|(_, other)| std::ptr::eq(other.as_ptr(), Arc::as_ptr(endpoint)));
        match scheduled {
            Some((at, _)) if *at <= when => return,
            Some((at, _)) => *at = when,
            None => {
                due.endpoints.retain(|(_, other)| other.strong_count() > 0);
                due.endpoints.push((when, Arc::downgrade(endpoint)));
            }
        }
        due.show(&self.shown);
        self.sooner.notify_one();
    }

    pub(crate) async fn run(shared: Arc<Shared>) {
        let clock = shared.runtime.clock.clone();
        loop {
            // A request to be woken sooner that comes from now on is noticed below.
            let now = clock.monotonic();
            let (expired, next) = shared.timers.expired(now);
            #[cfg(test)]
            shared.timers.rung.fetch_add(expired.len(), Ordering::Relaxed);
            for subscription in expired {
                subscription.tick();
            }
            let (expired, endpoint) = shared.timers.expired_endpoints(now);
            for endpoint in expired {
                endpoint.tick(now);
            }
            let next = [next, endpoint].into_iter().flatten().min();
            let sooner = shared.timers.sooner.notified();
            match next {
                Some(at) => tokio::select! {
                    biased;
                    () = clock.sleep(at.saturating_sub(clock.monotonic())) => {}
                    () = sooner => {}
                },
                None => sooner.await,
            }
        }
    }

    fn expired_endpoints(&self, now: Duration) -> (Vec<Arc<Endpoint>>, Option<Duration>) {
        let mut due = self.due.lock();
        let expired = due.endpoints.extract_if(.., |(at, _)| *at <= now).filter_map(|(_, one)| one.upgrade()).collect();
        due.show(&self.shown);
        (expired, due.endpoints.iter().map(|(at, _)| *at).min())
    }

    fn expired(&self, now: Duration) -> (Vec<Arc<Subscription>>, Option<Duration>) {
        let mut due = self.due.lock();
        let Due { subscriptions, in_order, .. } = &mut *due;
        let mut expired = Vec::new();
        while let Some((_, no)) = in_order.first().copied().filter(|(at, _)| *at <= now) {
            in_order.pop_first();
            expired.extend(subscriptions.remove(&no).and_then(|(_, subscription)| subscription.upgrade()));
        }
        let next = in_order.first().map(|(at, _)| *at);
        due.show(&self.shown);
        (expired, next)
    }

    /// Returns the time at which a subscription is woken at the latest.
    #[cfg(test)]
    pub(crate) fn scheduled(&self, no: StreamNo) -> Option<Duration> {
        self.due.lock().subscriptions.get(&no).map(|(at, _)| *at)
    }

    /// Returns the number of times that a subscription was woken.
    #[cfg(test)]
    pub(crate) fn rung(&self) -> usize {
        self.rung.load(Ordering::Relaxed)
    }

    /// Returns the number of times that are kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        let due = self.due.lock();
        due.subscriptions.len().max(due.in_order.len())
    }
}
