//! Giving room on the disk back while the process lives.

use std::time::Duration;

use fjall::{Keyspace, PersistMode};

use crate::{
    StoreError,
    fjall::{
        engine::{Engine, engine_error},
        shared::Shared,
        spare::drop_tables,
    },
};

/// So many milliseconds the engine's worker gets to write out what keeps journals.
const PATIENCE: u32 = 3000;

/// Deletes a keyspace and lets go of every file of it.
///
/// Of a keyspace that is deleted as a whole the files of tables that were read would stay open, and their blocks taken, until the process
/// ends. So the tables are dropped as well.
pub(crate) fn delete(engine: &Engine, keyspace: Keyspace) -> Result<(), StoreError> {
    // Deleted first: from then on nothing is compacted, and no journal waits for what is in its memory.
    engine.db.delete_keyspace(keyspace.clone()).map_err(engine_error)?;
    if let Err(error) = drop_tables(&keyspace) {
        // It is deleted all the same; only the files that were read stay open.
        tracing::warn!(%error, keyspace = &**keyspace.name(), "the room of what was given up is free after a restart only");
    }
    Ok(())
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
