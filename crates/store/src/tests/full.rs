//! Tests on a file system that is really full: a small one in memory, in a namespace of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::*;
use crate::{
    Appended, Done, Durability, Position, Put, Settlement, StoreError, StreamNo, Unit,
    testkit::{MANY, acknowledged, append, body, event, owed, settle},
};

/// The variable that gives the second process the path of its file system.
const MOUNTED: &str = "SETGATE_TEST_MOUNTED";
/// The variable that declares that this machine has no user namespaces, so that the tests here are skipped.
const WITHOUT: &str = "SETGATE_TEST_WITHOUT_NAMESPACES";

/// Runs the test again in a namespace with a small file system. Returns its folder in that second process.
pub(super) fn on_a_small_disk(test: &str, megabytes: u32) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(MOUNTED) {
        return Some(folder.into());
    }
    if std::env::var_os(WITHOUT).is_some() {
        assert!(std::env::var_os("CI").is_none(), "{test} is part of what CI shows: {WITHOUT} is for other machines");
        eprintln!("SKIPPED: {test} needs user namespaces, and {WITHOUT} says that there are none");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = format!("mount -t tmpfs -o size={megabytes}m none \"$0\" && exec \"$@\"");
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", &script])
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &if test.contains("::") { format!("tests::{test}") } else { format!("tests::full::{test}") },
            "--nocapture",
        ])
        .env(MOUNTED, folder.path())
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n(without user namespaces set {WITHOUT}=1)");
    None
}

fn folder_in(disk: &Path, change: impl FnOnce(&mut Options)) -> Folder {
    let folder = tempfile::tempdir_in(disk).unwrap();
    Folder::in_folder(folder, |options| {
        (options.segment_records, options.segment_bytes, options.budget_bytes) = (65_536, 8 << 20, u64::MAX);
        change(options);
    })
}

/// Appends until the store refuses. Returns the number of accepted events and the refusal.
async fn fill(store: &Arc<dyn Store>, from: u64) -> (u64, StoreError) {
    let mut last = from;
    loop {
        let text = format!("{:0>60000}", last + 1);
        match store.commit(vec![Unit::Append { events: vec![event(&text, &[1])] }], Durability::Sync).await {
            Ok(done) => {
                let Done::Appended(answers) = &done[0] else { panic!("{done:?}") };
                assert!(matches!(answers[..], [Appended::New { .. }]));
                last += 1;
            }
            Err(error) => return (last, error),
        }
    }
}

fn all(from: u64, to: u64) -> Vec<Settlement> {
    (from..=to).map(|seq| acknowledged(1, seq)).collect()
}

/// Waits, by the store's own clock, until the condition holds.
async fn until(store: &Arc<dyn Store>, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if holds().await {
            return;
        }
        let _ = store.tail(Position::new(u64::MAX - 1), MANY, Duration::from_millis(50)).await;
    }
    panic!("{what} did not come true");
}

#[tokio::test]
async fn with_only_the_reserve_left_events_are_refused_and_settling_makes_room() {
    let Some(disk) = on_a_small_disk("with_only_the_reserve_left_events_are_refused_and_settling_makes_room", 400)
    else {
        return;
    };
    let mut folder = folder_in(&disk, |options| options.reserve_bytes = 200 << 20);
    let store = folder.store() as Arc<dyn Store>;
    let mut last = 0;
    for round in 0..2 {
        let before = last;
        let (now, error) = fill(&store, last).await;
        last = now;
        assert!(matches!(error, StoreError::Full(_)), "{error}");
        assert!(last > before + 100, "round {round}: only {} were accepted", last - before);
        let health = store.health();
        assert!(!health.accepts && health.free < health.reserve, "{health:?}");
        assert_eq!(store.waiting(StreamNo(1)), last - before);
        // Records that were read from a table keep its file open in the engine: its space must be freed all the same.
        for seq in before + 1..=last {
            assert_eq!(body(&store, seq).await.unwrap().len(), 60_000, "{seq}");
        }
        settle(&store, all(before + 1, last), Durability::Sync).await;
        until(&store, "room", async || {
            store.housekeep().await.unwrap();
            settle(&store, vec![acknowledged(1, 1)], Durability::Sync).await;
            store.health().accepts
        })
        .await;
    }
    append(&store, event("after", &[1])).await;
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_little_room_does_not_open_intake_and_shut_it_again() {
    let Some(disk) = on_a_small_disk("a_little_room_does_not_open_intake_and_shut_it_again", 300) else { return };
    for (name, megabytes) in [("little", 3), ("much", 60)] {
        fs::write(disk.join(name), vec![1u8; megabytes << 20]).unwrap();
    }
    let mut folder = folder_in(&disk, |options| options.reserve_bytes = 150 << 20);
    let store = folder.store() as Arc<dyn Store>;
    let (last, _) = fill(&store, 0).await;
    let obstacle = store.health().obstacle.unwrap();
    assert_eq!((obstacle.name(), obstacle.stops_delivery()), ("store.reserve_bytes", false), "{obstacle}");
    fs::remove_file(disk.join("little")).unwrap();
    let room = async || {
        settle(&store, vec![acknowledged(1, 1)], Durability::Sync).await;
        store.health()
    };
    until(&store, "it is above the reserve", async || room().await.free > 150 << 20).await;
    assert!(!room().await.accepts, "three megabytes opened it");
    fs::remove_file(disk.join("much")).unwrap();
    until(&store, "room", async || store.health().accepts).await;
    assert_eq!(append(&store, event("after", &[1])).await, last + 1);
    store.close().await.unwrap();
}

#[tokio::test]
async fn on_a_full_disk_nothing_accepted_is_lost_and_it_goes_on_without_a_restart() {
    let Some(disk) = on_a_small_disk("on_a_full_disk_nothing_accepted_is_lost_and_it_goes_on_without_a_restart", 220)
    else {
        return;
    };
    let ballast = disk.join("ballast");
    fs::write(&ballast, vec![1u8; 60 << 20]).unwrap();
    let mut folder = folder_in(&disk, |options| options.reserve_bytes = 1);
    let opened = folder.store();
    let fatal = opened.fatal();
    let store = opened as Arc<dyn Store>;
    let (last, mut error) = fill(&store, 0).await;
    // Without any space no event is accepted; a change of records still is, and meets the full disk.
    for number in 0..1000 {
        if !matches!(error, StoreError::Full(_)) {
            break;
        }
        let put = Put { key: format!("test/{number}").into(), value: Some(vec![1; 60_000].into()) };
        let change = vec![put];
        let unit =
            Unit::Configure { change, expect: None, membership: false, drop_through: Vec::new(), notice: Vec::new() };
        if let Err(refused) = store.commit(vec![unit], Durability::Sync).await {
            error = refused;
        }
    }
    assert!(last > 100 && matches!(error, StoreError::Poisoned(_)), "{last} {error}");
    assert!(!store.health().accepts);
    let refused = store.commit(vec![Unit::Append { events: vec![event("x", &[1])] }], Durability::Sync).await;
    assert!(refused.is_err());
    fs::remove_file(&ballast).unwrap();
    until(&store, "the store is open again", async || store.health().accepts).await;
    assert_eq!(*fatal.borrow(), None);
    let found = store.bounds().last.seq;
    assert!(found == last || found == last + 1, "{found} found, {last} accepted: only the one in doubt may be more");
    for seq in 1..=last {
        assert_eq!(body(&store, seq).await.unwrap(), format!("{seq:0>60000}"), "{seq}");
    }
    assert_eq!(owed(&store, 1).await.len() as u64, found);
    settle(&store, all(1, found), Durability::Sync).await;
    store.housekeep().await.unwrap();
    assert_eq!(append(&store, event("after", &[1])).await, found + 1);
    store.close().await.unwrap();
    let store = folder.store() as Arc<dyn Store>;
    assert_eq!(owed(&store, 1).await, [found + 1]);
    assert_eq!(store.bounds().last, Position::new(found + 1));
    assert!(FjallStore::check(&folder.place()).is_err(), "it is open");
    store.close().await.unwrap();
    assert!(FjallStore::check(&folder.place()).unwrap().is_sound());
}

#[tokio::test]
async fn a_worker_that_met_a_full_disk_ends_nothing_when_there_is_room_again() {
    let Some(disk) = on_a_small_disk("a_worker_that_met_a_full_disk_ends_nothing_when_there_is_room_again", 300) else {
        return;
    };
    let mut folder = folder_in(&disk, |options| options.reserve_bytes = 1);
    let opened = folder.store();
    let fatal = opened.fatal();
    let store = opened.clone() as Arc<dyn Store>;
    append(&store, event("before", &[1])).await;
    let ballast = disk.join("ballast");
    fs::write(&ballast, vec![1u8; 250 << 20]).unwrap();
    opened.measure().await;
    assert!(store.health().free < 64 << 20, "{:?}", store.health());
    fs::remove_file(&ballast).unwrap();
    // The engine tells of its worker only now.
    let stopped = StoreError::Poisoned("the engine stopped after an earlier failure".into());
    opened.fail([crate::fjall::Failure::Stopped(stopped)]);
    let doubt = store.commit(vec![Unit::Append { events: vec![event("doubt", &[1])] }], Durability::Sync).await;
    assert!(matches!(doubt, Err(StoreError::Poisoned(_))), "{doubt:?}");
    until(&store, "the store is open again", async || store.health().accepts || fatal.borrow().is_some()).await;
    assert_eq!(*fatal.borrow(), None);
    append(&store, event("after", &[1])).await;
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_check_and_a_repair_to_elsewhere_need_no_room_on_the_full_disk() {
    let Some(disk) = on_a_small_disk("a_check_and_a_repair_to_elsewhere_need_no_room_on_the_full_disk", 200) else {
        return;
    };
    let mut folder = folder_in(&disk, |options| options.reserve_bytes = 0);
    let store = folder.store() as Arc<dyn Store>;
    for seq in 1..=400 {
        append(&store, event(&format!("{seq:0>60000}"), &[1])).await;
    }
    store.housekeep().await.unwrap();
    store.close().await.unwrap();
    // No free byte is left.
    let mut ballast = fs::File::create(disk.join("ballast")).unwrap();
    let mut block = 1 << 20;
    while block > 0 {
        if std::io::Write::write_all(&mut ballast, &vec![1; block]).is_err() {
            block /= 2;
        }
    }
    let report = FjallStore::check(&folder.place()).unwrap();
    assert!(report.is_sound() && report.bodies == 400, "{report:?}");
    let elsewhere = tempfile::tempdir().unwrap();
    let into = elsewhere.path().join("store");
    FjallStore::repair(&folder.place()).unwrap().carry_out(Some(&into), &folder.runtime).unwrap();
    let copy = StorePlace { store: into, owner: folder.place().owner };
    let report = FjallStore::check(&copy).unwrap();
    assert!(report.is_sound() && report.waiting == 400, "{report:?}");
}
