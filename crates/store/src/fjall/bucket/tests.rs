use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    Appended, Done, Durability, FjallStore, NewEvent, Once, Store, Unit,
    testkit::{Bench as _, event},
    tests::Folder,
};

const HOUR: Duration = Duration::from_secs(3600);

fn with_id(producer: u32, id: u64) -> NewEvent {
    let hash = blake3::hash(&[producer.to_be_bytes().as_slice(), &id.to_be_bytes()].concat());
    let key = hash.as_bytes().first_chunk().copied().unwrap();
    let once = Some(Once { key, digest: key, txn: format!("txn-{id}").into() });
    NewEvent { producer: ProducerNo(producer), once, ..event("{}", &[1]) }
}

/// Appends an event. Returns whether it is new.
async fn is_new(store: &dyn Store, producer: u32, id: u64) -> bool {
    let unit = Unit::Append { events: vec![with_id(producer, id)] };
    let done = store.commit(vec![unit], Durability::Sync).await.unwrap();
    let [Done::Appended(answers)] = &done[..] else { panic!("{done:?}") };
    matches!(answers[..], [Appended::New { .. }])
}

fn buckets(folder: &Folder) -> Vec<(u64, Option<Timestamp>)> {
    let engine = Engine::open(&folder.place().engine()).unwrap();
    let once = engine.once.read();
    once.iter().map(|(number, bucket)| (*number, bucket.until)).collect()
}

#[tokio::test]
async fn a_producer_with_too_many_ids_in_one_hour_keeps_the_newest() {
    let mut folder = Folder::with(|options| options.idempotency_keys_per_producer = 40);
    let mut store = folder.store() as Arc<dyn Store>;
    assert!(is_new(&*store, 2, 0).await);
    for id in 0..200 {
        assert!(is_new(&*store, 1, id).await);
        if id == 100 {
            store.close().await.unwrap();
            store = folder.store();
        }
    }
    // The newest are looked up first: a forgotten id is new, and displaces another one.
    for id in (150..200).rev() {
        let known = !is_new(&*store, 1, id).await;
        assert!(known || id < 160, "{id} is one of the newest forty and was forgotten");
        assert!(!known || id >= 150, "{id}");
    }
    assert!(is_new(&*store, 1, 20).await, "the limit does not hold within an hour");
    assert!(!is_new(&*store, 2, 0).await, "another producer lost its id");
}

#[tokio::test]
async fn an_id_that_came_while_the_clock_was_suspect_is_kept_for_its_window() {
    let mut folder = Folder::new();
    let store = folder.store() as Arc<dyn Store>;
    assert!(is_new(&*store, 1, 1).await);
    folder.dial.leap(HOUR * 24 * 12);
    assert!(is_new(&*store, 1, 2).await);
    folder.dial.pass(HOUR);
    store.housekeep().await.unwrap();
    assert!(!store.health().clock_suspect, "it went on evenly");
    for _ in 0..23 {
        store.housekeep().await.unwrap();
        assert!(!is_new(&*store, 1, 2).await);
        folder.dial.pass(HOUR);
    }
    for _ in 0..8 {
        folder.dial.pass(HOUR);
        store.housekeep().await.unwrap();
    }
    assert!(is_new(&*store, 1, 2).await, "and not for ever");
}

#[tokio::test]
async fn a_bucket_that_an_earlier_version_made_in_the_future_comes_to_an_end() {
    let mut folder = Folder::new();
    {
        let engine = Engine::open(&folder.place().engine()).unwrap();
        // One bucket was made while the clock was ahead by some years, the other an hour ago.
        for number in [200_000, 1_700_000_000_000 / folder.options.bucket_millis()] {
            let bucket = engine.bucket(number, None).unwrap();
            bucket.keyspace.insert([7; 20], [7; 9]).unwrap();
        }
        engine.db.persist(PersistMode::SyncAll).unwrap();
    }
    let store = folder.store() as Arc<dyn Store>;
    assert!(is_new(&*store, 1, 1).await);
    store.close().await.unwrap();
    let dated = buckets(&folder);
    assert!(dated.len() == 2 && dated.iter().all(|(_, until)| until.is_some()), "{dated:?}");
    let store = folder.store() as Arc<dyn Store>;
    for _ in 0..31 {
        folder.dial.pass(HOUR);
        store.housekeep().await.unwrap();
    }
    assert!(is_new(&*store, 1, 1).await, "after its window");
    store.close().await.unwrap();
    let left = buckets(&folder);
    assert!(left.len() == 1 && left[0].0 < 200_000, "{left:?}");
}

#[tokio::test]
async fn buckets_that_were_filled_under_a_clock_that_was_ahead_end_by_the_right_one() {
    let mut folder = Folder::with(|options| options.clock_steady = Duration::from_secs(60));
    let store = folder.store() as Arc<dyn Store>;
    assert!(is_new(&*store, 1, 1).await);
    let ten_years = HOUR * 24 * 3650;
    folder.dial.leap(ten_years);
    store.housekeep().await.unwrap();
    folder.dial.pass(HOUR);
    assert!(is_new(&*store, 1, 2).await);
    assert!(!store.health().clock_suspect);
    folder.dial.put_back(ten_years);
    store.confirm_clock().await.unwrap();
    assert!(is_new(&*store, 1, 3).await);
    for _ in 0..31 {
        folder.dial.pass(HOUR);
        store.housekeep().await.unwrap();
    }
    for id in 1..=3 {
        assert!(is_new(&*store, 1, id).await, "id {id} is kept for years");
    }
    folder.cut(store).await;
}

#[tokio::test]
async fn the_engine_makes_no_keyspaces_for_buckets_that_come_and_go() {
    let mut folder = Folder::new();
    let mut store = folder.store() as Arc<dyn Store>;
    for id in 0..80 {
        assert!(is_new(&*store, 1, id).await);
        assert!(!is_new(&*store, 1, id).await, "{id} is not known at once");
        folder.dial.pass(HOUR * 6);
        store.housekeep().await.unwrap();
        if id == 40 {
            store.close().await.unwrap();
            assert!(FjallStore::check(&folder.place()).unwrap().is_sound());
            store = folder.store();
            assert!(!is_new(&*store, 1, id - 1).await && is_new(&*store, 1, id - 20).await);
        }
    }
    store.close().await.unwrap();
    let made = crate::tests::spare::made(&folder);
    assert!(made < 40, "{made} keyspaces were made for 80 buckets");
}
