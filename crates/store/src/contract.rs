//! What a store promises: the types and traits that every implementation shares.
//!
//! One [`Unit`] is all or nothing, one [`Store::commit`] is one group commit, and everything that is read back is durable.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use setgate_set::{ErrorCode, Jti, OrderKey, Receipt, Timestamp};

use crate::Obstacle;

/// Where a record stands in the ledger: dense and visible in order within a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The part of the ledger; always 0 in an embedded store.
    pub part: u8,
    /// The place in the part, below 2^48, counted from 1; 0 stands before the first record.
    pub seq: u64,
}

impl Position {
    /// Before the first record of part 0.
    pub const START: Self = Self { part: 0, seq: 0 };

    /// The position `seq` of part 0.
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
    /// The number of a stream: allocated once, durably, never reused.
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
    /// The version of the control-plane records: it grows with every [`Unit::Configure`].
    Version(u64)
);
number!(
    /// The nonce of one opening of the store, 40 random bits. It is part of each `jti` minted for the records of that opening.
    Boot(u64)
);

/// A set of stream numbers.
pub type Streams = RoaringBitmap;

/// What kind of record a position holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An event that a producer put in.
    Intake,
    /// A framework SET (verification, stream-updated), addressed to one stream.
    Control,
    /// A parked SET issued again: new position and `jti`, same `txn`, one target.
    Reissue {
        /// The record it repeats.
        of: Position,
    },
}

/// The small part of a record: what lanes, seals and vetoes need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Where it stands.
    pub at: Position,
    /// The opening of the store that accepted it.
    pub boot: Boot,
    /// What it is.
    pub kind: Kind,
    /// Under which issuer it was put in.
    pub issuer: IssuerNo,
    /// Who put it in.
    pub producer: ProducerNo,
    /// The version of the control-plane records when its streams were decided.
    pub config: Version,
    /// When it was accepted; never earlier than the record before it, unless an operator said so. It becomes `iat`.
    pub accepted: Timestamp,
    /// Its order key.
    pub order: OrderKey,
    /// Length of the body in bytes.
    pub body_len: u32,
}

/// A head with the streams it is owed to, as the tail gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The head.
    pub head: Head,
    /// The streams that are owed it.
    pub targets: Arc<Streams>,
}

/// An event to append.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// What it is.
    pub kind: Kind,
    /// Under which issuer.
    pub issuer: IssuerNo,
    /// From whom.
    pub producer: ProducerNo,
    /// The version of the control-plane records at the decision. Older than the last change of membership: answered [`Appended::Stale`].
    pub config: Version,
    /// Its order key.
    pub order: OrderKey,
    /// The streams that are owed it.
    pub targets: Arc<Streams>,
    /// The JSON text `{"events":…,"sub_id":…,"txn":…}` that every SET of it carries.
    pub body: Bytes,
    /// Its idempotency, if the producer gave an `id`.
    pub once: Option<Once>,
}

/// The idempotency of one event (hardening H14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// Keyed hash of (issuer, producer, id).
    pub key: [u8; 16],
    /// Hash of the canonical event: the same key with another digest is a conflict.
    pub digest: [u8; 16],
    /// The `txn` that the first answer gave and every later answer repeats.
    pub txn: Box<str>,
}

/// Why a delivery was dropped.
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
    /// The stream's age limit.
    TooOld,
    /// The stream's limit of waiting SETs.
    TooMany,
    /// The stream's limit of bytes, or the store's budget.
    TooLarge,
    /// The body can no longer be read.
    Lost,
}

/// What is noted of a delivery. The first end wins; [`Note::Attempt`] is not an end.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// Acknowledged, by whom.
    Acknowledged(Receipt),
    /// Refused or given up; body, code and text are kept.
    Parked {
        /// The code.
        code: ErrorCode,
        /// What the peer said, at most 512 bytes.
        text: Box<str>,
        /// Attempts made.
        attempts: u32,
        /// Whether the fault was the stream's, not the SET's: `streams resume` offers to issue it again.
        stream_fault: bool,
    },
    /// Dropped by a rule.
    Dropped(Rule),
    /// Tried in vain.
    Attempt(Attempted),
}

/// The history of a delivery that failed at least once and is still owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempted {
    /// How many attempts were made.
    pub count: u32,
    /// When the first of them failed.
    pub first_failed: Timestamp,
    /// When it is due again.
    pub next_at: Timestamp,
}

/// A delta: something that happened to one delivery. Deltas commute, and repeat harmlessly.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    /// The stream.
    pub stream: StreamNo,
    /// The record.
    pub at: Position,
    /// What happened.
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
    /// Which record.
    pub key: Key,
    /// Its new value.
    pub value: Option<Bytes>,
}

/// A control-plane record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which.
    pub key: Key,
    /// The version in which it was last changed.
    pub version: Version,
    /// Its value.
    pub value: Bytes,
}

/// What numbers are allocated for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// Streams.
    Stream,
    /// Issuers.
    Issuer,
    /// Producers.
    Producer,
}

/// Right to write about streams: an old fence changes nothing. An embedded store has one shard; the epoch counts its openings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    /// Count of openings.
    pub epoch: u64,
}

/// One change, all or nothing.
#[derive(Clone, Debug)]
pub enum Unit {
    /// Events; answered one by one ([`Done::Appended`]).
    Append {
        /// The events.
        events: Vec<NewEvent>,
    },
    /// Settlements and attempts ([`Done::Settled`]).
    Settle {
        /// Right to do so.
        fence: Fence,
        /// The deltas.
        what: Vec<Settlement>,
    },
    /// A parked SET becomes a new record with the same body and one target, and leaves the parked ([`Done::Reissued`]).
    Reissue {
        /// Right to do so.
        fence: Fence,
        /// The stream.
        stream: StreamNo,
        /// The parked record.
        of: Position,
    },
    /// Parked SETs are dropped for good ([`Done::Discarded`]).
    Discard {
        /// Right to do so.
        fence: Fence,
        /// Which.
        what: Vec<(StreamNo, Position)>,
    },
    /// Control-plane records, with what goes along ([`Done::Configured`]).
    Configure {
        /// Records to write.
        change: Vec<Put>,
        /// The version that the change was made from; `None` writes regardless.
        expect: Option<Version>,
        /// Whether streams came, went or changed what they want: appends decided before are answered [`Appended::Stale`].
        membership: bool,
        /// Streams of which everything up to now is dropped, and why.
        drop_through: Vec<(StreamNo, Rule)>,
        /// Control SETs that tell of the change.
        notice: Vec<NewEvent>,
    },
    /// A number that was never given before ([`Done::Allocated`]).
    Allocate {
        /// For what.
        space: Space,
    },
    /// Everything of a stream before a position is dropped by a limit ([`Done::Retained`]).
    Retain {
        /// Right to do so.
        fence: Fence,
        /// The stream.
        stream: StreamNo,
        /// The first position that stays.
        below: Position,
        /// The limit.
        rule: Rule,
    },
}

/// How soon a commit must be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before the answer.
    Sync,
    /// Soon; only for [`Note::Acknowledged`] and [`Note::Attempt`]. The answer may come before it is durable.
    Lazy,
}

/// What became of one event of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Accepted here.
    New {
        /// Where.
        at: Position,
        /// When.
        accepted: Timestamp,
    },
    /// The same event was accepted before, and is durable.
    Repeat {
        /// Where.
        at: Position,
        /// The `txn` of the first answer.
        txn: Box<str>,
    },
    /// Another event was accepted with this id.
    Conflict {
        /// Where.
        at: Position,
    },
    /// Streams came or went since the decision: decide again.
    Stale {
        /// The version to decide against.
        now: Version,
    },
}

/// The answer to one [`Unit`].
#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    /// Of [`Unit::Append`], one for each event.
    Appended(Vec<Appended>),
    /// Of [`Unit::Settle`]: how many were news, that is, ended a delivery that was still owed.
    Settled(usize),
    /// Of [`Unit::Reissue`]: the new position, or nothing if no such SET is parked.
    Reissued(Option<Position>),
    /// Of [`Unit::Discard`]: how many were parked.
    Discarded(usize),
    /// Of [`Unit::Configure`]: the new version, with the positions of the notices.
    Configured {
        /// The new version.
        version: Version,
        /// Where the notices stand.
        notices: Vec<Position>,
    },
    /// Of [`Unit::Configure`] when `expect` is not the current version: nothing was changed.
    Outdated(Version),
    /// Of [`Unit::Allocate`].
    Allocated(u32),
    /// Of [`Unit::Retain`]: how many were dropped.
    Retained(usize),
    /// Of any unit with an old fence: nothing was changed.
    Fenced,
}

/// Why the store did not do it, and what next.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Only the reserve is left, or the budget is reached: intake is closed, settling goes on. Try later.
    #[error("the store is full: {0}")]
    Full(String),
    /// A write failed; whether it took place is unknown. The store reopens itself where it can.
    #[error("the store could not write ({0}); whether the last changes took place is not known")]
    Poisoned(String),
    /// What is on the disk is not what was written.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// Too much is queued. Try later.
    #[error("the store is busy")]
    Busy,
    /// It is closed, or was opened as a copy and waits for `setgate store adopt`.
    #[error("the store is not available: {0}")]
    Unavailable(String),
}

/// Limits of one read.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// At most so many records.
    pub records: usize,
    /// At most so many bytes of bodies (where bodies are read).
    pub bytes: usize,
}

/// What the ledger holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bounds {
    /// The lowest position from which on every record is kept. Older ones that are still owed are kept one by one.
    pub first: Position,
    /// The last position; everything up to it is durable.
    pub last: Position,
}

/// Counts of one stream: `owed = acknowledged + parked + dropped + waiting`, always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Deliveries owed since the stream was born.
    pub owed: u64,
    /// Acknowledged by the receiver.
    pub acknowledged_receiver: u64,
    /// Acknowledged by a broker.
    #[serde(rename = "acknowledged_carrier")]
    pub acknowledged_broker: u64,
    /// Parked, whether or not they were issued again or discarded later.
    pub parked: u64,
    /// Dropped, by rule.
    pub dropped: std::collections::BTreeMap<Rule, u64>,
    /// Still owed.
    pub waiting: u64,
}

/// A stream's cursor as people and limits look at it.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    /// Counts.
    pub tally: Tally,
    /// The oldest record still owed.
    pub oldest: Option<Head>,
    /// Bytes of the bodies still owed, as if the stream were alone (an estimate).
    pub bytes: u64,
    /// Positions below this were dropped when the stream was disabled or deleted.
    pub dropped_through: Position,
    /// SETs that are parked now.
    pub parked_now: u64,
}

/// A parked SET.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parked {
    /// Of which stream.
    pub stream: StreamNo,
    /// Its record.
    pub at: Position,
    /// Its `jti`.
    pub jti: Jti,
    /// When it was parked.
    pub parked_at: Timestamp,
    /// When its event was accepted.
    pub accepted: Timestamp,
    /// Why.
    pub code: ErrorCode,
    /// What the peer said.
    pub text: Box<str>,
    /// Attempts made.
    pub attempts: u32,
    /// Whether the fault was the stream's.
    pub stream_fault: bool,
    /// Its order key.
    pub order: OrderKey,
    /// The body.
    #[serde(skip)]
    pub body: Bytes,
}

/// Which parked SETs.
#[derive(Clone, Debug, Default)]
pub struct ParkedFilter {
    /// Of this stream only.
    pub stream: Option<StreamNo>,
    /// With this code only.
    pub code: Option<ErrorCode>,
    /// From this (stream, position) on, inclusive: for paging.
    pub from: Option<(StreamNo, Position)>,
    /// At most so many.
    pub most: usize,
}

impl ParkedFilter {
    /// Whether the filter lets this one pass; `from` and `most` are not looked at.
    #[must_use]
    pub fn takes(&self, parked: &Parked) -> bool {
        self.stream.is_none_or(|stream| stream == parked.stream)
            && self.code.as_ref().is_none_or(|code| *code == parked.code)
    }
}

/// How the store is doing, for gates, metrics and status pages.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Health {
    /// Whether events can be appended now.
    pub accepts: bool,
    /// Why not.
    pub obstacle: Option<Obstacle>,
    /// The same for people, with its figures.
    pub trouble: Option<String>,
    /// What to do about it.
    pub remedy: Option<&'static str>,
    /// Bytes that the store takes on the disk.
    pub bytes: u64,
    /// Bytes that it may take.
    pub budget: u64,
    /// Bytes free on the file system.
    pub free: u64,
    /// Bytes kept for settling.
    pub reserve: u64,
    /// Units queued for the writer.
    pub queued: usize,
    /// Deliveries owed over all streams.
    pub waiting: u64,
    /// SETs parked.
    pub parked: u64,
    /// Whether the wall clock jumped: everything that destroys by age is frozen.
    pub clock_suspect: bool,
    /// How far the wall clock is ahead of the believed time while it is suspect, in seconds.
    pub clock_offset_seconds: i64,
    /// How long a suspect clock must go on evenly until it is believed, in seconds.
    pub clock_believed_in_seconds: Option<u64>,
    /// How far times of acceptance are ahead of the believed time, in seconds: they stand still until it has caught up.
    pub accepted_ahead_seconds: u64,
    /// What is wrong with the clock or with the times that were given, and what to do.
    pub clock_trouble: Option<String>,
    /// Whether the store was opened as a copy and delivery is held until `store adopt`.
    pub held: bool,
}

impl Health {
    /// Says why events are not accepted, if they are not.
    #[must_use]
    pub fn hindered(mut self, obstacle: Option<Obstacle>) -> Self {
        self.accepts = obstacle.is_none();
        self.trouble = obstacle.as_ref().map(ToString::to_string);
        self.remedy = obstacle.as_ref().map(Obstacle::remedy);
        self.obstacle = obstacle;
        self
    }
}

/// The stream whose waiting SETs take the most room, as if it were alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heaviest {
    /// Which.
    pub stream: StreamNo,
    /// Bytes of what it is owed.
    pub bytes: u64,
    /// What it may keep when so much of it shall go as was asked for.
    pub keep_from: Position,
}

/// The durable memory of the gateway.
///
/// An implementation passes `setgate_store::testkit`, which holds the ten laws of the room's README.
pub trait Store: Send + Sync + 'static {
    /// The only way to write. The answers are in the order of the units. The units are queued by the call: dropping the future does
    /// not take them back.
    ///
    /// # Errors
    /// [`StoreError`]; then no unit of this call is visible, and whether one became durable is unknown only for [`StoreError::Poisoned`].
    fn commit(&self, units: Vec<Unit>, how: Durability) -> BoxFuture<'static, Result<Vec<Done>, StoreError>>;

    /// The records after `after`, in order; waits up to `wait` for the first. From [`Bounds::first`] on there are all of them; before
    /// it, at least those that some stream is owed: whoever lags misses nothing that is owed, whatever was given up meanwhile.
    fn tail(&self, after: Position, max: Limits, wait: Duration) -> BoxFuture<'static, Result<Vec<Entry>, StoreError>>;

    /// Bodies, in the order asked for; `None` where the record is gone.
    fn bodies(&self, at: Vec<Position>) -> BoxFuture<'static, Result<Vec<Option<Bytes>>, StoreError>>;

    /// Heads, in the order asked for; `None` where the record is gone.
    fn heads(&self, at: Vec<Position>) -> BoxFuture<'static, Result<Vec<Option<Head>>, StoreError>>;

    /// The records that the stream is still owed after `after`, control records among them, oldest first, at most `max`: fewer only where
    /// there are no more. What does not read is left out.
    fn owed(&self, stream: StreamNo, after: Position, max: usize) -> BoxFuture<'static, Result<Vec<Head>, StoreError>>;

    /// The control records (verification, stream-updated) that the stream is still owed.
    fn owed_control(&self, stream: StreamNo) -> BoxFuture<'static, Result<Vec<Head>, StoreError>>;

    /// Whether the record is still owed to the stream.
    fn is_owed(&self, stream: StreamNo, at: Position) -> bool;

    /// How many records the stream is still owed.
    fn waiting(&self, stream: StreamNo) -> u64;

    /// What is noted of attempts of records still owed.
    fn attempts(&self, stream: StreamNo) -> Vec<(Position, Attempted)>;

    /// The stream's cursor.
    fn cursor(&self, stream: StreamNo) -> BoxFuture<'static, Result<Cursor, StoreError>>;

    /// The `n`-th record (from the newest, counted from 0) that the stream is still owed: for the limit of waiting SETs.
    fn nth_newest(&self, stream: StreamNo, n: u64) -> Option<Position>;

    /// The largest holder of waiting SETs, where it pays to cut one, and how far to cut it, oldest first, to get about `excess` bytes.
    ///
    /// A cut ends where something is freed: with a part of the ledger that can be given up.
    fn heaviest(&self, excess: u64) -> BoxFuture<'static, Result<Option<Heaviest>, StoreError>> {
        let _ = excess;
        Box::pin(std::future::ready(Ok(None)))
    }

    /// The first record that may have been accepted at or after `when`: for the age limit. Records whose times were held back, since
    /// the wall clock was suspect, are no older than when it was believed again.
    fn first_accepted_at(&self, when: Timestamp) -> BoxFuture<'static, Result<Position, StoreError>>;

    /// Parked SETs, by (stream, position).
    fn parked(&self, which: ParkedFilter) -> BoxFuture<'static, Result<Vec<Parked>, StoreError>>;

    /// Control-plane records, in the order asked for.
    fn get(&self, keys: Vec<Key>) -> BoxFuture<'static, Result<Vec<Option<Record>>, StoreError>>;

    /// Control-plane records whose key starts with `prefix`, by key.
    fn range(&self, prefix: Key) -> BoxFuture<'static, Result<Vec<Record>, StoreError>>;

    /// The version of the control-plane records.
    fn version(&self) -> Version;

    /// What the ledger holds.
    fn bounds(&self) -> Bounds;

    /// The right to write of this opening.
    fn fence(&self) -> Fence;

    /// The secrets that name and hash things of this store.
    fn names(&self) -> &crate::Names;

    /// How the store is doing.
    fn health(&self) -> Health;

    /// Tells this witness, and from now on no other, what becomes visible of deliveries; first of all what waits already.
    fn watch(&self, witness: Arc<dyn crate::Witness>);

    /// What is known of the time: what decides by age asks here, never the wall clock.
    fn time(&self) -> crate::Time;

    /// An operator says that the wall clock is right: it is believed from now on. Where times of acceptance are ahead of it, the next
    /// ones go back to it.
    fn confirm_clock(&self) -> BoxFuture<'static, Result<crate::Confirmed, StoreError>>;

    /// Frees what no stream needs any more: condenses, trims, forgets old ids and old parked SETs. Cheap when there is nothing to do.
    fn housekeep(&self) -> BoxFuture<'static, Result<(), StoreError>>;

    /// Writes everything out and closes; later calls are answered [`StoreError::Unavailable`].
    fn close(&self) -> BoxFuture<'static, Result<(), StoreError>>;
}
