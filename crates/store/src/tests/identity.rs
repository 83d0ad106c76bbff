//! Tests of a store's identity: its damage is noticed, it is written anew where it is lost, and its token is renewed
//! despite obstacles.

use std::fs;

use super::{full::on_a_small_disk, *};
use crate::{
    Done, Durability, Space, Unit,
    fjall::identity::Identity,
    testkit::{acknowledged, append, event, one, owed, settle},
};

/// Returns a closed store with two records, one of them owed to stream 1.
async fn closed() -> Folder {
    let mut folder = Folder::new();
    let store = folder.store() as Arc<dyn Store>;
    append(&store, event("x", &[1])).await;
    append(&store, event("y", &[1])).await;
    settle(&store, vec![acknowledged(1, 1)], Durability::Sync).await;
    let Done::Allocated(_) = one(&store, Unit::Allocate { space: Space::Stream }).await else { panic!() };
    store.close().await.unwrap();
    folder
}

#[tokio::test]
async fn no_byte_of_the_identity_can_change_unnoticed() {
    let folder = closed().await;
    let (place, file) = (folder.place(), folder.place().store.join("instance.json"));
    let Identity::Known(whole) = place.identity().unwrap() else { panic!("it reads") };
    let text = fs::read(&file).unwrap();
    let mut noticed = 0;
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut damaged = text.clone();
            damaged[at] ^= 1 << bit;
            fs::write(&file, damaged).unwrap();
            match place.identity() {
                Ok(Identity::Lost(_)) => noticed += 1,
                // The bit is in white space, or in the name of the checksum, which makes it a file of an earlier
                // release.
                Ok(Identity::Known(read)) => assert_eq!(read, whole, "byte {at}, bit {bit}"),
                Err(error) => panic!("byte {at}, bit {bit}: {error}"),
            }
        }
    }
    assert!(noticed > text.len() * 6, "{noticed} of {}", text.len() * 8);
}

#[tokio::test]
async fn an_identity_of_an_earlier_release_reads() {
    let folder = closed().await;
    let file = folder.place().store.join("instance.json");
    let mut members: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert!(members.remove("checksum").is_some());
    fs::write(&file, serde_json::to_vec(&members).unwrap()).unwrap();
    assert_eq!(folder.try_open().unwrap().report.held, None);
}

#[tokio::test]
async fn a_lost_identity_is_written_anew_and_the_store_is_held_until_it_is_adopted() {
    for (what, also) in [("missing", false), ("garbage", false), ("missing", true)] {
        let folder = closed().await;
        let place = folder.place();
        let file = place.store.join("instance.json");
        let id = place.instance(None).unwrap().id;
        if what == "missing" {
            fs::remove_file(&file).unwrap()
        } else {
            fs::write(&file, "{").unwrap()
        }
        if also {
            fs::remove_file(place.watermark()).unwrap();
        }
        let why = folder.try_open().unwrap_err().to_string();
        assert!(why.contains("instance.json") && why.contains("setgate store repair"), "{why}");
        let report = FjallStore::check(&place).unwrap();
        assert!(!report.is_sound() && report.problems.iter().any(|why| why.contains("instance.json")), "{report:?}");
        let repair = FjallStore::repair(&place).unwrap();
        assert!(repair.is_needed() && repair.findings().identity.is_some());
        // Without the secret a store cannot be distinguished from one with the keys of another.
        let refused = repair.carry_out(None, &folder.runtime).unwrap_err().to_string();
        assert!(refused.contains("secret"), "{refused}");
        let mut repair = FjallStore::repair(&place).unwrap();
        repair.identify(&SECRET, &folder.runtime).unwrap();
        let repaired = repair.carry_out(None, &folder.runtime).unwrap();
        assert_eq!(repaired.damaged.is_some(), also, "what was whole was written anew");
        assert_eq!(repaired.waiting, 1);
        assert!(repaired.copy.unwrap().contains("written anew by a repair"));
        assert!(FjallStore::check(&place).unwrap().is_sound());
        let opened = folder.try_open().unwrap();
        assert!(opened.report.held.is_some() && opened.report.id == id, "{:?}", opened.report);
        opened.store.close().await.unwrap();
        FjallStore::adopt(&place, &folder.runtime).unwrap();
        let opened = folder.try_open().unwrap();
        assert_eq!(opened.report.held, None);
        let store = opened.store as Arc<dyn Store>;
        assert_eq!(owed(&store, 1).await, [2]);
        let Done::Allocated(number) = one(&store, Unit::Allocate { space: Space::Stream }).await else { panic!() };
        assert!(number > 1000, "{number} may have been given by the original");
        append(&store, event("z", &[1])).await;
        store.close().await.unwrap();
        assert_eq!(folder.try_open().unwrap().report.held, None);
    }
}

#[tokio::test]
async fn a_store_whose_making_broke_off_is_made_again_and_no_other_is() {
    let folder = Folder::new();
    let place = folder.place();
    let made = || FjallStore::init(&place, &folder.options, &SECRET, &folder.runtime);
    for gone in [&["instance.json"][..], &["instance.json", "watermark"]] {
        gone.iter().for_each(|name| fs::remove_file(place.store.join(name)).unwrap());
        fs::remove_file(&place.owner).unwrap();
        made().unwrap();
    }
    assert!(matches!(made(), Err(OpenError::Exists(_))));
    let store = folder.try_open().unwrap().store as Arc<dyn Store>;
    append(&store, event("x", &[1])).await;
    store.close().await.unwrap();
    fs::remove_file(place.store.join("instance.json")).unwrap();
    assert!(matches!(made(), Err(OpenError::Exists(_))), "a store that holds something");
    fs::remove_file(place.store.join("watermark")).unwrap();
    assert!(matches!(made(), Err(OpenError::Exists(_))), "a store that holds something");
}

#[tokio::test]
async fn starts_that_cannot_write_the_owner_token_do_not_make_a_copy_of_the_original() {
    let folder = closed().await;
    let in_the_way = folder.place().owner.with_extension("new");
    fs::create_dir(&in_the_way).unwrap();
    for _ in 0..3 {
        assert!(matches!(folder.try_open().unwrap_err(), OpenError::Io { .. }));
    }
    fs::remove_dir(&in_the_way).unwrap();
    for _ in 0..2 {
        let opened = folder.try_open().unwrap();
        assert_eq!(opened.report.held, None);
        opened.store.close().await.unwrap();
    }
}

/// Uses all the space of a small disk, to the last byte.
fn take_all(disk: &std::path::Path) -> std::path::PathBuf {
    use std::io::Write as _;
    let path = disk.join("others");
    let mut file = fs::File::create(&path).unwrap();
    let mut chunk = 1 << 20;
    while chunk > 0 {
        match file.write(&vec![1; chunk]) {
            Ok(written) if written > 0 => {}
            _ => chunk /= 2,
        }
    }
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_on_a_disk_without_room_opens_and_takes_events_once_there_is_some() {
    let test = "identity::a_store_on_a_disk_without_room_opens_and_takes_events_once_there_is_some";
    let Some(disk) = on_a_small_disk(test, 160) else { return };
    let folder = Folder::in_folder(tempfile::tempdir_in(&disk).unwrap(), |options| options.reserve_bytes = 1 << 20);
    let store = folder.try_open().unwrap().store;
    append(&(store.clone() as Arc<dyn Store>), event("x", &[1])).await;
    store.abandon().await;
    let others = take_all(&disk);
    let opened = folder.try_open().unwrap_or_else(|error| panic!("{}: {error}", error.is_full()));
    assert_eq!(opened.report.held, None);
    let store = opened.store as Arc<dyn Store>;
    assert_eq!(owed(&store, 1).await, [1]);
    assert!(!store.health().accepts, "{:?}", store.health());
    fs::remove_file(others).unwrap();
    until("it takes events", || store.health().accepts).await;
    append(&store, event("y", &[1])).await;
    store.close().await.unwrap();
    assert_eq!(folder.try_open().unwrap().report.held, None);
}

/// Waits until a condition that another thread brings about holds.
async fn until(what: &str, is: impl Fn() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(tokio::time::Instant::now() < end, "not in time: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_no_room_is_renewed_later() {
    let folder = closed().await;
    let place = folder.place();
    for file in [place.store.join("instance.new"), place.owner.with_extension("new")] {
        let before = place.instance(None).unwrap().token;
        // The file never has space.
        std::os::unix::fs::symlink("/dev/full", &file).unwrap();
        for _ in 0..3 {
            let opened = folder.try_open().unwrap();
            assert_eq!(opened.report.held, None);
            opened.store.abandon().await;
        }
        let opened = folder.try_open().unwrap();
        let id = opened.report.id.clone();
        fs::remove_file(&file).unwrap();
        // The token is renewed with the next job of the writer.
        let store = opened.store as Arc<dyn Store>;
        append(&store, event("z", &[1])).await;
        store.close().await.unwrap();
        let after = place.instance(None).unwrap();
        assert_ne!(after.token, before);
        assert_eq!((after.id.as_str(), place.check(&after).unwrap()), (id.as_str(), None));
        let owner = fs::read_to_string(&place.owner).unwrap();
        assert!(owner.contains(&after.token), "the owner file lags behind: {owner}");
    }
}
