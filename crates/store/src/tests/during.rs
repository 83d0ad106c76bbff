//! Tests of events between the steps of a round of housekeeping, and of kills inside the deletions that it makes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
};

use super::{damage::files, *};
use crate::{
    Durability, StreamNo,
    testkit::{acknowledged, append, body, event, owed, settle, tail},
};

/// Blocks the one thread that reads until the sender is dropped; the receiver gets a message once it is blocked.
fn busy() -> (Sender<()>, Receiver<()>) {
    let ((release, held), (begins, begun)) = (channel::<()>(), channel());
    drop(tokio::task::spawn_blocking(move || {
        let _ = begins.send(());
        held.recv()
    }));
    (release, begun)
}

/// The test uses nothing but what every caller of a store can do.
#[test]
fn a_segment_that_closes_during_a_round_is_given_up_only_when_its_end_is_written_down() {
    // The reads of housekeeping wait for earlier work on the one blocking thread.
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut folder = Folder::with(|options| {
            (options.segment_records, options.recent_bytes, options.flush) = (12, 0, Duration::from_secs(3600));
        });
        let store = folder.store() as Arc<dyn Store>;
        for seq in 1..=10 {
            append(&store, event(&format!("body-{seq}"), &[1, 2])).await;
        }
        // The close folds the cursors up to here.
        store.close().await.unwrap();
        let store = folder.store();
        let shared = store.clone() as Arc<dyn Store>;
        let (first, _) = busy();
        let mut round = shared.housekeep();
        assert!(futures_util::poll!(&mut round).is_pending());
        let (second, begun) = busy();
        drop(first);
        begun.recv().unwrap();
        // The first read is done, the second cannot begin; between them the writer is asked to fold the cursors.
        assert!(futures_util::poll!(&mut round).is_pending());
        for seq in 11..=13 {
            append(&shared, event(&format!("body-{seq}"), &[1, 2])).await;
        }
        let all = (1..=13).flat_map(|seq| [acknowledged(1, seq), acknowledged(2, seq)]);
        let but_one = all.filter(|settlement| (settlement.stream, settlement.at.seq) != (StreamNo(2), 12));
        settle(&shared, but_one.collect(), Durability::Sync).await;
        drop(second);
        round.await.unwrap();
        assert_eq!(shared.bounds().first.seq, 13, "nothing was condensed");
        store.abandon().await;

        let shared = folder.store() as Arc<dyn Store>;
        assert_eq!(owed(&shared, 2).await, [12]);
        assert_eq!(body(&shared, 12).await.as_deref(), Some(&b"body-12"[..]));
        assert!(tail(&shared).await.iter().any(|entry| entry.head.at.seq == 12));
        crate::testkit::assert_sums(&shared, 1..=2).await;
    });
}

/// A state in which a kill leaves a keyspace's folder, with its description.
type Left = (&'static str, fn(&Path) -> std::io::Result<()>);

fn but(folder: &Path, stays: &str) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        match (name == stays, path.is_dir()) {
            (true, _) => {}
            (_, true) => fs::remove_dir_all(path)?,
            (_, false) => fs::remove_file(path)?,
        }
    }
    Ok(())
}

/// The states of a folder during its deletion. The engine forgets the keyspace's name, removes the file that names its
/// list of tables, then the rest in any order.
const LEFT: [Left; 5] = [
    ("everything", |_| Ok(())),
    ("all but what names the list", |folder| fs::remove_file(folder.join("current"))),
    ("the tables", |folder| but(folder, "tables")),
    ("the lists", |folder| {
        fs::remove_file(folder.join("current"))?;
        fs::remove_dir_all(folder.join("tables"))
    }),
    ("an empty folder", |folder| but(folder, "")),
];

/// Returns a store whose first segment was condensed, and copies of the two folders of that segment in the engine, made
/// before their deletion.
async fn condensed(folder: &mut Folder) -> (Arc<FjallStore>, [PathBuf; 2]) {
    let store = folder.store();
    let shared = store.clone() as Arc<dyn Store>;
    for seq in 1..=30 {
        append(&shared, event(&format!("body-{seq}"), &[1, 2])).await;
    }
    shared.housekeep().await.unwrap();
    // These come after the seven that every store has.
    let folders = ["8", "9"].map(|name| folder.place().store.join("engine/keyspaces").join(name));
    for one in &folders {
        let mut tables = Vec::new();
        while tables.is_empty() {
            // The engine's worker flushes it.
            std::thread::yield_now();
            files(&one.join("tables"), &mut tables);
        }
    }
    let all = (1..=30).flat_map(|seq| [acknowledged(1, seq), acknowledged(2, seq)]);
    let but_some = all.filter(|settlement| settlement.stream == StreamNo(1) || settlement.at.seq % 12 != 0);
    settle(&shared, but_some.collect(), Durability::Sync).await;
    store.trim(store.plan_trim().await.unwrap()).await.unwrap();
    assert_eq!(shared.bounds().first.seq, 13, "nothing was condensed");
    let copies = ["heads", "bodies"].map(|name| folder.folder.path().join(name));
    folders.iter().zip(&copies).for_each(|(from, to)| copy(from, to));
    (store, copies)
}

/// Deletes a keyspace of a closed store as the engine does.
fn delete(folder: &Folder, name: &str) {
    let path = folder.place().store.join("engine");
    let engine = fjall::Database::builder(path).worker_threads(1).manual_journal_persist(true).open().unwrap();
    let keyspace = engine.keyspace(name, fjall::KeyspaceCreateOptions::default).unwrap();
    engine.delete_keyspace(keyspace).unwrap();
}

async fn assert_opens(folder: &Folder, place: &StorePlace, what: &str) {
    assert!(FjallStore::check(place).unwrap().is_sound(), "{what}");
    for round in 0..2 {
        let opened = folder.try_open_at(place).unwrap_or_else(|error| panic!("{what}, round {round}: {error}"));
        let store = opened.store.clone() as Arc<dyn Store>;
        assert_eq!(owed(&store, 2).await, [12, 24], "{what}");
        assert_eq!(body(&store, 12).await.as_deref(), Some(&b"body-12"[..]), "{what}");
        assert_eq!(body(&store, 24).await.as_deref(), Some(&b"body-24"[..]), "{what}");
        crate::testkit::assert_sums(&store, 1..=2).await;
        store.housekeep().await.unwrap();
        // The first round ends with a close, the second with a kill.
        if round == 0 { store.close().await.unwrap() } else { opened.store.abandon().await }
    }
    for name in ["8", "9"] {
        let (mut tables, folder) = (Vec::new(), place.store.join("engine/keyspaces").join(name).join("tables"));
        if folder.exists() {
            files(&folder, &mut tables);
        }
        let taken: u64 = tables.iter().map(|table| fs::metadata(table).unwrap().len()).sum();
        // A keyspace that is kept for reuse has one row in one table.
        assert!(taken < 3000, "{what}: {name} takes {taken} bytes");
    }
    assert!(FjallStore::check(place).unwrap().is_sound(), "{what}");
}

#[tokio::test]
async fn a_deletion_that_is_killed_anywhere_is_finished_by_the_next_opening() {
    let mut folder = Folder::with(|options| (options.segment_records, options.recent_bytes) = (12, 0));
    let (store, copies) = condensed(&mut folder).await;
    store.clear_away().await.unwrap();
    store.abandon().await;
    drop(store);
    for name in ["heads-1", "bodies-1"] {
        delete(&folder, name);
    }
    let keyspaces = |place: &StorePlace| place.store.join("engine/keyspaces");
    assert!(!keyspaces(&folder.place()).join("8").exists(), "it is not deleted");
    for (what, leave) in LEFT {
        for which in [&["8"][..], &["9"], &["8", "9"]] {
            let twin = StorePlace { store: folder.folder.path().join("twin"), owner: folder.place().owner };
            copy(&folder.place().store, &twin.store);
            for (name, from) in ["8", "9"].iter().zip(&copies).filter(|(name, _)| which.contains(name)) {
                copy(from, &keyspaces(&twin).join(name));
                leave(&keyspaces(&twin).join(name)).unwrap();
            }
            assert_opens(&folder, &twin, &format!("{what} of {which:?}")).await;
            fs::remove_dir_all(&twin.store).unwrap();
        }
    }
}

#[tokio::test]
async fn a_deletion_that_is_killed_between_two_keyspaces_is_finished_by_the_next_opening() {
    for name in ["heads-1", "bodies-1"] {
        let mut folder = Folder::with(|options| (options.segment_records, options.recent_bytes) = (12, 0));
        let (store, _) = condensed(&mut folder).await;
        store.abandon().await;
        drop(store);
        delete(&folder, name);
        assert_opens(&folder, &folder.place(), name).await;
    }
}
