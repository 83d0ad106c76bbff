//! The release of disk space while the process lives.

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

/// The milliseconds for which the engine's worker may write out what keeps journals.
const PATIENCE: u32 = 3000;

/// Deletes a keyspace and closes all its files.
///
/// After the deletion of a whole keyspace the files of tables that were read would stay open, and their blocks in use,
/// until the process ends. The tables are therefore dropped as well.
pub(crate) fn delete(engine: &Engine, keyspace: Keyspace) -> Result<(), StoreError> {
    // The keyspace is deleted first: from then on nothing is compacted, and no journal waits for its rows in memory.
    engine.db.delete_keyspace(keyspace.clone()).map_err(engine_error)?;
    if let Err(error) = drop_tables(&keyspace) {
        // The keyspace is deleted all the same; only the files that were read stay open.
        tracing::warn!(%error, keyspace = &**keyspace.name(), "the room of what was given up is free after a restart only");
    }
    Ok(())
}

/// Flushes the memory that keeps old journals, where space is scarce.
///
/// A journal is removed when none of its rows is in memory only. Keyspaces that are seldom written would keep some 128
/// MB of journals.
pub(crate) fn release_journals(shared: &Shared, engine: &Engine) -> Result<(), StoreError> {
    if !shared.is_pressed() || engine.db.journal_count() < 2 {
        return Ok(());
    }
    for keyspace in engine.all() {
        keyspace.rotate_memtable().map_err(engine_error)?;
    }
    // The next measurement decides what is cut, so it should include the space that is freed by itself.
    for _ in 0..PATIENCE {
        if engine.db.journal_count() < 2 {
            break;
        }
        engine.db.persist(PersistMode::Buffer).map_err(engine_error)?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
