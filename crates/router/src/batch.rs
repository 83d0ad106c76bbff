//! Drawing: from lanes to a sealed batch.
//!
//! Windows are taken, SETs claimed in order, bodies read, tokens sealed, the veto passed. The work is kept in the tap, so
//! that a cancelled `next` loses nothing.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use setgate_delivery::{
    Attempt, Batch, BoxFuture, Cause, Closed, Envelope, Order, SealedSet, Want, Window,
    spi::{Claim, TapCore},
};
use setgate_set::{ErrorCode, Jti, OrderKey};
use setgate_store::{Kind, Position, Rule, StoreError};
use setgate_stream::{Decision, Why};

use crate::{
    feed::{Draw, Drawer, Drawn, Feed, Phase, Served, poll_settled},
    seal::{Job, SealError},
    slot::Slot,
};

/// What was accepted is read whatever its limits were then.
const UNLIMITED: setgate_set::EventLimits =
    setgate_set::EventLimits { types: usize::MAX, uri: usize::MAX, name: usize::MAX };

/// Room taken for one batch in all windows of its line; given back SET by SET.
#[derive(Debug, Default)]
pub(crate) struct Ticket {
    windows: Vec<Window>,
}

impl Ticket {
    /// Takes room in all windows, or in none.
    ///
    /// # Errors
    /// The window that has too little.
    pub(crate) fn take(windows: Vec<Window>, sets: usize, bytes: usize) -> Result<Arc<Self>, Window> {
        for (at, window) in windows.iter().enumerate() {
            if !window.core().take(sets, bytes) {
                windows.iter().take(at).for_each(|taken| taken.core().give(sets, 1, bytes));
                return Err(window.clone());
            }
        }
        Ok(Arc::new(Self { windows }))
    }

    /// One SET is settled or came back.
    pub(crate) fn give(&self, bytes: usize) {
        self.windows.iter().for_each(|window| window.core().give(1, 0, bytes));
    }
}

/// Room that many SETs give back together: each window is locked once, and one who waits is woken for all of it.
#[derive(Debug, Default)]
pub(crate) struct Returned(Vec<(Window, usize, usize)>);

impl Returned {
    pub(crate) fn add(&mut self, ticket: &Ticket, bytes: usize) {
        for window in &ticket.windows {
            match self.0.iter_mut().find(|(other, ..)| Arc::ptr_eq(other.core(), window.core())) {
                Some((_, sets, all)) => (*sets, *all) = (*sets + 1, *all + bytes),
                None => self.0.push((window.clone(), 1, bytes)),
            }
        }
    }
}

impl Drop for Returned {
    fn drop(&mut self) {
        for (window, sets, bytes) in self.0.drain(..) {
            window.core().give(sets, 0, bytes);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.windows.iter().for_each(|window| window.core().give(0, 1, 0));
    }
}

/// A drawn SET with its sealed token, or what became of it instead.
struct Prepared {
    slot: Slot,
    draw: u64,
    jti: Jti,
    made: Made,
}

enum Made {
    Token(Token),
    Gone(Rule),
    TooLarge(usize),
    /// The store has it and cannot read it.
    Unread(Cause),
}

struct Token {
    token: Bytes,
    body: Bytes,
    /// Of the keyring, when it was sealed.
    generation: u64,
}

struct Failed {
    sets: Vec<(u64, u64)>,
    cause: Cause,
}

type Work = BoxFuture<'static, Result<Vec<Prepared>, Failed>>;

/// Draws of one tap that are sealed at the same time where the pool seals: one more than is waited for, so that sealing never
/// waits for handing over.
const AHEAD: usize = 2;

/// A draw that is being sealed.
struct Underway {
    work: Progress,
    served: Arc<Served>,
    /// What it holds, with its draw.
    sets: Vec<(u64, u64)>,
}

enum Progress {
    Busy(Work),
    Done(Result<Vec<Prepared>, Failed>),
}

/// One drawer of one stream.
pub(crate) struct StreamTap {
    feed: Arc<Feed>,
    drawer: Drawer,
    /// Oldest first.
    work: VecDeque<Underway>,
    /// Sealed, and more than was wanted.
    kept: VecDeque<(Prepared, Arc<Served>)>,
    wish: Wish,
}

/// A tap's wish for room in a window. A chance that comes too late is passed on to the next who waits.
#[derive(Debug, Default)]
pub(crate) struct Wish(Option<(Window, u64)>);

impl Wish {
    pub(crate) fn wait(&mut self, windows: &[Window], cx: &Context<'_>) {
        let Some(window) = windows.iter().find(|window| window.core().room() == 0) else {
            // There is room by now.
            cx.waker().wake_by_ref();
            return;
        };
        let waker = cx.waker().clone();
        let ticket = window.core().when_room(Arc::new(move || waker.wake_by_ref()));
        self.0 = Some((window.clone(), ticket));
        // Room may have come between the look and the wish.
        window.core().pass_on();
    }

    /// Waits until a window that has some room has enough of it.
    pub(crate) fn wait_to_fit(&mut self, window: &Window, sets: usize, bytes: usize, cx: &Context<'_>) {
        let waker = cx.waker().clone();
        match window.core().when_it_fits(sets, bytes, Arc::new(move || waker.wake_by_ref())) {
            Some(ticket) => self.0 = Some((window.clone(), ticket)),
            // There is enough by now.
            None => cx.waker().wake_by_ref(),
        }
    }

    /// Wishes nothing more. Tells of which window room was announced in the meantime.
    fn withdraw(&mut self) -> Option<Window> {
        self.0.take().filter(|(window, ticket)| !window.core().withdraw(*ticket)).map(|(window, _)| window)
    }

    fn give_up(&mut self) {
        if let Some((window, ticket)) = self.0.take()
            && !window.core().withdraw(ticket)
        {
            window.core().pass_on();
        }
    }
}

impl StreamTap {
    pub(crate) fn new(feed: Arc<Feed>, tap: u64, order: Order, generation: u64) -> Self {
        let drawer = Drawer { tap, order, generation };
        Self { feed, drawer, work: VecDeque::new(), kept: VecDeque::new(), wish: Wish::default() }
    }

    /// The last look before SETs leave: paused, dropped, removed or no longer wanted since the decision.
    fn pass(&mut self, want: &Want) -> Option<Batch> {
        if self.kept.is_empty() {
            return None;
        }
        self.kept.retain(|(Prepared { slot, draw, made, .. }, _)| {
            let Made::Unread(cause) = made else { return true };
            // What was drawn behind it comes back with it, before anything of its subject leaves.
            self.feed.cannot_read((slot.seq(), *draw), cause);
            false
        });
        let mut held = Vec::new();
        let paused = {
            let state = self.feed.state.lock();
            let open = state.is_endpoint_open();
            // What failed meanwhile has taken back what was drawn behind it.
            self.kept.retain(|(prepared, _)| {
                let claim = (prepared.slot.seq(), prepared.draw);
                let claimed = state.claimed.get(&claim.0).filter(|claimed| claimed.draw == claim.1);
                // What was drawn before its endpoint failed waits, too.
                let leaves = claimed.is_some_and(|claimed| open || state.lets_pass(claimed));
                if !leaves && claimed.is_some() {
                    held.push(claim);
                }
                leaves
            });
            !matches!(state.phase, Phase::Open)
        };
        if !held.is_empty() {
            self.feed.hand_back(&held);
        }
        // Sealed for another method or endpoint than is in force now: it must not leave for the old one.
        let in_force = self.feed.served.load_full();
        let moved = in_force.generation != self.drawer.generation;
        let mut sets = Vec::with_capacity(self.kept.len().min(want.sets));
        let mut claims = Vec::with_capacity(sets.capacity());
        let mut back = Vec::new();
        let mut bytes = 0usize;
        while sets.len() < want.sets {
            let Some((prepared, served)) = self.kept.pop_front() else { break };
            let Prepared { slot, draw, jti, made } = prepared;
            let claim = (slot.seq(), draw);
            let control = slot.head.kind == Kind::Control;
            if moved || paused && !control {
                back.push(claim);
                continue;
            }
            let token = match made {
                Made::Token(token) => token,
                Made::Gone(rule) => {
                    self.feed.drop_by_rule(claim, rule);
                    continue;
                }
                Made::Unread(cause) => {
                    self.feed.cannot_read(claim, &cause);
                    continue;
                }
                Made::TooLarge(size) => {
                    let most = served.profile.limits.set_bytes;
                    self.feed.park_unsent(
                        claim,
                        ErrorCode::TooLarge,
                        &format!("{size} bytes; the method carries at most {most}"),
                    );
                    continue;
                }
            };
            if token.generation != served.seal.keyring.generation() {
                // Its key may have been revoked since: it is sealed again (hardening H49).
                back.push(claim);
                continue;
            }
            if let Some(rule) = self.veto(&in_force, &slot, &token.body) {
                self.feed.drop_by_rule(claim, rule);
                continue;
            }
            if !sets.is_empty() && bytes + token.token.len() > want.bytes {
                let made = Made::Token(token);
                self.kept.push_front((Prepared { slot, draw, jti, made }, served));
                break;
            }
            let Token { token, body, .. } = token;
            bytes += token.len();
            claims.push(claim);
            sets.push(SealedSet {
                jti,
                attempt: Attempt(slot.attempts + 1),
                body: token,
                envelope: Arc::new(Envelope::new(slot.head.accepted, body)),
                order: slot.head.order,
            });
        }
        if self.drawer.order == Order::PerBatch && !self.kept.is_empty() {
            // Drawn for one batch, and two are made of it: what follows a SET of the first comes back until that is settled.
            let first: HashSet<OrderKey> = sets.iter().map(|set| set.order).collect();
            self.kept.retain(|(Prepared { slot, draw, .. }, _)| {
                let goes = first.contains(&slot.head.order) && slot.head.kind != Kind::Control;
                if goes {
                    back.push((slot.seq(), *draw));
                }
                !goes
            });
        }
        if !back.is_empty() {
            self.feed.hand_back(&back);
        }
        if sets.is_empty() {
            return None;
        }
        let more = !self.kept.is_empty() || {
            let mut state = self.feed.state.lock();
            state.lanes.has_ready() || state.lanes.has_held(self.drawer.tap)
        };
        Some(Batch::new(sets, more, Box::new(DrawnClaim { feed: self.feed.clone(), sets: claims, handed: false })))
    }

    /// Why a SET must not leave any more, though it was owed when it was accepted.
    fn veto(&self, served: &Served, slot: &Slot, body: &Bytes) -> Option<Rule> {
        if !self.feed.shared.store.is_owed(self.feed.no, slot.head.at) {
            return Some(Rule::Deleted);
        }
        if slot.head.kind == Kind::Control || slot.head.config >= served.filter_changed {
            return None;
        }
        let value = serde_json::from_slice(body).ok()?;
        let event = setgate_set::Event::parse(value, &UNLIMITED).ok()?;
        match setgate_stream::decide(&served.stream, &event.types, &event.subject) {
            Decision::Deliver | Decision::Hold => None,
            Decision::Skip(Why::EventNotWanted) => Some(Rule::EventNotWanted),
            Decision::Skip(Why::Disabled) => Some(Rule::Disabled),
            Decision::Skip(_) => Some(Rule::SubjectRemoved),
        }
    }
}

impl StreamTap {
    /// Works on what is being sealed, and takes what is ready in the order in which it was drawn.
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
                Err(failed) => self.feed.draw_failed(&failed.sets, failed.cause),
            }
        }
    }

    /// Draws for this want; nothing when a draw is under way.
    fn draw(&mut self, want: &Want, cx: &mut Context<'_>) -> Option<Poll<Closed>> {
        let chance = self.wish.withdraw();
        let drawn = self.feed.claim(self.drawer, want, &mut self.wish, cx);
        if let (Some(window), None) = (chance, &self.wish.0) {
            // It took less than there is, or nothing: the next who waits may have the rest.
            window.core().pass_on();
        }
        match drawn {
            Drawn::Slots(draw, served) => {
                let sets = draw.slots.iter().map(|(slot, _)| (slot.seq(), draw.no)).collect();
                let work = Progress::Busy(Box::pin(prepare(self.feed.clone(), served.clone(), draw)));
                self.work.push_back(Underway { work, served, sets });
                None
            }
            Drawn::Closed(closed) => Some(Poll::Ready(closed)),
            Drawn::Nothing => Some(Poll::Pending),
        }
    }

    /// Draws on where the pool seals, for a sender: the pool then works while a batch is handed over.
    fn draw_ahead(&mut self, want: &Want, cx: &mut Context<'_>) {
        if !self.feed.draws_ahead() {
            return;
        }
        while self.work.len() < AHEAD && self.kept.is_empty() {
            if self.draw(want, cx).is_some() {
                if self.work.is_empty() {
                    // It does not wait now: a batch is on its way to its peer.
                    self.feed.state.lock().taps.took(self.drawer.tap);
                }
                return;
            }
            // The pool begins with the first look at it.
            self.proceed(cx);
        }
    }
}

impl TapCore for StreamTap {
    fn poll_next(&mut self, want: &Want, cx: &mut Context<'_>) -> Poll<Result<Batch, Closed>> {
        loop {
            self.proceed(cx);
            if want.sets > 0
                && let Some(batch) = self.pass(want)
            {
                self.draw_ahead(want, cx);
                return Poll::Ready(Ok(batch));
            }
            if !self.work.is_empty() {
                if want.sets > 0 {
                    self.draw_ahead(want, cx);
                }
                if self.kept.is_empty() && !self.work.is_empty() {
                    return Poll::Pending;
                }
                if want.sets > 0 {
                    continue;
                }
            }
            match self.draw(want, cx) {
                None => {}
                Some(Poll::Ready(closed)) => return Poll::Ready(Err(closed)),
                Some(Poll::Pending) => return Poll::Pending,
            }
        }
    }

    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        poll_settled(&self.feed, self.drawer.tap, cx)
    }

    fn is_drawing(&self) -> bool {
        !self.work.is_empty() || self.feed.state.lock().late > 0
    }
}

impl Drop for StreamTap {
    fn drop(&mut self) {
        self.wish.give_up();
        let mut unsent: Vec<_> = self.kept.iter().map(|(prepared, _)| (prepared.slot.seq(), prepared.draw)).collect();
        unsent.extend(self.work.drain(..).flat_map(|underway| underway.sets));
        self.feed.tap_gone(self.drawer.tap, &unsent);
    }
}

/// Reads the bodies of a draw in one range and seals them in one job.
async fn prepare(feed: Arc<Feed>, served: Arc<Served>, draw: Draw) -> Result<Vec<Prepared>, Failed> {
    let Draw { no: draw, slots } = draw;
    let fail = |cause: Cause, slots: &[(Slot, Jti)]| Failed {
        sets: slots.iter().map(|(slot, _)| (slot.seq(), draw)).collect(),
        cause,
    };
    let started = feed.shared.house.clock.monotonic();
    let at = slots.iter().map(|(slot, _)| slot.head.at).collect();
    let bodies = match read(&feed, at, &slots).await {
        Ok(bodies) => bodies,
        Err(error) => return Err(fail(store_cause(&error), &slots)),
    };
    let generation = served.seal.keyring.generation();
    let mut jobs = Vec::with_capacity(slots.len());
    let mut cached = Vec::with_capacity(slots.len());
    for ((slot, jti), body) in slots.iter().zip(&bodies) {
        let kept = if slot.attempts > 0 || slot.sealed_before { feed.shared.cache.find(jti, generation) } else { None };
        if let (None, Ok(Some(body))) = (&kept, body) {
            jobs.push(Job { jti: *jti, iat: slot.head.accepted, body: body.clone() });
        }
        cached.push(kept);
    }
    let count = jobs.len() as u64;
    let sealed = match served.seal.batch(&feed.shared.pool, jobs).await {
        Ok(sealed) => sealed,
        Err(error) => {
            let code = match error {
                SealError::NoKey(_) => "no_key",
                SealError::Sign(_) => "sign",
            };
            return Err(fail(Cause::new(code, error.to_string()), &slots));
        }
    };
    feed.shared.observed.sealed.inc_by(count);
    feed.shared.observed.sealing.observe(feed.shared.house.clock.monotonic().saturating_sub(started).as_secs_f64());
    let mut sealed = sealed.into_iter();
    let most = served.profile.limits.set_bytes;
    let mut prepared = Vec::with_capacity(slots.len());
    {
        let mut state = feed.state.lock();
        for (((slot, jti), body), kept) in slots.into_iter().zip(bodies).zip(cached) {
            let made = match (body, kept) {
                (Err(cause), _) => Made::Unread(cause),
                (Ok(None), _) => Made::Gone(Rule::Lost),
                (Ok(Some(body)), Some(token)) => Made::Token(Token { token, body, generation }),
                (Ok(Some(body)), None) => match sealed.next() {
                    Some(token) if token.len() > most => Made::TooLarge(token.len()),
                    Some(token) => Made::Token(Token { token, body, generation }),
                    None => Made::Gone(Rule::Lost),
                },
            };
            if let (Made::Token(made), Some(claimed)) = (&made, state.claimed.get_mut(&slot.seq()))
                && claimed.draw == draw
            {
                claimed.sealed = Some((generation, made.token.clone()));
            }
            prepared.push(Prepared { slot, draw, jti, made });
        }
    }
    Ok(prepared)
}

/// Reads bodies; where one of them has rotted, each by itself, so that it holds up no other.
async fn read(
    feed: &Feed,
    at: Vec<Position>,
    slots: &[(Slot, Jti)],
) -> Result<Vec<Result<Option<Bytes>, Cause>>, StoreError> {
    let store = &feed.shared.store;
    match store.bodies(at.clone()).await {
        // A control SET leaves by itself: its line waits.
        Err(StoreError::Corrupt(_)) if slots.iter().all(|(slot, _)| slot.head.kind != Kind::Control) => {}
        read => return Ok(read?.into_iter().map(Ok).collect()),
    }
    let mut bodies = Vec::with_capacity(at.len());
    for at in at {
        bodies.push(match store.bodies(vec![at]).await {
            Ok(body) => Ok(body.into_iter().next().flatten()),
            Err(StoreError::Corrupt(why)) => Err(Cause::new("store", format!("record {at} does not read: {why}"))),
            Err(error) => return Err(error),
        });
    }
    Ok(bodies)
}

fn store_cause(error: &StoreError) -> Cause {
    Cause::new("store", error.to_string())
}

/// What a batch holds until it is handed over.
struct DrawnClaim {
    feed: Arc<Feed>,
    sets: Vec<(u64, u64)>,
    handed: bool,
}

impl Claim for DrawnClaim {
    fn handed_over(mut self: Box<Self>) {
        self.handed = true;
        self.feed.handed_over(&self.sets);
    }
}

impl Drop for DrawnClaim {
    fn drop(&mut self) {
        if !self.handed {
            self.feed.hand_back(&self.sets);
        }
    }
}
