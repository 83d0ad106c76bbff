//! Handing over: what a batch holds until then goes back when it is dropped before.

use std::sync::Arc;

use setgate_delivery::spi::Claim;

use crate::{number::ClaimNo, subscription::Subscription};

/// What a batch holds until it is handed over.
pub(super) struct FetchedClaim {
    pub(super) subscription: Arc<Subscription>,
    pub(super) sets: Vec<ClaimNo>,
    pub(super) handed: bool,
}

impl Claim for FetchedClaim {
    fn handed_over(mut self: Box<Self>) {
        self.handed = true;
        self.subscription.handed_over(&self.sets);
    }
}

impl Drop for FetchedClaim {
    fn drop(&mut self) {
        if !self.handed {
            self.subscription.hand_back(&self.sets);
        }
    }
}
