//! Tests that the space of what was given up is freed while the process lives.

use std::{fs, os::unix::ffi::OsStrExt as _, path::Path};

use super::*;
use crate::{
    Done, Durability, Position, Rule, StreamNo, Unit,
    testkit::{MANY, acknowledged, body, event, one, settle},
};

const BODY: u64 = 20_000;

/// Returns the names of the files below a folder that are deleted and still open, and the sum of their bytes.
fn held_open(folder: &Path) -> (Vec<String>, u64) {
    let mut names = Vec::new();
    let mut bytes = 0;
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let path = entry.unwrap().path();
        let Ok(target) = fs::read_link(&path) else { continue };
        if target.starts_with(folder) && target.as_os_str().as_bytes().ends_with(b" (deleted)") {
            bytes += fs::metadata(&path).map_or(0, |of| of.len());
            names.push(target.display().to_string());
        }
    }
    (names, bytes)
}

/// Returns the bytes of all tables below a folder.
fn in_tables(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |path: &Path| if path.is_dir() { in_tables(path) } else { 0 };
    let own = |path: &Path| fs::metadata(path).map_or(0, |of| of.len());
    let is_tables = folder.ends_with("tables");
    entries.map(|entry| entry.unwrap().path()).map(|path| if is_tables { own(&path) } else { size(&path) }).sum()
}

/// Appends records, waits until those of closed segments are in tables, and reads every one of them from there.
async fn write_and_read(store: &Arc<dyn Store>, folder: &Path, from: u64, count: u64) {
    let events: Vec<_> = (from..from + count).map(|seq| event(&format!("{seq:0>20000}"), &[1])).collect();
    for some in events.chunks(50) {
        store.commit(vec![Unit::Append { events: some.to_vec() }], Durability::Sync).await.unwrap();
    }
    store.housekeep().await.unwrap();
    let enough = (count - 100) * BODY;
    for _ in 0..2000 {
        if in_tables(folder) >= enough {
            break;
        }
        // The call lets some moments of the store's clock pass.
        let _ = store.tail(Position::new(u64::MAX - 1), MANY, Duration::from_millis(5)).await;
    }
    assert!(in_tables(folder) >= enough, "the engine has not written its tables");
    for seq in from..from + count {
        assert_eq!(body(store, seq).await.unwrap().len() as u64, BODY);
    }
}

#[tokio::test]
async fn files_of_what_was_given_up_are_closed_without_a_restart() {
    let mut folder = Folder::with(|options| (options.segment_records, options.recent_bytes) = (100, 0));
    let store = folder.store() as Arc<dyn Store>;
    for round in 0..2 {
        let from = round * 400 + 1;
        write_and_read(&store, folder.folder.path(), from, 400).await;
        settle(&store, (from..from + 400).map(|seq| acknowledged(1, seq)).collect(), Durability::Sync).await;
        store.housekeep().await.unwrap();
        let (names, bytes) = held_open(folder.folder.path());
        assert!(names.is_empty(), "round {round}: {} files of {bytes} bytes are held open: {names:?}", names.len());
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn the_largest_holder_is_named_with_a_cut_that_frees_something() {
    // Each segment has ten records of 20 kB; a two-hundredth of the budget is 500 kB.
    let mut folder = Folder::with(|options| (options.segment_records, options.budget_bytes) = (10, 100_000_000));
    let store = folder.store() as Arc<dyn Store>;
    for seq in 1..=105u64 {
        // The second stream is owed every tenth record, and all new ones.
        let targets: &[u32] = if seq % 10 == 0 || seq > 90 { &[1, 2] } else { &[1] };
        let unit = Unit::Append { events: vec![event(&format!("{seq:0>20000}"), targets)] };
        store.commit(vec![unit], Durability::Sync).await.unwrap();
    }
    let heaviest = store.heaviest(350_000).await.unwrap().unwrap();
    assert_eq!((heaviest.stream, heaviest.keep_from), (StreamNo(1), Position::new(21)), "{heaviest:?}");
    assert_eq!(heaviest.bytes, 100 * BODY, "the open segment does not count");
    let unit =
        Unit::Retain { fence: store.fence(), stream: StreamNo(1), below: heaviest.keep_from, rule: Rule::TooLarge };
    assert_eq!(one(&store, unit).await, Done::Retained(20));
    // The cut takes everything up to the open segment, of which nothing could be freed.
    let heaviest = store.heaviest(u64::MAX).await.unwrap().unwrap();
    assert_eq!((heaviest.stream, heaviest.keep_from), (StreamNo(1), Position::new(101)));
    settle(&store, (21..=100).map(|seq| acknowledged(1, seq)).collect(), Durability::Sync).await;
    assert_eq!(store.heaviest(1).await.unwrap(), None, "the second holds too little to be cut");
    store.close().await.unwrap();
}
