//! The engine's small files, checked before the engine trusts them.
//!
//! Each tree of the engine is described by two small files: one lists its tables, the other names that list and carries the checksum
//! of all its bytes. The list is written and flushed before the other file is replaced in one step, so that the two agree after any
//! kill or power cut. The engine writes this checksum and does not read it; here it is read, and so is the one at each table's end.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::xxh3_128;

use crate::fjall::salvage::{
    KeyspaceRole, names,
    tree::{Lens, Tree},
};

/// Length of the file that names the list: a number, a checksum, the kind of the checksum.
const SEAL: usize = 8 + 16 + 1;
/// Length of what ends an archive: two marks, the checksum of the table of contents, where it begins, how long it is.
const TRAILER: usize = 4 + 1 + 1 + 16 + 8 + 8;
/// A table of contents has a handful of entries; more is damage.
const LONGEST_CONTENTS: u64 = 64 * 1024;

/// A table that belongs to a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) id: u64,
    /// What is added to the sequence numbers of its rows.
    pub(crate) seqno: u64,
}

/// What a tree's small files say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seal {
    /// The tables of the tree.
    Whole(Vec<Listed>),
    /// It was being made when the process ended, and holds nothing.
    Unborn,
    /// They do not agree; why.
    Broken(String),
}

/// Trees by number, and what is in their way.
pub(crate) type Trees = (Vec<(u64, PathBuf)>, Vec<String>);

/// The trees in the engine's folder: number and place. What is in the way is told.
pub(crate) fn trees(engine: &Path) -> io::Result<Trees> {
    let folder = engine.join("keyspaces");
    let (mut found, mut odd) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        match entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            Some(number) => found.push((number, entry.path())),
            None => odd.push(format!("{} is no part of the store: move it away", entry.path().display())),
        }
    }
    found.sort_unstable();
    Ok((found, odd))
}

/// What is wrong with the engine's small files; nothing where the engine can be let at them, or where there is none yet.
///
/// # Errors
/// Where the disk does not give them.
pub(crate) fn check(engine: &Path) -> io::Result<Vec<String>> {
    if !engine.join("keyspaces").exists() {
        return Ok(Vec::new());
    }
    let (trees, mut wrong) = trees(engine)?;
    if !marked(engine) {
        wrong.push("the file that names the engine's format is missing or does not read".into());
    }
    let trees: BTreeMap<u64, PathBuf> = trees.into_iter().collect();
    let Some(first) = trees.get(&0) else {
        wrong.push("the engine's list of its keyspaces is missing".into());
        return Ok(wrong);
    };
    match seal(first)? {
        Seal::Whole(_) => {}
        Seal::Unborn => wrong.push("the engine's list of its keyspaces is empty".into()),
        Seal::Broken(why) => wrong.push(format!("the engine's list of its keyspaces: {why}")),
    }
    let list = Tree::look(0, first, &Lens::new())?;
    let names = names(&list);
    if list.is_troubled() {
        wrong.push("the engine's list of its keyspaces does not read".into());
        return Ok(wrong);
    }
    // A folder without a name was given up, or was being made; the engine clears it away, whatever is left in it.
    for (number, name) in names {
        // Of a keyspace that was given up, or is being made, a name may be left: what must be there of segments their table knows.
        let fixed = KeyspaceRole::named(&name).is_fixed();
        let Some(path) = trees.get(&number) else {
            if fixed {
                wrong.push(format!("the folder {number} of the keyspace {name} of the engine is missing"));
            }
            continue;
        };
        match seal(path)? {
            Seal::Broken(why) => wrong.push(format!("the keyspace {name} of the engine: {why}")),
            Seal::Unborn if !fixed => {}
            Seal::Unborn => wrong.push(format!("the keyspace {name} of the engine: its list of tables is missing")),
            Seal::Whole(tables) => {
                for table in tables {
                    let at = path.join("tables").join(table.id.to_string());
                    if let Err(why) = ends_well(&at)? {
                        wrong.push(format!("table {} of the keyspace {name} of the engine {why}", table.id));
                    }
                }
            }
        }
    }
    Ok(wrong)
}

/// Whether the engine's format is named as the engine expects.
fn marked(engine: &Path) -> bool {
    fs::read(engine.join("version")).is_ok_and(|text| text == *b"FJL\x03")
}

/// Reads the small files of one tree.
///
/// # Errors
/// Where the disk does not give them.
pub(crate) fn seal(tree: &Path) -> io::Result<Seal> {
    let broken = |why: &str| Ok(Seal::Broken(why.into()));
    let current = match fs::read(tree.join("current")) {
        Ok(current) => current,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let tables = tree.join("tables");
            let empty = !tables.exists() || fs::read_dir(tables)?.next().is_none();
            return if empty { Ok(Seal::Unborn) } else { broken("the file that names its list of tables is missing") };
        }
        Err(error) => return Err(error),
    };
    let read = || {
        let (number, sum) = current.split_at_checked(8)?;
        let (sum, kind) = sum.split_at_checked(16)?;
        let fits = current.len() == SEAL && kind == [0];
        fits.then_some((u64::from_le_bytes(number.try_into().ok()?), u128::from_le_bytes(sum.try_into().ok()?)))
    };
    let Some((number, sum)) = read() else { return broken("the file that names its list of tables does not read") };
    let list = match fs::read(tree.join(format!("v{number}"))) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return broken("its list of tables is missing"),
        Err(error) => return Err(error),
    };
    if xxh3_128(&list) != sum {
        return broken("its list of tables does not read back as it was written");
    }
    let tables = tree.join("tables");
    if tables.exists() {
        for entry in fs::read_dir(tables)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                return Ok(Seal::Broken(format!("{} is no part of it: move it away", entry.path().display())));
            }
        }
    }
    listed(&list).map_or_else(|| broken("its list of tables has a form that is not known"), |all| Ok(Seal::Whole(all)))
}

/// The tables that a list names.
fn listed(list: &[u8]) -> Option<Vec<Listed>> {
    let (start, end) = section(list, b"tables")?;
    let mut from = Bytes(list.get(start..end)?);
    let mut all = Vec::new();
    for _ in 0..from.byte()? {
        for _ in 0..from.byte()? {
            for _ in 0..u32::from_le_bytes(from.take(4)?.try_into().ok()?) {
                let id = from.number()?;
                from.take(1 + 16)?;
                all.push(Listed { id, seqno: from.number()? });
            }
        }
    }
    Some(all)
}

/// Where a section of an archive begins and ends.
fn section(archive: &[u8], name: &[u8]) -> Option<(usize, usize)> {
    let (_, trailer) = archive.split_at_checked(archive.len().checked_sub(TRAILER)?)?;
    let begin = usize::try_from(contents(trailer)?.0).ok()?;
    let mut from = Bytes(archive.get(begin..archive.len() - TRAILER)?);
    from.take(4)?;
    for _ in 0..u32::from_le_bytes(from.take(4)?.try_into().ok()?) {
        let (at, length) = (usize::try_from(from.number()?).ok()?, usize::try_from(from.number()?).ok()?);
        let named = u16::from_le_bytes(from.take(2)?.try_into().ok()?);
        if from.take(usize::from(named))? == name {
            return Some((at, at.checked_add(length)?));
        }
    }
    None
}

/// From an archive's trailer: where the table of contents begins, how long it is, and its checksum.
fn contents(trailer: &[u8]) -> Option<(u64, u64, u128)> {
    let mut from = Bytes(trailer);
    if from.take(6)? != b"SFA!\x01\x00" {
        return None;
    }
    let sum = u128::from_le_bytes(from.take(16)?.try_into().ok()?);
    Some((from.number()?, from.number()?, sum))
}

/// Whether a table ends with a table of contents that reads back as it was written; if not, what is wrong.
pub(crate) fn ends_well(path: &Path) -> io::Result<Result<(), &'static str>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err("is missing")),
        Err(error) => return Err(error),
    };
    let Some(end) = file.metadata()?.len().checked_sub(TRAILER as u64) else { return Ok(Err("is cut short")) };
    let mut trailer = [0; TRAILER];
    file.read_exact_at(&mut trailer, end)?;
    let fits = |(begin, length, _): &(u64, u64, u128)| {
        *length <= LONGEST_CONTENTS && begin.checked_add(*length).is_some_and(|sum| sum == end)
    };
    let Some((begin, length, sum)) = contents(&trailer).filter(fits) else {
        return Ok(Err("is cut short, or its end does not read back as it was written"));
    };
    let mut text = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_exact_at(&mut text, begin)?;
    Ok(if xxh3_128(&text) == sum { Ok(()) } else { Err("has an end that does not read back as it was written") })
}

/// Little-endian bytes being read; nothing where they end too early.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}
