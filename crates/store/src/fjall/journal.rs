//! Checks of the engine's journals from outside, since the engine cuts a damaged one short silently.

pub(crate) mod batches;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{
    codec::read_delta,
    fjall::{place::sync_folder, replay::Fold},
};

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

/// The state of the journals' end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Everything reads.
    Whole,
    /// The newest journal does not read from an offset on, and nothing that was confirmed stands behind it: a kill or a
    /// power cut came before the flush.
    Torn(PathBuf, u64),
    /// What does not read was confirmed, or the engine cannot have left it so.
    Damaged(String),
}

/// Reads the journals to their end. `confirmed` is the last commit that the mark promises.
///
/// A power cut leaves any part of what was not flushed. That is the last commit, since each is flushed before the next
/// begins, and rows that housekeeping wrote since the commit before it. So a hole may have the last commit behind it,
/// if that one follows the commit before the hole and the mark does not promise it; else the hole is damage.
///
/// # Errors
/// Returns the error of the disk where the journals cannot be read.
pub(crate) fn tail(engine: &Path, confirmed: u64) -> io::Result<Tail> {
    let mut torn: Option<(u64, PathBuf, u64)> = None;
    let mut before = confirmed;
    for (number, path) in journals(engine)? {
        let bytes = batches::read(&path)?;
        let mut commits = Vec::new();
        let (holes, reached) =
            batches::walk(&bytes, |batch| commits.extend(commit_of(&batch).map(|commit| (batch.at, commit))));
        if let Some((torn, ..)) = torn.as_ref().filter(|_| !commits.is_empty()) {
            return Ok(Tail::Damaged(format!(
                "journal {torn} does not read to its end, and later commits stand in journal {number}"
            )));
        }
        for hole in &holes {
            let (earlier, behind): (Vec<_>, Vec<_>) = commits.iter().partition(|(at, _)| *at < hole.to);
            let next = earlier.last().map_or(before, |(_, commit)| *commit) + 1;
            let unconfirmed = match behind.as_slice() {
                [] => true,
                [(_, last)] => *last == next && *last > confirmed,
                _ => false,
            };
            if !unconfirmed {
                return Ok(Tail::Damaged(format!(
                    "journal {number} does not read from byte {} to byte {}, and later commits stand behind it",
                    hole.from, hole.to
                )));
            }
        }
        before = commits.last().map_or(before, |(_, commit)| *commit);
        let from = holes.first().map_or(reached, |hole| hole.from);
        if from < bytes.len() {
            torn = Some((number, path, from as u64));
        }
    }
    let newest = journals(engine)?.pop().map(|(number, _)| number);
    // The engine itself answers for a sealed journal that does not read.
    Ok(torn
        .filter(|(number, ..)| Some(*number) == newest)
        .map_or(Tail::Whole, |(_, path, from)| Tail::Torn(path, from)))
}

/// Returns the number of the commit of the store that a batch is: that of its numbered row, or of its fold.
fn commit_of(batch: &batches::Batch<'_>) -> Option<u64> {
    let number = |item: &batches::Item<'_>| {
        let value = item.value?;
        if item.key == Fold::KEY.as_bytes() {
            return Fold::read(value).map(|fold| fold.commit);
        }
        let number = u64::from_be_bytes(item.key.try_into().ok()?);
        read_delta(number, value).is_ok().then_some(number)
    };
    batch.items.iter().filter_map(number).max()
}

/// Cuts off what does not read at the end of a journal. The engine cuts it off itself where it finds the end of the
/// batch missing; where only the middle is missing it would refuse to open.
pub(crate) fn cut_off(path: &Path, from: u64) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.set_len(from)?;
    file.sync_all()
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
        let mut to = File::create(making.join(format!("{number}.jnl")))?;
        io::copy(&mut from, &mut to)?;
        to.sync_all()?;
    }
    // The copies are whole before they have their name: a later opening keeps what has it, whatever became of the
    // journals since.
    File::open(&making)?.sync_all()?;
    fs::rename(&making, aside)?;
    sync_folder(aside)
}

/// Removes the copies.
pub(crate) fn forget_aside(aside: &Path) -> io::Result<()> {
    if aside.exists() { fs::remove_dir_all(aside) } else { Ok(()) }
}
