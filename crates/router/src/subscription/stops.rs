//! Order keys that stand still since a SET of theirs is parked.

use std::sync::Arc;

use setgate_set::OrderKey;

use super::Subscription;
use crate::hash::Set;

/// What was not yet to be seen in the store when somebody looked at what is parked there.
pub(crate) struct Look {
    /// Stops until then.
    stops: u64,
    /// On the way into the store.
    ending: Set<u64>,
}

impl Subscription {
    pub(crate) fn has_stops(&self) -> bool {
        self.state.lock().lanes.stopped().next().is_some()
    }

    /// Somebody is going to look at what is parked.
    pub(crate) fn looks_at_stops(&self) -> Look {
        let state = self.state.lock();
        Look { stops: state.lanes.stops(), ending: state.in_flight.ending.clone() }
    }

    /// These have a parked SET.
    pub(crate) fn stop_keys(&self, keys: &Set<OrderKey>) {
        let mut state = self.state.lock();
        for key in keys {
            if !state.lanes.is_stopped(*key) {
                state.lanes.stop(*key, 0);
            }
        }
    }

    /// These alone had a parked SET at that look: others go on, but for those that were stopped since.
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
