//! Tests of damaged bytes: everything that was promised is there, or the store is refused.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::*;
use crate::{
    Durability, Position, StreamNo,
    testkit::{acknowledged, append, event, event_once, owed, parked, settle},
};

pub(super) fn files(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, all) } else { all.push(path) }
    }
}

pub(super) fn text(seq: u64) -> String {
    format!("body-{seq}-{}", "x".repeat(200))
}

/// Fills a store with 200 records, of which stream 1 is owed the odd ones, and kills it; half of them are flushed to
/// tables.
async fn filled(folder: &mut Folder) {
    let store = folder.store();
    let shared = store.clone() as Arc<dyn Store>;
    for seq in 1..=200 {
        append(&shared, event(&text(seq), &[1, 2])).await;
        if seq % 2 == 0 {
            settle(&shared, vec![acknowledged(1, seq)], Durability::Sync).await;
        }
        if seq == 100 {
            shared.housekeep().await.unwrap();
        }
    }
    settle(&shared, vec![parked(2, 1)], Durability::Sync).await;
    store.abandon().await;
}

/// Asserts that everything owed is there and can be read. Where the check named a damaged table or record, the damage
/// is reported as an error, and never returned as other content.
async fn assert_whole(store: &Arc<dyn Store>, rotten: bool, what: &str) {
    assert_eq!(store.bounds().last, Position::new(200), "{what}");
    assert_eq!(store.waiting(StreamNo(1)), 100, "{what}");
    assert_eq!(store.waiting(StreamNo(2)), 199, "{what}");
    for seq in 1..=200 {
        match store.bodies(vec![Position::new(seq)]).await {
            Ok(bodies) => assert_eq!(bodies, [Some(Bytes::from(text(seq)))], "{what}: body {seq}"),
            Err(error) => {
                assert!(rotten, "{what}: body {seq} is owed and does not read, and the check knew nothing: {error}")
            }
        }
        match store.heads(vec![Position::new(seq)]).await {
            Ok(heads) => assert_eq!(heads[0].as_ref().unwrap().at.seq, seq, "{what}"),
            Err(error) => {
                assert!(rotten, "{what}: head {seq} is owed and does not read, and the check knew nothing: {error}")
            }
        }
    }
}

#[tokio::test]
async fn damage_anywhere_is_refused_or_harmless_and_never_silent() {
    let mut folder = Folder::with(|options| options.segment_records = 64);
    filled(&mut folder).await;
    let (mut opened, mut refused) = (0, 0);
    for round in 0..120u64 {
        let twin = StorePlace { store: folder.folder.path().join("twin"), owner: folder.place().owner };
        copy(&folder.place().store, &twin.store);
        let mut all = Vec::new();
        files(&twin.store.join("engine"), &mut all);
        all.retain(|path| fs::metadata(path).unwrap().len() > 0 && path.file_name().unwrap() != "lock");
        all.sort();
        let journals: Vec<_> =
            all.iter().filter(|path| path.extension().is_some_and(|ext| ext == "jnl")).cloned().collect();
        // Half of the places are in the journal's used part, the others anywhere.
        let (path, end) = if round % 2 == 0 {
            let used = fs::read(&journals[0]).unwrap().iter().rposition(|byte| *byte != 0).unwrap() as u64;
            (journals[0].clone(), used)
        } else {
            let pick = folder.runtime.random.below(all.len() as u64) as usize;
            (all[pick].clone(), fs::metadata(&all[pick]).unwrap().len())
        };
        let at = folder.runtime.random.below(end);
        let what = format!("round {round}: {} at {at}", path.strip_prefix(&twin.store).unwrap().display());
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        if round % 4 < 2 {
            file.write_all_at(&vec![0; 512.min((end - at) as usize)], at).unwrap();
        } else {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        }
        let rotten = !FjallStore::check(&twin).unwrap().is_sound();
        match folder.try_open_at(&twin) {
            Err(error) => {
                assert!(rotten, "{what}: it is refused and the check knew nothing: {error}");
                refused += 1;
            }
            Ok(found) => {
                opened += 1;
                let store = found.store as Arc<dyn Store>;
                assert_whole(&store, rotten, &what).await;
                store.close().await.unwrap();
            }
        }
        fs::remove_dir_all(&twin.store).unwrap();
    }
    assert!(opened > 0 && refused > 0, "{opened} opened, {refused} refused: the places were not mixed");
}

#[tokio::test]
async fn a_sealed_journal_that_is_damaged_is_noticed() {
    let mut folder = Folder::with(|options| options.segment_records = 100_000);
    let store = folder.store();
    let shared = store.clone() as Arc<dyn Store>;
    let body = "y".repeat(900_000);
    let engine = folder.place().store.join("engine");
    let journals = || {
        fs::read_dir(&engine)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|ext| ext == "jnl"))
            .count()
    };
    while journals() < 2 {
        append(&shared, event(&body, &[1])).await;
    }
    store.abandon().await;
    let mut all = Vec::new();
    files(&engine, &mut all);
    let mut numbered: Vec<u64> =
        all.iter().filter_map(|path| path.file_name()?.to_str()?.strip_suffix(".jnl")?.parse().ok()).collect();
    numbered.sort_unstable();
    let oldest = engine.join(format!("{}.jnl", numbered[0]));
    OpenOptions::new().write(true).open(oldest).unwrap().write_all_at(&[0; 512], 30_000_000).unwrap();
    let error = folder.try_open().unwrap_err();
    assert!(matches!(error, OpenError::Damaged(_) | OpenError::Short { .. }), "{error}");
}

#[tokio::test]
async fn a_store_that_is_short_is_refused_and_says_by_how_much() {
    let mut folder = Folder::new();
    let store = folder.store() as Arc<dyn Store>;
    for seq in 1..=10 {
        append(&store, event_once(&text(seq), &[1], seq as u8, 1)).await;
    }
    store.close().await.unwrap();
    let backup = folder.folder.path().join("backup");
    copy(&folder.place().store.join("engine"), &backup);
    let store = folder.store();
    let shared = store.clone() as Arc<dyn Store>;
    for seq in 11..=17 {
        append(&shared, event(&text(seq), &[1])).await;
    }
    store.abandon().await;
    fs::remove_dir_all(folder.place().store.join("engine")).unwrap();
    copy(&backup, &folder.place().store.join("engine"));
    for _ in 0..2 {
        match folder.try_open() {
            Err(OpenError::Short { events: 7, found: 10, promised: 17, aside, .. }) => {
                assert!(aside.unwrap().join("0.jnl").exists())
            }
            other => panic!("{other:?}"),
        }
    }
    let report = FjallStore::check(&folder.place()).unwrap();
    assert!(
        !report.is_sound() && report.problems.iter().any(|text| text.contains("short of 7 accepted events")),
        "{report:?}"
    );
}

#[tokio::test]
async fn a_check_reads_everything_and_changes_nothing() {
    let mut folder = Folder::with(|options| options.segment_records = 64);
    filled(&mut folder).await;
    let before = sums(&folder.place().store);
    let report = FjallStore::check(&folder.place()).unwrap();
    assert!(report.is_sound() && !report.clean, "{report:?}");
    assert_eq!((report.heads, report.bodies, report.parked, report.waiting, report.streams), (200, 200, 1, 299, 2));
    assert_eq!(report.bounds.last, Position::new(200));
    assert_eq!(sums(&folder.place().store), before);
    assert_eq!(owed(&(folder.store() as Arc<dyn Store>), 1).await.len(), 100);
}

#[tokio::test]
async fn no_byte_of_a_table_can_change_unnoticed() {
    let mut folder = Folder::new();
    filled(&mut folder).await;
    folder.try_open().unwrap().store.close().await.unwrap();
    let place = folder.place();
    assert!(FjallStore::check(&place).unwrap().is_sound());
    let trees = crate::fjall::seal::trees(&place.store.join("engine")).unwrap().0;
    let tables = trees.iter().map(|(_, tree)| tree.join("tables")).filter(|tables| tables.exists());
    let tables: Vec<PathBuf> =
        tables.flat_map(|tables| fs::read_dir(tables).unwrap().map(|entry| entry.unwrap().path())).collect();
    let (mut tried, mut silent) = (0, Vec::new());
    for path in tables {
        let whole = fs::read(&path).unwrap();
        for at in (tried * 61 % 976..whole.len()).step_by(976) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, &damaged).unwrap();
            if FjallStore::check(&place).unwrap().is_sound() {
                silent.push(format!(
                    "{} at {at} of {}",
                    path.strip_prefix(&place.store).unwrap().display(),
                    whole.len()
                ));
            }
            tried += 1;
        }
        fs::write(&path, &whole).unwrap();
    }
    assert!(tried > 5 && silent.is_empty(), "{} of {tried} places: {silent:?}", silent.len());
}

#[tokio::test]
async fn a_check_names_the_body_that_rotted() {
    let mut folder = Folder::with(|options| options.segment_records = 8);
    let store = folder.store() as Arc<dyn Store>;
    for seq in 1..=20 {
        append(&store, event(&text(seq), &[1])).await;
    }
    // Closed segments that stay are flushed to tables.
    store.housekeep().await.unwrap();
    store.close().await.unwrap();
    assert!(FjallStore::check(&folder.place()).unwrap().is_sound());
    let mut all = Vec::new();
    files(&folder.place().store.join("engine"), &mut all);
    let marker = b"body-3-xxx";
    let mut hit = 0;
    for path in all {
        let bytes = fs::read(&path).unwrap();
        for at in bytes.windows(marker.len()).enumerate().filter(|(_, window)| window == marker).map(|(at, _)| at) {
            OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"q", at as u64 + 20).unwrap();
            hit += 1;
        }
    }
    assert!(hit > 0);
    let report = FjallStore::check(&folder.place());
    assert!(!report.unwrap().is_sound());
}

fn sums(folder: &Path) -> Vec<(PathBuf, blake3::Hash)> {
    let mut all = Vec::new();
    files(folder, &mut all);
    all.sort();
    all.retain(|path| path.file_name().unwrap() != "lock");
    all.into_iter().map(|path| (path.clone(), blake3::hash(&fs::read(path).unwrap()))).collect()
}
