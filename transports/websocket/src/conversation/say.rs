//! The outgoing messages of a socket, composed at the moment when it can accept one.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use futures_util::Sink;
use setgate_delivery::{Bytes, Cause, Closed, Want, exchange::Speech};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes, protocol::CloseFrame};

use super::{Conversation, Delivering, Ended, MESSAGES, Stage};
use crate::{
    inbox::Replies,
    wire::{Goodbye, Subprotocol},
};

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<S> {
    /// Sends what is to be sent. Returns whether to look again at once: there may be more, or sending made room.
    pub(super) fn write(&mut self) -> Result<bool, Ended> {
        let waker = self.bells.io.waker().clone();
        let cx = &mut Context::from_waker(&waker);
        let (mut moved, mut all) = (false, false);
        for _ in 0..MESSAGES {
            match Pin::new(&mut self.socket).poll_ready(cx) {
                Poll::Pending => {
                    self.unflushed = true;
                    self.listen_for_the_end();
                    return Ok(false);
                }
                Poll::Ready(Ok(())) => self.blocked = 0,
                Poll::Ready(Err(_)) if self.stage == Stage::Parted => {
                    all = true;
                    break;
                }
                Poll::Ready(Err(_)) => return Err(self.ended()),
            }
            let Some(message) = self.say() else {
                all = true;
                break;
            };
            if Pin::new(&mut self.socket).start_send(message).is_err() && self.stage != Stage::Parted {
                return Err(self.ended());
            }
            moved = true;
            self.unflushed = true;
        }
        // A single flush covers all messages that were ready.
        if self.unflushed {
            match Pin::new(&mut self.socket).poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => {
                    self.unflushed = false;
                    self.blocked = 0;
                }
                Poll::Ready(Err(_)) => return Err(self.ended()),
            }
        }
        Ok(!all || moved && (self.deaf || self.inbox.is_some()))
    }

    /// Returns the next message, at a moment when the socket can accept one.
    fn say(&mut self) -> Option<Message> {
        match self.stage {
            Stage::Parted => return None,
            Stage::Parting(goodbye) => {
                self.stage = Stage::Parted;
                let reason = Utf8Bytes::from_static(goodbye.reason);
                return Some(Message::Close(Some(CloseFrame { code: goodbye.code.into(), reason })));
            }
            Stage::Open | Stage::Draining => {}
        }
        if std::mem::take(&mut self.ping_due) {
            return Some(Message::Ping(Bytes::new()));
        }
        if let Some(message) = self.reply() {
            return Some(message);
        }
        if self.stage == Stage::Draining {
            return None;
        }
        self.fetch()
    }

    fn reply(&mut self) -> Option<Message> {
        let replies = match &mut self.inbox {
            Some(inbox) => inbox.replies(),
            None => Replies::refusing(&mut self.refusals),
        }?;
        text(replies.to_json())
    }

    /// Watches for the end of the stream or the gateway while the peer does not read and no SETs are fetched for it.
    fn listen_for_the_end(&mut self) {
        let Some(delivering) = self.delivering.as_mut().filter(|_| self.stage == Stage::Open) else { return };
        let cx = &mut Context::from_waker(self.bells.subscription.waker());
        // The consumer must be asked for SETs once more.
        delivering.asked = None;
        match delivering.consumer.poll_next_batch(&Want { sets: 0, ..Want::ALL }, cx) {
            Poll::Pending | Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(Closed::Draining)) => self.drain(),
            Poll::Ready(Err(closed)) => self.part(Goodbye::of_consumer(&closed)),
        }
    }

    fn fetch(&mut self) -> Option<Message> {
        let delivering = self.delivering.as_mut()?;
        let rang = self.bells.subscription.rang_since_asked();
        let cx = &mut Context::from_waker(self.bells.subscription.waker());
        let room = match self.protocol {
            Subprotocol::Setgate => usize::try_from(delivering.credit).unwrap_or(usize::MAX),
            Subprotocol::PushPull => delivering.room(self.rules.in_flight, cx),
        };
        if delivering.stalled != (room == 0) {
            delivering.stalled = room == 0;
            let why = Cause::new("no_credit", "the subscriber takes no more SETs until it settles or grants credit");
            delivering.subscription.stalled(delivering.stalled.then_some(why));
        }
        if std::mem::take(&mut delivering.reported) {
            if pin!(delivering.consumer.settled()).poll(cx).is_ready() {
                // The socket holds no SETs: the settle timeout begins with the next ones.
                delivering.since = None;
            } else {
                // The consumer waits for outcomes now, so that it must be asked for SETs once more.
                delivering.asked = None;
            }
        }
        let want = Want { sets: room.min(self.rules.frame_sets), bytes: self.rules.frame_bytes, wait: None };
        // A peer with credit says when there is room: until the consumer rings or more is wanted, a new request would
        // be in vain.
        if !rang && self.protocol == Subprotocol::Setgate && delivering.asked == Some(want) {
            return None;
        }
        delivering.asked = None;
        let batch = match delivering.consumer.poll_next_batch(&want, cx) {
            Poll::Pending => {
                delivering.asked = Some(want);
                return None;
            }
            Poll::Ready(Ok(batch)) => batch,
            Poll::Ready(Err(Closed::Draining)) => {
                self.drain();
                return None;
            }
            Poll::Ready(Err(closed)) => {
                self.part(Goodbye::of_consumer(&closed));
                return self.say();
            }
        };
        let sets = batch.hand_over();
        delivering.credit = delivering.credit.saturating_sub(sets.len() as u64);
        if self.protocol == Subprotocol::PushPull {
            delivering.handed.extend(sets.iter().map(|set| set.jti));
        }
        if delivering.since.is_none() {
            delivering.since = Some(self.runtime.clock.monotonic());
        }
        text(Speech { sets: Some(&sets), ..Speech::default() }.to_json())
    }
}

impl Delivering {
    /// Returns how many more SETs the peer may have, where it may hold `most` without an outcome.
    fn room(&mut self, most: usize, cx: &mut Context<'_>) -> usize {
        // Outcomes that were reported elsewhere are noticed when everything is settled.
        if self.handed.len() >= most && pin!(self.consumer.settled()).poll(cx).is_ready() {
            self.handed.clear();
        }
        most.saturating_sub(self.handed.len())
    }
}

fn text(json: Vec<u8>) -> Option<Message> {
    // Names and tokens are written as JSON escapes them, so that this is always text.
    Utf8Bytes::try_from(Bytes::from(json)).ok().map(Message::Text)
}
