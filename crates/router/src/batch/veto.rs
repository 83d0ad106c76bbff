//! The veto: the last check before SETs leave.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use setgate_delivery::{Attempt, Batch, Envelope, Order, SealedSet, Want};
use setgate_set::{ErrorCode, OrderKey};
use setgate_store::{Kind, Rule};
use setgate_stream::{Decision, Why};

use super::{
    StreamConsumer,
    hand_over::BatchLease,
    prepare::{Made, Prepared, Token},
};
use crate::{
    number::{KeyGeneration, LeaseNo},
    slot::Slot,
    subscription::{Phase, Served},
};

/// Limits that allow everything: an accepted event is read whatever the limits were then.
const UNLIMITED: setgate_set::EventLimits =
    setgate_set::EventLimits { types: usize::MAX, uri: usize::MAX, name: usize::MAX };

impl StreamConsumer {
    /// Returns the SETs that may leave after the last check, which holds back what is paused, dropped, removed or no
    /// longer wanted since the decision.
    pub(super) fn pass(&mut self, want: &Want) -> Option<Batch> {
        if self.kept.is_empty() {
            return None;
        }
        self.drop_unread();
        let paused = self.recall();
        // SETs that were sealed for another method or endpoint than the one in force must not leave for the old one.
        let in_force = self.subscription.served.load_full();
        let moved = in_force.generation != self.holder.generation;
        let mut sets = Vec::with_capacity(self.kept.len().min(want.sets));
        let mut leases = Vec::with_capacity(sets.capacity());
        let mut back = Vec::new();
        let mut bytes = 0usize;
        while sets.len() < want.sets {
            let Some((prepared, served)) = self.kept.pop_front() else { break };
            let lease = prepared.lease();
            let Prepared { slot, batch, jti, made } = prepared;
            let control = slot.head.kind == Kind::Control;
            if moved || paused && !control {
                back.push(lease);
                continue;
            }
            let Some(token) = self.token(lease, made, &served) else { continue };
            if token.generation != KeyGeneration::of(&served.seal.keyring) {
                // Its key may have been revoked since, so it is sealed again (hardening H49).
                back.push(lease);
                continue;
            }
            if let Some(rule) = self.veto(&in_force, &slot, &token.body) {
                self.subscription.drop_by_rule(lease, rule);
                continue;
            }
            if !sets.is_empty() && bytes + token.token.len() > want.bytes {
                let made = Made::Token(token);
                self.kept.push_front((Prepared { slot, batch, jti, made }, served));
                break;
            }
            let Token { token, body, .. } = token;
            bytes += token.len();
            leases.push(lease);
            let envelope = Arc::new(Envelope::new(slot.head.accepted, body));
            let (attempt, order) = (Attempt(slot.attempts + 1), slot.head.order);
            sets.push(SealedSet { jti, attempt, body: token, envelope, order });
        }
        if self.holder.order == Order::PerBatch {
            back.extend(self.part_behind(&sets));
        }
        if !back.is_empty() {
            self.subscription.hand_back(&back);
        }
        if sets.is_empty() {
            return None;
        }
        Some(Batch::new(
            sets,
            self.has_more(),
            Box::new(BatchLease { subscription: self.subscription.clone(), sets: leases, handed: false }),
        ))
    }

    /// Returns whether there is more for this consumer now.
    fn has_more(&self) -> bool {
        !self.kept.is_empty() || {
            let mut state = self.subscription.state.lock();
            state.lanes.has_ready() || state.lanes.has_held(self.holder.consumer)
        }
    }

    /// Gives up the kept SETs that the store cannot read.
    fn drop_unread(&mut self) {
        self.kept.retain(|(prepared, _)| {
            let Made::Unread(cause) = &prepared.made else { return true };
            // SETs that were fetched behind it come back with it, before anything of its subject leaves.
            self.subscription.cannot_read(prepared.lease(), cause);
            false
        });
    }

    /// Hands back the SETs that may not leave since their endpoint failed, and returns whether only control SETs may
    /// leave.
    fn recall(&mut self) -> bool {
        let mut held = Vec::new();
        let paused = {
            let state = self.subscription.state.lock();
            let open = state.is_endpoint_open();
            // A SET that failed meanwhile has taken back those that were fetched behind it.
            self.kept.retain(|(prepared, _)| {
                let lease = prepared.lease();
                let leased = state.in_flight.lease(lease);
                // SETs that were fetched before their endpoint failed wait, too.
                let leaves = leased.is_some_and(|leased| open || state.lets_pass(leased));
                if !leaves && leased.is_some() {
                    held.push(lease);
                }
                leaves
            });
            !matches!(state.phase, Phase::Open)
        };
        if !held.is_empty() {
            self.subscription.hand_back(&held);
        }
        paused
    }

    /// Returns the sealed token. A SET without one is settled or comes back, as the reason demands.
    fn token(&self, lease: LeaseNo, made: Made, served: &Served) -> Option<Token> {
        match made {
            Made::Token(token) => return Some(token),
            Made::Gone(rule) => self.subscription.drop_by_rule(lease, rule),
            Made::Unread(cause) => self.subscription.cannot_read(lease, &cause),
            Made::TooLarge(size) => {
                let most = served.profile.limits.set_bytes;
                let text = format!("{size} bytes; the method carries at most {most}");
                self.subscription.park_unsent(lease, ErrorCode::TooLarge, &text);
            }
        }
        None
    }

    /// Parts the rest of a fetched batch from the SETs that leave first, and returns those that must follow one of
    /// these: they come back until that one is settled.
    fn part_behind(&mut self, first: &[SealedSet]) -> Vec<LeaseNo> {
        let mut back = Vec::new();
        if self.kept.is_empty() {
            return back;
        }
        let first: HashSet<OrderKey> = first.iter().map(|set| set.order).collect();
        self.kept.retain(|(prepared, _)| {
            let head = &prepared.slot.head;
            let goes = first.contains(&head.order) && head.kind != Kind::Control;
            if goes {
                back.push(prepared.lease());
            }
            !goes
        });
        back
    }

    /// Returns the rule by which a SET must not leave any more although it was owed when it was accepted, if there is
    /// one.
    fn veto(&self, served: &Served, slot: &Slot, body: &Bytes) -> Option<Rule> {
        if !self.subscription.shared.store.is_owed(self.subscription.no, slot.head.at) {
            return Some(Rule::Deleted);
        }
        if slot.head.kind == Kind::Control || slot.head.config >= served.filter_changed {
            return None;
        }
        let value = serde_json::from_slice(body).ok()?;
        let event = setgate_set::Event::parse(value, &UNLIMITED).ok()?;
        match setgate_stream::decide(&served.stream, &event.types, &event.subject) {
            Decision::Deliver | Decision::Hold => None,
            Decision::Skip(Why::EventNotWanted) => Some(Rule::EventNotWanted),
            Decision::Skip(Why::Disabled) => Some(Rule::Disabled),
            Decision::Skip(_) => Some(Rule::SubjectRemoved),
        }
    }
}
