//! Tests that keyspaces are emptied and reused, so that the engine's list of them does not grow with the ledger.

use std::fs;

use super::*;
use crate::{
    Durability, StreamNo,
    testkit::{acknowledged, append, assert_sums, body, event, owed, settle},
};

const SEGMENT: u64 = 12;

fn folder() -> Folder {
    Folder::with(|options| (options.segment_records, options.recent_bytes) = (SEGMENT, 0))
}

/// Returns the highest number of a keyspace in the engine's folder, which is the number of keyspaces that were made.
pub(crate) fn made(folder: &Folder) -> u64 {
    let keyspaces = fs::read_dir(folder.place().engine().join("keyspaces")).unwrap();
    keyspaces.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).max().unwrap()
}

/// Returns the bytes of the engine's list of keyspaces.
fn list_bytes(folder: &Folder) -> u64 {
    let mut files = Vec::new();
    damage::files(&folder.place().engine().join("keyspaces/0"), &mut files);
    files.iter().map(|file| fs::metadata(file).map_or(0, |about| about.len())).sum()
}

/// Fills one segment whose first record stays owed to stream 2.
async fn fill(store: &Arc<dyn Store>, from: u64) {
    for seq in from..from + SEGMENT {
        append(store, event(&format!("body-{seq}"), &[1, 2])).await;
    }
    let all = (from..from + SEGMENT).flat_map(|seq| [acknowledged(1, seq), acknowledged(2, seq)]);
    let but_one = all.filter(|settlement| (settlement.stream, settlement.at.seq) != (StreamNo(2), from));
    settle(store, but_one.collect(), Durability::Sync).await;
}

async fn assert_whole(store: &Arc<dyn Store>, segments: u64) {
    let firsts: Vec<u64> = (0..segments).map(|number| number * SEGMENT + 1).collect();
    assert_eq!(owed(store, 2).await, firsts);
    for seq in [firsts.first(), firsts.last()].into_iter().flatten() {
        assert_eq!(body(store, *seq).await.as_deref(), Some(format!("body-{seq}").as_bytes()));
    }
    assert_sums(store, 1..=2).await;
}

#[tokio::test]
async fn the_engine_makes_no_keyspaces_for_segments_that_come_and_go() {
    let mut folder = folder();
    let mut store = folder.store() as Arc<dyn Store>;
    let mut most = 0;
    for number in 0..60 {
        fill(&store, number * SEGMENT + 1).await;
        store.housekeep().await.unwrap();
        if number % 20 == 19 {
            most = most.max(list_bytes(&folder));
            assert_whole(&store, number + 1).await;
            store.close().await.unwrap();
            assert!(FjallStore::check(&folder.place()).unwrap().is_sound());
            store = folder.store();
        }
    }
    // There are seven that every store has, and some pairs after each opening.
    assert!(made(&folder) < 60, "{} keyspaces were made for 60 segments", made(&folder));
    assert!(most < 512 * 1024, "the engine's list of keyspaces takes {most} bytes");
}

/// A process that is killed soon makes no keyspaces where an earlier one left some.
#[tokio::test]
async fn what_was_emptied_before_a_kill_is_used_at_once_by_the_next_process() {
    let mut folder = folder();
    for number in 0..20 {
        let store = folder.store();
        let shared = store.clone() as Arc<dyn Store>;
        fill(&shared, number * SEGMENT + 1).await;
        for _ in 0..2 {
            shared.housekeep().await.unwrap();
        }
        assert_whole(&shared, number + 1).await;
        store.abandon().await;
    }
    // There are seven that every store has, and the pairs that the first processes made.
    assert!(made(&folder) < 25, "{} keyspaces were made for 20 segments", made(&folder));
    assert!(FjallStore::check(&folder.place()).unwrap().is_sound());
}

/// Keyspaces are not deleted, however many are given up at once: the engine would write its whole list anew for them.
#[tokio::test]
async fn segments_that_are_given_up_at_once_leave_the_list_of_keyspaces_as_it_is() {
    let mut folder = folder();
    let store = folder.store() as Arc<dyn Store>;
    for number in 0..60 {
        fill(&store, number * SEGMENT + 1).await;
    }
    let before = list_bytes(&folder);
    for _ in 0..3 {
        store.housekeep().await.unwrap();
    }
    let after = list_bytes(&folder);
    assert!(after < before + 64 * 1024, "the engine's list of keyspaces grew from {before} to {after} bytes");
    assert_whole(&store, 60).await;
    store.close().await.unwrap();
}

/// The process is killed after each step that a keyspace goes through.
#[tokio::test]
async fn a_kill_while_a_keyspace_is_emptied_or_used_again_loses_nothing() {
    for steps in 0..6 {
        let mut folder = folder();
        let store = folder.store();
        let shared = store.clone() as Arc<dyn Store>;
        for number in 0..3 {
            fill(&shared, number * SEGMENT + 1).await;
        }
        let mut filled = 3;
        for _ in 0..3 {
            store.trim(store.plan_trim().await.unwrap()).await.unwrap();
        }
        for step in 0..steps {
            match step {
                // The keyspaces that were given up are emptied; then they are free; then another segment has them,
                // which is closed and flushed.
                0 | 1 => store.clear_away().await.unwrap(),
                2 => {
                    fill(&shared, filled * SEGMENT + 1).await;
                    filled += 1;
                }
                3 => {
                    fill(&shared, filled * SEGMENT + 1).await;
                    filled += 1;
                }
                _ => shared.housekeep().await.unwrap(),
            }
        }
        store.abandon().await;
        drop((store, shared));
        for round in 0..3 {
            assert!(FjallStore::check(&folder.place()).unwrap().is_sound(), "{steps} steps, round {round}");
            let store = folder.store();
            let shared = store.clone() as Arc<dyn Store>;
            assert_whole(&shared, filled).await;
            fill(&shared, filled * SEGMENT + 1).await;
            filled += 1;
            shared.housekeep().await.unwrap();
            store.abandon().await;
        }
    }
}

/// The process is killed after keyspaces were made for the next segment and before the commit that records them.
#[tokio::test]
async fn keyspaces_that_a_commit_left_are_not_taken_for_those_of_the_next_segment() {
    let mut folder = folder();
    let store = folder.store() as Arc<dyn Store>;
    fill(&store, 1).await;
    store.close().await.unwrap();
    drop(store);
    {
        let engine = crate::fjall::engine::Engine::open(&folder.place().engine()).unwrap();
        let next = engine.keyspaces(2).unwrap();
        next.heads.insert(13u64.to_be_bytes(), "of a commit that did not take place").unwrap();
        engine.db.persist(fjall::PersistMode::SyncAll).unwrap();
    }
    let store = folder.store() as Arc<dyn Store>;
    for number in 1..4 {
        fill(&store, number * SEGMENT + 1).await;
        store.housekeep().await.unwrap();
        assert_whole(&store, number + 1).await;
    }
    let seq = 4 * SEGMENT + 1;
    append(&store, event(&format!("body-{seq}"), &[2])).await;
    for _ in 0..3 {
        store.housekeep().await.unwrap();
        assert_eq!(body(&store, seq).await.as_deref(), Some(format!("body-{seq}").as_bytes()));
    }
    folder.cut(store).await;
    assert!(FjallStore::check(&folder.place()).unwrap().is_sound());
    let store = folder.store() as Arc<dyn Store>;
    assert_eq!(body(&store, seq).await.as_deref(), Some(format!("body-{seq}").as_bytes()));
}

/// Nothing is missed of what a keyspace that nothing uses holds: its damage does not keep the store from opening.
#[tokio::test]
async fn a_keyspace_that_nothing_uses_may_rot() {
    let mut folder = folder();
    let store = folder.store();
    let shared = store.clone() as Arc<dyn Store>;
    for number in 0..4 {
        fill(&shared, number * SEGMENT + 1).await;
    }
    for _ in 0..3 {
        shared.housekeep().await.unwrap();
    }
    store.abandon().await;
    let spares = {
        let engine = crate::fjall::engine::Engine::open(&folder.place().engine()).unwrap();
        engine.spare_segments.unused()
    };
    assert!(spares > 0, "nothing was given up");
    let mut tables = Vec::new();
    damage::files(&folder.place().engine().join("keyspaces"), &mut tables);
    let mut rotten = 0;
    for path in tables.iter().filter(|path| path.parent().unwrap().ends_with("tables")) {
        let mut bytes = fs::read(path).unwrap();
        let number: u64 = path.iter().rev().nth(2).unwrap().to_str().unwrap().parse().unwrap();
        if number < 8 || bytes.windows(5).any(|some| some == b"body-") {
            continue;
        }
        bytes[17] ^= 0x10;
        fs::write(path, bytes).unwrap();
        rotten += 1;
    }
    assert!(rotten > 0, "no table of a spare was met");
    let store = folder.store() as Arc<dyn Store>;
    assert_whole(&store, 4).await;
    for number in 4..8 {
        fill(&store, number * SEGMENT + 1).await;
        store.housekeep().await.unwrap();
    }
    assert_whole(&store, 8).await;
    store.close().await.unwrap();
    assert!(FjallStore::check(&folder.place()).unwrap().is_sound());
}

#[tokio::test]
async fn what_an_opening_found_is_emptied_although_nothing_is_given_up() {
    let mut folder = folder();
    let store = folder.store() as Arc<dyn Store>;
    append(&store, event("body", &[2])).await;
    store.close().await.unwrap();
    drop(store);
    {
        let engine = crate::fjall::engine::Engine::open(&folder.place().engine()).unwrap();
        let left = engine.keyspaces(2).unwrap();
        left.heads.insert(13u64.to_be_bytes(), "of a commit that did not take place").unwrap();
        engine.db.persist(fjall::PersistMode::SyncAll).unwrap();
    }
    let tables = folder.place().engine().join("keyspaces").join(made(&folder).to_string()).join("tables");
    let store = folder.store() as Arc<dyn Store>;
    let mut rounds = 0;
    while fs::read_dir(&tables).unwrap().next().is_none() {
        // The engine's worker flushes it.
        rounds += 1;
        assert!(rounds < 200, "it is not emptied");
        store.housekeep().await.unwrap();
    }
    store.close().await.unwrap();
}
