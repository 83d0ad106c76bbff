//! Reading a closed store from end to end, without changing it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use roaring::RoaringTreemap;
use serde::Serialize;

use crate::{
    Bounds, FjallStore, Position, StoreError,
    codec::{read_body, read_head},
    fjall::{
        engine::{Engine, held_key, mishap, parked_of, read_row, seq_of},
        guard::guarded,
        open::{compare, damaged, open_engine},
        place::{OpenError, Place},
        replay::Loaded,
        watermark::Watermark,
    },
};

/// At most so many problems are listed.
const LISTED: usize = 100;

/// What a check of a store found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// The store's id.
    pub id: String,
    /// Whether it was closed in order.
    pub clean: bool,
    /// What the ledger holds.
    pub bounds: Bounds,
    /// The last record that was promised.
    pub promised: u64,
    /// Heads that were read.
    pub heads: u64,
    /// Bodies that were read.
    pub bodies: u64,
    /// Streams that have a cursor.
    pub streams: u64,
    /// Deliveries owed.
    pub waiting: u64,
    /// Parked SETs that were read.
    pub parked: u64,
    /// Why it counts as a copy, if it does.
    pub copy: Option<String>,
    /// What is wrong, in whole sentences; empty when nothing is.
    pub problems: Vec<String>,
}

impl CheckReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    fn problem(&mut self, text: impl std::fmt::Display) {
        if self.problems.len() < LISTED {
            self.problems.push(format!("{text}."));
        }
    }
}

impl FjallStore {
    /// Reads a closed store from end to end: heads without a hole, checksums, the bodies of what is owed, counts, and the watermark.
    ///
    /// The engine changes what it opens, so a shadow is opened: tables are linked, everything else is copied.
    ///
    /// # Errors
    /// [`OpenError`] where there is no store to check, or it is in use. What is wrong inside is in the report.
    pub fn check(place: &Place) -> Result<CheckReport, OpenError> {
        let instance = place.instance(None)?;
        let _lock = place.lock()?;
        let (_, mark) = Watermark::open(&place.watermark()).map_err(OpenError::io("open", &place.watermark()))?;
        let mut report =
            CheckReport { id: instance.id.clone(), copy: place.judge(&instance)?, ..CheckReport::default() };
        let Some(mark) = mark else {
            report.problem("neither slot of the watermark reads");
            return Ok(report);
        };
        (report.clean, report.promised) = (mark.clean, mark.last);
        let shadow = Shadow::of(place)?;
        let quiet = crate::fjall::watermark::Mark { clean: true, commit: 0, last: 0, version: 0, ..mark };
        match open_engine(&shadow.place, &quiet) {
            Err(error) => report.problem(error),
            Ok((engine, loaded)) => {
                if let Err(error) =
                    guarded(|| Ok(compare(place, &mark, &loaded, &engine))).unwrap_or_else(|error| Err(damaged(error)))
                {
                    report.problem(error);
                }
                if let Err(error) = guarded(|| read_all(&engine, &loaded, &mut report)) {
                    report.problem(error);
                }
            }
        }
        Ok(report)
    }
}

fn read_all(engine: &Engine, loaded: &Loaded, report: &mut CheckReport) -> Result<(), StoreError> {
    let state = &loaded.state;
    report.bounds = Bounds { first: Position::new(state.first), last: Position::new(state.last) };
    (report.streams, report.waiting) = (state.cursors.len() as u64, state.waiting);
    let owed = state.cursors.values().fold(RoaringTreemap::new(), |all, cursor| all | &cursor.owed);
    let mut seen = RoaringTreemap::new();
    let segments: Vec<_> = engine.segments.read().values().cloned().collect();
    for segment in &segments {
        let Some(shelves) = &segment.shelves else { continue };
        let last = segment.last.unwrap_or(state.last);
        let mut next = segment.first;
        let mut chain = None;
        for item in shelves.heads.iter() {
            let (at, value) = item.into_inner().map_err(mishap)?;
            let seq = seq_of(&at).unwrap_or_default();
            if seq != next {
                report.problem(format_args!("record {next} is missing"));
                next = seq;
            }
            next += 1;
            match read_head(seq, &value) {
                Ok(written) => {
                    if chain.is_some_and(|chain| !written.follows(chain)) {
                        report.problem(format_args!("record {seq} does not follow the one before it"));
                    }
                    chain = Some(written.chain);
                    report.heads += 1;
                }
                Err(error) => report.problem(error),
            }
        }
        if next != last + 1 {
            report.problem(format_args!("record {next} is missing"));
        }
        for item in shelves.bodies.iter() {
            let (at, value) = item.into_inner().map_err(mishap)?;
            read_one(seq_of(&at).unwrap_or_default(), &value, &mut seen, report);
        }
    }
    for item in engine.held.range(held_key(true, 0)..) {
        let (at, value) = item.into_inner().map_err(mishap)?;
        read_one(at.get(1..).and_then(seq_of).unwrap_or_default(), &value, &mut seen, report);
    }
    for seq in &(owed - &seen) {
        report.problem(format_args!("record {seq} is owed and its body is missing"));
    }
    for item in engine.parked.iter() {
        let (at, value) = item.into_inner().map_err(mishap)?;
        let read = read_row(&value).and_then(|_| {
            let (stream, seq) = parked_of(&at).unwrap_or_default();
            engine.parked_row(stream, seq)
        });
        match read {
            Ok(_) => report.parked += 1,
            Err(error) => report.problem(error),
        }
    }
    Ok(())
}

fn read_one(seq: u64, value: &[u8], seen: &mut RoaringTreemap, report: &mut CheckReport) {
    match read_body(seq, value) {
        Ok(_) => {
            seen.insert(seq);
            report.bodies += 1;
        }
        Err(error) => report.problem(error),
    }
}

/// A second folder with the same content, removed when it is dropped.
struct Shadow {
    place: Place,
}

impl Shadow {
    fn of(place: &Place) -> Result<Self, OpenError> {
        let folder = place.store.join("shadow");
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(OpenError::io("remove", &folder))?;
        }
        let shadow = Self { place: Place { store: folder.clone(), owner: place.owner.clone() } };
        copy(&place.engine(), &folder.join("engine")).map_err(OpenError::io("copy to", &folder))?;
        Ok(shadow)
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.place.store) {
            tracing::warn!(%error, "the shadow of a checked store could not be removed");
        }
    }
}

/// Copies a folder. Tables never change once they are written: they are linked.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let tables = from.file_name().is_some_and(|name| name == "tables");
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target: PathBuf = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else if tables {
            fs::hard_link(entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
