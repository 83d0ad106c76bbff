#!/usr/bin/env bash
# fjall 3.1.13 (lsm-tree 3.1.10): the room of a deleted keyspace is not free while the database is open, if it was read.
#
# `Database::delete_keyspace` removes the folder of the keyspace. Tables that were read stand in the database's cache of file
# descriptors, and nothing takes them out of it: the files are unlinked and still open, so that their blocks stay taken. `df` and
# `du` then differ by all that was deleted, `Database::disk_space` tells nothing of it, and only dropping the database gives the
# room back. A keyspace that was never read leaves nothing behind.
#
# Seen on Linux with fjall 3.1.13, as printed by this script:
#   never read:   0 deleted files open, 0 bytes
#   read:         1 deleted files open, 8039962 bytes
#   after drop:   0 deleted files open, 0 bytes
#
# Needs cargo. Exits non-zero when the behaviour is another one.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/src"

cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "deleted-keyspace"
version = "0.0.0"
edition = "2021"

[dependencies]
fjall = { version = "=3.1.13", default-features = false }
lsm-tree = { version = "=3.1.10", default-features = false }

[workspace]
TOML

cat > "$folder/src/main.rs" <<'RUST'
use std::{fs, path::Path};

use fjall::{Database, KeyspaceCreateOptions};

const RECORDS: u32 = 400;

/// Files below a folder that are unlinked and still open: how many, and their bytes.
fn deleted_and_open(folder: &Path) -> (usize, u64) {
    let mut found = (0, 0);
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let path = entry.unwrap().path();
        let Ok(target) = fs::read_link(&path) else { continue };
        if target.starts_with(folder) && target.to_string_lossy().ends_with(" (deleted)") {
            found.0 += 1;
            found.1 += fs::metadata(&path).map_or(0, |file| file.len());
        }
    }
    found
}

/// Fills a keyspace, has it written to a table, perhaps reads it, and deletes it.
fn round(db: &Database, name: &str, read: bool) -> fjall::Result<()> {
    let keyspace = db.keyspace(name, KeyspaceCreateOptions::default)?;
    let mut seed = 1u64;
    for record in 0..RECORDS {
        let value: Vec<u8> = (0..20_000)
            .map(|_| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (seed >> 33) as u8
            })
            .collect();
        keyspace.insert(record.to_be_bytes(), value)?;
    }
    keyspace.rotate_memtable_and_wait()?;
    assert!(keyspace.table_count() > 0, "nothing was written to tables");
    if read {
        for record in 0..RECORDS {
            assert!(keyspace.get(record.to_be_bytes())?.is_some());
        }
    }
    db.delete_keyspace(keyspace)
}

fn main() -> fjall::Result<()> {
    let folder = std::env::args().nth(1).expect("a folder");
    let folder = fs::canonicalize(folder).expect("the folder exists");
    let db = Database::builder(folder.join("db")).open()?;
    round(&db, "never-read", false)?;
    let unread = deleted_and_open(&folder);
    println!("never read:   {} deleted files open, {} bytes", unread.0, unread.1);
    round(&db, "read", true)?;
    let read = deleted_and_open(&folder);
    println!("read:         {} deleted files open, {} bytes", read.0, read.1);
    drop(db);
    let after = deleted_and_open(&folder);
    println!("after drop:   {} deleted files open, {} bytes", after.0, after.1);
    let as_described = unread.0 == 0 && read.0 > 0 && read.1 > 4_000_000 && after.0 == 0;
    std::process::exit(if as_described { 0 } else { 1 });
}
RUST

mkdir "$folder/data"
cargo run --quiet --manifest-path "$folder/Cargo.toml" -- "$folder/data"
echo "as described"
