//! Writing tables and journals anew, so that nothing overwritten is left on the disk (hardening H36).

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

/// The keyspace that fills a journal up; it exists only meanwhile.
pub(crate) const FILLER: &str = "turnover";
/// The engine changes to a new journal when one is larger than 64 MB; so much fills any.
const FILL: usize = 66 * 1024 * 1024;
const BLOCK: usize = 256 * 1024;
/// How long the engine may take to write out what it was told to.
const PATIENCE: Duration = Duration::from_secs(60);

impl FjallStore {
    /// Leaves no trace on the disk of values of records that were overwritten or removed: writes their tables anew, and
    /// every journal that may hold them.
    ///
    /// It writes some 70 MB for a moment, and waits for them: for times when nothing else is done.
    ///
    /// # Errors
    /// [`StoreError`]; the records are as they were, and what was overwritten goes later, as journals and tables change.
    pub async fn turn_over(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        let by = shared.runtime.clock.monotonic() + PATIENCE;
        read_aside(shared.clone(), move |shared, engine| fill_journal(shared, engine, by)).await?;
        // By the writer: a flush that the disk does not confirm ends the process, whoever asked for it.
        run_on_writer(&self.queue, Writer::confirm).await?;
        read_aside(shared.clone(), move |shared, engine| write_out(shared, engine, by)).await
    }
}

/// Writes the tables of records anew, and more than a journal holds.
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

/// Writes out everything that the old journal holds.
fn write_out(shared: &Shared, engine: &Engine, by: Duration) -> Result<(), StoreError> {
    let late = || shared.runtime.clock.monotonic() > by;
    let filler = engine.filler()?;
    filler.rotate_memtable().map_err(engine_error)?;
    await_written(engine, &filler, &late)?;
    // Now the old journal is closed. It goes when nothing in memory needs it.
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
    // Says so when the engine's worker died.
    engine.db.persist(PersistMode::Buffer).map_err(engine_error)?;
    std::thread::sleep(Duration::from_millis(1));
    Ok(())
}
