#!/usr/bin/env bash
# fjall 3.1.13 (lsm-tree 3.1.10): after a power cut it depends on which sector of the last batch is missing whether a database opens.
#
# A batch is in the journal as a start, its items, and an end with a checksum. When the power fails before a flush, a disk may keep any of the
# sectors of the last batch and lose the others, in any order: a file system without a journal for data shows zeros in their place. A batch
# that misses its end is cut off when the database is opened, so is one whose first sector is missing, and everything before it is there. But
# where the end is on the disk and a sector within a value is not, the checksum differs, and opening ends with `ChecksumMismatch`: nothing of
# the database can be read, although every batch that was flushed is whole, and the torn one was never promised to anybody. There is no
# option to open without it. Who needs such a database again has to cut the file by hand at the end of the last good batch.
#
# Seen on Linux with fjall 3.1.13, as printed by this script; 100 batches were flushed, one of 4 KiB was not:
#   the second half of the last batch is missing: 100 of 100 flushed batches are there
#   the first sector of the last batch is missing: 100 of 100 flushed batches are there
#   a sector in the middle of the last batch is missing: JournalRecovery(ChecksumMismatch)
#
# Needs cargo. Exits non-zero when the behaviour is another one.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/src"

cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "torn-last-batch"
version = "0.0.0"
edition = "2021"

[dependencies]
fjall = { version = "=3.1.13", default-features = false }
lsm-tree = { version = "=3.1.10", default-features = false }

[workspace]
TOML

cat > "$folder/src/main.rs" <<'RUST'
use std::{fs, ops::Range, path::Path};

use fjall::{Database, KeyspaceCreateOptions, PersistMode};

/// The place of a text in the journal, and the journal's file.
fn find(folder: &Path, text: &[u8]) -> (std::path::PathBuf, usize) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        let bytes = fs::read(&entry).unwrap();
        if let Some(at) = bytes.windows(text.len()).position(|window| window == text) {
            return (entry, at);
        }
    }
    panic!("the journal does not hold the text");
}

/// Writes 100 batches with a flush and one of 4 KiB without, ends without an orderly close, takes bytes away from the last
/// batch, counted from the start of its value, and opens again.
fn play(folder: &Path, missing: Range<isize>, shorter: bool) -> Result<usize, String> {
    let db = Database::builder(folder).open().unwrap();
    let items = db.keyspace("items", KeyspaceCreateOptions::default).unwrap();
    for number in 0..100u32 {
        items.insert(number.to_be_bytes(), "flushed").unwrap();
        db.persist(PersistMode::SyncAll).unwrap();
    }
    items.insert("last", "not flushed ".repeat(342)).unwrap();
    db.persist(PersistMode::Buffer).unwrap();
    // What lies on the disk now is copied, so that no close adds to it.
    let copy = folder.with_extension("cut");
    assert!(std::process::Command::new("cp").arg("-r").arg(folder).arg(&copy).status().unwrap().success());
    drop(items);
    drop(db);
    let (journal, at) = find(&copy, b"not flushed not flushed ");
    let mut bytes = fs::read(&journal).unwrap();
    let place = |offset: isize| at.checked_add_signed(offset).unwrap();
    if shorter {
        bytes.truncate(place(missing.start));
    } else {
        bytes[place(missing.start)..place(missing.end)].fill(0);
    }
    fs::write(&journal, bytes).unwrap();
    let db = Database::builder(&copy).open().map_err(|error| format!("{error:?}"))?;
    let items = db.keyspace("items", KeyspaceCreateOptions::default).unwrap();
    Ok((0..100u32).filter(|number| items.contains_key(number.to_be_bytes()).unwrap()).count())
}

fn main() {
    let folder = std::path::PathBuf::from(std::env::args().nth(1).expect("a folder"));
    // The start of the batch, the head of its item and its key come within 64 bytes before the value.
    let cases = [
        ("the second half of the last batch", 2048..4104, true),
        ("the first sector of the last batch", -12..500, false),
        ("a sector in the middle of the last batch", 1024..1536, false),
    ];
    let mut seen = Vec::new();
    for (number, (what, missing, shorter)) in cases.into_iter().enumerate() {
        let result = play(&folder.join(number.to_string()), missing, shorter);
        match &result {
            Ok(count) => println!("{what} is missing: {count} of 100 flushed batches are there"),
            Err(error) => println!("{what} is missing: {error}"),
        }
        seen.push(result);
    }
    let refused = |result: &Result<usize, String>| result.as_ref().is_err_and(|error| error.contains("ChecksumMismatch"));
    let as_described = seen[0] == Ok(100) && seen[1] == Ok(100) && refused(&seen[2]);
    std::process::exit(if as_described { 0 } else { 1 });
}
RUST

mkdir "$folder/data"
cargo run --quiet --manifest-path "$folder/Cargo.toml" -- "$folder/data"
echo "as described"
