//! The scan of the store: SETs that are owed beyond the ready set find their lanes when there is room.

use std::{sync::Arc, time::Duration};

use setgate_set::Timestamp;
use setgate_store::{Head, Kind, Position};
use setgate_telemetry::chain;

use super::{SKIPPED_MOST, State, Subscription};
use crate::{hash::Set, lane::Offered, shared::Command, slot::Slot};

/// The most heads of one read: a thousand streams may read at once when a gateway starts.
const READ_MOST: usize = 256;

impl Subscription {
    /// Reads on in the store and places owed SETs into lanes, as far as one read goes and there is room. Where more is
    /// wanted, another scan is asked for.
    pub(crate) async fn scan(self: Arc<Self>) {
        let (from, rewound) = {
            let mut state = self.state.lock();
            state.scan.asked = false;
            if state.scan.reading || !state.wants_scan() {
                return;
            }
            let rewound = state.scan.rewind.take();
            if let Some(to) = rewound {
                state.scan.upto = state.scan.upto.min(to);
            }
            state.scan.reading = true;
            state.scan.settled_meanwhile = Some(Set::default());
            (state.scan.upto, rewound.is_some())
        };
        if rewound {
            // SETs that are settled must not be found again.
            self.shared.settler.flush().await;
        }
        let upto = self.shared.store.bounds().last.seq;
        let most = self.shared.config.ready_sets.clamp(64, READ_MOST);
        let read = self.shared.store.owed(self.no, Position::new(from), most).await;
        let mut state = self.state.lock();
        state.scan.reading = false;
        let settled = state.scan.settled_meanwhile.take().unwrap_or_default();
        match read {
            // A lane ran empty during the read: what was skipped of its key comes first.
            Ok(_) if state.scan.rewind.is_some_and(|to| to < state.scan.upto) => {}
            Ok(heads) => {
                let whole = heads.len() < most;
                self.place(&mut state, heads, &settled, whole.then_some(upto));
            }
            Err(error) => {
                tracing::warn!(stream = %self.served.load().stream.id, error = chain(&error), "cannot read what is owed; trying again");
                state.scan.asked = true;
                let subscription = self.clone();
                let clock = self.shared.runtime.clock.clone();
                self.shared.runtime.spawn("scan again", async move {
                    clock.sleep(Duration::from_secs(1)).await;
                    subscription.shared.tell(Command::Scan(subscription.clone()));
                });
            }
        }
        self.wake(&mut state);
    }

    fn place(&self, state: &mut State, heads: Vec<Head>, settled: &Set<u64>, whole_up_to: Option<u64>) {
        let now = self.shared.runtime.clock.monotonic();
        let wall = Timestamp::from_millis(self.shared.runtime.clock.wall_millis());
        for head in heads {
            let seq = head.at.seq;
            let known = state.in_flight.leased.contains_key(&seq)
                || state.in_flight.ending.contains(&seq)
                || settled.contains(&seq);
            if known || head.kind == Kind::Control {
                state.scan.upto = state.scan.upto.max(seq);
                continue;
            }
            self.share(state);
            if state.lanes.room() == 0 {
                if state.lanes.has_ready() {
                    return;
                }
                // Everything that stands here waits: other keys may pass, each with a slot of its own, until there are
                // too many.
                let takes_its_time = state.patient || state.in_flight.reached > 0;
                state.lanes.shrink(takes_its_time);
                if state.lanes.queued() >= SKIPPED_MOST {
                    return;
                }
            }
            let mut slot = Slot::new(head);
            let due = state.scan.attempted.get(&seq).map(|attempted| {
                slot.attempts = attempted.count;
                slot.failed_at(attempted.first_failed);
                let wait = attempted.next_at.since(wall).min(self.shared.config.backoff_max);
                // A receiver that fetches comes at its own time, so nothing needs to be spread.
                let spread = if state.patient { 0 } else { self.shared.runtime.random.below(1000) };
                now + wait + Duration::from_millis(spread)
            });
            if state.lanes.offer(slot, due) == Offered::Taken {
                state.scan.attempted.remove(&seq);
            }
            state.scan.upto = state.scan.upto.max(seq);
        }
        if let Some(upto) = whole_up_to {
            state.scan.upto = state.scan.upto.max(upto);
        }
    }
}
