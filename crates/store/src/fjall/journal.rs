//! Checks of the engine's journals from outside, since the engine cuts a damaged one short silently.

pub(crate) mod batches;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{codec::read_delta, fjall::replay::Fold};

/// The journals by number, with the length of each up to its last byte that is not zero.
pub(crate) type Ends = BTreeMap<u64, u64>;

/// Returns the journals in a folder, in the order in which they were written.
pub(crate) fn journals(engine: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    if !engine.exists() {
        return Ok(found);
    }
    for entry in fs::read_dir(engine)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse().ok());
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Returns the present ends of the journals.
pub(crate) fn ends(engine: &Path) -> io::Result<Ends> {
    journals(engine)?.into_iter().map(|(number, path)| Ok((number, end(&path)?))).collect()
}

/// Returns the length of a file without the zeros at its end.
fn end(path: &Path) -> io::Result<u64> {
    let file = File::open(path)?;
    let mut left = file.metadata()?.len();
    let mut block = vec![0u8; 64 * 1024];
    let zeros = vec![0u8; 64 * 1024];
    while left > 0 {
        let start = left.saturating_sub(block.len() as u64);
        let size = usize::try_from(left - start).unwrap_or_default();
        let part = block.get_mut(..size).unwrap_or_default();
        file.read_exact_at(part, start)?;
        // A new journal is zeros almost to its beginning: whole blocks of them are skipped at once.
        if zeros.get(..size).is_some_and(|zeros| zeros == part) {
            left = start;
            continue;
        }
        if let Some(last) = part.iter().rposition(|byte| *byte != 0) {
            return Ok(start + last as u64 + 1);
        }
        left = start;
    }
    Ok(0)
}

/// Returns the sealed journals (all but the newest) that the engine cut short at its opening. Only damage causes that,
/// since a journal is sealed whole.
pub(crate) fn cut(engine: &Path, before: &Ends) -> io::Result<Vec<u64>> {
    let newest = before.keys().next_back().copied();
    let mut cut = Vec::new();
    for (number, path) in journals(engine)? {
        // A journal that is gone was flushed before; the engine removes it only as a whole.
        if let Some(end) = before.get(&number).filter(|_| Some(number) != newest)
            && fs::metadata(&path)?.len() < *end
        {
            cut.push(number);
        }
    }
    Ok(cut)
}

/// Returns a description of an unreadable place in a journal that has a commit after it. After a kill or a power cut
/// only the last commit can be torn, since each was flushed before the next began.
///
/// # Errors
/// Returns the error of the disk where the journals cannot be read.
pub(crate) fn holed(engine: &Path) -> io::Result<Option<String>> {
    let mut torn: Option<u64> = None;
    for (number, path) in journals(engine)? {
        let bytes = batches::read(&path)?;
        let mut last_commit = None;
        let (holes, reached) = batches::walk(&bytes, |batch| {
            if batch.items.iter().any(is_commit) {
                last_commit = Some(batch.at);
            }
        });
        if let Some(torn) = torn.filter(|_| last_commit.is_some()) {
            return Ok(Some(format!(
                "journal {torn} does not read to its end, and later commits stand in journal {number}"
            )));
        }
        if let Some(hole) = holes.iter().find(|hole| last_commit.is_some_and(|commit| commit >= hole.to)) {
            return Ok(Some(format!(
                "journal {number} does not read from byte {} to byte {}, and later commits stand behind it",
                hole.from, hole.to
            )));
        }
        if reached < bytes.len() {
            torn = Some(number);
        }
    }
    Ok(None)
}

/// Returns whether a change is one that each commit of the store makes: its numbered row, or the fold.
fn is_commit(item: &batches::Item<'_>) -> bool {
    let row = || item.key.len() == 8 && item.value.is_some_and(|value| read_delta(0, value).is_ok());
    item.key == Fold::KEY.as_bytes() || row()
}

/// Copies the journals aside, unless older copies are still there, which hold more.
pub(crate) fn keep_aside(engine: &Path, aside: &Path) -> io::Result<()> {
    if aside.exists() {
        return Ok(());
    }
    let making = aside.with_extension("new");
    if making.exists() {
        fs::remove_dir_all(&making)?;
    }
    fs::create_dir(&making)?;
    for (number, path) in journals(engine)? {
        // Only the written part is copied: the rest is zeros reserved for later.
        let mut from = io::Read::take(File::open(&path)?, end(&path)?);
        io::copy(&mut from, &mut File::create(making.join(format!("{number}.jnl")))?)?;
    }
    fs::rename(&making, aside)
}

/// Removes the copies.
pub(crate) fn forget_aside(aside: &Path) -> io::Result<()> {
    if aside.exists() { fs::remove_dir_all(aside) } else { Ok(()) }
}
