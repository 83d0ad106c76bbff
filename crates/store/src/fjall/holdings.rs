//! The contents of a closed store, for an operator who is about to adopt it.

use setgate_set::Timestamp;

use crate::{
    Bounds, FjallStore, Key, OpenError, Position, Record,
    fjall::{
        guard::guarded,
        open::{damaged, open_engine, open_mark},
        place::StorePlace,
    },
};

/// The contents of a closed store, for an operator who is about to adopt it.
#[derive(Clone, Debug)]
pub struct Holdings {
    /// The store's id.
    pub id: String,
    /// The reason why the store counts as a copy, if it does.
    pub copy: Option<String>,
    /// The extent of the ledger.
    pub bounds: Bounds,
    /// The time at which the last record was accepted.
    pub last_accepted: Timestamp,
    /// The deliveries owed.
    pub waiting: u64,
    /// The SETs that are parked.
    pub parked: u64,
    /// The control-plane records.
    pub records: Vec<Record>,
}

impl FjallStore {
    /// Opens a closed store, reads its contents, and closes it again.
    ///
    /// # Errors
    /// Returns [`OpenError`] as for opening.
    pub fn holdings(place: &StorePlace) -> Result<Holdings, OpenError> {
        let instance = place.instance(None)?;
        let _lock = place.lock()?;
        let copy = place.check(&instance)?;
        let (_, mark) = open_mark(place)?;
        let (engine, loaded) = open_engine(place, &mark)?;
        let records = guarded(|| engine.records(&Key::from(""))).map_err(damaged)?;
        let state = &loaded.state;
        Ok(Holdings {
            id: instance.id,
            copy,
            bounds: Bounds { first: Position::new(state.first), last: Position::new(state.last) },
            last_accepted: state.last_accepted,
            waiting: state.waiting,
            parked: state.parked,
            records,
        })
    }
}
