//! What a closed store holds, for whoever is about to adopt it.

use setgate_set::Timestamp;

use crate::{
    Bounds, FjallStore, Key, OpenError, Position, Record,
    fjall::{
        guard::guarded,
        open::{damaged, open_engine, open_mark},
        place::StorePlace,
    },
};

/// The contents of a closed store, for whoever is about to adopt it.
#[derive(Clone, Debug)]
pub struct Holdings {
    /// The store's id.
    pub id: String,
    /// The reason why it counts as a copy, if it does.
    pub copy: Option<String>,
    /// The extent of the ledger.
    pub bounds: Bounds,
    /// The time at which the last record was accepted.
    pub last_accepted: Timestamp,
    /// Deliveries owed.
    pub waiting: u64,
    /// SETs that are parked.
    pub parked: u64,
    /// The records of the control plane.
    pub records: Vec<Record>,
}

impl FjallStore {
    /// Opens a closed store, looks at what it holds, and closes it again.
    ///
    /// # Errors
    /// [`OpenError`], as for opening.
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
