//! Tests that overwritten values disappear from the disk.

use std::path::Path;

use super::*;
use crate::{
    Durability, Key, Put, Unit,
    testkit::{append, event, owed},
};

const OLD: &[u8] = b"canary-of-the-old-key-0123456789";

fn unit(key: &str, value: Vec<u8>) -> Unit {
    let change = vec![Put { key: Key::from(key), value: Some(value.into()) }];
    Unit::Configure { change, expect: None, membership: false, drop_through: Vec::new(), notice: Vec::new() }
}

/// Returns the files below `folder` that contain `bytes`.
fn holders(folder: &Path, bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holders(&path, bytes));
            continue;
        }
        let mut text = std::fs::read(&path).unwrap();
        // New journals are zeros to their end; those are not searched.
        let zeros = [0u8; 4096];
        while text.ends_with(&zeros) {
            text.truncate(text.len() - zeros.len());
        }
        if text.windows(bytes.len()).any(|window| window == bytes) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test]
async fn a_turnover_leaves_no_trace_of_what_was_overwritten_and_loses_nothing() {
    let mut folder = Folder::new();
    let mut store = folder.store();
    let at = append(&(store.clone() as Arc<dyn Store>), event("{}", &[1])).await;
    for key in ["a", "b"] {
        store.commit(vec![unit(key, OLD.to_vec())], Durability::Sync).await.unwrap();
    }
    // The value is in a table once, and in a journal once.
    store.turn_over().await.unwrap();
    assert!(!holders(&folder.place().store, OLD).is_empty(), "what is in force stays");
    store.close().await.unwrap();
    drop(store);
    store = folder.store();
    for key in ["a", "b"] {
        store.commit(vec![unit(key, b"new".to_vec())], Durability::Sync).await.unwrap();
    }
    assert!(!holders(&folder.place().store, OLD).is_empty(), "the engine forgot by itself: nothing is tested");
    store.turn_over().await.unwrap();
    assert_eq!(holders(&folder.place().store, OLD), Vec::<String>::new());
    folder.opened = Some(store.clone());
    folder.cut(store as Arc<dyn Store>).await;
    assert_eq!(holders(&folder.place().store, OLD), Vec::<String>::new());
    let store = folder.store() as Arc<dyn Store>;
    let records = store.range(Key::from("")).await.unwrap();
    let held: Vec<_> = records.iter().map(|record| (&*record.key.0, &*record.value)).collect();
    assert_eq!(held, [("a", b"new".as_slice()), ("b", b"new".as_slice())]);
    assert_eq!(owed(&store, 1).await, [at]);
    append(&store, event("{}", &[1])).await;
    store.close().await.unwrap();
    let findings = FjallStore::check(&folder.place()).unwrap();
    assert!(findings.is_sound(), "{findings:?}");
}

#[tokio::test]
async fn a_turnover_that_broke_off_is_cleared_away_by_the_next_opening() {
    let mut folder = Folder::new();
    let store = folder.store();
    store.commit(vec![unit("a", OLD.to_vec())], Durability::Sync).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let names = |folder: &Folder, make: bool| {
        let path = folder.place().store.join("engine");
        let engine = fjall::Database::builder(path).worker_threads(1).manual_journal_persist(true).open().unwrap();
        if make {
            engine.keyspace("turnover", fjall::KeyspaceCreateOptions::default).unwrap().insert("x", "y").unwrap();
        }
        engine.keyspace_exists("turnover")
    };
    assert!(names(&folder, true));
    let store = folder.store();
    store.close().await.unwrap();
    drop(store);
    folder.opened = None;
    assert!(!names(&folder, false), "it is there still");
    let store = folder.store();
    store.turn_over().await.unwrap();
    assert!(store.get(vec![Key::from("a")]).await.unwrap()[0].is_some());
}
