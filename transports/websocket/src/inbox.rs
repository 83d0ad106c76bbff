//! The SETs that a peer sends, on their way through the ingest, and the answers to them.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use setgate_delivery::{Answer, BoxFuture, Bytes, Incoming, Ingest, Refusal, Runtime, exchange::Speech};
use tokio::sync::oneshot;

use crate::wire::{self, Goodbye, Subprotocol};

/// The most bytes that may wait, whatever the credit.
const BYTES: usize = 16 << 20;
/// The most SETs that may wait from a peer without credit.
const WITHOUT_CREDIT: usize = 1000;
/// The most ids and bytes of one message of answers.
const IDS: usize = 500;
const REPLY: usize = 32 << 10;
/// The most SETs of one call of the ingest; their answers leave before the next call.
const PORTION: usize = 16;
/// The bounds of the pause between two attempts at a busy ingest.
const SOONEST: Duration = Duration::from_millis(50);
const LATEST: Duration = Duration::from_secs(60);

type Named = (Box<str>, Bytes);

/// The SETs of a peer and the answers to them. SETs go through the ingest in the order of arrival, one call at a time,
/// so that none overtakes one that the ingest is too busy for.
pub(crate) struct Inbox {
    ingest: Arc<dyn Ingest>,
    peer: Arc<str>,
    runtime: Runtime,
    /// The number of SETs of the peer that there is room for, granted as credit or kept as a limit.
    room: usize,
    has_credit: bool,
    here: usize,
    bytes: usize,
    queue: Vec<Named>,
    taking: Option<BoxFuture<'static, (Vec<Named>, Vec<Answer>)>>,
    pause: Option<BoxFuture<'static, ()>>,
    acks: Vec<Box<str>>,
    errors: Vec<(Box<str>, Refusal)>,
    /// The credit to grant with the next message.
    due: usize,
    leaving: Option<Leaving>,
}

/// The orderly end of an inbox: from `due` on no SETs go in, and `done` is dropped when all that went in are answered.
struct Leaving {
    due: BoxFuture<'static, ()>,
    is_due: bool,
    done: Option<oneshot::Sender<()>>,
}

impl Inbox {
    /// Creates an inbox that grants `credit`, or has a fixed room where the protocol has no credit.
    pub(crate) fn new(
        ingest: Arc<dyn Ingest>,
        peer: Arc<str>,
        protocol: Subprotocol,
        credit: usize,
        runtime: Runtime,
    ) -> Self {
        let has_credit = protocol == Subprotocol::Setgate;
        let room = if has_credit { credit } else { WITHOUT_CREDIT };
        Self {
            ingest,
            peer,
            runtime,
            room,
            has_credit,
            here: 0,
            bytes: 0,
            queue: Vec::new(),
            taking: None,
            pause: None,
            acks: Vec::new(),
            errors: Vec::new(),
            due: if has_credit { room } else { 0 },
            leaving: None,
        }
    }

    /// Stops passing SETs to the ingest once `due` ends, and drops `done` when all that were passed by then are
    /// answered.
    pub(crate) fn leaving(mut self, due: BoxFuture<'static, ()>, done: oneshot::Sender<()>) -> Self {
        self.leaving = Some(Leaving { due, is_due: false, done: Some(done) });
        self
    }

    /// Returns whether no more SETs go in.
    fn leaves(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(leaving) = &mut self.leaving else { return false };
        leaving.is_due = leaving.is_due || leaving.due.as_mut().poll(cx).is_ready();
        if leaving.is_due && self.taking.is_none() && self.acks.is_empty() && self.errors.is_empty() {
            leaving.done = None;
        }
        leaving.is_due
    }

    /// Adds SETs that arrived.
    ///
    /// # Errors
    /// The [`Goodbye`] for a peer that sends more than there is room for.
    pub(crate) fn put(&mut self, sets: Vec<Named>) -> Result<(), Goodbye> {
        self.here += sets.len();
        self.bytes += sets.iter().map(|(named, token)| named.len() + token.len()).sum::<usize>();
        // Room that is not granted yet cannot have been used.
        let over = !sets.is_empty() && self.here + self.due > self.room;
        self.queue.extend(sets);
        match over {
            true if self.has_credit => Err(Goodbye::OVER_CREDIT),
            true => Err(Goodbye::OVER_BOUND),
            false if self.bytes > BYTES => Err(Goodbye::OVER_BOUND),
            false => Ok(()),
        }
    }

    /// Makes progress. Returns whether there are new answers.
    pub(crate) fn work(&mut self, cx: &mut Context<'_>) -> bool {
        let leaves = self.leaves(cx);
        loop {
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(cx).is_pending() {
                    return false;
                }
                self.pause = None;
            }
            if let Some(taking) = &mut self.taking {
                let Poll::Ready((sets, answers)) = taking.as_mut().poll(cx) else { return false };
                self.taking = None;
                self.answered(sets, answers);
                return true;
            }
            if self.queue.is_empty() || leaves {
                return false;
            }
            let rest = self.queue.split_off(self.queue.len().min(PORTION));
            let sets = std::mem::replace(&mut self.queue, rest);
            let (ingest, peer) = (self.ingest.clone(), self.peer.clone());
            self.taking = Some(Box::pin(async move {
                let what = sets
                    .iter()
                    .map(|(named, token)| Incoming::Set { named: Some(named.clone()), token: token.clone() })
                    .collect();
                let answers = ingest.accept(&peer, what).await;
                (sets, answers)
            }));
        }
    }

    fn answered(&mut self, sets: Vec<Named>, answers: Vec<Answer>) {
        let mut answers = answers.into_iter();
        let mut again = Vec::new();
        let mut after = SOONEST;
        for (named, token) in sets {
            let answer = answers.next().unwrap_or(Answer::Busy { after: SOONEST });
            let size = token.len();
            match answer {
                Answer::Taken => self.acks.push(named),
                Answer::Refused(refusal) => self.errors.push((named, refusal)),
                Answer::Busy { after: wait } => {
                    after = after.max(wait);
                    again.push((named, token));
                    continue;
                }
                Answer::Status(_) => {
                    after = after.max(Duration::from_secs(1));
                    again.push((named, token));
                    continue;
                }
            }
            self.bytes -= size;
        }
        if !again.is_empty() {
            // The SETs to repeat go before those that have arrived since.
            again.append(&mut self.queue);
            self.queue = again;
            self.pause = Some(self.runtime.clock.sleep(after.min(LATEST)));
        }
    }

    /// Returns the next message of answers, with new credit where the protocol has it; `None` when there is none to
    /// send.
    pub(crate) fn replies(&mut self) -> Option<Replies> {
        let mut budget = REPLY;
        let acks = front(&mut self.acks, |ack| ack.len() + 3, &mut budget);
        let cost = |(named, refusal): &(Box<str>, Refusal)| {
            named.len() + refusal.description.as_ref().map_or(0, |text| text.len()) + 128
        };
        let errors = front(&mut self.errors, cost, &mut budget);
        let settled = acks.len() + errors.len();
        self.here -= settled;
        // A name is kept until it is answered.
        self.bytes -= acks.iter().chain(errors.iter().map(|(named, _)| named)).map(|named| named.len()).sum::<usize>();
        let grant = if self.has_credit { std::mem::take(&mut self.due) + settled } else { 0 };
        (settled + grant > 0).then_some(Replies { acks, errors, grant: grant as u64 })
    }
}

/// The answers of one message.
pub(crate) struct Replies {
    acks: Vec<Box<str>>,
    errors: Vec<(Box<str>, Refusal)>,
    grant: u64,
}

impl Replies {
    /// Creates the refusal of SETs that a peer may not send.
    pub(crate) fn refusing(names: &mut Vec<Box<str>>) -> Option<Self> {
        let names = front(names, |name| name.len() + 128, &mut { REPLY });
        let errors: Vec<_> = names.into_iter().map(|name| (name, wire::not_allowed())).collect();
        (!errors.is_empty()).then_some(Self { acks: Vec::new(), errors, grant: 0 })
    }

    /// Writes the object of push-pull.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        Speech {
            ack: (!self.acks.is_empty()).then_some(&self.acks),
            set_errs: (!self.errors.is_empty()).then_some(&self.errors),
            max_events: (self.grant > 0).then_some(self.grant),
            ..Speech::default()
        }
        .to_json()
    }
}

/// Takes as much from the front as one message holds: at least one, at most [`IDS`] and the budget.
fn front<T>(from: &mut Vec<T>, cost: impl Fn(&T) -> usize, budget: &mut usize) -> Vec<T> {
    let mut count = 0;
    for one in from.iter().take(IDS) {
        if cost(one) > *budget && *budget < REPLY {
            break;
        }
        *budget = budget.saturating_sub(cost(one));
        count += 1;
    }
    if count == from.len() {
        return std::mem::take(from);
    }
    let rest = from.split_off(count);
    std::mem::replace(from, rest)
}
