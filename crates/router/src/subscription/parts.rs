//! The state of one stream, in parts, all under one lock.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use setgate_delivery::{Attempt, Cause, Initiator, Limits, Order};
use setgate_set::{Jti, OrderKey, Timestamp};
use setgate_store::{Attempted, Position, StreamNo};
use setgate_stream::Status;

use super::{Phase, Served, consumers::Consumers, presence::Presence};
use crate::{
    breaker::Breaker,
    endpoint::{Member, Probe},
    hash::{Map, Set},
    lane::Lanes,
    number::{BatchNo, ConsumerNo, Generation, KeyGeneration, LeaseNo},
    shared::Shared,
    slot::{Fared, Slot},
    window::{Reservation, Returned},
};

/// The present state of one stream.
pub(crate) struct State {
    pub(super) no: StreamNo,
    pub(crate) lanes: Lanes,
    /// The part of the lanes' SETs that is counted in [`Shared::ready`].
    pub(super) accounted: usize,
    pub(super) control: ControlQueue,
    pub(crate) in_flight: InFlight,
    pub(super) scan: Scan,
    pub(super) streaks: Streaks,
    pub(super) parked_keys: ParkedKeys,
    pub(crate) breaker: Breaker,
    /// Its channel's share in an endpoint.
    pub(super) endpoint: Option<Member>,
    pub(crate) phase: Phase,
    pub(crate) consumers: Consumers,
    pub(crate) presence: Presence,
    pub(super) linger: Linger,
    pub(crate) shown: Shown,
    /// True while the channel of a sender runs.
    pub(super) running: bool,
    /// True when the receiver comes and fetches: what is out may stay out for long.
    pub(super) patient: bool,
    /// The latest time at which a timer wakes the subscription.
    pub(super) timed: Option<Duration>,
}

/// The control SETs, which leave one at a time and before all others.
#[derive(Default)]
pub(super) struct ControlQueue {
    pub(super) queue: VecDeque<Slot>,
    /// True while one of them is out.
    pub(super) busy: bool,
}

/// The SETs that are fetched and on their way to their end.
#[derive(Default)]
pub(crate) struct InFlight {
    pub(crate) leased: Map<u64, Leased>,
    /// SETs that are ended and whose end is on the way into the store.
    pub(super) ending: Set<u64>,
    /// The room that is given back when all reports of one call are settled.
    pub(super) returned: Option<Returned>,
    /// Calls whose reports of SETs that are not fetched wait for a read of the ledger; nothing is fetched until it is
    /// done.
    pub(crate) late: usize,
    /// The number of the last batch.
    pub(super) batches: BatchNo,
    /// The number of SETs that are handed over and unsettled.
    pub(crate) handed: usize,
    /// The number of these whose hand-over has succeeded: they are no longer in flight.
    pub(super) reached: usize,
    /// The times at which handed-over SETs that outlive their consumer are due again, with their positions in the
    /// ledger.
    pub(super) redeliveries: BTreeSet<(Duration, u64)>,
}

impl InFlight {
    /// Returns the number of SETs that are fetched and whose hand-over has not ended.
    pub(super) fn count(&self) -> usize {
        self.leased.len() - self.reached
    }

    /// Returns this lease, unless it has ended or come back meanwhile.
    pub(crate) fn lease(&self, lease: LeaseNo) -> Option<&Leased> {
        self.leased.get(&lease.seq).filter(|leased| leased.batch == lease.batch)
    }
}

/// The progress of reading the stream in the store.
pub(super) struct Scan {
    /// The position up to which everything owed stands in a lane, is fetched, settled, or skipped.
    pub(super) upto: u64,
    /// The last position that the tail has passed to this stream.
    pub(super) seen: u64,
    /// True while the store is being read.
    pub(super) reading: bool,
    /// True when the router was asked to read on.
    pub(super) asked: bool,
    /// The position from which to read again, if any.
    pub(super) rewind: Option<u64>,
    /// SETs that were settled while a scan read the store.
    pub(super) settled_meanwhile: Option<Set<u64>>,
    /// The attempts made before the start, as the store holds them.
    pub(super) attempted: Map<u64, Attempted>,
}

/// The stream's record of failures and parked SETs, in a row.
#[derive(Default)]
pub(super) struct Streaks {
    pub(super) fared: Fared,
    /// Failures of single SETs without one success in between.
    pub(super) lone_failures: u32,
    pub(super) parked: u32,
}

/// The acknowledgements seen of order keys with a parked SET: a re-issue must not follow a later SET unnoticed.
pub(super) struct ParkedKeys {
    /// The SET from which on all acknowledgements of the key were seen, and the last SET acknowledged.
    pub(super) last: Map<OrderKey, (u64, u64)>,
    /// The position from which on SETs are handed over one by one: no SET of a key left before all earlier ones had
    /// ended.
    pub(super) one_by_one_from: u64,
}

/// The facts that are shown to people.
#[derive(Default)]
pub(crate) struct Shown {
    pub(crate) last_error: Option<(Timestamp, Cause)>,
    pub(crate) last_success: Option<Timestamp>,
    /// The reason that the channel gives for taking nothing.
    pub(crate) stalled: Option<Cause>,
}

impl State {
    pub(super) fn new(no: StreamNo, shared: &Shared, served: &Served, last: Position) -> Self {
        let attempted = shared.store.attempts(no).into_iter().map(|(at, attempted)| (at.seq, attempted)).collect();
        let owes = shared.store.waiting(no) > 0;
        Self {
            no,
            lanes: Lanes::new(shared.config.ready_sets),
            accounted: 0,
            control: ControlQueue::default(),
            in_flight: InFlight::default(),
            scan: Scan {
                upto: if owes { 0 } else { last.seq },
                seen: last.seq,
                reading: false,
                asked: false,
                rewind: None,
                settled_meanwhile: None,
                attempted,
            },
            streaks: Streaks::default(),
            parked_keys: ParkedKeys {
                last: Map::default(),
                one_by_one_from: if served.profile.order == Order::PerSet { last.seq + 1 } else { u64::MAX },
            },
            breaker: Breaker::of(&served.profile),
            endpoint: served.endpoint.clone().map(Member::of),
            phase: phase_of(&served.stream.status),
            consumers: Consumers::default(),
            presence: Presence::new(shared.runtime.clock.monotonic(), inactivity(served)),
            linger: Linger::of(served),
            shown: Shown::default(),
            running: false,
            patient: served.profile.initiator == Initiator::Receiver,
            timed: None,
        }
    }
}

/// The time that SETs wait to leave together, and the limits that end the wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linger {
    pub(super) wait: Duration,
    pub(super) order: Order,
    pub(super) limits: Limits,
}

impl Linger {
    pub(super) fn of(served: &Served) -> Self {
        Self { wait: served.stream.batch.linger(), order: served.profile.order, limits: served.profile.limits }
    }
}

/// Returns the time that a receiver may stay away from a stream that it opens.
pub(super) fn inactivity(served: &Served) -> Option<Duration> {
    let seconds = served.stream.inactivity_timeout_seconds?;
    (served.profile.initiator == Initiator::Receiver).then(|| Duration::from_secs(seconds.get().into()))
}

/// A fetched SET.
pub(crate) struct Leased {
    pub(crate) slot: Slot,
    pub(crate) jti: Jti,
    pub(crate) attempt: Attempt,
    pub(crate) consumer: ConsumerNo,
    /// The batch in which it was fetched; the same SET fetched again is another lease.
    pub(crate) batch: BatchNo,
    /// The unit in which its hand-over can fail: a refusal after a batch settles the SET.
    pub(crate) order: Order,
    /// True when no other SET was fetched with it that would fail with it.
    pub(crate) alone: bool,
    /// The time of the hand-over.
    pub(crate) handed: Option<Duration>,
    /// True when the hand-over has succeeded and the outcome comes later.
    pub(crate) reached: bool,
    /// The time from the hand-over until it is due again; without it the SET is due when its consumer is gone.
    pub(crate) redelivery: Option<Duration>,
    pub(crate) generation: Generation,
    /// The sealed token, for a repeat, and the generation of the keyring that sealed it.
    pub(crate) sealed: Option<(KeyGeneration, Bytes)>,
    pub(crate) reservation: Arc<Reservation>,
    /// The right by which it left although its endpoint is held, to probe that endpoint.
    pub(crate) probe: Option<Probe>,
    pub(crate) bytes: usize,
}

impl Leased {
    /// Returns the time at which it is due again, whatever becomes of its consumer.
    pub(super) fn redelivery_at(&self) -> Option<Duration> {
        Some(self.handed? + self.redelivery?)
    }
}

pub(super) fn phase_of(status: &Status) -> Phase {
    match status {
        Status::Enabled => Phase::Open,
        Status::Paused { .. } => Phase::Paused,
        Status::Disabled { .. } => Phase::Disabled,
    }
}
