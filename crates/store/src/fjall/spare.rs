//! Spare keyspaces: those that were given up are emptied and reused.
//!
//! The engine's own list of keyspaces keeps an entry of some 2 kB for every keyspace that was ever made, deleted or
//! not, and rewrites the whole list every few changes; the older files stay on the disk while the process lives. A
//! ledger whose segments come and go would fill the disk with it. Keyspaces are therefore made once, and emptied when
//! they are given up.

use std::sync::atomic::{AtomicU64, Ordering};

use fjall::{AbstractTree as _, Keyspace, SeqNo};
use parking_lot::Mutex;

use crate::{
    StoreError,
    fjall::{engine::engine_error, guard::guarded, segment::SegmentKeyspaces},
};

/// The row of an emptied keyspace. No record, key or position has a key of one byte, and it precedes all of them.
///
/// The row is written to a table. Journals with earlier rows may then be removed, and are not replayed for this
/// keyspace after a crash: the engine decides both by the newest row that it finds in a table.
pub(crate) const EMPTIED: [u8; 1] = [0];

/// Keyspaces that were given up, with the number in their names.
struct Left<K> {
    slot: u64,
    keyspaces: K,
    emptied: bool,
}

/// The spare keyspaces of one kind: some wait to be emptied, some are ready for reuse.
pub(crate) struct Spares<K> {
    left: Mutex<Vec<Left<K>>>,
    ready: Mutex<Vec<u64>>,
    /// The highest number in the names of keyspaces of this kind, whether or not they are in use.
    highest: AtomicU64,
}

impl<K> Default for Spares<K> {
    fn default() -> Self {
        Self { left: Mutex::default(), ready: Mutex::default(), highest: AtomicU64::default() }
    }
}

/// A keyspace, or a group of keyspaces that are used together.
pub(crate) trait Emptied: Clone {
    fn each(&self) -> Vec<Keyspace>;
}

impl Emptied for Keyspace {
    fn each(&self) -> Vec<Keyspace> {
        vec![self.clone()]
    }
}

impl Emptied for SegmentKeyspaces {
    fn each(&self) -> Vec<Keyspace> {
        self.clone().both().into()
    }
}

impl<K: Emptied> Spares<K> {
    /// Records that there are keyspaces with this number in their names.
    pub(crate) fn seen(&self, slot: u64) {
        self.highest.fetch_max(slot, Ordering::AcqRel);
    }

    /// Returns the number in the names of the keyspaces for a new segment or bucket: that of ready spares, else its
    /// own, or one that no keyspace has. Keyspaces with its own number may exist, left by a commit that did not take
    /// place, and wait to be emptied.
    pub(crate) fn slot(&self, number: u64) -> u64 {
        self.ready.lock().pop().unwrap_or_else(|| {
            let slot = number.max(self.highest.load(Ordering::Acquire) + 1);
            self.seen(slot);
            slot
        })
    }

    /// Gives up keyspaces. No row in the store refers to them any more.
    pub(crate) fn leave(&self, slot: u64, keyspaces: K) {
        self.left.lock().push(Left { slot, keyspaces, emptied: false });
    }

    /// Takes in keyspaces that an opening found and no row refers to. Those that were emptied before are ready at once;
    /// those that do not read are emptied as the others: nothing that they hold is missed.
    pub(crate) fn found(&self, slot: u64, keyspaces: K) {
        let is_ready = |keyspace: &Keyspace| guarded(|| is_emptied(keyspace)).unwrap_or(false);
        if keyspaces.each().iter().all(is_ready) {
            self.ready.lock().push(slot);
        } else {
            self.leave(slot, keyspaces);
        }
    }

    /// Returns the number of those that nothing uses: they wait to be emptied or written out, or are ready.
    #[cfg(test)]
    pub(crate) fn unused(&self) -> usize {
        self.left.lock().len() + self.ready.lock().len()
    }

    /// Empties the keyspaces that were given up, and makes those that were emptied in an earlier round ready for reuse.
    ///
    /// # Errors
    /// Returns [`StoreError`]; the next round continues.
    pub(crate) fn clear_away(&self) -> Result<(), StoreError> {
        let mut left = std::mem::take(&mut *self.left.lock());
        let mut done = Ok(());
        while let Some(mut one) = left.pop() {
            if !one.emptied {
                done = one.keyspaces.each().iter().try_for_each(empty);
                if done.is_err() {
                    left.push(one);
                    break;
                }
                one.emptied = true;
            }
            let written =
                one.keyspaces.each().iter().all(|keyspace| keyspace.tree.get_highest_persisted_seqno().is_some());
            if written {
                self.ready.lock().push(one.slot);
            } else {
                self.left.lock().push(one);
            }
        }
        self.left.lock().append(&mut left);
        done
    }
}

/// Returns whether a keyspace holds nothing but the row of an emptied one, and that in a table.
fn is_emptied(keyspace: &Keyspace) -> Result<bool, StoreError> {
    let mut rows = keyspace.iter();
    let first = rows.next().map(|row| row.key().map_err(engine_error)).transpose()?;
    let alone = first.is_some_and(|key| *key == EMPTIED) && rows.next().is_none();
    Ok(alone && keyspace.tree.get_highest_persisted_seqno().is_some())
}

/// Drops every row of a keyspace and its files. A reader keeps what it reads until it is done.
fn empty(keyspace: &Keyspace) -> Result<(), StoreError> {
    drop_tables(keyspace).map_err(|error| engine_error(error.into()))?;
    keyspace.insert(EMPTIED, b"").map_err(engine_error)?;
    keyspace.rotate_memtable().map_err(engine_error)?;
    Ok(())
}

/// Drops the tables of a keyspace one by one, and its rows in memory.
///
/// The engine keeps the files of tables that were read open, in a cache that forgets only tables that were dropped one
/// by one.
pub(crate) fn drop_tables(keyspace: &Keyspace) -> Result<(), fjall::LsmError> {
    let tree = &keyspace.tree;
    // A flush in between would add a table that is never dropped.
    let _no_flush = tree.get_flush_lock();
    tree.drop_range::<&[u8], _>(..)?;
    tree.clear()?;
    tree.get_version_history_lock().maintenance(keyspace.path(), SeqNo::MAX)
}
