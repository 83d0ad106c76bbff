//! The hand-over of a batch; SETs of a batch that is dropped before it go back.

use std::sync::Arc;

use setgate_delivery::spi::Lease;

use crate::{number::LeaseNo, subscription::Subscription};

/// The lease of a batch, which holds its SETs until they are handed over.
pub(super) struct BatchLease {
    pub(super) subscription: Arc<Subscription>,
    pub(super) sets: Vec<LeaseNo>,
    pub(super) handed: bool,
}

impl Lease for BatchLease {
    fn handed_over(mut self: Box<Self>) {
        self.handed = true;
        self.subscription.handed_over(&self.sets);
    }
}

impl Drop for BatchLease {
    fn drop(&mut self) {
        if !self.handed {
            self.subscription.hand_back(&self.sets);
        }
    }
}
