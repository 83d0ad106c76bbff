//! The peer at the other end: handles arriving SETs by a script, and notes what should not have happened.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{Answer, Incoming, Ingest, Order, Refusal};

/// The time after which a busy peer wants to be asked again: short, since nothing is checked while it waits.
const SOON: Duration = Duration::from_millis(5);

/// The reaction of the peer to a SET that arrives.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Take,
    Refuse(Refusal),
    Busy,
    /// Takes the SET, and cuts the connection before the answer.
    TakeAndCut,
    /// Cuts the connection before the SET is taken.
    Cut,
    /// Holds the SET until it is released, then takes and answers it.
    Hold,
}

/// The arrival of a SET: its index, and the number of times that it has arrived by now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meeting {
    pub(super) at: usize,
    pub(super) times: usize,
}

type Script = dyn Fn(Meeting) -> Act + Send + Sync;

#[derive(Clone, Default)]
struct Seen {
    times: usize,
    taken: usize,
    refused: bool,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    here: usize,
    most: usize,
    holding: usize,
    wrongs: Vec<String>,
}

/// The facts that a peer knows about the SETs that will arrive.
struct Expected {
    known: HashMap<Bytes, usize>,
    keys: Vec<u64>,
    order: Order,
    cut: Arc<dyn Fn() + Send + Sync>,
}

/// The peer of one case.
pub(super) struct Peer {
    expected: OnceLock<Expected>,
    script: Box<Script>,
    state: Mutex<State>,
    released: watch::Sender<bool>,
    changed: watch::Sender<u64>,
}

impl Peer {
    pub(super) fn new(script: impl Fn(Meeting) -> Act + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            expected: OnceLock::new(),
            script: Box::new(script),
            state: Mutex::new(State::default()),
            released: watch::Sender::new(false),
            changed: watch::Sender::new(0),
        })
    }

    /// Sets which SETs may arrive, in which order a channel of this kind brings them, and how its connection is cut.
    pub(super) fn expect(&self, owed: Vec<([Bytes; 2], u64)>, order: Order, cut: Arc<dyn Fn() + Send + Sync>) {
        self.state.lock().seen = vec![Seen::default(); owed.len()];
        let keys = owed.iter().map(|(_, key)| *key).collect();
        let known = owed.into_iter().enumerate().flat_map(|(at, (bodies, _))| bodies.map(|body| (body, at))).collect();
        // A peer belongs to one case, and a case opens one channel.
        let _ = self.expected.set(Expected { known, keys, order, cut });
    }

    /// Releases all SETs that are held, so that they are answered.
    pub(super) fn release(&self) {
        self.released.send_replace(true);
    }

    /// Waits until this many SETs are held at once.
    pub(super) async fn holds(&self, count: usize) {
        let mut changed = self.changed.subscribe();
        // The sender is part of the peer, so there is always another change to wait for.
        let _ = changed.wait_for(|_| self.state.lock().holding >= count).await;
    }

    /// Waits until every SET has arrived.
    pub(super) async fn meets_all(&self) {
        let mut changed = self.changed.subscribe();
        // The sender is part of the peer, as in `holds`.
        let _ = changed.wait_for(|_| self.state.lock().seen.iter().all(|seen| seen.times > 0)).await;
    }

    /// Returns the number of times that each SET was taken.
    pub(super) fn taken(&self) -> Vec<usize> {
        self.state.lock().seen.iter().map(|seen| seen.taken).collect()
    }

    /// Returns the number of times that each SET arrived.
    pub(super) fn met(&self) -> Vec<usize> {
        self.state.lock().seen.iter().map(|seen| seen.times).collect()
    }

    /// Returns the most SETs that were here at once: arrived and not answered.
    pub(super) fn most(&self) -> usize {
        self.state.lock().most
    }

    /// Returns a description of everything that should not have happened.
    pub(super) fn wrongs(&self) -> Vec<String> {
        self.state.lock().wrongs.clone()
    }

    fn meet(&self, token: &Bytes) -> Option<(usize, Act)> {
        let mut state = self.state.lock();
        let expected = self.expected.get()?;
        let Some(at) = expected.known.get(token).copied() else {
            state.wrongs.push("a SET arrived that is not, byte for byte, one that was handed over".to_owned());
            return None;
        };
        // Promise P4: every earlier SET of the key has arrived before; where SETs go one by one, it was also taken or
        // refused.
        let key = expected.keys.get(at);
        let nowhere = |seen: &Seen| match expected.order {
            Order::PerSet => seen.taken == 0 && !seen.refused,
            Order::PerBatch | Order::PerConsumer => seen.times == 0,
        };
        let early =
            state.seen.iter().zip(&expected.keys).take(at).position(|(seen, of)| Some(of) == key && nowhere(seen));
        if let Some(early) = early {
            state.wrongs.push(format!("SET {at} arrived before SET {early} of the same order key"));
        }
        let seen = state.seen.get_mut(at)?;
        seen.times += 1;
        Some((at, (self.script)(Meeting { at, times: seen.times })))
    }

    fn note(&self, at: usize, how: impl FnOnce(&mut Seen)) {
        if let Some(seen) = self.state.lock().seen.get_mut(at) {
            how(seen);
        }
    }

    fn enter(self: &Arc<Self>, holds: bool) -> Here {
        let mut state = self.state.lock();
        state.here += 1;
        state.most = state.most.max(state.here);
        state.holding += usize::from(holds);
        drop(state);
        self.changed.send_modify(|changes| *changes += 1);
        Here { peer: self.clone(), holds }
    }

    fn cut(&self) {
        if let Some(expected) = self.expected.get() {
            (expected.cut)();
        }
    }
}

/// A guard that counts a SET for as long as it is here, also when its connection goes away.
struct Here {
    peer: Arc<Peer>,
    holds: bool,
}

impl Drop for Here {
    fn drop(&mut self) {
        let mut state = self.peer.state.lock();
        state.here -= 1;
        state.holding -= usize::from(self.holds);
    }
}

/// The ingest of the method's receiving half, which passes everything to the peer.
pub(super) struct PeerIngest(pub(super) Arc<Peer>);

impl Ingest for PeerIngest {
    fn accept<'a>(&'a self, _: &'a str, what: Vec<Incoming>) -> BoxFuture<'a, Vec<Answer>> {
        let peer = &self.0;
        Box::pin(async move {
            let mut answers = Vec::with_capacity(what.len());
            for incoming in what {
                let (Incoming::Set { token, .. } | Incoming::Event { body: token, .. }) = incoming;
                let Some((at, act)) = peer.meet(&token) else {
                    answers.push(Answer::Status(500));
                    continue;
                };
                let here = peer.enter(matches!(act, Act::Hold));
                answers.push(match act {
                    Act::Take => {
                        peer.note(at, |seen| seen.taken += 1);
                        // Others may arrive before this one is answered.
                        tokio::task::yield_now().await;
                        Answer::Taken
                    }
                    Act::Refuse(refusal) => {
                        peer.note(at, |seen| seen.refused = true);
                        Answer::Refused(refusal)
                    }
                    Act::Busy => Answer::Busy { after: SOON },
                    Act::TakeAndCut => {
                        peer.note(at, |seen| seen.taken += 1);
                        peer.cut();
                        Answer::Taken
                    }
                    Act::Cut => {
                        peer.cut();
                        Answer::Busy { after: SOON }
                    }
                    Act::Hold => {
                        let _ = peer.released.subscribe().wait_for(|released| *released).await;
                        peer.note(at, |seen| seen.taken += 1);
                        Answer::Taken
                    }
                });
                drop(here);
            }
            answers
        })
    }
}

/// An ingest that takes nothing and answers every SET with status 500.
pub(super) struct Nobody;

impl Ingest for Nobody {
    fn accept<'a>(&'a self, _: &'a str, what: Vec<Incoming>) -> BoxFuture<'a, Vec<Answer>> {
        Box::pin(std::future::ready(what.iter().map(|_| Answer::Status(500)).collect()))
    }
}
