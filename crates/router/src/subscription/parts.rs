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

/// What one stream is about now.
pub(crate) struct State {
    pub(super) no: StreamNo,
    pub(crate) lanes: Lanes,
    /// What of the lanes is counted in [`Shared::ready`].
    pub(super) accounted: usize,
    pub(super) control: ControlQueue,
    pub(crate) in_flight: InFlight,
    pub(super) scan: Scan,
    pub(super) streaks: Streaks,
    pub(super) parked_keys: ParkedKeys,
    pub(crate) breaker: Breaker,
    /// What its channel shares with others.
    pub(super) endpoint: Option<Member>,
    pub(crate) phase: Phase,
    pub(crate) consumers: Consumers,
    pub(crate) presence: Presence,
    pub(super) linger: Linger,
    pub(crate) shown: Shown,
    /// The channel of a sender runs.
    pub(super) running: bool,
    /// The receiver comes and fetches: what is out may stay out for long.
    pub(super) patient: bool,
    /// When the subscription is looked at next without being asked to, at the latest.
    pub(super) timed: Option<Duration>,
}

/// Control SETs: one at a time, before all others.
#[derive(Default)]
pub(super) struct ControlQueue {
    pub(super) queue: VecDeque<Slot>,
    /// One of them is out.
    pub(super) busy: bool,
}

/// What is fetched, and on its way to its end.
#[derive(Default)]
pub(crate) struct InFlight {
    pub(crate) leased: Map<u64, Leased>,
    /// Parked or dropped, on the way into the store.
    pub(super) ending: Set<u64>,
    /// Room that is given back when all reports of one call are settled.
    pub(super) returned: Option<Returned>,
    /// Reports of SETs that are not fetched, which the ledger is asked about: until it has told, nothing is fetched.
    pub(crate) late: usize,
    /// The last batch.
    pub(super) batches: BatchNo,
    /// SETs handed over and unsettled.
    pub(crate) handed: usize,
    /// Of these, SETs whose hand-over has ended well: they are in flight no more.
    pub(super) reached: usize,
    /// When those of them are due again that outlive their consumer, with their place in the ledger.
    pub(super) redeliveries: BTreeSet<(Duration, u64)>,
}

impl InFlight {
    /// SETs that are fetched and whose hand-over has not ended.
    pub(super) fn count(&self) -> usize {
        self.leased.len() - self.reached
    }

    /// This lease, unless it has ended or come back meanwhile.
    pub(crate) fn lease(&self, lease: LeaseNo) -> Option<&Leased> {
        self.leased.get(&lease.seq).filter(|leased| leased.batch == lease.batch)
    }
}

/// How far the stream is read in the store.
pub(super) struct Scan {
    /// Everything owed up to here stands in a lane, is fetched, settled, or skipped.
    pub(super) upto: u64,
    /// The tail has told of a SET here.
    pub(super) seen: u64,
    /// The store is being read.
    pub(super) reading: bool,
    /// The router was asked to read on.
    pub(super) asked: bool,
    /// From where to read again.
    pub(super) rewind: Option<u64>,
    /// Settled while a scan read the store.
    pub(super) settled_meanwhile: Option<Set<u64>>,
    /// What the store holds of attempts made before the start.
    pub(super) attempted: Map<u64, Attempted>,
}

/// How the stream fares: what failed and what was parked, in a row.
#[derive(Default)]
pub(super) struct Streaks {
    pub(super) fared: Fared,
    /// Failures of single SETs without one success.
    pub(super) lone_failures: u32,
    pub(super) parked: u32,
}

/// What was seen of order keys with a parked SET: a re-issue must not overtake a later one unseen.
pub(super) struct ParkedKeys {
    /// From which SET on all acknowledgements of the key were seen, and the last of them.
    pub(super) last: Map<OrderKey, (u64, u64)>,
    /// What is accepted from here on was handed over SET by SET alone: nothing of a key left before all that was earlier had ended.
    pub(super) one_by_one_from: u64,
}

/// What people are shown.
#[derive(Default)]
pub(crate) struct Shown {
    pub(crate) last_error: Option<(Timestamp, Cause)>,
    pub(crate) last_success: Option<Timestamp>,
    /// Why its channel takes nothing, as the channel tells.
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

/// How long SETs wait to leave together, and how many are enough.
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

/// How long a receiver may stay away from a stream that it opens.
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
    /// The batch in which it was fetched: the same SET fetched again is another lease.
    pub(crate) batch: BatchNo,
    /// How its hand-over can fail: a refusal after a batch settles it.
    pub(crate) order: Order,
    /// Nothing else was fetched with it that fails with it.
    pub(crate) alone: bool,
    /// When it was handed over.
    pub(crate) handed: Option<Duration>,
    /// The hand-over has ended well; what becomes of it is told later.
    pub(crate) reached: bool,
    /// How long after the hand-over it is due again; without it, when its consumer is gone.
    pub(crate) redelivery: Option<Duration>,
    pub(crate) generation: Generation,
    /// The sealed token, for a repeat, and the generation of the keyring that sealed it.
    pub(crate) sealed: Option<(KeyGeneration, Bytes)>,
    pub(crate) reservation: Arc<Reservation>,
    /// It left though its endpoint is held, to find out whether that is well.
    pub(crate) probe: Option<Probe>,
    pub(crate) bytes: usize,
}

impl Leased {
    /// When it is due again, whatever becomes of its consumer.
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
