//! Tests that damaged records affect no others, and that records deleted during a read hide none after them.

use std::{fs::OpenOptions, os::unix::fs::FileExt};

use setgate_set::Timestamp;

use super::{damage::files, *};
use crate::{
    Durability, Position, Rule, StreamNo, Unit,
    testkit::{acknowledged, append, event, owed, settle},
};

fn text(seq: u64) -> String {
    format!("body-{seq}")
}

/// Returns a store with segments of 16 records, all of them but the last in tables, and none in memory.
async fn filled(folder: &mut Folder, records: u64) -> Arc<dyn Store> {
    let store = folder.store() as Arc<dyn Store>;
    for seq in 1..=records {
        append(&store, event(&text(seq), &[1, 2])).await;
    }
    store.housekeep().await.unwrap();
    store
}

fn folder() -> Folder {
    Folder::with(|options| options.recent_bytes = 0)
}

/// The engine's folder of the first segment's heads. It and that of the bodies come after the seven that every store
/// has.
const HEADS: &str = "8";
const BODIES: &str = "9";

/// Ends the store and overwrites some bytes of the first segment's heads or bodies.
async fn rotten(folder: &mut Folder, store: Arc<dyn Store>, which: &str) -> Arc<dyn Store> {
    let tables = folder.place().store.join("engine/keyspaces").join(which).join("tables");
    let mut all = Vec::new();
    while all.is_empty() {
        // The engine's worker flushes it.
        std::thread::yield_now();
        files(&tables, &mut all);
    }
    store.close().await.unwrap();
    drop(store);
    // The bytes are in the first block.
    OpenOptions::new().write(true).open(&all[0]).unwrap().write_all_at(&[0xa5; 8], 60).unwrap();
    let store = folder.store() as Arc<dyn Store>;
    let at = vec![Position::new(3)];
    assert_eq!(store.heads(at.clone()).await.is_err(), which == HEADS);
    assert_eq!(store.bodies(at).await.is_err(), which == BODIES);
    store
}

#[tokio::test]
async fn what_is_owed_behind_records_that_go_while_it_is_read_is_told() {
    let mut folder = folder();
    let store = filled(&mut folder, 60).await;
    // What is owed is determined at the call, and read later.
    let reading = store.owed(StreamNo(1), Position::START, 32);
    settle(&store, (1..=40).map(|seq| acknowledged(2, seq)).collect(), Durability::Sync).await;
    let unit =
        Unit::Retain { fence: store.fence(), stream: StreamNo(1), below: Position::new(33), rule: Rule::TooMany };
    store.commit(vec![unit], Durability::Sync).await.unwrap();
    store.housekeep().await.unwrap();
    assert_eq!(store.bounds().first, Position::new(33), "nothing was given up");
    let told: Vec<u64> = reading.await.unwrap().iter().map(|head| head.at.seq).collect();
    assert_eq!(told, (33..=60).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_body_that_rots_stops_no_housekeeping() {
    let mut folder = folder();
    let store = filled(&mut folder, 60).await;
    let store = rotten(&mut folder, store, BODIES).await;
    let what = (1..=60).flat_map(|seq| [acknowledged(1, seq), acknowledged(2, seq)]);
    let but_one = what.filter(|settlement| (settlement.stream, settlement.at.seq) != (StreamNo(2), 3));
    settle(&store, but_one.collect(), Durability::Sync).await;
    store.housekeep().await.unwrap();
    assert_eq!(store.bounds().first, Position::new(49), "what is settled stays for the sake of what rots");
    assert_eq!(owed(&store, 2).await, [3]);
}

#[tokio::test]
async fn heads_that_rot_hide_nothing_behind_them() {
    let mut folder = folder();
    let store = filled(&mut folder, 60).await;
    let store = rotten(&mut folder, store, HEADS).await;
    let told = store.owed(StreamNo(1), Position::START, 40).await.unwrap();
    let told: Vec<u64> = told.iter().map(|head| head.at.seq).collect();
    assert_eq!(told, (17..=56).collect::<Vec<_>>());
    assert_eq!(store.waiting(StreamNo(1)), 60);
    // The search by age still works for all the others.
    store.first_accepted_at(Timestamp::from_millis(1)).await.unwrap();
}
