//! Tests of writes that fail: what was promised stays, what was not is in doubt, and an fsync is never tried twice.

use super::*;
use crate::{
    Done, Durability, Position, StoreError, StreamNo, Unit,
    fjall::Failure,
    testkit::{MANY, acknowledged, append, event, owed, settle},
};

fn broken() -> StoreError {
    StoreError::Poisoned("the test said so".into())
}

/// Waits, by the store's own clock, until the condition holds.
async fn until(store: &Arc<FjallStore>, what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        let _ = store.tail(Position::new(u64::MAX - 1), MANY, Duration::from_millis(20)).await;
    }
    panic!("{what} did not come true");
}

#[tokio::test]
async fn a_failed_write_is_in_doubt_and_everything_before_it_stays() {
    let mut folder = Folder::new();
    let opened = folder.store();
    let store = opened.clone() as Arc<dyn Store>;
    for _ in 0..3 {
        append(&store, event("x", &[1])).await;
    }
    let before = store.heads(vec![Position::new(3)]).await.unwrap()[0].as_ref().unwrap().boot;
    assert_eq!(settle(&store, vec![acknowledged(1, 2)], Durability::Lazy).await, Done::Settled(1));
    opened.fail([Failure::Write(broken())]);
    let doubt = store.commit(vec![Unit::Append { events: vec![event("y", &[1])] }], Durability::Sync).await;
    assert!(matches!(doubt, Err(StoreError::Poisoned(_))), "{doubt:?}");
    until(&opened, "it is open again", || store.health().accepts).await;
    assert_eq!(owed(&store, 1).await, [1, 3], "what was answered lazily counts still");
    assert_eq!(append(&store, event("z", &[1])).await, 4);
    let after = store.heads(vec![Position::new(4)]).await.unwrap()[0].as_ref().unwrap().boot;
    assert_ne!(before, after, "the position of the event in doubt is not named twice");
    assert_eq!(*opened.fatal().borrow(), None);
    store.close().await.unwrap();
    drop((store, opened));
    let store = folder.store() as Arc<dyn Store>;
    assert_eq!(owed(&store, 1).await, [1, 3, 4]);
    assert_eq!(store.waiting(StreamNo(1)), 3);
}

#[tokio::test]
async fn while_it_is_opened_again_counts_are_the_last_known_and_the_reason_is_told() {
    let mut folder = Folder::new();
    let opened = folder.store();
    let store = opened.clone() as Arc<dyn Store>;
    for _ in 0..3 {
        append(&store, event("x", &[1])).await;
    }
    // The pause before the opening does not end meanwhile.
    folder.dial.hold();
    opened.fail([Failure::Write(broken())]);
    let doubt = store.commit(vec![Unit::Append { events: vec![event("y", &[1])] }], Durability::Sync).await;
    assert!(doubt.is_err());
    until(&opened, "it is being opened again", || store.health().obstacle.is_some()).await;
    for look in 0..20 {
        let obstacle = store.health().obstacle.unwrap();
        assert_eq!((obstacle.name(), obstacle.may_pass(), obstacle.stops_delivery()), ("store_reopening", true, true));
        assert!(store.health().trouble.unwrap().contains("the test said so") && store.health().remedy.is_some());
        assert_eq!(store.cursor(StreamNo(1)).await.unwrap().tally.waiting, 3, "at look {look}");
    }
    folder.dial.release();
    until(&opened, "it is open again", || store.health().obstacle.is_none()).await;
    store.close().await.unwrap();
    assert_eq!(store.health().obstacle, Some(crate::Obstacle::Closed));
}

#[tokio::test]
async fn an_unconfirmed_flush_ends_the_process_and_is_not_tried_again() {
    let mut folder = Folder::new();
    let opened = folder.store();
    let store = opened.clone() as Arc<dyn Store>;
    append(&store, event("x", &[1])).await;
    opened.fail([Failure::Sync(broken())]);
    let unit = || vec![Unit::Append { events: vec![event("y", &[1])] }];
    assert!(matches!(store.commit(unit(), Durability::Sync).await, Err(StoreError::Poisoned(_))));
    let mut fatal = opened.fatal();
    assert!(fatal.wait_for(Option::is_some).await.unwrap().as_ref().unwrap().contains("the test said so"));
    assert!(store.commit(unit(), Durability::Sync).await.is_err());
    assert!(!store.health().accepts && store.health().trouble.is_some());
    assert!(store.bodies(vec![Position::new(99)]).await.is_err());
    assert!(store.close().await.is_err());
    assert!(opened.has_left_its_engine(), "the engine was closed, which flushes its journal once more");
    let report = folder.try_open_at(&twin(&folder)).unwrap().report;
    assert_eq!((report.last, report.clean), (1, false));
}

/// Copies the store as it lies on the disk: a process that ends after a flush that was not confirmed still has the
/// engine's lock.
fn twin(folder: &Folder) -> StorePlace {
    let twin = StorePlace { store: folder.folder.path().join("twin"), owner: folder.place().owner };
    copy(&folder.place().store, &twin.store);
    twin
}

#[tokio::test]
async fn a_flush_of_a_new_name_that_is_not_confirmed_ends_the_process() {
    let mut folder = Folder::with(|options| options.segment_records = 4);
    let opened = folder.store();
    let store = opened.clone() as Arc<dyn Store>;
    for _ in 0..4 {
        append(&store, event("x", &[1])).await;
    }
    opened.lose_names();
    let answer = store.commit(vec![Unit::Append { events: vec![event("y", &[1])] }], Durability::Sync).await;
    assert!(matches!(answer, Err(StoreError::Poisoned(_))), "{answer:?}");
    ends_the_process(&opened, "the test lost the name").await;
}

#[tokio::test]
async fn three_openings_in_vain_end_the_process() {
    let mut folder = Folder::new();
    let opened = folder.store();
    let store = opened.clone() as Arc<dyn Store>;
    let mut fatal = opened.fatal();
    opened.fail((0..4).map(|_| Failure::Write(broken())));
    for round in 0..4 {
        until(&opened, "it is open again", || store.health().accepts).await;
        let failed = store.commit(vec![Unit::Append { events: vec![event("y", &[1])] }], Durability::Sync).await;
        assert!(failed.is_err(), "{round}");
    }
    assert!(fatal.wait_for(Option::is_some).await.unwrap().is_some());
}

#[tokio::test]
async fn marks_that_cannot_be_written_end_the_process_after_three_openings() {
    let mut folder = Folder::new();
    let opened = folder.store();
    let store = opened.clone() as Arc<dyn Store>;
    opened.freeze_watermark().await;
    for round in 0..4 {
        until(&opened, "it is open again", || store.health().accepts).await;
        let failed = store.commit(vec![Unit::Append { events: vec![event("y", &[1])] }], Durability::Sync).await;
        assert!(failed.is_err(), "{round}");
    }
    ends_the_process(&opened, "the watermark").await;
}

async fn ends_the_process(store: &FjallStore, says: &str) {
    let mut fatal = store.fatal();
    let said = fatal.wait_for(Option::is_some);
    let said = tokio::time::timeout(Duration::from_secs(20), said).await.expect("the process goes on").unwrap();
    assert!(said.as_ref().unwrap().contains(says), "{said:?}");
}

#[tokio::test]
async fn a_flush_of_the_watermark_that_is_not_confirmed_ends_the_process() {
    let mut folder = Folder::new();
    let opened = folder.store();
    let store = opened.clone() as Arc<dyn Store>;
    append(&store, event("x", &[1])).await;
    opened.break_watermark().await;
    folder.dial.pass(Duration::from_secs(2));
    let answer = store.commit(vec![Unit::Append { events: vec![event("y", &[1])] }], Durability::Sync).await;
    assert!(matches!(answer, Err(StoreError::Poisoned(_))), "{answer:?}");
    ends_the_process(&opened, "the watermark").await;
}

#[tokio::test]
async fn a_flush_of_a_turnover_that_is_not_confirmed_ends_the_process() {
    let mut folder = Folder::new();
    let opened = folder.store();
    append(&(opened.clone() as Arc<dyn Store>), event("x", &[1])).await;
    opened.fail([Failure::Sync(broken())]);
    assert!(opened.turn_over().await.is_err());
    ends_the_process(&opened, "the test said so").await;
}

#[tokio::test]
async fn a_worker_of_the_engine_that_fails_with_room_on_the_disk_ends_the_process() {
    let mut folder = Folder::new();
    let opened = folder.store();
    let store = opened.clone() as Arc<dyn Store>;
    append(&store, event("x", &[1])).await;
    opened.fail([Failure::Stopped(broken())]);
    let answer = store.commit(vec![Unit::Append { events: vec![event("y", &[1])] }], Durability::Sync).await;
    assert!(matches!(answer, Err(StoreError::Poisoned(_))), "{answer:?}");
    ends_the_process(&opened, "the test said so").await;
}

#[tokio::test]
async fn a_close_behind_a_group_that_fails_is_answered_and_closes() {
    for failure in [Failure::Write(broken()), Failure::Sync(broken())] {
        let mut folder = Folder::new();
        let opened = folder.store();
        let store = opened.clone() as Arc<dyn Store>;
        append(&store, event("x", &[1])).await;
        opened.fail([failure]);
        let held = opened.hold_writer();
        let unit = Unit::Append { events: vec![event("y", &[1])] };
        let (commit, close) = (store.commit(vec![unit], Durability::Sync), store.close());
        drop(held);
        assert!(matches!(commit.await, Err(StoreError::Poisoned(_))));
        let closed = close.await.unwrap_err().to_string();
        assert!(closed.contains("the test said so"), "{closed}");
        drop((store, opened));
        let report = folder.try_open_at(&twin(&folder)).unwrap().report;
        assert_eq!((report.last, report.clean), (1, false));
    }
}
