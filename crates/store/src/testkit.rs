//! The contract suite: ten laws of every store, run on each implementation by
//! [`contract_suite!`](crate::contract_suite).

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "this is test code that other crates may run"
)]

mod laws;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use setgate_set::{OrderKey, Receipt};

pub use laws::*;

use crate::{
    Appended, Attempted, Done, Durability, Entry, Fence, IssuerNo, Kind, NewEvent, Note, Once, Position, ProducerNo,
    Settlement, Store, StreamNo, Unit, Version,
};

/// A bench on which a store of one implementation is opened, cut off and opened again.
pub trait Bench: Send {
    /// Opens the store, for the first time or again.
    fn open(&mut self) -> BoxFuture<'_, Arc<dyn Store>>;

    /// Ends the store as a killed process does. The next opening has what was durable.
    fn cut<'a>(&'a mut self, store: Arc<dyn Store>) -> BoxFuture<'a, ()>;

    /// Returns whether the content survives a cut. For a store in memory it does not: laws about cuts then do not
    /// reopen it.
    fn survives(&self) -> bool;
}

/// More records than any test has.
pub const MANY: usize = 100_000;

/// Returns an event for these streams.
#[must_use]
pub fn event(body: &str, targets: &[u32]) -> NewEvent {
    NewEvent {
        kind: Kind::Intake,
        issuer: IssuerNo(1),
        producer: ProducerNo(1),
        config: Version(u64::MAX),
        order: OrderKey::from_bits(7),
        targets: Arc::new(targets.iter().copied().collect()),
        body: Bytes::copy_from_slice(body.as_bytes()),
        once: None,
    }
}

/// Returns an event with an id.
#[must_use]
pub fn event_once(body: &str, targets: &[u32], key: u8, digest: u8) -> NewEvent {
    let once = Once { key: [key; 16], digest: [digest; 16], txn: format!("txn-{digest}").into() };
    NewEvent { once: Some(once), ..event(body, targets) }
}

/// Returns an acknowledgement.
#[must_use]
pub fn acknowledged(stream: u32, seq: u64) -> Settlement {
    Settlement { stream: StreamNo(stream), at: Position::new(seq), note: Note::Acknowledged(Receipt::Receiver) }
}

/// Returns a refusal, which parks the SET.
#[must_use]
pub fn parked(stream: u32, seq: u64) -> Settlement {
    let note = Note::Parked {
        code: setgate_set::ErrorCode::InvalidRequest,
        text: "no".into(),
        attempts: 3,
        stream_fault: false,
    };
    Settlement { stream: StreamNo(stream), at: Position::new(seq), note }
}

/// Returns a failed attempt.
#[must_use]
pub fn attempted(stream: u32, seq: u64, count: u32) -> Settlement {
    let at = setgate_set::Timestamp::from_millis(5);
    Settlement {
        stream: StreamNo(stream),
        at: Position::new(seq),
        note: Note::Attempt(Attempted { count, first_failed: at, next_at: at }),
    }
}

/// Commits one unit.
pub async fn one(store: &Arc<dyn Store>, unit: Unit) -> Done {
    let mut done = store.commit(vec![unit], Durability::Sync).await.expect("the store commits");
    assert_eq!(done.len(), 1, "one answer for one unit");
    done.remove(0)
}

/// Appends one event and returns its position.
pub async fn append(store: &Arc<dyn Store>, event: NewEvent) -> u64 {
    match one(store, Unit::Append { events: vec![event] }).await {
        Done::Appended(answers) => match answers.as_slice() {
            [Appended::New { at, .. }] => at.seq,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// Settles with the store's own fence, and returns the answer.
pub async fn settle(store: &Arc<dyn Store>, what: Vec<Settlement>, how: Durability) -> Done {
    settle_with(store, store.fence(), what, how).await
}

/// Settles with the given fence, and returns the answer.
pub async fn settle_with(store: &Arc<dyn Store>, fence: Fence, what: Vec<Settlement>, how: Durability) -> Done {
    store.commit(vec![Unit::Settle { fence, what }], how).await.expect("the store commits").remove(0)
}

/// Returns everything in the tail.
pub async fn tail(store: &Arc<dyn Store>) -> Vec<Entry> {
    let mut all = Vec::new();
    loop {
        let after = all.last().map_or(Position::START, |entry: &Entry| entry.head.at);
        let more = store.tail(after, 100, Duration::ZERO).await.unwrap();
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}

/// Returns the positions that a stream is owed.
pub async fn owed(store: &Arc<dyn Store>, stream: u32) -> Vec<u64> {
    let heads = store.owed(StreamNo(stream), Position::START, usize::MAX).await.unwrap();
    heads.into_iter().map(|head| head.at.seq).collect()
}

/// Returns the body of a record.
pub async fn body(store: &Arc<dyn Store>, seq: u64) -> Option<Bytes> {
    store.bodies(vec![Position::new(seq)]).await.unwrap().remove(0)
}

/// Asserts law 8 for some streams.
pub async fn assert_sums(store: &Arc<dyn Store>, streams: std::ops::RangeInclusive<u32>) {
    for stream in streams {
        let tally = store.cursor(StreamNo(stream)).await.unwrap().tally;
        let ended = tally.acknowledged_receiver
            + tally.acknowledged_broker
            + tally.parked
            + tally.dropped.values().sum::<u64>();
        assert_eq!(tally.owed, ended + tally.waiting, "stream {stream}: {tally:?}");
        assert_eq!(tally.waiting, owed(store, stream).await.len() as u64, "stream {stream}: {tally:?}");
        assert_eq!(tally.waiting, store.waiting(StreamNo(stream)));
    }
}

/// Declares the tests of the contract suite for one implementation. The expression creates a new [`Bench`].
#[macro_export]
macro_rules! contract_suite {
    ($make:expr) => {
        $crate::contract_suite!(@each $make;
            what_is_appended_is_in_the_tail_after_a_cut
            the_tail_has_no_hole
            a_reader_that_lags_is_told_of_all_that_is_owed
            the_tail_waits_for_the_first_record
            the_same_key_and_body_have_the_same_position
            a_repeat_in_the_same_unit_is_a_repeat
            an_older_decision_is_stale
            a_unit_is_whole_or_absent
            an_old_fence_changes_nothing
            settlements_commute_and_the_first_end_wins
            lazy_settlements_count_at_once_and_stay_after_a_close
            what_is_owed_is_never_trimmed
            counts_add_up_after_every_cut
            a_parked_set_keeps_what_is_needed_to_issue_it_again
            parked_sets_are_listed_in_order_and_discarded
            no_position_of_one_boot_names_two_bodies
            numbers_are_never_given_twice
            a_change_against_another_version_changes_nothing
            disabling_drops_what_is_owed_and_its_notice_stays
            a_deleted_stream_leaves_nothing_behind
            retention_drops_what_is_older
            records_are_found_by_key_and_prefix
            attempts_are_kept_until_the_end
            accepted_times_never_go_back
            a_closed_store_refuses
        );
    };
    (@each $make:expr; $($law:ident)*) => {
        $(
            #[tokio::test]
            async fn $law() {
                let mut bench = $make;
                $crate::testkit::$law(&mut bench).await;
            }
        )*
    };
}
