//! A subscription of a fixed number of SETs that records their outcomes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use setgate_delivery::{
    Attempt, Batch, Bytes, Cause, Closed, DeliveryMode, Envelope, Jti, OrderKey, Outcome, SealedSet, Subscription,
    Timestamp, Want,
    spi::{ConsumerCore, Lease, SubscriptionCore},
};
use tokio::sync::watch;

#[derive(Default)]
struct State {
    waiting: BTreeSet<usize>,
    handed: BTreeMap<usize, u64>,
    ends: BTreeMap<usize, Outcome>,
    attempts: BTreeMap<usize, u32>,
    modes: Vec<Option<DeliveryMode>>,
    consumers: u64,
    size: usize,
    closed: Option<Closed>,
    /// The wakers of the consumers. A consumer waits for one thing at a time, as the router's do: for SETs, or for
    /// outcomes.
    waits: BTreeMap<u64, (For, Waker)>,
}

#[derive(Clone, Copy, PartialEq)]
enum For {
    Sets,
    Outcomes,
}

/// The subscription, as a ledger that tests read.
#[derive(Clone)]
pub(crate) struct Ledger(Arc<(Mutex<State>, watch::Sender<u64>)>);

pub(crate) fn jti(at: usize) -> Jti {
    Jti::from_block(b't', (at as u128 + 1).to_be_bytes())
}

fn place(jti: Jti) -> usize {
    usize::try_from(u128::from_be_bytes(jti.block().1)).unwrap() - 1
}

impl Ledger {
    /// Creates a ledger that owes `count` SETs of `size` bytes.
    pub(crate) fn owing(count: usize, size: usize) -> Self {
        let state = State { waiting: (0..count).collect(), size, ..State::default() };
        Self(Arc::new((Mutex::new(state), watch::Sender::new(0))))
    }

    pub(crate) fn subscription(&self) -> Subscription {
        Subscription::new(Arc::new(self.clone()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    fn change<T>(&self, how: impl FnOnce(&mut State) -> T) -> T {
        let (result, waits) = {
            let mut state = self.state();
            (how(&mut state), std::mem::take(&mut state.waits))
        };
        waits.into_values().for_each(|(_, waker)| waker.wake());
        self.0.1.send_modify(|changes| *changes += 1);
        result
    }

    /// Owes one more SET, and wakes only those consumers that wait for SETs.
    pub(crate) fn owe(&self, at: usize) {
        let waits = {
            let mut state = self.state();
            state.waiting.insert(at);
            let (told, rest): (BTreeMap<_, _>, _) =
                std::mem::take(&mut state.waits).into_iter().partition(|(_, (what, _))| *what == For::Sets);
            state.waits = rest;
            told
        };
        waits.into_values().for_each(|(_, waker)| waker.wake());
    }

    /// Waits until `count` SETs are settled.
    pub(crate) async fn settled(&self, count: usize) {
        self.until(|state| state.ends.len() >= count).await;
    }

    /// Waits until no consumer holds any SETs.
    pub(crate) async fn returned(&self) {
        self.until(|state| state.handed.is_empty()).await;
    }

    /// Waits until `count` SETs are handed over at the same time.
    pub(crate) async fn handing(&self, count: usize) {
        self.until(|state| state.handed.len() >= count).await;
    }

    async fn until(&self, so: impl Fn(&State) -> bool) {
        let mut changes = self.0.1.subscribe();
        changes.wait_for(|_| so(&self.state())).await.unwrap();
    }

    pub(crate) fn close(&self, why: Closed) {
        self.change(|state| state.closed = Some(why));
    }

    pub(crate) fn end(&self, at: usize) -> Option<Outcome> {
        self.state().ends.get(&at).cloned()
    }

    pub(crate) fn ends(&self) -> usize {
        self.state().ends.len()
    }

    pub(crate) fn handed(&self) -> usize {
        self.state().handed.len()
    }

    pub(crate) fn modes(&self) -> Vec<Option<DeliveryMode>> {
        self.state().modes.clone()
    }
}

impl SubscriptionCore for Ledger {
    fn consumer(&self, mode: Option<DeliveryMode>) -> Box<dyn ConsumerCore> {
        let number = self.change(|state| {
            state.modes.push(mode);
            state.consumers += 1;
            state.consumers
        });
        Box::new(LedgerConsumer { ledger: self.clone(), number, stays: mode.is_some() })
    }

    fn settle(&self, all: Vec<(Jti, Option<Attempt>, Outcome)>) -> usize {
        self.change(|state| {
            let mut ended = 0;
            for (jti, attempt, outcome) in all {
                assert_eq!(attempt, None);
                ended += usize::from(state.handed.remove(&place(jti)).is_some());
                state.waiting.remove(&place(jti));
                state.ends.entry(place(jti)).or_insert(outcome);
            }
            ended
        })
    }

    fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.handed.len(), state.waiting.len())
    }

    fn stalled(&self, _: Option<Cause>) {}
}

struct LedgerConsumer {
    ledger: Ledger,
    number: u64,
    stays: bool,
}

impl ConsumerCore for LedgerConsumer {
    fn poll_next_batch(&mut self, want: &Want, cx: &mut Context<'_>) -> Poll<Result<Batch, Closed>> {
        let mut guard = self.ledger.state();
        let state = &mut *guard;
        if let Some(closed) = &state.closed {
            return Poll::Ready(Err(closed.clone()));
        }
        let most = want.sets.min((want.bytes / state.size).max(1));
        let fetched: Vec<usize> = state.waiting.iter().copied().take(most).collect();
        if fetched.is_empty() || want.sets == 0 {
            state.waits.insert(self.number, (For::Sets, cx.waker().clone()));
            return Poll::Pending;
        }
        let mut sets = Vec::new();
        for at in fetched {
            state.waiting.remove(&at);
            state.handed.insert(at, self.number);
            let attempt = state.attempts.entry(at).or_default();
            *attempt += 1;
            let head = format!("eyJ0eXAiOiJzZWNldmVudCtqd3QifQ.{}.", jti(at));
            let body = format!("{head}{}", "c".repeat(state.size.saturating_sub(head.len())));
            sets.push(SealedSet {
                jti: jti(at),
                attempt: Attempt(*attempt),
                body: Bytes::from(body),
                envelope: Arc::new(Envelope::new(Timestamp::from_seconds(1_700_000_000), Bytes::from_static(b"{}"))),
                order: OrderKey::from_bits(7),
            });
        }
        drop(guard);
        self.ledger.0.1.send_modify(|changes| *changes += 1);
        Poll::Ready(Ok(Batch::new(sets, false, Box::new(Nothing))))
    }

    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.ledger.state();
        if state.handed.values().any(|consumer| *consumer == self.number) {
            state.waits.insert(self.number, (For::Outcomes, cx.waker().clone()));
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl Drop for LedgerConsumer {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        let number = self.number;
        self.ledger.change(|state| {
            let (ours, rest): (Vec<_>, Vec<_>) =
                std::mem::take(&mut state.handed).into_iter().partition(|(_, consumer)| *consumer == number);
            state.handed = rest.into_iter().collect();
            state.waiting.extend(ours.into_iter().map(|(at, _)| at));
        });
    }
}

struct Nothing;

impl Lease for Nothing {
    fn handed_over(self: Box<Self>) {}
}
