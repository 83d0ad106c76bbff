//! The times at which waiting lanes go on.

use std::{collections::BTreeSet, time::Duration};

use setgate_set::OrderKey;

use super::Lane;

/// The lanes that wait, each once, in the order in which their times come.
#[derive(Debug, Default)]
pub(super) struct Waits(pub(super) BTreeSet<(Duration, OrderKey)>);

impl Waits {
    /// Lets the lane of this key wait until this time, or not at all.
    pub(super) fn set(&mut self, key: OrderKey, lane: &mut Lane, until: Option<Duration>) {
        if let Some(before) = std::mem::replace(&mut lane.waits, until) {
            self.0.remove(&(before, key));
        }
        self.0.extend(until.map(|until| (until, key)));
    }
}
