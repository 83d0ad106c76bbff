//! Tests of the repair: every refusal has a remedy, what is given up is reported and counted correctly, and nothing is
//! given twice.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{
    damage::{files, text},
    *,
};
use crate::{
    Done, Durability, Key, Position, Put, Repaired, Rule, Space, StreamNo, Unit,
    fjall::salvage::KeyspaceRole,
    testkit::{acknowledged, append, body, event, event_once, one, owed, parked, settle},
};

/// The deliveries that a store reported, for comparison.
#[derive(Debug)]
struct Told {
    /// The streams, each with what it is owed and not settled.
    owed: Vec<(u32, BTreeSet<u64>)>,
    last: u64,
}

/// Fills a store with two streams and three hundred records: closed segments with all, some and few records owed (the
/// last condensed), parked SETs, records and ids.
async fn lively(folder: &mut Folder, close: bool) -> Told {
    let store = folder.store();
    let shared = store.clone() as Arc<dyn Store>;
    let Done::Allocated(_) = one(&shared, Unit::Allocate { space: Space::Stream }).await else { panic!() };
    let change = vec![Put { key: Key::from("stream/1"), value: Some("a stream".into()) }];
    one(
        &shared,
        Unit::Configure { change, expect: None, membership: true, drop_through: Vec::new(), notice: Vec::new() },
    )
    .await;
    let config = shared.version();
    for seq in 1..=300u64 {
        let mut event = event_once(&text(seq), &[1, 2], seq as u8, seq as u8);
        event.config = config;
        if let Some(once) = &mut event.once {
            once.key[..8].copy_from_slice(&seq.to_be_bytes());
        }
        append(&shared, event).await;
        if seq == 150 {
            // The first half is flushed to tables.
            settle(
                &shared,
                (1..=64).filter(|seq| seq % 16 != 1).map(|seq| acknowledged(1, seq)).collect(),
                Durability::Sync,
            )
            .await;
            settle(
                &shared,
                (1..=64).filter(|seq| seq % 16 != 1).map(|seq| acknowledged(2, seq)).collect(),
                Durability::Sync,
            )
            .await;
            settle(&shared, vec![parked(2, 100)], Durability::Sync).await;
            shared.housekeep().await.unwrap();
        }
    }
    settle(&shared, (65..=300).filter(|seq| seq % 2 == 0).map(|seq| acknowledged(1, seq)).collect(), Durability::Sync)
        .await;
    settle(&shared, vec![parked(2, 201)], Durability::Sync).await;
    let mut told = Told { owed: Vec::new(), last: 300 };
    for stream in [1, 2] {
        told.owed.push((stream, owed(&shared, stream).await.into_iter().collect()));
    }
    if close {
        shared.close().await.unwrap()
    } else {
        store.abandon().await
    }
    told
}

fn repair(place: &StorePlace, folder: &Folder) -> (crate::Findings, Repaired) {
    let repair = FjallStore::repair(place).unwrap();
    let findings = repair.findings().clone();
    let repaired = repair.carry_out(None, &folder.runtime);
    (findings.clone(), repaired.unwrap_or_else(|error| panic!("{error}: {findings:?}")))
}

/// Asserts that the repaired store opens, delivers what the findings say, counts correctly, accepts events, and reuses
/// no position.
async fn assert_lives(folder: &Folder, place: &StorePlace, told: &Told, findings: &crate::Findings, what: &str) {
    let report = FjallStore::check(place).unwrap();
    assert!(report.is_sound(), "{what}: {report:?}");
    let opened = folder.try_open_at(place).unwrap_or_else(|error| panic!("{what}: {error}"));
    let held = opened.report.held;
    let engine = opened.store;
    let store = engine.clone() as Arc<dyn Store>;
    for (stream, before) in &told.owed {
        let now: BTreeSet<u64> = owed(&store, *stream).await.into_iter().collect();
        let stream = StreamNo(*stream);
        let tally = store.cursor(stream).await.unwrap().tally;
        let ended = tally.acknowledged_receiver
            + tally.acknowledged_broker
            + tally.parked
            + tally.dropped.values().sum::<u64>();
        assert_eq!(tally.owed, ended + tally.waiting, "{what}: the counts of stream {stream}");
        assert_eq!(tally.waiting, now.len() as u64, "{what}");
        let lost = findings.given_up.deliveries.get(&stream).copied().unwrap_or_default();
        assert_eq!(tally.dropped.get(&Rule::Lost).copied().unwrap_or_default(), lost, "{what}");
        // Each delivery that was owed is still owed, or was reported with its stream or with its event.
        let gone: Vec<u64> = before.difference(&now).copied().collect();
        let with_event = gone.iter().filter(|seq| {
            let at = Position::new(**seq);
            findings.given_up.events.iter().any(|stretch| stretch.from <= at && at <= stretch.to)
        });
        assert!(
            gone.len() as u64 <= lost + with_event.count() as u64,
            "{what}: stream {stream} lost {gone:?}: {findings:?}"
        );
        let again = findings.again.get(&stream).copied().unwrap_or_default();
        let more = now.difference(before).count() as u64;
        // Deliveries that a lost commit settled are owed again.
        assert!(more <= again || findings.given_up.commits > 0, "{what}: {more} more, {again} told");
        for seq in now {
            assert_eq!(body(&store, seq).await.unwrap(), text(seq), "{what}: {seq}");
        }
    }
    if held.is_none() {
        let at = append(&store, crate::NewEvent { config: store.version(), ..event("after", &[1]) }).await;
        assert!(at > told.last + 1000, "{what}: position {at} may have been given before");
        let Done::Allocated(number) = one(&store, Unit::Allocate { space: Space::Stream }).await else { panic!() };
        assert!(number > 1000, "{what}: stream {number}");
        assert_eq!(owed(&store, 1).await.last(), Some(&at));
        store.housekeep().await.unwrap();
    }
    store.close().await.unwrap();
    assert!(FjallStore::check(place).unwrap().is_sound(), "{what}");
}

fn options(options: &mut Options) {
    options.segment_records = 64;
}

#[tokio::test]
async fn a_sound_store_is_not_needed_to_be_repaired_and_loses_nothing_if_it_is() {
    for close in [true, false] {
        let mut folder = Folder::with(options);
        let told = lively(&mut folder, close).await;
        let found = FjallStore::repair(&folder.place()).unwrap();
        assert!(!found.is_needed(), "{:?}", found.findings());
        assert!(found.findings().is_sound());
        let findings = found.findings().clone();
        let repaired = found.carry_out(None, &folder.runtime).unwrap();
        assert!(repaired.damaged.unwrap().join("engine").exists());
        assert!(findings.given_up.is_nothing());
        assert_eq!((findings.kept.parked, findings.kept.ids, findings.kept.records), (2, 300, 1));
        assert_lives(&folder, &folder.place(), &told, &findings, "sound").await;
    }
}

#[tokio::test]
async fn with_into_the_store_is_left_alone_and_the_other_is_a_copy() {
    let mut folder = Folder::with(options);
    let told = lively(&mut folder, false).await;
    let into = folder.folder.path().join("elsewhere");
    let found = FjallStore::repair(&folder.place()).unwrap();
    let findings = found.findings().clone();
    found.carry_out(Some(&into), &folder.runtime).unwrap();
    let copy = StorePlace { store: into, owner: folder.place().owner };
    let opened = folder.try_open_at(&copy).unwrap();
    assert!(opened.report.held.is_some());
    opened.store.close().await.unwrap();
    assert_lives(&folder, &copy, &told, &findings, "into").await;
    assert!(folder.try_open().unwrap().report.held.is_none());
}

#[tokio::test]
async fn a_swap_that_is_broken_off_is_finished_by_the_next_start() {
    let mut folder = Folder::with(options);
    let told = lively(&mut folder, true).await;
    let (place, aside) = (folder.place(), folder.folder.path().join("made"));
    let findings = FjallStore::repair(&place).unwrap().findings().clone();
    FjallStore::repair(&place).unwrap().carry_out(Some(&aside), &folder.runtime).unwrap();
    // The folders are left as by a kill between the renames.
    let rebuilt = place.store.join("repaired");
    fs::rename(&aside, &rebuilt).unwrap();
    fs::rename(place.store.join("engine"), place.store.join("damaged-engine")).unwrap();
    assert_lives(&folder, &place, &told, &findings, "broken off").await;
    assert!(!rebuilt.exists());
}

#[tokio::test]
async fn both_slots_of_the_watermark_may_be_lost() {
    let mut folder = Folder::with(options);
    let told = lively(&mut folder, false).await;
    fs::write(folder.place().store.join("watermark"), vec![0xff; 8192]).unwrap();
    let why = folder.try_open().unwrap_err().to_string();
    assert!(why.contains("setgate store repair"), "{why}");
    let (findings, _) = repair(&folder.place(), &folder);
    assert!(findings.given_up.is_nothing() && findings.promised.is_none(), "{findings:?}");
    assert_lives(&folder, &folder.place(), &told, &findings, "watermark").await;
}

#[tokio::test]
async fn a_head_that_is_lost_is_counted_with_its_streams() {
    let mut folder = Folder::with(options);
    let told = lively(&mut folder, true).await;
    // Everything was folded at the close: the cursors know which streams were owed record 217, an odd one.
    let hit = hit(&folder.place().store.join("engine"), |bytes| place_of_head(bytes, 217));
    assert!(hit > 0);
    let (findings, _) = repair(&folder.place(), &folder);
    let lost = &findings.given_up.deliveries;
    assert!(lost[&StreamNo(1)] >= 1 && lost[&StreamNo(2)] >= 1, "{findings:?}");
    assert_lives(&folder, &folder.place(), &told, &findings, "head").await;
}

/// Returns the offsets of the key of a head in the bytes of a table, where its value follows.
fn place_of_head(bytes: &[u8], seq: u64) -> Vec<usize> {
    let mut needle = vec![1];
    needle.extend_from_slice(&seq.to_be_bytes());
    bytes.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle).map(|(at, _)| at + 4).collect()
}

/// Changes bytes in all files of the engine. Returns the number of places that were hit.
fn hit(engine: &Path, places: impl Fn(&[u8]) -> Vec<usize>) -> usize {
    let mut all = Vec::new();
    files(engine, &mut all);
    let mut hits = 0;
    for path in all {
        let bytes = fs::read(&path).unwrap();
        for at in places(&bytes) {
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[bytes[at] ^ 0x55], at as u64).unwrap();
            hits += 1;
        }
    }
    hits
}

#[tokio::test]
async fn a_fold_that_was_put_back_is_refused_and_repaired_without_a_loss() {
    let mut folder = Folder::with(options);
    let told = lively(&mut folder, true).await;
    // The fold is put back before the end of the condensed segment, and the counts stay: nothing adds up.
    {
        use crate::fjall::{engine::Engine, replay::Fold};
        let engine = Engine::open(&folder.place().store.join("engine")).unwrap();
        let condensed: Vec<_> = engine.segments.read().values().filter(|segment| segment.condensed).cloned().collect();
        assert_eq!(condensed.len(), 1, "a segment is condensed");
        let fold = Fold::read(&engine.meta.get(Fold::KEY).unwrap().unwrap()).unwrap();
        engine.meta.insert(Fold::KEY, Fold { frontier: 20, ..fold }.write()).unwrap();
        engine.db.persist(fjall::PersistMode::SyncAll).unwrap();
    }
    let why = folder.try_open().unwrap_err().to_string();
    assert!(why.contains("setgate store repair"), "{why}");
    let (findings, _) = repair(&folder.place(), &folder);
    assert_eq!(findings.given_up.event_count, 0, "{findings:?}");
    assert!(findings.given_up.deliveries.is_empty());
    let store = folder.try_open().unwrap().store as Arc<dyn Store>;
    for (stream, before) in &told.owed {
        let now: BTreeSet<u64> = owed(&store, *stream).await.into_iter().collect();
        assert!(before.is_subset(&now), "stream {stream}");
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn whole_keyspaces_may_be_gone() {
    let mut folder = Folder::with(options);
    let told = lively(&mut folder, true).await;
    let engine = folder.place().store.join("engine");
    let count = crate::fjall::seal::trees(&engine).unwrap().0.len() as u64;
    // The keyspaces that are kept for reuse may be missing.
    let mut spare = {
        let engine = crate::fjall::engine::Engine::open(&engine).unwrap();
        2 * engine.spare_segments.unused() + engine.spare_buckets.unused()
    };
    for number in 0..count {
        let twin = StorePlace { store: folder.folder.path().join("twin"), owner: folder.place().owner };
        copy(&folder.place().store, &twin.store);
        let tree = twin.store.join("engine/keyspaces").join(number.to_string());
        if !tree.exists() {
            continue;
        }
        fs::remove_dir_all(&tree).unwrap();
        let sound = FjallStore::check(&twin).unwrap().is_sound();
        if sound && spare > 0 {
            spare -= 1;
            folder.try_open_at(&twin).unwrap().store.close().await.unwrap();
            fs::remove_dir_all(&twin.store).unwrap();
            continue;
        }
        let error = folder.try_open_at(&twin).err().unwrap_or_else(|| panic!("it opens without keyspace {number}"));
        assert!(!sound && error.to_string().contains("setgate store repair"), "{number}: {error}");
        let (findings, _) = repair(&twin, &folder);
        assert_lives(&folder, &twin, &told, &findings, &format!("keyspace {number}")).await;
        fs::remove_dir_all(&twin.store).unwrap();
    }
}

#[tokio::test]
async fn a_bucket_that_was_dropped_while_the_process_ended_is_not_missed() {
    let mut folder =
        Folder::with(|options| (options.segment_records, options.idempotency_window) = (64, Duration::from_secs(600)));
    lively(&mut folder, true).await;
    let number = {
        let engine = crate::fjall::engine::Engine::open(&folder.place().store.join("engine")).unwrap();
        let bucket = engine.once.write().pop_first().unwrap();
        let number = bucket.0;
        crate::fjall::release::delete(&engine, bucket.1.keyspace).unwrap();
        engine.db.persist(fjall::PersistMode::SyncAll).unwrap();
        number
    };
    let why = folder.try_open().unwrap_err().to_string();
    assert!(why.contains(&format!("bucket {number} are missing")) && why.contains("setgate store repair"), "{why}");
    // After the window its keys are not looked up, and its row is removed.
    folder.dial.pass(Duration::from_secs(1500));
    folder.try_open().unwrap().store.close().await.unwrap();
    assert!(FjallStore::check(&folder.place()).unwrap().is_sound());
}

/// The counts of ids are written with a fold; a bucket that was forgotten since is no loss.
#[tokio::test]
async fn ids_of_a_bucket_that_was_forgotten_after_the_last_fold_are_not_missed() {
    let mut folder =
        Folder::with(|options| (options.segment_records, options.idempotency_window) = (64, Duration::from_secs(600)));
    lively(&mut folder, true).await;
    let store = folder.store();
    folder.dial.pass(Duration::from_secs(1500));
    (store.clone() as Arc<dyn Store>).housekeep().await.unwrap();
    store.abandon().await;
    let report = FjallStore::check(&folder.place()).unwrap();
    assert!(report.is_sound(), "{:?}", report.problems);
    let found = FjallStore::repair(&folder.place()).unwrap();
    assert!(!found.is_needed());
    assert_eq!(found.findings().kept.ids, 0, "no bucket was forgotten");
}

#[tokio::test]
async fn a_parked_set_that_is_given_up_is_told_with_its_name() {
    use crate::fjall::engine::{Engine, parked_key};
    let mut folder = Folder::with(options);
    lively(&mut folder, true).await;
    let jti = {
        let engine = Engine::open(&folder.place().store.join("engine")).unwrap();
        let row = engine.parked_row(StreamNo(2), 100).unwrap().unwrap();
        engine.parked_bodies.insert(parked_key(StreamNo(2), 100), "rotten").unwrap();
        engine.parked.insert(parked_key(StreamNo(2), 201), "rotten").unwrap();
        engine.db.persist(fjall::PersistMode::SyncAll).unwrap();
        row.parked.jti
    };
    let (findings, _) = repair(&folder.place(), &folder);
    let told: Vec<_> = findings.given_up.parked_sets.iter().map(|set| (set.stream, set.at.seq, &set.jti)).collect();
    assert_eq!(told, [(StreamNo(2), 100, &Some(jti)), (StreamNo(2), 201, &None)], "{findings:?}");
    assert_eq!(findings.given_up.parked[&StreamNo(2)], 2);
    assert!(FjallStore::check(&folder.place()).unwrap().is_sound());
}

#[tokio::test]
async fn times_that_were_held_back_stay_so_and_count_as_young_where_they_are_lost() {
    use crate::{
        fjall::{
            believe::{HELD_BACK, read_held_back, write_held_back},
            engine::Engine,
        },
        time::HeldBack,
    };
    let at = setgate_set::Timestamp::from_seconds;
    let run = HeldBack { first: 5, last: 9, times: (at(100), at(200)), until: at(9000) };
    for lost in [false, true] {
        let mut folder = Folder::with(options);
        lively(&mut folder, true).await;
        let path = folder.place().store.join("engine");
        {
            let engine = Engine::open(&path).unwrap();
            let value = if lost { b"rotten".to_vec() } else { write_held_back(&[run]) };
            engine.meta.insert(HELD_BACK, value).unwrap();
            engine.db.persist(fjall::PersistMode::SyncAll).unwrap();
        }
        match folder.try_open() {
            Ok(opened) => {
                assert!(!lost);
                opened.store.close().await.unwrap();
            }
            Err(why) => assert!(lost && why.to_string().contains("setgate store repair"), "{why}"),
        }
        let (findings, _) = repair(&folder.place(), &folder);
        assert_eq!(findings.is_sound(), !lost, "{findings:?}");
        let engine = Engine::open(&path).unwrap();
        let runs = read_held_back(&engine.meta.get(HELD_BACK).unwrap().unwrap()).unwrap();
        if lost {
            let now = folder.runtime.clock.wall_millis();
            let young = HeldBack::latest(&runs, setgate_set::Timestamp::from_millis(now - 60_000));
            assert!(young.as_millis() + 60_000 > now, "{runs:?}");
            assert_eq!(HeldBack::first_since(&runs, young.minus(Duration::from_secs(1))), Some(1));
        } else {
            assert_eq!(runs, [run]);
        }
    }
}

#[tokio::test]
async fn damage_anywhere_in_a_store_with_closed_segments_is_refused_and_repaired() {
    let mut folder = Folder::with(options);
    let told = lively(&mut folder, false).await;
    let (mut opened, mut rotten, mut refused) = (0, 0, 0);
    let seed = folder.runtime.random.below(1 << 32);
    use setgate_clock::Random as _;
    let seeded = setgate_clock::manual::SeededRandom::new(seed);
    for round in 0..30u64 {
        let twin = StorePlace { store: folder.folder.path().join("twin"), owner: folder.place().owner };
        copy(&folder.place().store, &twin.store);
        let mut all: Vec<PathBuf> = Vec::new();
        files(&twin.store.join("engine"), &mut all);
        all.retain(|path| fs::metadata(path).unwrap().len() > 0 && path.file_name().unwrap() != "lock");
        all.sort();
        let random = |below: u64| seeded.below(below);
        let of = |wanted: &str| -> Vec<&PathBuf> {
            all.iter()
                .filter(|path| path.components().any(|part| part.as_os_str().to_string_lossy().ends_with(wanted)))
                .collect()
        };
        // A third of the places is in the journal's used part, a third in tables, a third anywhere.
        let some = match round % 3 {
            0 => of(".jnl"),
            1 => of("tables"),
            _ => all.iter().collect(),
        };
        let path = some[random(some.len() as u64) as usize];
        let bytes = fs::read(path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1) as u64;
        let at = random(end);
        let what = format!("seed {seed}, round {round}: {} at {at}", path.strip_prefix(&twin.store).unwrap().display());
        let file = OpenOptions::new().write(true).open(path).unwrap();
        if random(2) == 0 {
            file.write_all_at(&vec![0; 512.min((end - at) as usize)], at).unwrap();
        } else {
            file.write_all_at(&[bytes[at as usize] ^ 0x10], at).unwrap();
        }
        let sound = FjallStore::check(&twin).unwrap().is_sound();
        match folder.try_open_at(&twin) {
            Ok(found) if sound => {
                opened += 1;
                let store = found.store as Arc<dyn Store>;
                for (stream, before) in &told.owed {
                    assert_eq!(owed(&store, *stream).await.into_iter().collect::<BTreeSet<_>>(), *before, "{what}");
                    for seq in before {
                        assert_eq!(body(&store, *seq).await.unwrap(), text(*seq), "{what}: {seq}");
                    }
                }
                store.close().await.unwrap();
            }
            Ok(found) => {
                // A start does not read every table; the check did, and a repair gives up what was damaged.
                rotten += 1;
                found.store.close().await.unwrap();
                let (findings, _) = repair(&twin, &folder);
                assert_lives(&folder, &twin, &told, &findings, &what).await;
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("setgate store repair"), "{what}: {error}");
                assert!(!sound, "{what}: {error}");
                let (findings, _) = repair(&twin, &folder);
                assert_lives(&folder, &twin, &told, &findings, &what).await;
            }
        }
        fs::remove_dir_all(&twin.store).unwrap();
    }
    let mixed = refused > 0 && opened + rotten > 0;
    assert!(mixed, "{opened} opened, {rotten} rotten, {refused} refused: the places were not mixed");
}

/// A keyspace that a segment left is reused by a later one. Where its table cannot be read, a journal may still have
/// its earlier rows.
#[tokio::test]
async fn what_a_keyspace_held_before_it_was_emptied_is_not_taken_for_its_own() {
    let mut folder = Folder::with(options);
    let mut told = lively(&mut folder, true).await;
    let store = folder.store();
    let shared = store.clone() as Arc<dyn Store>;
    for _ in 0..3 {
        shared.housekeep().await.unwrap();
    }
    let config = shared.version();
    for seq in 301..=450 {
        append(&shared, crate::NewEvent { config, ..event(&text(seq), &[1, 2]) }).await;
        for (_, owed) in &mut told.owed {
            owed.insert(seq);
        }
    }
    told.last = 450;
    store.abandon().await;
    let used_again = |role: KeyspaceRole| matches!(role, KeyspaceRole::Heads(4..) | KeyspaceRole::Bodies(4..));
    let found = FjallStore::repair(&folder.place()).unwrap();
    let (sound, keyspaces) = (found.findings().kept.clone(), found.salvage().numbers(used_again));
    drop(found);
    let mut met = 0;
    for number in keyspaces {
        let twin = StorePlace { store: folder.folder.path().join("twin"), owner: folder.place().owner };
        copy(&folder.place().store, &twin.store);
        let mut tables = Vec::new();
        let tables_of = twin.store.join(format!("engine/keyspaces/{number}/tables"));
        files(&tables_of, &mut tables);
        for path in &tables {
            let mut bytes = fs::read(path).unwrap();
            let end = bytes.len() - 1;
            bytes[end] ^= 0x55;
            fs::write(path, bytes).unwrap();
            met += 1;
        }
        let (findings, _) = repair(&twin, &folder);
        assert_eq!(findings.kept, sound, "keyspace {number}");
        assert!(findings.given_up.is_nothing(), "{findings:?}");
        assert_lives(&folder, &twin, &told, &findings, "emptied").await;
        fs::remove_dir_all(&twin.store).unwrap();
    }
    assert!(met >= 2, "no keyspace was used again");
}

#[tokio::test]
async fn an_export_holds_everything_and_its_last_line_says_what_is_missing() {
    let mut folder = Folder::with(options);
    lively(&mut folder, true).await;
    let lines = |place: &StorePlace| {
        let mut lines: Vec<serde_json::Value> = Vec::new();
        let exported = FjallStore::repair(place)
            .unwrap()
            .export(&mut |line| {
                lines.push(serde_json::from_str(line).unwrap());
                Ok(())
            })
            .unwrap();
        (exported, lines)
    };
    let (exported, all) = lines(&folder.place());
    assert!(exported.complete, "{:?}", all.last());
    let of = |kind: &str| all.iter().filter(|line| line["type"] == kind).collect::<Vec<_>>();
    let events = of("event");
    assert_eq!(events.len() as u64, exported.events);
    assert!(events.iter().all(|event| !event["body"].is_null()));
    let of_300 = events.iter().find(|event| event["at"] == "0.300").unwrap();
    assert_eq!(of_300["body"], text(300));
    assert_eq!(of_300["streams"], serde_json::json!([1, 2]));
    assert_eq!((of("stream").len(), of("parked").len(), of("record").len()), (2, 2, 1));
    assert_eq!(of("parked")[0]["body"], text(100));
    assert!(of("record")[0].get("value").is_none());
    let hits = hit(&folder.place().store.join("engine"), |bytes| {
        bytes.windows(9).enumerate().filter(|(_, window)| *window == b"body-120-").map(|(at, _)| at).collect()
    });
    assert!(hits > 0);
    let (exported, all) = lines(&folder.place());
    assert!(!exported.complete && exported.without_body > 0);
    let end = all.last().unwrap();
    assert_eq!((&end["type"], &end["complete"]), (&"end".into(), &false.into()));
    assert!(!end["unreadable"].as_array().unwrap().is_empty(), "{end}");
}
