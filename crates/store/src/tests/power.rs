//! Tests of what a power cut leaves of the last commit, which was not flushed.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::*;
use crate::{
    Durability, Position, StreamNo,
    fjall::{
        journal::{Tail, batches, journals, tail},
        watermark::Watermark,
    },
    testkit::{acknowledged, append, event, settle},
};

const SECTOR: usize = 512;

/// Fills a store, and kills it after one more commit, with the mark as it was before that.
async fn cut(folder: &mut Folder, last: &str) {
    let store = folder.store();
    let shared = store.clone() as Arc<dyn Store>;
    for seq in 1..=20 {
        append(&shared, event(&format!("body-{seq}"), &[1])).await;
    }
    let watermark = folder.place().store.join("watermark");
    let mark = fs::read(&watermark).unwrap();
    append(&shared, event(last, &[1])).await;
    store.abandon().await;
    fs::write(watermark, mark).unwrap();
}

fn journal(folder: &Folder) -> PathBuf {
    journals(&folder.place().store.join("engine")).unwrap().pop().unwrap().1
}

/// Returns where the last batch begins and ends.
fn last_batch(path: &Path) -> (usize, usize) {
    let bytes = batches::read(path).unwrap();
    let mut at = 0;
    let (_, end) = batches::walk(&bytes, |batch| at = batch.at);
    (at, end)
}

#[tokio::test]
async fn whichever_sector_of_the_last_commit_is_missing_the_store_opens_without_it() {
    let mut folder = Folder::new();
    cut(&mut folder, &"y".repeat(4000)).await;
    let (at, end) = last_batch(&journal(&folder));
    let mut tried = 0;
    for sector in at / SECTOR..end.div_ceil(SECTOR) {
        let twin = StorePlace { store: folder.folder.path().join("twin"), owner: folder.place().owner };
        copy(&folder.place().store, &twin.store);
        let path = journals(&twin.store.join("engine")).unwrap().pop().unwrap().1;
        let (from, to) = (at.max(sector * SECTOR), end.min((sector + 1) * SECTOR));
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(&vec![0; to - from], from as u64).unwrap();
        let store = match folder.try_open_at(&twin) {
            Ok(opened) => opened.store as Arc<dyn Store>,
            Err(error) => panic!("without bytes {from} to {to} of a commit from {at} to {end}: {error}"),
        };
        assert_eq!(store.bounds().last, Position::new(20));
        assert_eq!(store.waiting(StreamNo(1)), 20);
        store.close().await.unwrap();
        fs::remove_dir_all(&twin.store).unwrap();
        tried += 1;
    }
    assert!(tried > 7, "{tried} sectors");
}

#[tokio::test]
async fn the_last_commit_is_missed_where_the_mark_promises_it() {
    let mut folder = Folder::new();
    let store = folder.store();
    let shared = store.clone() as Arc<dyn Store>;
    for seq in 1..=20 {
        append(&shared, event(&format!("body-{seq}-{}", "y".repeat(2000)), &[1])).await;
    }
    store.abandon().await;
    let path = journal(&folder);
    let (at, end) = last_batch(&path);
    let middle = (at + end) / 2 / SECTOR * SECTOR;
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[0; SECTOR], middle as u64).unwrap();
    match folder.try_open() {
        Err(OpenError::Short { events: 1, commits: 1, found: 19, promised: 20, aside: Some(aside) }) => {
            assert!(aside.join("0.jnl").exists());
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn rows_of_housekeeping_that_are_missing_before_the_last_commit_are_no_damage() {
    let mut folder = Folder::with(|options| options.segment_records = 2);
    let store = folder.store();
    let shared = store.clone() as Arc<dyn Store>;
    for seq in 1..=40 {
        append(&shared, event(&format!("body-{seq}"), &[1])).await;
    }
    settle(&shared, (1..=30).map(|seq| acknowledged(1, seq)).collect(), Durability::Sync).await;
    let trim = store.plan_trim().await.unwrap();
    store.trim(trim).await.unwrap();
    let flushed = batches::read(&journal(&folder)).unwrap().len();
    // The keyspaces of segments are emptied: a row for each, which is no commit.
    store.clear_away().await.unwrap();
    let watermark = folder.place().store.join("watermark");
    let mark = fs::read(&watermark).unwrap();
    append(&shared, event("the last", &[1])).await;
    store.abandon().await;
    fs::write(&watermark, mark).unwrap();
    let bytes = batches::read(&journal(&folder)).unwrap();
    let mut rows = Vec::new();
    batches::walk(&bytes, |batch| rows.push(batch.at));
    rows.retain(|at| *at >= flushed);
    assert!(rows.len() > 10, "{rows:?}");
    for two in rows.windows(2) {
        let [from, to] = [two[0], two[1]];
        let twin = StorePlace { store: folder.folder.path().join("twin"), owner: folder.place().owner };
        copy(&folder.place().store, &twin.store);
        let path = journals(&twin.store.join("engine")).unwrap().pop().unwrap().1;
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&vec![0; to - from], from as u64).unwrap();
        let promised = Watermark::read(&twin.watermark()).unwrap().unwrap().commit;
        assert_eq!(tail(&twin.store.join("engine"), promised).unwrap(), Tail::Torn(path.clone(), from as u64));
        assert!(matches!(tail(&twin.store.join("engine"), promised + 1).unwrap(), Tail::Damaged(_)));
        let store = folder.try_open_at(&twin).unwrap().store as Arc<dyn Store>;
        assert_eq!((store.bounds().last, store.waiting(StreamNo(1))), (Position::new(40), 10));
        store.close().await.unwrap();
        fs::remove_dir_all(&twin.store).unwrap();
    }
}

#[tokio::test]
async fn a_missing_commit_before_the_last_is_damage_though_the_mark_is_old() {
    let mut folder = Folder::new();
    let store = folder.store();
    let shared = store.clone() as Arc<dyn Store>;
    append(&shared, event("the first", &[1])).await;
    let watermark = folder.place().store.join("watermark");
    let mark = fs::read(&watermark).unwrap();
    for seq in 2..=4 {
        append(&shared, event(&format!("body-{seq}"), &[1])).await;
    }
    store.abandon().await;
    fs::write(&watermark, mark).unwrap();
    let path = journal(&folder);
    let mut commits = Vec::new();
    batches::walk(&batches::read(&path).unwrap(), |batch| commits.push(batch.at));
    let [from, to] = [commits[commits.len() - 2], commits[commits.len() - 1]];
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&vec![0; to - from], from as u64).unwrap();
    let error = folder.try_open().unwrap_err();
    assert!(error.to_string().contains("later commits stand behind it"), "{error}");
}
