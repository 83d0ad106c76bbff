//! Rewriting of tables and journals, so that nothing overwritten is left on the disk (hardening H36).

use std::{sync::Arc, time::Duration};

use fjall::{Keyspace, PersistMode};

use crate::{
    FjallStore, StoreError,
    fjall::{
        engine::{Engine, engine_error},
        housekeep::run_on_writer,
        read_aside,
        release::delete,
        shared::Shared,
        writer::Writer,
    },
};

/// The keyspace that fills up a journal; it exists only during the rewrite.
pub(crate) const FILLER: &str = "turnover";
/// The bytes that fill any journal: the engine changes to a new one when the present one is larger than 64 MB.
const FILL: usize = 66 * 1024 * 1024;
const BLOCK: usize = 256 * 1024;
/// The longest time that a turnover waits for the engine.
const PATIENCE: Duration = Duration::from_secs(60);

impl FjallStore {
    /// Leaves no trace on the disk of overwritten or removed values of control-plane records: rewrites their tables,
    /// and every journal that may hold them.
    ///
    /// The rewrite writes some 70 MB temporarily and waits for them, so it belongs in times without other work.
    ///
    /// # Errors
    /// Returns [`StoreError`]; the records are unchanged, and what was overwritten disappears later, as journals and
    /// tables change.
    pub async fn turn_over(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        let by = shared.runtime.clock.monotonic() + PATIENCE;
        read_aside(shared.clone(), move |shared, engine| fill_journal(shared, engine, by)).await?;
        // The writer confirms it: a flush that the disk does not confirm ends the process, regardless of the caller.
        run_on_writer(&self.queue, Writer::confirm).await?;
        read_aside(shared.clone(), move |shared, engine| write_out(shared, engine, by)).await
    }
}

/// Rewrites the tables of control-plane records, and writes more than a journal holds.
fn fill_journal(shared: &Shared, engine: &Engine, by: Duration) -> Result<(), StoreError> {
    let late = || shared.runtime.clock.monotonic() > by;
    engine.control.rotate_memtable().map_err(engine_error)?;
    await_written(engine, &engine.control, &late)?;
    engine.control.major_compact().map_err(engine_error)?;

    let filler = engine.filler()?;
    let block: Arc<[u8]> = vec![0u8; BLOCK].into();
    for number in 0..FILL / BLOCK {
        engine.await_room(std::iter::once(&filler)).map_err(engine_error)?;
        filler.insert(number.to_be_bytes(), &*block).map_err(engine_error)?;
    }
    Ok(())
}

/// Flushes everything that the old journal holds.
fn write_out(shared: &Shared, engine: &Engine, by: Duration) -> Result<(), StoreError> {
    let late = || shared.runtime.clock.monotonic() > by;
    let filler = engine.filler()?;
    filler.rotate_memtable().map_err(engine_error)?;
    await_written(engine, &filler, &late)?;
    // The old journal is closed now. It is deleted when nothing in memory needs it.
    for keyspace in engine.all() {
        keyspace.rotate_memtable().map_err(engine_error)?;
        await_written(engine, &keyspace, &late)?;
    }
    delete(engine, filler)?;
    while engine.db.journal_count() > 1 {
        wait(engine, &late)?;
    }
    Ok(())
}

fn await_written(engine: &Engine, keyspace: &Keyspace, late: &impl Fn() -> bool) -> Result<(), StoreError> {
    while keyspace.sealed_memtable_count() > 0 {
        wait(engine, late)?;
    }
    Ok(())
}

fn wait(engine: &Engine, late: &impl Fn() -> bool) -> Result<(), StoreError> {
    if late() {
        return Err(StoreError::Busy);
    }
    // This call fails when the engine's worker has died.
    engine.db.persist(PersistMode::Buffer).map_err(engine_error)?;
    std::thread::sleep(Duration::from_millis(1));
    Ok(())
}
