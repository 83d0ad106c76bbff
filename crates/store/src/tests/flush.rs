//! Tests that an answer leaves after the flush that covers it, by the calls that the process makes.

use std::{
    fs::{self, File},
    io::Write as _,
    process::Command,
};

use super::*;
use crate::{
    Durability,
    testkit::{acknowledged, append, event, settle},
};

const STORE: &str = "SETGATE_TEST_FLUSHED_STORE";
const LOG: &str = "FLUSH_LOG";

/// Runs as the second process: writes down when it asks the store and when it is answered.
#[tokio::test]
async fn child() {
    let (Some(path), Some(log)) = (std::env::var_os(STORE), std::env::var_os(LOG)) else { return };
    let path = std::path::PathBuf::from(path);
    let place = StorePlace { store: path.join("store"), owner: path.join("owner.json") };
    let options = Options { path: place.store.clone(), reserve_bytes: 0, segment_records: 16, ..Options::default() };
    let opened = FjallStore::open(&place, &options, &SECRET, &setgate_clock::system(), Observed::default()).unwrap();
    let store = opened.store as Arc<dyn Store>;
    let mut log = File::options().append(true).open(log).unwrap();
    for n in 0..40 {
        writeln!(log, "asked {n}").unwrap();
        let seq = append(&store, event("x", &[1])).await;
        writeln!(log, "answered {n}").unwrap();
        writeln!(log, "asked to settle {n}").unwrap();
        settle(&store, vec![acknowledged(1, seq)], Durability::Sync).await;
        writeln!(log, "answered to settle {n}").unwrap();
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn what_is_answered_was_flushed_before() {
    let folder = Folder::new();
    let (library, log) = (folder.folder.path().join("flush.so"), folder.folder.path().join("log"));
    File::create(&log).unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/flush.c");
    let mut cc = Command::new("cc");
    let made = cc.args(["-shared", "-fPIC", "-O1", source, "-ldl", "-o"]).arg(&library).status().unwrap();
    assert!(made.success(), "the library does not compile");
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::flush::child"])
        .env(STORE, folder.folder.path())
        .env(LOG, &log)
        .env("LD_PRELOAD", &library)
        .status()
        .unwrap();
    assert!(ended.success());
    let (mut answers, mut flushed) = (0, false);
    for line in fs::read_to_string(&log).unwrap().lines() {
        if line.starts_with("asked") {
            flushed = false;
        } else if line.starts_with("answered") {
            assert!(flushed, "{line} before a journal was flushed");
            answers += 1;
        } else {
            flushed |= line.ends_with(".jnl");
        }
    }
    assert_eq!(answers, 80);
}
