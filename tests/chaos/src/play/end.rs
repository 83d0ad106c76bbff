//! The ends of a process that is stopped in order, and of a history: all faults end, receivers come back, what waits is
//! delivered, and everything must add up.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use setgate_router::{Router, StreamView};
use setgate_store::{FjallStore, Store};

use super::Play;
use crate::{action::STREAMS, book::Shared, declared::name, desk::wait_for, model::Counts};

/// The rounds in which what waits must be delivered, and the time of each in milliseconds.
const ROUNDS: u32 = 90;
const ROUND: u64 = 20_000;

impl Play<'_> {
    /// Stops the process in order, and starts it again.
    pub(super) fn close(&mut self) {
        let Some(router) = self.router.clone() else { return };
        let slot = Arc::new(Mutex::new(None));
        let filled = slot.clone();
        self.runtime().spawn("drain", async move {
            router.drain(Duration::from_secs(3)).await;
            *filled.lock() = Some(());
        });
        if self.until(&slot) {
            self.quiet_desk();
        }
        let Some(store) = self.store().filter(|store| self.doubt.is_none() && !store.is_closed()) else {
            return self.again();
        };
        let tidying = self.desk.as_ref().is_some_and(|desk| desk.is_tidying());
        if wait_for(store.close()).is_ok() {
            self.fired("an orderly end");
            if tidying {
                self.fired("an orderly end between two steps of housekeeping");
            }
            self.book.lock().model.loose.clear();
        }
        self.again();
    }

    /// Lets the store finish the commits that are queued already.
    fn quiet_desk(&mut self) {
        for _ in 0..1000 {
            if self.turn() != super::Turn::Went {
                return;
            }
        }
    }

    /// Lets everything come to rest, and checks that nothing is missing.
    pub(super) fn end(&mut self) {
        if self.is_broken() {
            return;
        }
        self.line(format_args!("the end begins"));
        self.good_moods();
        self.fill(false);
        self.leave();
        self.start();
        self.declared = self.known.clone();
        for declared in self.declared.values_mut() {
            declared["status"] = "enabled".into();
        }
        for round in 0..ROUNDS {
            if self.is_broken() {
                return;
            }
            if round % 5 == 0 {
                self.bring_back();
            }
            self.pass(ROUND);
            if self.is_settled() {
                break;
            }
        }
        self.pass(1_000);
        self.compare();
        self.check_settled();
        self.check_gone();
        self.check_views();
        self.book.lock().all_arrived();
        self.leave();
        self.start();
        self.pass(1);
        self.compare();
        self.leave();
        if self.order.once_in(8) && !self.is_broken() {
            self.check_closed();
        }
    }

    /// Does what an operator does after trouble.
    pub(super) fn bring_back(&mut self) {
        self.confirm();
        self.reconcile();
        for stream in 0..STREAMS {
            self.ask(async move |router, _| router.resume(&name(stream), stream % 2 == 0).await.is_ok());
        }
        self.ask(async move |router, book| {
            again(&router, &book).await;
            false
        });
    }

    fn is_settled(&self) -> bool {
        self.book.lock().model.owed.values().all(std::collections::BTreeSet::is_empty)
    }

    fn check_settled(&self) {
        let mut book = self.book.lock();
        let left: Vec<_> = book.model.owed.iter().filter(|(_, owed)| !owed.is_empty()).collect();
        if !left.is_empty() {
            let why = format!("P2: still waiting half an hour after all faults have ended: {left:?}");
            book.broken(why);
        }
    }

    /// Checks that nothing is kept of streams that are gone.
    fn check_gone(&self) {
        let mut book = self.book.lock();
        let left = book.model.parked.keys().find(|(no, _)| !book.model.streams.contains_key(no)).copied();
        if let Some((no, seq)) = left {
            book.broken(format!("{no}/{seq} is parked, and its stream is deleted"));
        }
    }

    /// Compares what the router shows of each stream with the model.
    fn check_views(&mut self) {
        if self.is_broken() {
            return;
        }
        let slot = Arc::new(Mutex::new(None));
        let filled = slot.clone();
        let Some(router) = self.router.clone() else { return };
        self.runtime().spawn("views", async move {
            let views = router.streams().await;
            *filled.lock() = Some(views);
        });
        if !self.until(&slot) {
            return;
        }
        let views = slot.lock().take().unwrap_or_default();
        let mut book = self.book.lock();
        let shown: Vec<u32> = views.iter().map(|view| view.no).collect();
        if !shown.iter().eq(book.model.streams.keys()) {
            book.broken(format!("the router shows the streams {shown:?}"));
        }
        for view in views {
            let expected = book.model.counts.get(&view.no).cloned().unwrap_or_default();
            let parked = book.model.parked.range((view.no, 0)..(view.no + 1, 0)).count() as u64;
            if !shows(&view, &expected, parked) {
                book.broken(format!("the router shows {view:?}; the model has {expected:?} and {parked} parked"));
            }
        }
    }

    /// Reads the closed store from end to end.
    fn check_closed(&mut self) {
        match FjallStore::check(&self.place) {
            Ok(report) if report.is_sound() => {}
            Ok(report) => self.book.lock().broken(format!("the closed store is not sound: {report:?}")),
            Err(error) => self.book.lock().broken(format!("the closed store does not read: {error}")),
        }
    }
}

fn shows(view: &StreamView, expected: &Counts, parked: u64) -> bool {
    let dropped: u64 = expected.dropped.values().sum();
    let waiting = expected.owed - expected.acknowledged - expected.parked - dropped;
    (view.owed, view.acknowledged, view.parked_total, view.dropped, view.waiting, view.parked)
        == (expected.owed, expected.acknowledged, expected.parked, dropped, waiting, parked)
}

/// Issues everything again that is parked, so that no key stays stopped.
async fn again(router: &Router, book: &Shared) {
    let Ok(parked) = router.parked(None, None, None, 1000).await else { return };
    let jtis = parked.iter().map(|parked| parked.jti.to_string()).collect();
    if let Err(error) = router.reissue(jtis, true).await {
        book.lock().line(format_args!("  not issued again: {error}"));
    }
}
