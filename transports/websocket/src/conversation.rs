//! One socket, at either end: a state machine in one task, without queues of its own.
//!
//! Reading never waits for writing. What arrives is settled or put into the inbox at once, whatever the state of the way out;
//! what is to be said is composed at the moment when the socket takes it. So two full sockets cannot wait for each other, and
//! all that is kept is bounded: replies and inbox by the credit we granted, the way out by one message.

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

/// Rounds of one poll, messages of one round: then other sockets have their turn.
const ROUNDS: usize = 8;
const MESSAGES: usize = 32;
/// How long what a peer holds may still be settled once the gateway stops; then it comes again, after the restart.
const GRACE: Duration = Duration::from_secs(2);
/// How long a peer may take to answer our closing.
const LINGER: Duration = Duration::from_secs(5);
/// The same while the gateway stops.
const LAST_LINGER: Duration = Duration::from_secs(1);
/// Bytes of a peer that are read and forgotten while it has not noticed that we are closing.
const FORGET: usize = 4 << 20;
/// Messages between two ticks that say nothing: pings, pongs, empty objects.
const CHATTER: u32 = 1000;
/// SETs of a peer that may not send any, to be refused in the next message.
const REFUSALS: usize = 1000;
/// Credit beyond this is not counted.
const CREDIT: u64 = 1 << 32;

/// What holds for a socket.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Between two pings.
    pub(crate) ping: Duration,
    /// In which a socket with SETs must settle one.
    pub(crate) settle: Duration,
    /// SETs of a message of ours.
    pub(crate) frame_sets: usize,
    /// Bytes of SETs in a message of ours.
    pub(crate) frame_bytes: usize,
    /// Unsettled SETs without credit.
    pub(crate) in_flight: usize,
    /// Of a message of the peer.
    pub(crate) bounds: Bounds,
}

impl Rules {
    /// The buffers of a socket. Idle, a socket keeps one page for reading; one of the library's default size would keep 32 times
    /// as much resident. The way out holds one message of ours and pongs.
    pub(crate) fn buffers(&self) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(4096)
            .write_buffer_size(4096)
            .max_write_buffer_size((1 << 20) + 2 * self.frame_bytes)
            .max_message_size(Some(self.bounds.bytes))
            .max_frame_size(Some(self.bounds.bytes))
    }
}

/// The side that has SETs to give.
pub(crate) struct Delivering {
    subscription: Subscription,
    consumer: Consumer,
    /// How many more SETs the peer takes, as it said.
    credit: u64,
    /// Without credit: what is handed over here and not settled.
    handed: HashSet<Jti>,
    /// Since when SETs have been here without one being settled.
    since: Option<Duration>,
    /// The peer has reported something since the last fetch.
    reported: bool,
    stalled: bool,
    /// What the consumer was asked for last, while it has not answered: it rings when it can.
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

/// How a socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The close code that was said or heard first; none where the connection broke.
    pub(crate) code: Option<u16>,
    /// Whether anything was heard at all.
    pub(crate) received: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// Fetches nothing more, waits for what is handed over.
    Draining,
    /// The close frame is still to be said.
    Parting(Goodbye),
    /// It was said, or heard.
    Parted,
}

/// A socket. It is a future: whoever drives it needs nothing else.
pub(crate) struct Conversation<S> {
    socket: WebSocketStream<S>,
    protocol: Subprotocol,
    rules: Arc<Rules>,
    runtime: Runtime,
    delivering: Option<Delivering>,
    /// For acknowledgements that come after the last fetch.
    subscription: Option<Subscription>,
    inbox: Option<Box<Inbox>>,
    refusals: Vec<Box<str>>,
    ends: Option<BoxFuture<'static, Goodbye>>,
    /// When draining is over, whatever is unsettled.
    drained: Option<BoxFuture<'static, ()>>,
    tick: BoxFuture<'static, ()>,
    stage: Stage,
    code: Option<u16>,
    /// The reader is broken; what comes is forgotten.
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

    /// Gives the SETs of a subscription.
    pub(crate) fn giving(mut self, subscription: Subscription) -> Self {
        self.subscription = Some(subscription.clone());
        self.delivering = Some(Delivering::new(subscription));
        self
    }

    /// Takes the peer's SETs.
    pub(crate) fn taking(mut self, inbox: Option<Inbox>) -> Self {
        self.inbox = inbox.map(Box::new);
        self
    }

    /// Ends when this does.
    pub(crate) fn until(mut self, ends: impl Future<Output = Goodbye> + Send + 'static) -> Self {
        self.ends = Some(Box::pin(ends));
        self
    }

    /// The gateway stops: nothing more is fetched, and what is here has a little time to be settled.
    fn drain(&mut self) {
        if self.stage == Stage::Open {
            self.stage = Stage::Draining;
            self.drained = Some(self.runtime.clock.sleep(GRACE));
            self.bells.signals.again();
        }
    }

    /// Begins to close; what was handed over and not acknowledged is given back.
    pub(crate) fn part(&mut self, goodbye: Goodbye) {
        if matches!(self.stage, Stage::Open | Stage::Draining) {
            self.stage = Stage::Parting(goodbye);
            self.code = Some(goodbye.code);
            self.let_go();
            if goodbye == Goodbye::DRAINING {
                // The process waits for it.
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

    /// Everything that can be done now. Tells whether there may be more to do at once.
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

    /// An interval has passed.
    fn tick(&mut self) -> Result<(), Ended> {
        self.chatter = 0;
        self.silent += 1;
        self.blocked = if self.unflushed { self.blocked + 1 } else { 0 };
        if self.blocked >= 2 {
            // Nobody reads: there is no way to say goodbye.
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
            // It waits for outcomes then: it is to be asked for SETs once more.
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
                // One message may hold long names; many may not, of a peer that does not read what it is told.
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
        // Whoever names SETs that are none of its own, or those that it settled before, has settled nothing.
        let settled = subscription.settle_all(outcomes);
        if let Some(delivering) = self.delivering.as_mut().filter(|_| settled > 0) {
            delivering.since = delivering.since.map(|_| self.runtime.clock.monotonic());
        }
    }

    /// Hangs up on a peer that cannot be understood: closing while it still sends would reset the connection, and it would
    /// never read why.
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
        // There is more, but others wait too.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
