//! Giving keyspaces up, so that their room is free while the process lives.

use std::time::Duration;

use fjall::{AbstractTree as _, Keyspace, PersistMode, SeqNo};

use crate::{
    StoreError,
    fjall::{
        engine::{Engine, engine_error},
        segment::Segment,
        shared::Shared,
    },
};

/// So many milliseconds the engine's worker gets to write out what keeps journals.
const PATIENCE: u32 = 3000;

/// Deletes a keyspace and lets go of every file of it.
///
/// The engine keeps the files of tables that were read open, in a cache that forgets only tables that were dropped one by one; those of
/// a keyspace that is deleted as a whole would stay open, and their blocks taken, until the process ends. So the tables are dropped first.
/// Who still reads keeps what it reads until it is done.
pub(crate) fn give_up(engine: &Engine, keyspace: Keyspace) -> Result<(), StoreError> {
    // Deleted first: from then on nothing is compacted, and no journal waits for what is in its memory.
    engine.db.delete_keyspace(keyspace.clone()).map_err(engine_error)?;
    let tree = &keyspace.tree;
    let emptied = {
        // A flush in between would bring a table that nobody drops.
        let _no_flush = tree.get_flush_lock();
        tree.drop_range::<&[u8], _>(..)
            .and_then(|()| tree.clear())
            .and_then(|()| tree.get_version_history_lock().maintenance(keyspace.path(), SeqNo::MAX))
    };
    if let Err(error) = emptied {
        // It is deleted all the same; only the files that were read stay open.
        tracing::warn!(%error, keyspace = &**keyspace.name(), "the room of what was given up is free after a restart only");
    }
    Ok(())
}

/// Gives up the keyspaces of segments that are gone or condensed, and of buckets of ids older than `oldest`; those of an earlier round
/// that was broken off among them.
pub(crate) fn give_up_orphans(engine: &Engine, oldest: Option<u64>) -> Result<(), StoreError> {
    for name in engine.db.list_keyspace_names() {
        let segment = name.strip_prefix("heads-").or_else(|| name.strip_prefix("bodies-"));
        let orphan = match (segment, name.strip_prefix("once-")) {
            (Some(id), _) => id.parse().is_ok_and(|id| is_left(engine, id)),
            (_, Some(bucket)) => bucket.parse().is_ok_and(|bucket: u64| {
                oldest.is_some_and(|oldest| bucket < oldest) && !engine.once.read().contains_key(&bucket)
            }),
            _ => false,
        };
        if orphan && let Some(keyspace) = engine.known(&name)? {
            give_up(engine, keyspace)?;
        }
    }
    Ok(())
}

/// Whether the keyspaces of this number are no segment's any more. Numbers only grow: a larger one is being made.
fn is_left(engine: &Engine, id: u64) -> bool {
    let segments = engine.segments.read();
    let lives = |segment: &Segment| segment.id == id && segment.keyspaces.is_some();
    segments.values().next_back().is_some_and(|newest| id < newest.id) && !segments.values().any(lives)
}

/// Where room is scarce, writes out what keeps old journals.
///
/// A journal goes when nothing of it is in memory only. Keyspaces that are seldom written would keep some 128 MB of them.
pub(crate) fn release_journals(shared: &Shared, engine: &Engine) -> Result<(), StoreError> {
    if !shared.is_pressed() || engine.db.journal_count() < 2 {
        return Ok(());
    }
    for keyspace in engine.all() {
        keyspace.rotate_memtable().map_err(engine_error)?;
    }
    // What is measured next decides what is cut: it should see the room that comes back by itself.
    for _ in 0..PATIENCE {
        if engine.db.journal_count() < 2 {
            break;
        }
        engine.db.persist(PersistMode::Buffer).map_err(engine_error)?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
