//! Tests that the engine's small files are checked before the engine opens them, and that no kill makes a sound store
//! look damaged.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use super::*;
use crate::{
    Durability, Position,
    fjall::seal,
    testkit::{acknowledged, append, event, settle},
};

/// The variable that gives the second process the path of its store.
const STORE: &str = "SETGATE_TEST_KILLED";

fn small_files(engine: &std::path::Path) -> Vec<PathBuf> {
    let mut all = vec![engine.join("version")];
    for (_, tree) in seal::trees(engine).unwrap().0 {
        let current = tree.join("current");
        let number = u64::from_le_bytes(fs::read(&current).unwrap()[..8].try_into().unwrap());
        all.extend([current, tree.join(format!("v{number}"))]);
    }
    all
}

/// Returns a closed store with tables in several keyspaces.
async fn with_tables() -> Folder {
    let mut folder = Folder::new();
    let store = folder.store() as Arc<dyn Store>;
    for seq in 1..=40u64 {
        append(&store, event(&format!("body-{seq}"), &[1, 2])).await;
        if seq % 3 == 0 {
            settle(&store, vec![acknowledged(1, seq)], Durability::Sync).await;
        }
    }
    store.housekeep().await.unwrap();
    store.close().await.unwrap();
    folder
}

#[tokio::test]
async fn no_byte_of_the_small_files_can_change_unnoticed() {
    let folder = with_tables().await;
    let engine = folder.place().store.join("engine");
    assert_eq!(seal::check(&engine).unwrap(), Vec::<String>::new());
    let all = small_files(&engine);
    assert!(all.len() > 20, "{all:?}");
    let mut tried = 0;
    for path in all {
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(5) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, &damaged).unwrap();
            assert!(!seal::check(&engine).unwrap().is_empty(), "{} at {at}", path.display());
            tried += 1;
        }
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(!seal::check(&engine).unwrap().is_empty(), "{} is half as long", path.display());
        match folder.try_open() {
            Err(OpenError::Damaged(why)) => assert!(why.contains("engine"), "{why}"),
            other => panic!("{}: {other:?}", path.display()),
        }
        fs::remove_file(&path).unwrap();
        // Where its tables are empty, the table of segments says whether a keyspace must exist.
        let tables = path.with_file_name("tables");
        let empty = tables.exists() && fs::read_dir(tables).unwrap().next().is_none();
        assert!(empty || !seal::check(&engine).unwrap().is_empty(), "{} is gone", path.display());
        fs::write(&path, &whole).unwrap();
    }
    assert!(tried > 500, "{tried}");
    assert_eq!(seal::check(&engine).unwrap(), Vec::<String>::new());
    assert_eq!(folder.try_open().unwrap().report.last, 40);
}

#[tokio::test]
async fn a_table_that_is_cut_short_and_a_folder_that_is_in_the_way_are_told() {
    let folder = with_tables().await;
    let engine = folder.place().store.join("engine");
    let tables: Vec<PathBuf> = seal::trees(&engine)
        .unwrap()
        .0
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .flat_map(|(_, tree)| fs::read_dir(tree.join("tables")).unwrap().map(|entry| entry.unwrap().path()))
        .collect();
    assert!(!tables.is_empty());
    let whole = fs::read(&tables[0]).unwrap();
    for cut in [0, 10, whole.len() / 2, whole.len() - 1] {
        fs::write(&tables[0], &whole[..cut]).unwrap();
        assert!(seal::check(&engine).unwrap()[0].contains("cut short"));
    }
    fs::write(&tables[0], &whole).unwrap();
    fs::create_dir(engine.join("keyspaces/lost")).unwrap();
    let why = folder.try_open().unwrap_err().to_string();
    assert!(why.contains("move it away"), "{why}");
}

#[tokio::test]
async fn an_engine_that_is_missing_is_not_made_anew() {
    let folder = with_tables().await;
    let engine = folder.place().store.join("engine");
    fs::rename(&engine, folder.folder.path().join("elsewhere")).unwrap();
    assert!(matches!(folder.try_open(), Err(OpenError::Damaged(why)) if why.contains("missing")));
    assert!(!engine.exists());
}

/// Runs as the second process: appends, settles and cleans up until it is killed, and prints what was accepted.
#[tokio::test]
async fn child() {
    let Some(path) = std::env::var_os(STORE) else { return };
    let path = PathBuf::from(path);
    let place = StorePlace { store: path.join("store"), owner: path.join("owner.json") };
    let options = Options { path: place.store.clone(), reserve_bytes: 0, segment_records: 16, ..Options::default() };
    let runtime = setgate_clock::system();
    let store = FjallStore::open(&place, &options, &SECRET, &runtime, Observed::default()).unwrap().store;
    let keeper = store.clone();
    tokio::spawn(async move {
        loop {
            keeper.housekeep().await.unwrap();
        }
    });
    let store = store as Arc<dyn Store>;
    let mut seq = store.bounds().last.seq;
    loop {
        // Such bodies fill a memtable every few dozen records, so that the engine writes tables all the time.
        seq = append(&store, event(&format!("{:0>60000}", seq + 1), &[1])).await;
        println!("accepted {seq}");
        // One record in 40 stays owed: segments are dropped and condensed.
        if seq.is_multiple_of(8) {
            let what = (seq - 7..=seq).filter(|seq| seq % 40 != 1).map(|seq| acknowledged(1, seq)).collect();
            settle(&store, what, Durability::Sync).await;
        }
    }
}

#[tokio::test]
async fn after_a_kill_at_any_moment_the_small_files_agree_and_nothing_is_lost() {
    const KILLS: u64 = 10;
    let folder = Folder::with(|options| options.segment_records = 16);
    let engine = folder.place().store.join("engine");
    let (mut accepted, mut lists) = (0, std::collections::BTreeSet::new());
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::seal::child", "--nocapture"])
            .env(STORE, folder.folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        // The process is killed after this number of events, whatever the engine is doing then.
        let enough = folder.runtime.random.below(60);
        let mut kill = |accepted: &mut u64| {
            for _ in 0..=enough {
                match lines.by_ref().find_map(|line| Some(line.split_once("accepted ")?.1.parse().unwrap())) {
                    Some(seq) => *accepted = seq,
                    None => panic!("round {round}: the child ended by itself"),
                }
            }
        };
        kill(&mut accepted);
        child.kill().unwrap();
        child.wait().unwrap();
        accepted = lines.filter_map(|line| line.split_once("accepted ")?.1.parse().ok()).last().unwrap_or(accepted);
        assert_eq!(seal::check(&engine).unwrap(), Vec::<String>::new(), "round {round}");
        for (number, tree) in seal::trees(&engine).unwrap().0 {
            lists.insert((number, fs::read(tree.join("current")).unwrap_or_default()));
        }
    }
    assert!(lists.len() > 20, "only {} lists of tables were seen", lists.len());
    let store = folder.try_open().unwrap().store as Arc<dyn Store>;
    let last = store.bounds().last.seq;
    assert!(last >= accepted, "{accepted} were accepted, {last} are there");
    let owed = store.owed(crate::StreamNo(1), Position::START, usize::MAX).await.unwrap();
    assert!(owed.len() as u64 >= accepted / 40, "{} of {accepted}", owed.len());
    for head in owed {
        let body = store.bodies(vec![head.at]).await.unwrap().remove(0).unwrap();
        assert_eq!(body, format!("{:0>60000}", head.at.seq));
    }
    let limits = 1;
    assert!(store.tail(Position::new(last), limits, Duration::ZERO).await.unwrap().is_empty());
    store.close().await.unwrap();
}
