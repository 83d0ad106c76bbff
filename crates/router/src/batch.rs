//! One consumer of a stream, by phase: SETs are leased ([`crate::subscription::Subscription::lease`]), prepared,
//! checked a last time, and handed over.
//!
//! The work is kept in the consumer, so that a cancelled `next_batch` loses nothing.

mod hand_over;
mod prepare;
mod veto;

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
};

use setgate_delivery::{Batch, BoxFuture, Closed, Order, Want, spi::ConsumerCore};

use self::prepare::{Failed, Prepared, prepare};
use crate::{
    number::{ConsumerNo, Generation, LeaseNo},
    subscription::{Fetched, LeaseHolder, Served, Subscription, poll_settled},
    window::Waiter,
};

type Work = BoxFuture<'static, Result<Vec<Prepared>, Failed>>;

/// Number of batches of one consumer that are sealed at the same time where the pool seals: one more than the one that
/// is waited for, so that sealing never waits for handing over.
const AHEAD: usize = 2;

/// A batch that is being sealed.
struct Underway {
    work: Progress,
    served: Arc<Served>,
    /// The leases of its SETs.
    sets: Vec<LeaseNo>,
}

enum Progress {
    Busy(Work),
    Done(Result<Vec<Prepared>, Failed>),
}

/// One consumer of one stream.
pub(crate) struct StreamConsumer {
    subscription: Arc<Subscription>,
    holder: LeaseHolder,
    /// Batches that are being sealed, oldest first.
    work: VecDeque<Underway>,
    /// Sealed SETs beyond what was wanted.
    kept: VecDeque<(Prepared, Arc<Served>)>,
    waiter: Waiter,
}

impl StreamConsumer {
    pub(crate) fn new(
        subscription: Arc<Subscription>,
        consumer: ConsumerNo,
        order: Order,
        generation: Generation,
    ) -> Self {
        let holder = LeaseHolder { consumer, order, generation };
        Self { subscription, holder, work: VecDeque::new(), kept: VecDeque::new(), waiter: Waiter::default() }
    }

    /// Advances the sealing, and keeps what is ready in the order in which it was fetched.
    fn proceed(&mut self, cx: &mut Context<'_>) {
        for underway in &mut self.work {
            if let Progress::Busy(work) = &mut underway.work
                && let Poll::Ready(done) = work.as_mut().poll(cx)
            {
                underway.work = Progress::Done(done);
            }
        }
        while let Some(Underway { work: Progress::Done(_), .. }) = self.work.front() {
            let Some(Underway { work: Progress::Done(done), served, .. }) = self.work.pop_front() else { return };
            match done {
                Ok(prepared) => self.kept.extend(prepared.into_iter().map(|one| (one, served.clone()))),
                Err(failed) => self.subscription.fetch_failed(&failed.sets, failed.cause),
            }
        }
    }

    /// Leases SETs for this want; returns `None` when a batch is under way.
    fn fetch(&mut self, want: &Want, cx: &mut Context<'_>) -> Option<Poll<Closed>> {
        let chance = self.waiter.withdraw();
        let fetched = self.subscription.lease(self.holder, want, &mut self.waiter, cx);
        if let Some(window) = chance
            && !self.waiter.waits()
        {
            // The consumer took less than there is, or nothing: the next waiter may have the rest.
            window.core().pass_on();
        }
        match fetched {
            Fetched::Slots(batch, served) => {
                let sets = batch.slots.iter().map(|(slot, _)| LeaseNo { seq: slot.seq(), batch: batch.no }).collect();
                let work = Progress::Busy(Box::pin(prepare(self.subscription.clone(), served.clone(), batch)));
                self.work.push_back(Underway { work, served, sets });
                None
            }
            Fetched::Closed(closed) => Some(Poll::Ready(closed)),
            Fetched::Nothing => Some(Poll::Pending),
        }
    }

    /// Fetches ahead for a sender where the pool seals, so that the pool works while a batch is handed over.
    fn prefetch(&mut self, want: &Want, cx: &mut Context<'_>) {
        if !self.subscription.prefetches() {
            return;
        }
        while self.work.len() < AHEAD && self.kept.is_empty() {
            if self.fetch(want, cx).is_some() {
                if self.work.is_empty() {
                    // The consumer does not wait now: a batch is on its way to its peer.
                    self.subscription.state.lock().consumers.took(self.holder.consumer);
                }
                return;
            }
            // The pool begins with the first poll.
            self.proceed(cx);
        }
    }
}

impl ConsumerCore for StreamConsumer {
    fn poll_next_batch(&mut self, want: &Want, cx: &mut Context<'_>) -> Poll<Result<Batch, Closed>> {
        loop {
            self.proceed(cx);
            if want.sets > 0
                && let Some(batch) = self.pass(want)
            {
                self.prefetch(want, cx);
                return Poll::Ready(Ok(batch));
            }
            if !self.work.is_empty() {
                if want.sets > 0 {
                    self.prefetch(want, cx);
                }
                if self.kept.is_empty() && !self.work.is_empty() {
                    return Poll::Pending;
                }
                if want.sets > 0 {
                    continue;
                }
            }
            match self.fetch(want, cx) {
                None => {}
                Some(Poll::Ready(closed)) => return Poll::Ready(Err(closed)),
                Some(Poll::Pending) => return Poll::Pending,
            }
        }
    }

    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        poll_settled(&self.subscription, self.holder.consumer, cx)
    }

    fn is_preparing(&self) -> bool {
        !self.work.is_empty() || self.subscription.state.lock().in_flight.late > 0
    }
}

impl Drop for StreamConsumer {
    fn drop(&mut self) {
        self.waiter.give_up();
        let mut unsent: Vec<_> = self.kept.iter().map(|(prepared, _)| prepared.lease()).collect();
        unsent.extend(self.work.drain(..).flat_map(|underway| underway.sets));
        self.subscription.consumer_gone(self.holder.consumer, &unsent);
    }
}
