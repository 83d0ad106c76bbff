//! Tests of idempotency keys behind their Bloom filters: a known key never counts as new.

use super::*;
use crate::{
    Appended, Done, Durability, NewEvent, Once, Position, Store, StoreError, Unit,
    fjall::Failure,
    testkit::{MANY, event},
};

fn with_id(id: u64) -> NewEvent {
    let hash = blake3::hash(&id.to_be_bytes());
    let key = hash.as_bytes().first_chunk().copied().unwrap();
    NewEvent { once: Some(Once { key, digest: key, txn: format!("txn-{id}").into() }), ..event("{}", &[1]) }
}

/// Appends these ids. Returns the number of those that were new.
async fn new_ones(store: &dyn Store, ids: impl Iterator<Item = u64>) -> usize {
    let events = ids.map(with_id).collect();
    let done = store.commit(vec![Unit::Append { events }], Durability::Sync).await.unwrap();
    let Done::Appended(answers) = &done[0] else { panic!("{done:?}") };
    answers.iter().filter(|answer| matches!(answer, Appended::New { .. })).count()
}

#[tokio::test]
async fn no_known_id_is_new_over_restarts_housekeeping_and_buckets() {
    let mut folder = Folder::with(|options| {
        options.idempotency_window = Duration::from_secs(4000);
        options.segment_records = 512;
    });
    for round in 0..4u64 {
        let store = folder.store();
        // The ids are looked up before the filter is filled, while it is, and after.
        for again in [0..round * 500, 0..round * 500] {
            assert_eq!(new_ones(&*store, again).await, 0, "round {round}");
            store.housekeep().await.unwrap();
        }
        let filling = store.housekeep();
        let fresh = async {
            for ten in 0..50 {
                let from = round * 500 + ten * 10;
                assert_eq!(new_ones(&*store, from..from + 10).await, 10);
            }
        };
        futures_util::future::join(filling, fresh).await.0.unwrap();
        assert_eq!(new_ones(&*store, 0..(round + 1) * 500).await, 0, "round {round}");
        if round % 2 == 0 {
            folder.cut(store as Arc<dyn Store>).await;
        } else {
            store.close().await.unwrap();
        }
        // Another bucket collects the next keys.
        folder.dial.pass(Duration::from_secs(1000));
    }
}

#[tokio::test]
async fn no_known_id_is_new_after_a_failed_write() {
    let mut folder = Folder::new();
    let store = folder.store();
    assert_eq!(new_ones(&*store, 0..100).await, 100);
    store.fail([Failure::Write(StoreError::Full("no room".into()))]);
    let events = (100..200).map(with_id).collect();
    assert!(store.commit(vec![Unit::Append { events }], Durability::Sync).await.is_err());
    let accepted = loop {
        let events = (0..200).map(with_id).collect();
        match store.commit(vec![Unit::Append { events }], Durability::Sync).await {
            Ok(done) => break done,
            Err(_) => drop(store.tail(Position::new(u64::MAX - 1), MANY, Duration::from_millis(20)).await),
        }
    };
    let Done::Appended(answers) = &accepted[0] else { panic!("{accepted:?}") };
    let new: Vec<bool> = answers.iter().map(|answer| matches!(answer, Appended::New { .. })).collect();
    assert!(new[..100].iter().all(|new| !new), "a known id was new");
    assert!(new[100..].iter().all(|new| *new), "what was not taken is known");
}
