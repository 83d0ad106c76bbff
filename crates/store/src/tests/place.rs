//! Tests of the folder of a store: locks, copies, formats, secrets.

use std::fs;

use super::*;
use crate::{
    Done, Durability, Space, StoreError, Unit,
    testkit::{append, event, one, owed},
};

fn refusal(result: Result<Opened, OpenError>) -> OpenError {
    match result {
        Ok(opened) => panic!("it opened: {:?}", opened.report),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_store_in_use_is_refused_and_names_its_holder() {
    let mut folder = Folder::new();
    let store = folder.store();
    match refusal(folder.try_open()) {
        OpenError::Locked { pid, .. } => assert_eq!(pid, std::process::id().to_string()),
        other => panic!("{other}"),
    }
    assert!(matches!(FjallStore::check(&folder.place()), Err(OpenError::Locked { .. })));
    store.close().await.unwrap();
    assert!(folder.try_open().is_ok());
}

#[tokio::test]
async fn there_is_no_store_where_none_was_made() {
    let folder = Folder::new();
    let elsewhere = StorePlace { store: folder.folder.path().join("nothing"), owner: folder.place().owner };
    assert!(matches!(refusal(folder.try_open_at(&elsewhere)), OpenError::Missing(_)));
    let again = FjallStore::init(&folder.place(), &folder.options, &SECRET, &folder.runtime);
    assert!(matches!(again, Err(OpenError::Exists(_))));
}

#[tokio::test]
async fn another_format_and_another_secret_are_refused() {
    let folder = Folder::new();
    let wrong = FjallStore::open(&folder.place(), &folder.options, &[8; 32], &folder.runtime, Observed::default());
    assert!(matches!(refusal(wrong), OpenError::Secret { .. }));
    let file = folder.place().store.join("instance.json");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("\"format\": 1"), "{text}");
    // The file is as a release before checksums would have written it.
    fs::write(&file, text.replace("\"format\": 1", "\"format\": 2").replace("checksum", "comment")).unwrap();
    assert!(matches!(refusal(folder.try_open()), OpenError::Format { found: 2 }));
    assert!(matches!(FjallStore::check(&folder.place()), Err(OpenError::Format { found: 2 })));
}

#[tokio::test]
async fn a_copy_is_held_until_it_is_adopted() {
    let mut folder = Folder::new();
    let store = folder.store() as Arc<dyn Store>;
    append(&store, event("x", &[1])).await;
    let Done::Allocated(before) = one(&store, Unit::Allocate { space: Space::Stream }).await else { panic!() };
    store.close().await.unwrap();
    let twin = StorePlace { store: folder.folder.path().join("twin"), owner: folder.place().owner };
    copy(&folder.place().store, &twin.store);

    let opened = folder.try_open_at(&twin).unwrap();
    assert!(opened.report.held.is_some());
    let store = opened.store as Arc<dyn Store>;
    assert!(store.health().held && !store.health().accepts);
    let refused = store.commit(vec![Unit::Append { events: vec![event("y", &[1])] }], Durability::Sync).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert_eq!(owed(&store, 1).await, [1]);
    store.close().await.unwrap();

    FjallStore::adopt(&twin, &folder.runtime).unwrap();
    let opened = folder.try_open_at(&twin).unwrap();
    assert_eq!(opened.report.held, None);
    let store = opened.store as Arc<dyn Store>;
    append(&store, event("y", &[1])).await;
    let Done::Allocated(after) = one(&store, Unit::Allocate { space: Space::Stream }).await else { panic!() };
    assert!(after > before + 1000, "{before} {after}: the original may have given the next ones");
    store.close().await.unwrap();
    // The original counts as the copy from now on.
    assert!(folder.try_open().unwrap().report.held.is_some());
}

#[tokio::test]
async fn a_copy_is_adopted_while_it_is_open() {
    let mut folder = Folder::new();
    folder.store().close().await.unwrap();
    fs::remove_file(folder.place().owner).unwrap();
    let opened = folder.try_open().unwrap();
    assert!(opened.report.held.is_some());
    opened.store.adopt_open().await.unwrap();
    let store = opened.store as Arc<dyn Store>;
    append(&store, event("y", &[1])).await;
    store.close().await.unwrap();
    assert_eq!(folder.try_open().unwrap().report.held, None);
}

#[tokio::test]
async fn a_restored_backup_is_held() {
    let mut folder = Folder::new();
    folder.store().close().await.unwrap();
    let backup = folder.folder.path().join("backup");
    copy(&folder.place().store, &backup);
    for _ in 0..2 {
        folder.store().close().await.unwrap();
    }
    // The copy is restored into the same folder: the inode is the same, the token is not.
    for entry in fs::read_dir(folder.place().store).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
    copy(&backup, &folder.place().store);
    let why = folder.try_open().unwrap().report.held.unwrap();
    assert!(why.contains("was opened since"), "{why}");
}

#[tokio::test]
async fn an_unclean_stop_is_not_a_copy_and_is_reported() {
    let mut folder = Folder::new();
    let store = folder.store();
    let shared = store.clone() as Arc<dyn Store>;
    append(&shared, event("x", &[1])).await;
    store.abandon().await;
    let opened = folder.try_open().unwrap();
    assert!(!opened.report.clean && opened.report.held.is_none());
    assert_eq!((opened.report.last, opened.report.waiting), (1, 1));
    assert!(opened.report.replayed >= 1);
    opened.store.close().await.unwrap();
    let report = folder.try_open().unwrap().report;
    assert!(report.clean);
    assert_eq!(report.replayed, 0);
}

#[tokio::test]
async fn raw_bytes_of_a_store_do_not_hold_the_secret() {
    let mut folder = Folder::new();
    let store = folder.store() as Arc<dyn Store>;
    append(&store, event("a body that is found", &[1])).await;
    store.close().await.unwrap();
    fn holds(folder: &std::path::Path, what: &[u8]) -> bool {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).any(|path| {
            if path.is_dir() {
                return holds(&path, what);
            }
            fs::read(&path).unwrap().windows(what.len()).any(|window| window == what)
        })
    }
    let hex = "07".repeat(32);
    let base64 = "BwcH".repeat(10);
    for written in [&SECRET[..], hex.as_bytes(), base64.as_bytes()] {
        assert!(!holds(folder.folder.path(), written), "{:?}", String::from_utf8_lossy(written));
    }
    assert!(holds(folder.folder.path(), b"a body that is found"), "nothing was looked through");
}
