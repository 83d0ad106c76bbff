//! Intake: turns a parsed event into a durable record. The index decides, one commit appends, and the answer follows.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use setgate_set::Event;
use setgate_store::{
    Appended, Done, Durability, Kind, NewEvent, Obstacle, Once, Position, ProducerNo, StoreError, Unit, Version,
};

use crate::{Index, Inner, Issuer, Router};

/// The producer of events, and the issuer under which they are put in.
#[derive(Clone, Copy, Debug)]
pub struct EventOrigin<'a> {
    /// The issuer.
    pub issuer: &'a Issuer,
    /// The producer; it is kept in the record (hardening H2).
    pub producer: ProducerNo,
}

/// The answer to one event.
#[derive(Clone, Debug, PartialEq)]
pub enum Accepted {
    /// The event and every delivery owed for it are durable.
    New {
        /// The position in the ledger.
        at: Position,
        /// The `txn` of all its SETs.
        txn: Box<str>,
    },
    /// The same event was accepted before with this `id`.
    Repeat {
        /// The `txn` of the first answer.
        txn: Box<str>,
    },
    /// Another event was accepted before with this `id`.
    Conflict,
    /// The subject names a stream of this gateway, which only the router may do (hardening H3).
    NamesStream,
    /// The event cannot be accepted now. Whether it became durable is unknown only when the text says so.
    Unavailable(Closed),
}

/// The reason why intake is closed, and the time after which to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The reason for operators.
    pub why: String,
    /// The reason for producers, without internal details.
    pub summary: &'static str,
    /// The limit or the state that closed it, for programs.
    pub rule: Option<&'static str>,
    /// The time after which to try again.
    pub retry_after: Duration,
    /// The HTTP status: 429 when the caller is one of too many, 503 when the gateway cannot.
    pub status: u16,
}

impl Closed {
    fn of(error: &StoreError, obstacle: Option<&Obstacle>) -> Self {
        let after = match error {
            StoreError::Busy => 1,
            StoreError::Full(_) => 10,
            _ => 5,
        };
        let summary = obstacle.map_or("events cannot be confirmed at the moment", Obstacle::summary);
        Self {
            why: error.to_string(),
            summary,
            rule: obstacle.map(Obstacle::name),
            retry_after: Duration::from_secs(after),
            status: 503,
        }
    }

    /// Makes the answer for an obstacle that the store's health reports.
    pub(crate) fn by(obstacle: &Obstacle) -> Self {
        Self {
            why: obstacle.to_string(),
            summary: obstacle.summary(),
            rule: Some(obstacle.name()),
            retry_after: Duration::from_secs(10),
            status: 503,
        }
    }
}

/// A guard for bytes that wait for their commit; they are given back when the wait is over, however it ends.
struct Held<'a>(&'a Inner, usize);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held_bytes.fetch_sub(self.1, Ordering::AcqRel);
    }
}

impl Router {
    /// Checks that intake is open. The listener calls it before it reads a body.
    ///
    /// # Errors
    /// [`Closed`] gives the reason why it is not, and when to try again.
    pub fn gate(&self) -> Result<(), Closed> {
        if *self.0.ended.borrow() {
            let summary = "the gateway is shutting down";
            let after = Duration::from_secs(5);
            return Err(Closed {
                why: summary.into(),
                summary,
                rule: Some("draining"),
                retry_after: after,
                status: 503,
            });
        }
        if let Some(closed) = self.0.intake_closed.load_full() {
            return Err((*closed).clone());
        }
        if self.0.held_bytes.load(Ordering::Acquire) > self.0.shared.config.intake_bytes {
            let summary = "more events wait for their commit than `router.intake_bytes` allows";
            let (rule, after) = (Some("router.intake_bytes"), Duration::from_secs(1));
            return Err(Closed { why: summary.into(), summary, rule, retry_after: after, status: 503 });
        }
        Ok(())
    }

    /// Accepts events in one commit; returns one answer for each, in order, after the commit.
    ///
    /// An event without `txn` gets one of 128 random bits.
    pub async fn accept(&self, source: EventOrigin<'_>, mut events: Vec<Event>) -> Vec<Accepted> {
        let inner = &*self.0;
        if let Err(closed) = self.gate() {
            return events.iter().map(|_| Accepted::Unavailable(closed.clone())).collect();
        }
        for event in &mut events {
            event.txn_or(|| inner.fresh_txn());
        }
        let mut answers: Vec<Option<Accepted>> = events.iter().map(|event| inner.refuse(event)).collect();
        let bodies: Vec<_> = events.iter().map(Event::body).collect();
        let size = bodies.iter().map(Bytes::len).sum();
        inner.held_bytes.fetch_add(size, Ordering::AcqRel);
        let _held = Held(inner, size);
        loop {
            let index = inner.index.load_full();
            let (asked, append): (Vec<_>, Vec<_>) = events
                .iter()
                .zip(&bodies)
                .zip(&answers)
                .enumerate()
                .filter(|(_, (_, answer))| answer.is_none())
                .map(|(at, ((event, body), _))| (at, inner.new_event(&index, source, event, body)))
                .unzip();
            if append.is_empty() {
                break;
            }
            let done = match inner.shared.store.commit(vec![Unit::Append { events: append }], Durability::Sync).await {
                Ok(done) => done,
                Err(error) => {
                    let closed = Closed::of(&error, inner.shared.store.health().obstacle.as_ref());
                    answers.iter_mut().filter(|answer| answer.is_none()).for_each(|answer| {
                        *answer = Some(Accepted::Unavailable(closed.clone()));
                    });
                    break;
                }
            };
            let Some(Done::Appended(appended)) = done.into_iter().next() else { break };
            let mut stale = None;
            for (at, appended) in asked.into_iter().zip(appended) {
                let txn = events.get(at).and_then(|event| event.txn.clone()).unwrap_or_default();
                match inner.answer(appended, txn) {
                    Ok(answer) => {
                        if let Some(place) = answers.get_mut(at) {
                            *place = Some(answer);
                        }
                    }
                    Err(Stale(now)) => stale = Some(now),
                }
            }
            match stale {
                Some(now) => inner.index_of(now).await,
                None => break,
            }
        }
        let lost = || Accepted::Unavailable(Closed::of(&StoreError::Unavailable("no answer".into()), None));
        answers.into_iter().map(|answer| answer.unwrap_or_else(lost)).collect()
    }
}

/// The error for an event that was decided by a configuration older than this version; it was not appended.
struct Stale(Version);

impl Inner {
    /// Makes the record of an event to append; the index decides which streams it is owed to.
    fn new_event(&self, index: &Index, source: EventOrigin<'_>, event: &Event, body: &Bytes) -> NewEvent {
        let names = self.shared.store.names();
        let issuer = source.issuer;
        NewEvent {
            kind: Kind::Intake,
            issuer: issuer.no,
            producer: source.producer,
            config: index.version(),
            order: names.order(&event.order_text()),
            targets: index.decide(&issuer.url, event).targets,
            body: body.clone(),
            once: event.id.as_deref().map(|id| Once {
                key: names.once(issuer.no, source.producer, id),
                digest: event.digest(),
                txn: event.txn.clone().unwrap_or_default(),
            }),
        }
    }

    /// Returns the producer's answer to an event, and counts it.
    fn answer(&self, appended: Appended, txn: Box<str>) -> Result<Accepted, Stale> {
        match appended {
            Appended::New { at, .. } => {
                self.shared.observed.accepted.inc();
                Ok(Accepted::New { at, txn })
            }
            Appended::Repeat { txn, .. } => {
                self.shared.observed.repeated.inc();
                Ok(Accepted::Repeat { txn })
            }
            Appended::Conflict { .. } => Ok(Accepted::Conflict),
            Appended::Stale { now } => Err(Stale(now)),
        }
    }

    /// Waits until the index in force is of this version or later.
    async fn index_of(&self, version: Version) {
        let mut published = self.published.subscribe();
        // The sender lives as long as `self`.
        let _ = published.wait_for(|now| *now >= version).await;
    }

    pub(crate) fn fresh_txn(&self) -> String {
        let mut bytes = [0u8; 16];
        self.shared.runtime.random.fill(&mut bytes);
        bytes.iter().fold(String::with_capacity(32), |mut text, byte| {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
            text
        })
    }

    /// Refuses an event whose subject is the opaque id of a stream, since such a subject means the stream itself (SSF
    /// 1.0 §8.1.4.1).
    fn refuse(&self, event: &Event) -> Option<Accepted> {
        self.index.load().names_stream(&event.subject).then_some(Accepted::NamesStream)
    }
}
