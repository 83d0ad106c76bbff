//! The order keys that stand still because a SET of theirs is parked.

use std::sync::Arc;

use setgate_set::OrderKey;

use super::Subscription;
use crate::hash::Set;

/// The stops and ends that the store may not have shown yet when its parked SETs were read.
pub(crate) struct Look {
    /// The number of stops made by then.
    stops: u64,
    /// SETs whose end is on the way into the store.
    ending: Set<u64>,
}

impl Subscription {
    pub(crate) fn has_stops(&self) -> bool {
        self.state.lock().lanes.stopped().next().is_some()
    }

    /// Returns what the store may not show yet, before its parked SETs are read.
    pub(crate) fn looks_at_stops(&self) -> Look {
        let state = self.state.lock();
        Look { stops: state.lanes.stops(), ending: state.in_flight.ending.clone() }
    }

    /// Stops these keys, of which a SET is parked.
    pub(crate) fn stop_keys(&self, keys: &Set<OrderKey>) {
        let mut state = self.state.lock();
        for key in keys {
            if !state.lanes.is_stopped(*key) {
                state.lanes.stop(*key, 0);
            }
        }
    }

    /// Lets stopped keys go on, except those that had a parked SET at that look and those that were stopped since.
    pub(crate) fn let_go(self: &Arc<Self>, look: &Look, parked: &Set<OrderKey>) {
        let mut state = self.state.lock();
        let over = |(key, stop, seq): (OrderKey, u64, u64)| {
            (stop <= look.stops && !look.ending.contains(&seq) && !parked.contains(&key)).then_some(key)
        };
        let over: Vec<_> = state.lanes.stopped().filter_map(over).collect();
        over.into_iter().for_each(|key| state.lanes.go_on(key));
        self.wake(&mut state);
    }
}
