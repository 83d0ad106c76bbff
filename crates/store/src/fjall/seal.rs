//! The check of the engine's small files, before the engine trusts them.
//!
//! Each tree of the engine is described by two small files: one lists its tables, the other names that list and has the
//! checksum of all its bytes. The list is written and flushed before the other file is replaced atomically, so that the
//! two agree after any kill or power cut. The engine writes this checksum and does not verify it; this module verifies
//! it, and the one at the end of each table.

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

/// The length of the file that names the list: a number, a checksum, the kind of the checksum.
const SEAL: usize = 8 + 16 + 1;
/// The length of an archive's trailer: two marks, the checksum of the table of contents, its offset and its length.
const TRAILER: usize = 4 + 1 + 1 + 16 + 8 + 8;
/// The longest table of contents in bytes. It has a handful of entries; more is damage.
const LONGEST_CONTENTS: u64 = 64 * 1024;

/// A table that belongs to a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) id: u64,
    /// The offset that is added to the sequence numbers of its rows.
    pub(crate) seqno: u64,
}

/// The state of a tree, according to its small files.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seal {
    /// The tables of the tree.
    Whole(Vec<Listed>),
    /// The tree was being created when the process ended, and holds nothing.
    Unborn,
    /// The files do not agree, for this reason.
    Broken(String),
}

/// The trees by number, and descriptions of entries that do not belong there.
pub(crate) type Trees = (Vec<(u64, PathBuf)>, Vec<String>);

/// Returns the trees in the engine's folder with number and path, and descriptions of entries that do not belong there.
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

/// Returns the faults of the engine's small files. The list is empty where the engine can be opened, or does not exist
/// yet.
///
/// # Errors
/// Returns the error of the disk where the files cannot be read.
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
        let why = list.first_trouble();
        wrong.push(format!("the engine's list of its keyspaces does not read ({why})"));
        return Ok(wrong);
    }
    // A folder without a name was given up, or was being created; the engine removes it, whatever is left in it.
    for (number, name) in names {
        // The name may be that of a keyspace that was given up or was being created; the table of segments says which
        // ones must exist.
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

/// Returns whether the engine's format is the expected one.
fn marked(engine: &Path) -> bool {
    fs::read(engine.join("version")).is_ok_and(|text| text == *b"FJL\x03")
}

/// Reads the small files of one tree.
///
/// # Errors
/// Returns the error of the disk where the files cannot be read.
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

/// Returns the tables that a list names.
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

/// Returns the range of a section of an archive.
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

/// Reads an archive's trailer: the offset of the table of contents, its length and its checksum.
fn contents(trailer: &[u8]) -> Option<(u64, u64, u128)> {
    let mut from = Bytes(trailer);
    if from.take(6)? != b"SFA!\x01\x00" {
        return None;
    }
    let sum = u128::from_le_bytes(from.take(16)?.try_into().ok()?);
    Some((from.number()?, from.number()?, sum))
}

/// Checks that a table ends with a table of contents that reads back as it was written. The inner error is the fault.
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

/// A reader of little-endian bytes. Every step returns `None` where they end too early.
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
