//! The contract of a store: the types and traits that every implementation shares.
//!
//! One [`Unit`] is all or nothing, one [`Store::commit`] is one group commit, and everything that is read back is
//! durable.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use setgate_set::{ErrorCode, Jti, OrderKey, Receipt, Timestamp};

use crate::{Obstacle, StoreError};

/// The position of a record in the ledger. Positions are dense, and become visible in order within a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The part of the ledger; always 0 in an embedded store.
    pub part: u8,
    /// The place in the part, below 2^48, counted from 1; 0 is the place before the first record.
    pub seq: u64,
}

impl Position {
    /// The position before the first record of part 0.
    pub const START: Self = Self { part: 0, seq: 0 };

    /// Returns the position `seq` of part 0.
    #[must_use]
    pub const fn new(seq: u64) -> Self {
        Self { part: 0, seq }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.part, self.seq)
    }
}

impl std::str::FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a position: PART.NUMBER is expected, for example 0.17");
        let (part, seq) = text.split_once('.').ok_or_else(wrong)?;
        Ok(Self { part: part.parse().map_err(|_| wrong())?, seq: seq.parse().map_err(|_| wrong())? })
    }
}

impl Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}
number!(
    /// The number of a stream, which is allocated once, durably, and never reused.
    StreamNo(u32)
);
number!(
    /// The number of an issuer of this gateway.
    IssuerNo(u32)
);
number!(
    /// The number of a producer. 0 is the gateway itself.
    ProducerNo(u32)
);
number!(
    /// The version of the control-plane records, which grows with every [`Unit::Configure`].
    Version(u64)
);
number!(
    /// The nonce of one opening of the store: 40 random bits that are part of each `jti` minted for the records of that
    /// opening.
    Boot(u64)
);

/// A set of stream numbers.
pub type Streams = RoaringBitmap;

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An event that a producer put in.
    Intake,
    /// A framework SET (verification, stream-updated), addressed to one stream.
    Control,
    /// A parked SET that is issued again: a new position and `jti`, the same `txn`, one target.
    Reissue {
        /// The record that it repeats.
        of: Position,
    },
}

/// The small part of a record, which the lanes, sealing and the check before delivery need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The position of the record.
    pub at: Position,
    /// The opening of the store that accepted the record.
    pub boot: Boot,
    /// The kind of record.
    pub kind: Kind,
    /// The issuer under which the event was put in.
    pub issuer: IssuerNo,
    /// The producer of the event.
    pub producer: ProducerNo,
    /// The version of the control-plane records when the streams were decided.
    pub config: Version,
    /// The time of acceptance, which becomes `iat`. It is never earlier than that of the record before, unless an
    /// operator confirmed the clock.
    pub accepted: Timestamp,
    /// The order key.
    pub order: OrderKey,
    /// The length of the body in bytes.
    pub body_len: u32,
}

/// A head with the streams it is owed to, as [`Store::tail`] returns it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The head.
    pub head: Head,
    /// The streams that the event is owed to.
    pub targets: Arc<Streams>,
}

/// An event to append.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The kind of record.
    pub kind: Kind,
    /// The issuer under which the event was put in.
    pub issuer: IssuerNo,
    /// The producer of the event.
    pub producer: ProducerNo,
    /// The version of the control-plane records at the decision. An event whose version is older than the last change
    /// of membership is answered with [`Appended::Stale`].
    pub config: Version,
    /// The order key.
    pub order: OrderKey,
    /// The streams that the event is owed to.
    pub targets: Arc<Streams>,
    /// The JSON text `{"events":…,"sub_id":…,"txn":…}` that every SET of the event carries.
    pub body: Bytes,
    /// The idempotency of the event, if the producer gave an `id`.
    pub once: Option<Once>,
}

/// The idempotency of one event (hardening H14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// The keyed hash of issuer, producer and `id`.
    pub key: [u8; 16],
    /// The hash of the canonical event. The same key with another digest is a conflict.
    pub digest: [u8; 16],
    /// The `txn` that the first answer gave and every later answer repeats.
    pub txn: Box<str>,
}

/// The rule by which a delivery was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The stream was disabled (SSF 1.0 §8.1.2.1: events are not held).
    Disabled,
    /// The stream was deleted.
    Deleted,
    /// The subject was removed from the stream, or opted out.
    SubjectRemoved,
    /// The event type is no longer wanted or no longer allowed.
    EventNotWanted,
    /// The SET waited longer than the stream's age limit.
    TooOld,
    /// The stream exceeded its limit of waiting SETs.
    TooMany,
    /// The stream exceeded its share of the store's budget, or the budget as a whole was nearly used up.
    TooLarge,
    /// The body can no longer be read.
    Lost,
}

/// A note about a delivery. The first end wins; [`Note::Attempt`] is not an end.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// The delivery was acknowledged, by the receiver or a broker.
    Acknowledged(Receipt),
    /// The SET was refused or given up; its body, the code and the text are kept.
    Parked {
        /// The code.
        code: ErrorCode,
        /// The peer's words, at most 512 bytes.
        text: Box<str>,
        /// The number of attempts made.
        attempts: u32,
        /// True when the fault was the stream's and not the SET's: `setgate streams resume` offers to issue the SET
        /// again.
        stream_fault: bool,
    },
    /// The delivery was dropped by this rule.
    Dropped(Rule),
    /// An attempt failed, and the delivery is still owed.
    Attempt(Attempted),
}

/// The history of a delivery that failed at least once and is still owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempted {
    /// The number of attempts made.
    pub count: u32,
    /// The time at which the first of them failed.
    pub first_failed: Timestamp,
    /// The time at which the SET is due again.
    pub next_at: Timestamp,
}

/// A delta, which records what happened to one delivery. Deltas commute, and applying one twice is harmless.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    /// The stream.
    pub stream: StreamNo,
    /// The record.
    pub at: Position,
    /// The note.
    pub note: Note,
}

/// A key of a control-plane record: words joined by `/`, for example `stream/7`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub String);

impl<T: Into<String>> From<T> for Key {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

/// A change of one control-plane record. `None` removes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The key of the record.
    pub key: Key,
    /// The new value; `None` removes the record.
    pub value: Option<Bytes>,
}

/// A control-plane record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key of the record.
    pub key: Key,
    /// The version in which the record was last changed.
    pub version: Version,
    /// The value.
    pub value: Bytes,
}

/// A space of numbers, each of which is allocated once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// The numbers of streams.
    Stream,
    /// The numbers of issuers.
    Issuer,
    /// The numbers of producers.
    Producer,
}

/// The right to write about streams. A unit with an old fence changes nothing.
///
/// An embedded store has one shard; the epoch counts its openings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    /// The number of openings so far.
    pub epoch: u64,
}

/// A change of the store, which is applied as a whole or not at all.
#[derive(Clone, Debug)]
pub enum Unit {
    /// Events, each with an answer of its own ([`Done::Appended`]).
    Append {
        /// The events.
        events: Vec<NewEvent>,
    },
    /// Settlements and attempts ([`Done::Settled`]).
    Settle {
        /// The right to write.
        fence: Fence,
        /// The deltas.
        what: Vec<Settlement>,
    },
    /// A parked SET that becomes a new record with the same body and one target, and is no longer parked
    /// ([`Done::Reissued`]).
    Reissue {
        /// The right to write.
        fence: Fence,
        /// The stream.
        stream: StreamNo,
        /// The parked record.
        of: Position,
    },
    /// Parked SETs that are dropped for good ([`Done::Discarded`]).
    Discard {
        /// The right to write.
        fence: Fence,
        /// The parked SETs.
        what: Vec<(StreamNo, Position)>,
    },
    /// Changes of control-plane records, with their effects on streams ([`Done::Configured`]).
    Configure {
        /// The records to write.
        change: Vec<Put>,
        /// The version that the change was made from; `None` writes in any case.
        expect: Option<Version>,
        /// True when streams were added, removed or changed what they want. Appends that were decided before are
        /// answered with [`Appended::Stale`].
        membership: bool,
        /// The streams that lose everything up to now, each with the rule.
        drop_through: Vec<(StreamNo, Rule)>,
        /// The control SETs that announce the change.
        notice: Vec<NewEvent>,
    },
    /// A number that was never allocated before ([`Done::Allocated`]).
    Allocate {
        /// The space of the number.
        space: Space,
    },
    /// The drop of everything that a stream is owed before a position, by a limit ([`Done::Retained`]).
    Retain {
        /// The right to write.
        fence: Fence,
        /// The stream.
        stream: StreamNo,
        /// The first position that the stream keeps.
        below: Position,
        /// The rule of the limit.
        rule: Rule,
    },
}

/// The time by which a commit must be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The commit is durable before the answer.
    Sync,
    /// The commit is durable soon; the answer may come before it is. Only for [`Note::Acknowledged`] and
    /// [`Note::Attempt`].
    Lazy,
}

/// The answer to one event of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The event was accepted.
    New {
        /// The position of the record.
        at: Position,
        /// The time of acceptance.
        accepted: Timestamp,
    },
    /// A repeat of an event that was accepted before, and is durable.
    Repeat {
        /// The position of the first record.
        at: Position,
        /// The `txn` of the first answer.
        txn: Box<str>,
    },
    /// An event whose `id` belongs to another event that was accepted before.
    Conflict {
        /// The position of that event.
        at: Position,
    },
    /// The membership of streams changed since the decision; the caller must decide again.
    Stale {
        /// The version to decide against.
        now: Version,
    },
}

/// The answer to one [`Unit`].
#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    /// The answer to [`Unit::Append`], one for each event.
    Appended(Vec<Appended>),
    /// The answer to [`Unit::Settle`]: the number of notes that ended a delivery which was still owed.
    Settled(usize),
    /// The answer to [`Unit::Reissue`]: the new position, or `None` if no such SET is parked.
    Reissued(Option<Position>),
    /// The answer to [`Unit::Discard`]: the number of the SETs that were parked.
    Discarded(usize),
    /// The answer to [`Unit::Configure`]: the new version, with the positions of the notices.
    Configured {
        /// The new version.
        version: Version,
        /// The positions of the notices.
        notices: Vec<Position>,
    },
    /// The current version, in answer to [`Unit::Configure`] when `expect` is another one: nothing was changed.
    Outdated(Version),
    /// The answer to [`Unit::Allocate`]: the new number.
    Allocated(u32),
    /// The answer to [`Unit::Retain`]: the number of deliveries that were dropped.
    Retained(usize),
    /// The answer to any unit with an old fence: nothing was changed.
    Fenced,
}

/// The extent of the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bounds {
    /// The lowest position from which on every record is kept. Older records that are still owed are kept individually.
    pub first: Position,
    /// The last position. Every record up to it is durable.
    pub last: Position,
}

/// The counts of one stream, with the invariant `owed = acknowledged + parked + dropped + waiting`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// The deliveries owed since the stream was created.
    pub owed: u64,
    /// The deliveries acknowledged by the receiver.
    pub acknowledged_receiver: u64,
    /// The deliveries acknowledged by a broker.
    #[serde(rename = "acknowledged_carrier")]
    pub acknowledged_broker: u64,
    /// The deliveries parked, whether or not they were issued again or discarded later.
    pub parked: u64,
    /// The deliveries dropped, by rule.
    pub dropped: std::collections::BTreeMap<Rule, u64>,
    /// The deliveries still owed.
    pub waiting: u64,
}

/// A stream's cursor in figures, for limits and status pages.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    /// The counts.
    pub tally: Tally,
    /// The oldest record still owed.
    pub oldest: Option<Head>,
    /// The bytes of the bodies still owed, as if the stream were alone (an estimate).
    pub bytes: u64,
    /// The position up to which, inclusive, everything was dropped when the stream was disabled or deleted.
    pub dropped_through: Position,
    /// The number of SETs of the stream that are parked now.
    pub parked_now: u64,
}

/// A parked SET.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parked {
    /// The stream.
    pub stream: StreamNo,
    /// The position of its record.
    pub at: Position,
    /// The `jti`.
    pub jti: Jti,
    /// The time at which it was parked.
    pub parked_at: Timestamp,
    /// The time at which its event was accepted.
    pub accepted: Timestamp,
    /// The error code: the peer's, or the gateway's own.
    pub code: ErrorCode,
    /// The peer's words.
    pub text: Box<str>,
    /// The number of attempts made.
    pub attempts: u32,
    /// True when the fault was the stream's and not the SET's.
    pub stream_fault: bool,
    /// The order key.
    pub order: OrderKey,
    /// The body.
    #[serde(skip)]
    pub body: Bytes,
}

/// A filter of parked SETs.
#[derive(Clone, Debug, Default)]
pub struct ParkedFilter {
    /// The stream to which the result is limited.
    pub stream: Option<StreamNo>,
    /// The code to which the result is limited.
    pub code: Option<ErrorCode>,
    /// The stream and position, inclusive, from which the result starts: for paging.
    pub from: Option<(StreamNo, Position)>,
    /// The most SETs in the result.
    pub most: usize,
}

impl ParkedFilter {
    /// Returns whether stream and code match this SET; `from` and `most` are not considered.
    #[must_use]
    pub fn takes(&self, parked: &Parked) -> bool {
        self.stream.is_none_or(|stream| stream == parked.stream)
            && self.code.as_ref().is_none_or(|code| *code == parked.code)
    }
}

/// The state of the store, for health checks, metrics and status pages.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Health {
    /// True when events can be appended now.
    pub accepts: bool,
    /// The obstacle, when events cannot be appended.
    pub obstacle: Option<Obstacle>,
    /// The obstacle in words, with its figures.
    pub trouble: Option<String>,
    /// The advice to the operator.
    pub remedy: Option<&'static str>,
    /// The bytes that the store uses on the disk.
    pub bytes: u64,
    /// The bytes that the store may use on the disk.
    pub budget: u64,
    /// The bytes free on the file system.
    pub free: u64,
    /// The bytes reserved for settling.
    pub reserve: u64,
    /// The units queued for the writer.
    pub queued: usize,
    /// The deliveries owed over all streams.
    pub waiting: u64,
    /// The SETs parked.
    pub parked: u64,
    /// True while the wall clock is suspect, when nothing is destroyed by age.
    pub clock_suspect: bool,
    /// The seconds by which the wall clock is ahead of the believed time while it is suspect.
    pub clock_offset_seconds: i64,
    /// The seconds for which a suspect clock must still run steadily until it is believed.
    pub clock_believed_in_seconds: Option<u64>,
    /// The seconds by which times of acceptance are ahead of the believed time; they stand still until it has caught
    /// up.
    pub accepted_ahead_seconds: u64,
    /// The fault of the clock or of the recorded times, with the advice to the operator.
    pub clock_trouble: Option<String>,
    /// True when the store was opened as a copy: delivery is held until `setgate store adopt`.
    pub held: bool,
}

impl Health {
    /// Returns the health with this obstacle, or without one.
    #[must_use]
    pub fn hindered(mut self, obstacle: Option<Obstacle>) -> Self {
        self.accepts = obstacle.is_none();
        self.trouble = obstacle.as_ref().map(ToString::to_string);
        self.remedy = obstacle.as_ref().map(Obstacle::remedy);
        self.obstacle = obstacle;
        self
    }
}

/// The stream whose waiting SETs use the most space, each stream considered as if it were alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heaviest {
    /// The stream.
    pub stream: StreamNo,
    /// The bytes of the SETs that the stream is owed.
    pub bytes: u64,
    /// The first position that the stream may keep if the requested bytes are to be freed.
    pub keep_from: Position,
}

/// The durable state of the gateway.
///
/// Every implementation must pass `setgate_store::testkit`, which tests the ten laws of the crate's README.
pub trait Store: Send + Sync + 'static {
    /// Commits units, the only way to write. The answers are in the order of the units.
    ///
    /// The call queues the units: dropping the future does not cancel them.
    ///
    /// # Errors
    /// Returns [`StoreError`]; then no unit of this call is visible. Whether one became durable is unknown only for
    /// [`StoreError::Poisoned`].
    fn commit(&self, units: Vec<Unit>, how: Durability) -> BoxFuture<'static, Result<Vec<Done>, StoreError>>;

    /// Reads at most `most` records after `after`, in order; waits up to `wait` for the first.
    ///
    /// The result has all records from [`Bounds::first`] on, and before it at least those that some stream is owed. A
    /// reader that lags therefore misses nothing that is owed, whatever was deleted meanwhile.
    fn tail(&self, after: Position, most: usize, wait: Duration) -> BoxFuture<'static, Result<Vec<Entry>, StoreError>>;

    /// Reads bodies, in the order requested; `None` where the record is gone.
    fn bodies(&self, at: Vec<Position>) -> BoxFuture<'static, Result<Vec<Option<Bytes>>, StoreError>>;

    /// Reads heads, in the order requested; `None` where the record is gone.
    fn heads(&self, at: Vec<Position>) -> BoxFuture<'static, Result<Vec<Option<Head>>, StoreError>>;

    /// Reads the heads of the records that the stream is still owed after `after`, control records among them, oldest
    /// first.
    ///
    /// The result has `max` of them, and fewer only where there are no more. Damaged heads are left out.
    fn owed(&self, stream: StreamNo, after: Position, max: usize) -> BoxFuture<'static, Result<Vec<Head>, StoreError>>;

    /// Reads the heads of the control records (verification, stream-updated) that the stream is still owed.
    fn owed_control(&self, stream: StreamNo) -> BoxFuture<'static, Result<Vec<Head>, StoreError>>;

    /// Returns whether the record is still owed to the stream.
    fn is_owed(&self, stream: StreamNo, at: Position) -> bool;

    /// Returns the number of records that the stream is still owed.
    fn waiting(&self, stream: StreamNo) -> u64;

    /// Returns the failed attempts of records still owed.
    fn attempts(&self, stream: StreamNo) -> Vec<(Position, Attempted)>;

    /// Returns the stream's cursor.
    fn cursor(&self, stream: StreamNo) -> BoxFuture<'static, Result<Cursor, StoreError>>;

    /// Returns the `n`-th record, from the newest and counted from 0, that the stream is still owed: for the limit of
    /// waiting SETs.
    fn nth_newest(&self, stream: StreamNo, n: u64) -> Option<Position>;

    /// Returns the largest holder of waiting SETs among those that are worth cutting, and the point up to which to cut
    /// it, oldest first, to free about `excess` bytes.
    ///
    /// A cut ends where space is freed: at the end of a part of the ledger that can be deleted.
    fn heaviest(&self, excess: u64) -> BoxFuture<'static, Result<Option<Heaviest>, StoreError>> {
        let _ = excess;
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Returns the first record that may have been accepted at or after `when`: for the age limit.
    ///
    /// Records whose times were held back while the wall clock was suspect count as no older than the moment when it
    /// was believed again.
    fn first_accepted_at(&self, when: Timestamp) -> BoxFuture<'static, Result<Position, StoreError>>;

    /// Reads parked SETs, by stream and position.
    fn parked(&self, which: ParkedFilter) -> BoxFuture<'static, Result<Vec<Parked>, StoreError>>;

    /// Reads control-plane records, in the order requested.
    fn get(&self, keys: Vec<Key>) -> BoxFuture<'static, Result<Vec<Option<Record>>, StoreError>>;

    /// Reads the control-plane records whose key starts with `prefix`, by key.
    fn range(&self, prefix: Key) -> BoxFuture<'static, Result<Vec<Record>, StoreError>>;

    /// Returns the version of the control-plane records.
    fn version(&self) -> Version;

    /// Returns the extent of the ledger.
    fn bounds(&self) -> Bounds;

    /// Returns the right to write that belongs to this opening.
    fn fence(&self) -> Fence;

    /// Returns the secrets that name and hash the items of this store.
    fn names(&self) -> &crate::Names;

    /// Returns the state of the store.
    fn health(&self) -> Health;

    /// Registers the witness that is notified of deliveries from now on, in place of any other. The first notification
    /// has the deliveries that wait already.
    fn watch(&self, witness: Arc<dyn crate::Witness>);

    /// Returns the believed time. Code that decides by age uses this time, never the wall clock.
    fn time(&self) -> crate::Time;

    /// Makes the store believe the wall clock from now on, at an operator's request.
    ///
    /// Where times of acceptance are ahead of the wall clock, the next ones go back to it.
    fn confirm_clock(&self) -> BoxFuture<'static, Result<crate::Confirmed, StoreError>>;

    /// Frees what no stream needs any more: compacts cursors, trims the ledger, removes old ids and old parked SETs.
    /// The call is cheap when there is nothing to do.
    fn housekeep(&self) -> BoxFuture<'static, Result<(), StoreError>>;

    /// Writes everything out and closes the store. Later calls return [`StoreError::Unavailable`].
    fn close(&self) -> BoxFuture<'static, Result<(), StoreError>>;
}
