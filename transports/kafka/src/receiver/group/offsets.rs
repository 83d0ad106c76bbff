//! The commits of offsets, and the check that they arrived.

use std::time::Duration;

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
};

use super::{Member, Shared, State};
use crate::receiver::{batch::Assignment, health::CommitState};

/// The longest wait for the brokers to report the committed offsets.
const SURE: Duration = Duration::from_secs(2);

impl Shared {
    /// Returns the offsets in this commit state of the partitions assigned to this member, or of those among them that
    /// `of` names.
    fn offsets(&self, of: Option<&TopicPartitionList>, kept: CommitState) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        let mut state = self.state.lock();
        let State { ours, next, .. } = &mut *state;
        next.retain(|place, _| ours.get(&(place.topic.clone(), place.partition)) == Some(&place.epoch));
        for (place, (at, _)) in next.iter().filter(|(_, (_, is))| *is == kept) {
            if of.is_none_or(|of| of.find_partition(&place.topic, place.partition).is_some()) {
                // Names and offsets come from the library itself, so they fit.
                let _ = list.add_partition_offset(&place.topic, place.partition, Offset::Offset(*at));
            }
        }
        list
    }

    /// Sets the commit state of the listed partitions.
    fn mark(&self, list: &TopicPartitionList, mut kept: impl FnMut(&Assignment, Offset) -> CommitState) {
        let mut state = self.state.lock();
        for (place, (at, is)) in &mut state.next {
            if list.find_partition(&place.topic, place.partition).is_some() {
                *is = kept(place, Offset::Offset(*at));
            }
        }
    }

    /// Commits the offsets that are durable and not committed, without waiting for the answer.
    pub(super) fn send(&self, consumer: &BaseConsumer<Member>, of: Option<&TopicPartitionList>) {
        let list = self.offsets(of, CommitState::No);
        if list.count() > 0 {
            match consumer.commit(&list, CommitMode::Async) {
                Ok(()) => self.mark(&list, |_, _| CommitState::Sent),
                Err(error) => self.doubt(&error.to_string()),
            }
        }
    }

    /// Commits the offsets that are durable, and asks the brokers whether the commits arrived. A commit that waits for
    /// its answer has no time-out in the library.
    pub(super) fn commit(&self, consumer: &BaseConsumer<Member>, of: Option<&TopicPartitionList>) {
        self.send(consumer, of);
        let list = self.offsets(of, CommitState::Sent);
        if list.count() == 0 {
            return;
        }
        match consumer.committed_offsets(list.clone(), SURE) {
            Ok(known) => {
                let mut missing = 0;
                self.mark(&list, |place, at| {
                    let known = known.find_partition(&place.topic, place.partition);
                    if known.is_some_and(|known| known.offset() == at) {
                        return CommitState::Yes;
                    }
                    missing += 1;
                    CommitState::No
                });
                if missing > 0 {
                    self.doubt(&format!("the brokers did not take {missing} of them"));
                } else {
                    self.state.lock().commits.on_success();
                }
            }
            Err(error) => {
                self.mark(&list, |_, _| CommitState::No);
                self.doubt(&error.to_string());
            }
        }
    }

    fn doubt(&self, why: &str) {
        tracing::warn!(broker = %self.broker, why, "offsets were not committed: what was taken may come again");
        self.state.lock().commits.failed(self.reported.now());
    }

    /// Returns whether a failed commit must rest longer before it is tried again.
    pub(super) fn is_patient(&self) -> bool {
        !self.state.lock().commits.is_over(self.reported.now())
    }
}
