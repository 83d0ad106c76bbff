//! A socket, at either end: a state machine in one task, without queues of its own.
//!
//! Reading never waits for writing. A message that arrives is settled or put into the inbox at once, whatever the state
//! of the outgoing direction; a message to the peer is composed at the moment when the socket can accept it. Two full
//! sockets therefore cannot wait for each other, and the kept data is bounded: replies and inbox by the credit that
//! this end granted, the outgoing direction by one message.

mod bell;
mod say;

use std::{
    collections::HashSet,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use setgate_delivery::{
    BoxFuture, Consumer, Jti, Runtime, Subscription, Want,
    exchange::{Bounds, Exchange},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::WebSocketConfig},
};

use self::bell::Bells;
use crate::{
    inbox::Inbox,
    wire::{self, Goodbye, Subprotocol},
};

/// The most rounds of one poll and messages of one round, before other sockets have their turn.
const ROUNDS: usize = 8;
const MESSAGES: usize = 32;
/// The time in which a peer's SETs may still be settled once the gateway stops; later they are sent again after the
/// restart.
const GRACE: Duration = Duration::from_secs(2);
/// The time that a peer has to answer a close frame.
const LINGER: Duration = Duration::from_secs(5);
/// The time that a peer has to answer a close frame while the gateway stops.
const LAST_LINGER: Duration = Duration::from_secs(1);
/// The most bytes of a peer that are read and discarded while it has not noticed that this end is closing.
const FORGET: usize = 4 << 20;
/// The most messages without content between two ticks: pings, pongs, empty objects.
const CHATTER: u32 = 1000;
/// The most SETs of a peer that may not send any that are kept to be refused in the next message.
const REFUSALS: usize = 1000;
/// The highest credit that is counted.
const CREDIT: u64 = 1 << 32;

/// The limits and intervals of a socket.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// The time between two pings.
    pub(crate) ping: Duration,
    /// The time in which a socket with SETs must settle one.
    pub(crate) settle: Duration,
    /// The most SETs of an outgoing message.
    pub(crate) frame_sets: usize,
    /// The most bytes of SETs in an outgoing message.
    pub(crate) frame_bytes: usize,
    /// The most unsettled SETs of a socket without credit.
    pub(crate) in_flight: usize,
    /// The bounds of a message of the peer.
    pub(crate) bounds: Bounds,
}

impl Rules {
    /// Returns the configuration of a socket's buffers. An idle socket keeps one page for reading; with the library's
    /// default size it would keep 32 times as much resident. The outgoing buffer has room for one message and pongs.
    pub(crate) fn buffers(&self) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(4096)
            .write_buffer_size(4096)
            .max_write_buffer_size((1 << 20) + 2 * self.frame_bytes)
            .max_message_size(Some(self.bounds.bytes))
            .max_frame_size(Some(self.bounds.bytes))
    }
}

/// The delivering part of a socket.
pub(crate) struct Delivering {
    subscription: Subscription,
    consumer: Consumer,
    /// The number of further SETs that the peer has granted.
    credit: u64,
    /// The SETs that are handed over and unsettled, for a socket without credit.
    handed: HashSet<Jti>,
    /// The time since which SETs have been handed over without one being settled.
    since: Option<Duration>,
    /// Whether the peer has reported something since the last fetch.
    reported: bool,
    stalled: bool,
    /// The last request to the consumer that has no answer yet; the bell rings when there is one.
    asked: Option<Want>,
}

impl Delivering {
    pub(crate) fn new(subscription: Subscription) -> Self {
        let consumer = subscription.consumer();
        Self {
            subscription,
            consumer,
            credit: 0,
            handed: HashSet::new(),
            since: None,
            reported: false,
            stalled: false,
            asked: None,
        }
    }
}

impl Drop for Delivering {
    fn drop(&mut self) {
        if self.stalled {
            self.subscription.stalled(None);
        }
    }
}

/// The end of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The close code that was sent or received first; `None` where the connection broke.
    pub(crate) code: Option<u16>,
    /// Whether any message was received.
    pub(crate) received: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// The socket fetches no more SETs and waits for those handed over.
    Draining,
    /// The close frame has yet to be sent.
    Parting(Goodbye),
    /// The close frame was sent or received.
    Parted,
}

/// A socket, as a future that needs nothing but to be driven.
pub(crate) struct Conversation<S> {
    socket: WebSocketStream<S>,
    protocol: Subprotocol,
    rules: Arc<Rules>,
    runtime: Runtime,
    delivering: Option<Delivering>,
    /// The subscription, for acknowledgements that arrive after the last fetch.
    subscription: Option<Subscription>,
    inbox: Option<Box<Inbox>>,
    refusals: Vec<Box<str>>,
    ends: Option<BoxFuture<'static, Goodbye>>,
    /// The end of draining, whatever is still unsettled.
    drained: Option<BoxFuture<'static, ()>>,
    tick: BoxFuture<'static, ()>,
    stage: Stage,
    code: Option<u16>,
    /// Whether the reader is broken, so that further input is discarded.
    deaf: bool,
    shut: bool,
    forgotten: usize,
    ping_due: bool,
    unflushed: bool,
    received: bool,
    silent: u8,
    blocked: u8,
    chatter: u32,
    bells: Bells,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<S> {
    pub(crate) fn new(socket: WebSocketStream<S>, protocol: Subprotocol, rules: Arc<Rules>, runtime: Runtime) -> Self {
        let tick = runtime.clock.sleep(rules.ping);
        Self {
            socket,
            protocol,
            rules,
            runtime,
            delivering: None,
            subscription: None,
            inbox: None,
            refusals: Vec::new(),
            ends: None,
            drained: None,
            tick,
            stage: Stage::Open,
            code: None,
            deaf: false,
            shut: false,
            forgotten: 0,
            ping_due: false,
            unflushed: false,
            received: false,
            silent: 0,
            blocked: 0,
            chatter: 0,
            bells: Bells::new(),
        }
    }

    /// Delivers the SETs of a subscription.
    pub(crate) fn giving(mut self, subscription: Subscription) -> Self {
        self.subscription = Some(subscription.clone());
        self.delivering = Some(Delivering::new(subscription));
        self
    }

    /// Accepts the peer's SETs, if there is an inbox.
    pub(crate) fn taking(mut self, inbox: Option<Inbox>) -> Self {
        self.inbox = inbox.map(Box::new);
        self
    }

    /// Ends the socket when `ends` does.
    pub(crate) fn until(mut self, ends: impl Future<Output = Goodbye> + Send + 'static) -> Self {
        self.ends = Some(Box::pin(ends));
        self
    }

    /// Begins to drain because the gateway stops: no more SETs are fetched, and those handed over have a little time to
    /// be settled.
    fn drain(&mut self) {
        if self.stage == Stage::Open {
            self.stage = Stage::Draining;
            self.drained = Some(self.runtime.clock.sleep(GRACE));
            self.bells.signals.again();
        }
    }

    /// Begins to close; SETs that were handed over and not acknowledged are given back.
    pub(crate) fn part(&mut self, goodbye: Goodbye) {
        if matches!(self.stage, Stage::Open | Stage::Draining) {
            self.stage = Stage::Parting(goodbye);
            self.code = Some(goodbye.code);
            self.let_go();
            if goodbye == Goodbye::DRAINING {
                // The process waits for this socket to end.
                self.tick = self.runtime.clock.sleep(LAST_LINGER);
            }
        }
    }

    fn let_go(&mut self) {
        self.delivering = None;
        self.inbox = None;
        self.refusals = Vec::new();
        self.tick = self.runtime.clock.sleep(LINGER);
        self.bells.signals.again();
    }

    fn ended(&self) -> Ended {
        Ended { code: self.code, received: self.received }
    }

    /// Does everything that can be done now. Returns whether there may be more to do at once.
    fn round(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let before = self.stage;
        if self.bells.signals.rang_since_asked() {
            self.signals()?;
        }
        let mut more = if self.deaf {
            self.forget()?
        } else if self.bells.io.rang_since_asked() {
            self.read()?
        } else {
            false
        };
        if let (Some(inbox), Stage::Open | Stage::Draining) = (&mut self.inbox, self.stage) {
            more |= inbox.work(cx);
        }
        more |= self.write()?;
        if self.stage == Stage::Draining
            && let Some(delivering) = &mut self.delivering
            && pin!(delivering.consumer.settled())
                .poll(&mut Context::from_waker(self.bells.subscription.waker()))
                .is_ready()
        {
            self.part(Goodbye::DRAINING);
        }
        Ok(more || self.stage != before || self.bells.signals.rang())
    }

    fn signals(&mut self) -> Result<(), Ended> {
        let waker = self.bells.signals.waker().clone();
        let cx = &mut Context::from_waker(&waker);
        if let Some(ends) = &mut self.ends
            && let Poll::Ready(goodbye) = ends.as_mut().poll(cx)
        {
            self.ends = None;
            self.part(goodbye);
        }
        if let Some(drained) = &mut self.drained
            && drained.as_mut().poll(cx).is_ready()
        {
            self.drained = None;
            self.part(Goodbye::DRAINING);
        }
        while self.tick.as_mut().poll(cx).is_ready() {
            match self.stage {
                Stage::Open | Stage::Draining => {
                    self.tick = self.runtime.clock.sleep(self.rules.ping);
                    self.tick()?;
                }
                Stage::Parting(_) | Stage::Parted => return Err(self.ended()),
            }
        }
        Ok(())
    }

    /// Handles the end of a ping interval.
    fn tick(&mut self) -> Result<(), Ended> {
        self.chatter = 0;
        self.silent += 1;
        self.blocked = if self.unflushed { self.blocked + 1 } else { 0 };
        if self.blocked >= 2 {
            // A peer that does not read cannot receive a close frame either.
            return Err(self.ended());
        }
        if self.silent >= 2 {
            self.part(Goodbye::SILENT);
            return Ok(());
        }
        self.ping_due = true;
        let now = self.runtime.clock.monotonic();
        let settle = self.rules.settle;
        if let Some(delivering) = &mut self.delivering
            && let Some(since) = delivering.since
        {
            // The consumer waits for outcomes from here on, so that it must be asked for SETs once more.
            delivering.asked = None;
            let cx = &mut Context::from_waker(self.bells.subscription.waker());
            if pin!(delivering.consumer.settled()).poll(cx).is_ready() {
                delivering.since = None;
            } else if now.saturating_sub(since) >= settle {
                self.part(Goodbye::UNSETTLED);
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Result<bool, Ended> {
        let waker = self.bells.io.waker().clone();
        let cx = &mut Context::from_waker(&waker);
        for _ in 0..MESSAGES {
            match Pin::new(&mut self.socket).poll_next(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(None) => return Err(self.ended()),
                Poll::Ready(Some(Ok(message))) => self.hear(message),
                Poll::Ready(Some(Err(error))) => {
                    let Some(goodbye) = Goodbye::of_error(&error) else { return Err(self.ended()) };
                    if self.stage == Stage::Parted {
                        return Err(self.ended());
                    }
                    tracing::debug!(%error, "a message cannot be read");
                    self.part(goodbye);
                    self.deaf = true;
                    return Ok(true);
                }
            }
        }
        self.bells.io.again();
        Ok(true)
    }

    fn hear(&mut self, message: Message) {
        self.received = true;
        self.silent = 0;
        match message {
            Message::Text(text) => self.object(text.as_bytes()),
            Message::Ping(_) | Message::Pong(_) => self.chat(),
            Message::Close(frame) => {
                self.code = self.code.or(Some(frame.map_or(1005, |frame| frame.code.into())));
                self.stage = Stage::Parted;
                self.let_go();
            }
            Message::Binary(_) | Message::Frame(_) => self.part(Goodbye::BINARY),
        }
    }

    fn chat(&mut self) {
        self.chatter += 1;
        if self.chatter > CHATTER {
            self.part(Goodbye::CHATTER);
        }
    }

    fn object(&mut self, text: &[u8]) {
        let mut object = match wire::message(text, self.rules.bounds) {
            Ok(object) => object,
            Err(goodbye) => return self.part(goodbye),
        };
        if wire::is_empty(&object) && object.unknown == 0 {
            self.chat();
        }
        self.settle(&mut object);
        if !matches!(self.stage, Stage::Open | Stage::Draining) {
            return;
        }
        if let (Some(delivering), Subprotocol::Setgate, Some(more)) =
            (&mut self.delivering, self.protocol, object.max_events)
        {
            delivering.credit = delivering.credit.saturating_add(more).min(CREDIT);
        }
        let sets = object.sets.unwrap_or_default();
        match &mut self.inbox {
            None => {
                self.refusals.extend(sets.into_iter().map(|(named, _)| named));
                let bytes: usize = self.refusals.iter().map(|named| named.len()).sum();
                // One message may hold long names; many may not, from a peer that does not read the replies.
                if self.refusals.len() > REFUSALS || bytes > 2 * self.rules.bounds.bytes {
                    self.part(Goodbye::OVER_BOUND);
                }
            }
            Some(inbox) => {
                if let Err(goodbye) = inbox.put(sets) {
                    self.part(goodbye);
                }
            }
        }
    }

    fn settle(&mut self, object: &mut Exchange) {
        let outcomes = object.outcomes();
        let Some(subscription) = self.subscription.as_ref().filter(|_| !outcomes.is_empty()) else { return };
        if let Some(delivering) = &mut self.delivering {
            outcomes.iter().for_each(|(jti, ..)| {
                delivering.handed.remove(jti);
            });
            delivering.reported = true;
        }
        // A report about SETs of others, or about SETs settled before, settles nothing.
        let settled = subscription.settle_all(outcomes);
        if let Some(delivering) = self.delivering.as_mut().filter(|_| settled > 0) {
            delivering.since = delivering.since.map(|_| self.runtime.clock.monotonic());
        }
    }

    /// Hangs up on a peer whose messages cannot be read: to close while it still sends would reset the connection, and
    /// it would never read the reason.
    fn forget(&mut self) -> Result<bool, Ended> {
        let cx = &mut Context::from_waker(self.bells.io.waker());
        if self.stage != Stage::Parted || self.unflushed {
            return Ok(false);
        }
        let io = self.socket.get_mut();
        if !self.shut {
            match Pin::new(&mut *io).poll_shutdown(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(end) => self.shut = end.is_ok(),
            }
        }
        let mut space = [0u8; 2048];
        for _ in 0..MESSAGES {
            let mut buffer = ReadBuf::new(&mut space);
            let end: io::Result<usize> = match Pin::new(&mut *io).poll_read(cx, &mut buffer) {
                Poll::Pending => return Ok(false),
                Poll::Ready(end) => end.map(|()| buffer.filled().len()),
            };
            self.forgotten += end.unwrap_or(0);
            if buffer.filled().is_empty() || self.forgotten > FORGET {
                return Err(self.ended());
            }
        }
        Ok(true)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Conversation<S> {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = self.get_mut();
        this.bells.wake(cx.waker());
        for _ in 0..ROUNDS {
            match this.round(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(ended) => return Poll::Ready(ended),
            }
        }
        // More remains to be done, but others wait too.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
