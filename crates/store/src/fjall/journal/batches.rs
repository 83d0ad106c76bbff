//! A reader of the engine's journals, batch by batch, that does not change them. It continues after a damaged place.

use std::io;

use xxhash_rust::xxh3::xxh3_64;

use super::{File, FileExt as _, Path, end};

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
/// The length of a batch's header: mark, count of items, sequence number.
const OPENING: usize = 1 + 4 + 8;

/// A change in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item<'a> {
    pub(crate) keyspace: u64,
    pub(crate) key: &'a [u8],
    /// The value, or `None` where the key is removed.
    pub(crate) value: Option<&'a [u8]>,
}

/// A batch of changes that were written together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch<'a> {
    /// The offset at which it begins in the journal.
    pub(crate) at: usize,
    /// The sequence number. Later batches have higher numbers, with one exception: at an opening the engine continues
    /// after the highest number that it finds in existing keyspaces, not after those of keyspaces that were deleted.
    pub(crate) seqno: u64,
    pub(crate) items: Vec<Item<'a>>,
}

/// An unreadable stretch of a journal, with whole batches after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// The sequence number of the batch before it; 0 where there is none, or where an opening may be in it.
    pub(crate) after: u64,
}

/// Returns the written bytes of a journal.
///
/// # Errors
/// Returns the error of the disk where the file cannot be read.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(end(path)?).unwrap_or(usize::MAX)];
    File::open(path)?.read_exact_at(&mut bytes, 0)?;
    // The engine ends a batch with a mark that is not zero, so that no batch is cut here.
    Ok(bytes)
}

/// Calls `take` with every readable batch. Returns the holes between them, and the offset up to which the batches
/// reach.
///
/// A batch is accepted if the checksum over its items is right. Values cannot forge one: they are JSON, which has no
/// zero bytes.
pub(crate) fn walk<'a>(bytes: &'a [u8], mut take: impl FnMut(Batch<'a>)) -> (Vec<Hole>, usize) {
    let (mut at, mut reached, mut last) = (0, 0, 0);
    let mut holes = Vec::new();
    while at < bytes.len() {
        let Some((batch, length)) = batch(bytes, at) else {
            let next = bytes.get(at + 1..).unwrap_or_default().iter().position(|byte| *byte == START);
            at = next.map_or(bytes.len(), |next| at + 1 + next);
            continue;
        };
        if at > reached {
            let after = if batch.seqno > last { last } else { 0 };
            holes.push(Hole { from: reached, to: at, after });
        }
        last = batch.seqno;
        at += length;
        reached = at;
        take(batch);
    }
    (holes, reached)
}

/// Reads the batch that begins at an offset, and returns it with its length.
fn batch(bytes: &[u8], at: usize) -> Option<(Batch<'_>, usize)> {
    let bytes = bytes.get(at..)?;
    let mut from = Reader { bytes, at: 0 };
    if from.byte()? != START {
        return None;
    }
    let count = u32::from_le_bytes(from.take(4)?.try_into().ok()?);
    let seqno = from.number()?;
    let mut items = Vec::new();
    for _ in 0..count {
        items.extend(item(&mut from)?);
    }
    let sum = xxh3_64(bytes.get(OPENING..from.at)?);
    if from.byte()? != END || from.number()? != sum || from.take(4)? != b"FJL\x03" {
        return None;
    }
    Some((Batch { at, seqno, items }, from.at))
}

/// Reads one item; the inner `None` is a change that the store never makes.
fn item<'a>(from: &mut Reader<'a>) -> Option<Option<Item<'a>>> {
    match from.byte()? {
        ITEM => {
            let (kind, packed) = (from.byte()?, from.byte()?);
            let keyspace = from.number()?;
            let length = usize::from(u16::from_le_bytes(from.take(2)?.try_into().ok()?));
            let (whole, stored) = (from.take(4)?, from.take(4)?);
            if packed != 0 || whole != stored || kind > 2 {
                return None;
            }
            let size = usize::try_from(u32::from_le_bytes(stored.try_into().ok()?)).ok()?;
            let (key, value) = (from.take(length)?, from.take(size)?);
            Some(Some(Item { keyspace, key, value: (kind == 0).then_some(value) }))
        }
        CLEAR => from.number().map(|_| None),
        _ => None,
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use fjall::{Database, KeyspaceCreateOptions, PersistMode};

    use super::*;

    /// Returns a journal with `count` batches of two items, as the engine writes it.
    fn journal(folder: &Path, count: u64) -> Vec<u8> {
        let db = Database::builder(folder).worker_threads(1).open().unwrap();
        let keyspace = db.keyspace("some", KeyspaceCreateOptions::default).unwrap();
        for number in 0..count {
            let mut batch = db.batch();
            batch.insert(&keyspace, number.to_be_bytes(), format!("value {number}"));
            batch.remove(&keyspace, b"gone");
            batch.commit().unwrap();
        }
        db.persist(PersistMode::SyncAll).unwrap();
        read(&folder.join("0.jnl")).unwrap()
    }

    fn values(bytes: &[u8]) -> (Vec<String>, Vec<Hole>) {
        let mut values = Vec::new();
        let (holes, _) = walk(bytes, |batch| {
            assert_eq!(batch.items.len(), 2);
            assert_eq!(batch.items[1].value, None);
            values.push(String::from_utf8(batch.items[0].value.unwrap().to_vec()).unwrap());
        });
        (values, holes)
    }

    #[test]
    fn a_batch_with_a_lower_number_after_an_opening_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        let open = |path: &Path| Database::builder(path).worker_threads(1).open().unwrap();
        let db = open(&first);
        let [kept, gone] = ["kept", "gone"].map(|name| db.keyspace(name, KeyspaceCreateOptions::default).unwrap());
        kept.insert("a", "1").unwrap();
        for number in 0..9u64 {
            gone.insert(number.to_be_bytes(), "x").unwrap();
        }
        db.delete_keyspace(gone).unwrap();
        db.persist(PersistMode::SyncAll).unwrap();
        // The copy is what a kill leaves.
        crate::tests::copy(&first, &second);
        let db = open(&second);
        let kept = db.keyspace("kept", KeyspaceCreateOptions::default).unwrap();
        kept.insert("b", "2").unwrap();
        db.persist(PersistMode::SyncAll).unwrap();
        let bytes = read(&second.join("0.jnl")).unwrap();
        let (mut found, mut numbers) = (Vec::new(), Vec::new());
        let (holes, reached) = walk(&bytes, |batch| {
            numbers.push(batch.seqno);
            found.extend(batch.items.iter().map(|item| item.key.to_vec()));
        });
        assert_eq!((holes, reached, found.len()), (vec![], bytes.len(), 11), "{numbers:?}");
        assert!(!numbers.is_sorted(), "the engine goes on behind the deleted: nothing is tested");
        assert_eq!(found.last().unwrap(), b"b");
    }

    #[test]
    fn every_batch_is_read_and_behind_a_damaged_place_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let whole = journal(folder.path(), 50);
        let all: Vec<String> = (0..50).map(|number| format!("value {number}")).collect();
        assert_eq!(values(&whole), (all.clone(), vec![]));
        let place = whole.windows(8).position(|window| window == b"value 20").unwrap();
        let mut damaged = whole.clone();
        damaged[place] ^= 0x10;
        let (read, holes) = values(&damaged);
        assert_eq!(holes.len(), 1);
        assert!(holes[0].from < place && place < holes[0].to && holes[0].after > 0, "{holes:?}");
        assert_eq!(read, [&all[..20], &all[21..]].concat());
        // A torn end is not a hole.
        let (read, holes) = values(&whole[..whole.len() - 3]);
        assert_eq!((read, holes), (all[..49].to_vec(), vec![]));
    }
}
