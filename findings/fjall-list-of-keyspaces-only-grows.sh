#!/usr/bin/env bash
# fjall 3.1.13 (lsm-tree 3.1.10): a database whose keyspaces come and go takes more and more room, and does not count it.
#
# The names and options of keyspaces are kept in a tree of the database's own, `keyspaces/0`. It is compacted after every change with a
# watermark of 0: no old entry is ever dropped, neither those of deleted keyspaces nor their tombstones, so that some 2 kB stay for each
# keyspace that was ever made. And no earlier version of the tree is let go while the database is open: every compaction writes the whole
# tree anew and leaves the tables of before on the disk. With n keyspaces made and deleted one after the other the files take room that
# grows with the square of n. `Database::disk_space` counts nothing of it. Opening the database again removes the tables of before; the
# entries stay.
#
# Seen on Linux with fjall 3.1.13, as printed by this script:
#   125 keyspaces made and deleted: 16 MiB in keyspaces/0, disk_space() grew by 0 MiB
#   250 keyspaces made and deleted: 62 MiB in keyspaces/0, disk_space() grew by 0 MiB
#   500 keyspaces made and deleted: 247 MiB in keyspaces/0, disk_space() grew by 0 MiB
#   after opening it again: 1002 KiB in keyspaces/0
#
# Needs cargo. Exits non-zero when the behaviour is another one.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/src"

cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "list-of-keyspaces"
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

/// Bytes of the files below a folder.
fn bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { bytes(&path) } else { fs::metadata(&path).map_or(0, |file| file.len()) }).sum()
}

fn main() -> fjall::Result<()> {
    let folder = std::path::PathBuf::from(std::env::args().nth(1).expect("a folder")).join("db");
    let list = folder.join("keyspaces/0");
    let db = Database::builder(&folder).open()?;
    let counted = db.disk_space()?;
    let mut seen = Vec::new();
    for number in 1..=500u32 {
        let keyspace = db.keyspace(&format!("some-{number}"), KeyspaceCreateOptions::default)?;
        keyspace.insert("a", "b")?;
        db.delete_keyspace(keyspace)?;
        if [125, 250, 500].contains(&number) {
            let (taken, grown) = (bytes(&list), db.disk_space()?.saturating_sub(counted));
            println!(
                "{number} keyspaces made and deleted: {} MiB in keyspaces/0, disk_space() grew by {} MiB",
                taken >> 20,
                grown >> 20
            );
            seen.push((taken, grown));
        }
    }
    drop(db);
    let db = Database::builder(&folder).open()?;
    let after = bytes(&list);
    println!("after opening it again: {} KiB in keyspaces/0", after >> 10);
    drop(db);
    let squared = seen.windows(2).all(|pair| pair[1].0 > pair[0].0 * 3);
    let as_described = squared && seen.iter().all(|(_, grown)| *grown < 1 << 20) && after > 500 * 1024 && after < seen[2].0 / 10;
    std::process::exit(if as_described { 0 } else { 1 });
}
RUST

mkdir "$folder/data"
cargo run --quiet --manifest-path "$folder/Cargo.toml" -- "$folder/data"
echo "as described"
