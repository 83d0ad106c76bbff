//! The check of a closed store, which reads it completely, without changing it and without disk space of its own.

use serde::Serialize;

use crate::{
    Bounds, FjallStore, Position,
    fjall::{
        identity::Identity,
        place::{OpenError, StorePlace},
        salvage::Salvage,
        seal,
        survey::Survey,
        watermark::{Mark, Watermark},
    },
};

/// The most problems that are listed.
const LISTED: usize = 100;

/// The findings of a check of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// The store's id.
    pub id: String,
    /// True when the store was closed in order.
    pub clean: bool,
    /// The extent of the ledger.
    pub bounds: Bounds,
    /// The last record that was promised.
    pub promised: u64,
    /// The heads that were read.
    pub heads: u64,
    /// The bodies that were read.
    pub bodies: u64,
    /// The streams that have a cursor.
    pub streams: u64,
    /// The deliveries owed.
    pub waiting: u64,
    /// The parked SETs that were read.
    pub parked: u64,
    /// The reason why the store counts as a copy, if it does.
    pub copy: Option<String>,
    /// The faults, in whole sentences; empty when there are none.
    pub problems: Vec<String>,
}

impl CheckReport {
    /// Returns whether there are no faults.
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
    /// Reads a closed store completely: heads without gaps, checksums, the bodies of what is owed, counts, and the
    /// watermark.
    ///
    /// Nothing is written, and the engine is not opened: a check needs no space on the disk. Only a repair that was
    /// interrupted while it put its parts in place is finished first, as a start does.
    ///
    /// # Errors
    /// Returns [`OpenError`] where there is no store to check, or it is in use. Faults inside the store are in the
    /// report.
    pub fn check(place: &StorePlace) -> Result<CheckReport, OpenError> {
        let identity = place.identity()?;
        let _lock = place.lock()?;
        place.finish_swap().map_err(OpenError::io("put in place the repaired parts of", &place.store))?;
        let mark = read_mark(place)?;
        let survey = survey(place, mark.as_ref())?;
        let findings = &survey.findings;
        let (id, copy) = match &identity {
            Identity::Known(instance) => (instance.id.clone(), place.check(instance)?),
            Identity::Lost(_) => ("unknown".into(), None),
        };
        let mut report = CheckReport {
            id,
            clean: mark.is_some_and(|mark| mark.clean),
            bounds: Bounds { first: Position::new(survey.first), last: findings.last },
            promised: mark.map_or(0, |mark| mark.last),
            heads: findings.kept.events,
            bodies: findings.kept.bodies,
            streams: findings.kept.streams,
            waiting: findings.kept.deliveries,
            parked: findings.kept.parked,
            copy,
            problems: Vec::new(),
        };
        if let Identity::Lost(why) = &identity {
            report.problem(why);
        }
        let path = place.engine();
        if path.exists() {
            seal::check(&path).map_err(OpenError::io("read", &path))?.iter().for_each(|why| report.problem(why));
        } else {
            report.problem(format_args!("its folder {} is missing", path.display()));
        }
        if let Some(mark) = mark {
            let (found, promised) = (findings.last.seq, mark.last);
            if found < promised {
                report.problem(format_args!(
                    "it is short of {} accepted events: it holds up to record {found}, and {promised} were promised",
                    promised - found
                ));
            }
        }
        let given_up = &findings.given_up;
        if given_up.commits > 0 {
            report.problem(format_args!("{} commits are missing", given_up.commits));
        }
        if given_up.changes > 0 {
            report.problem(format_args!("{} changes of the control-plane records are missing", given_up.changes));
        }
        if given_up.ids > 0 {
            report.problem(format_args!("{} idempotency keys are missing", given_up.ids));
        }
        findings.unreadable.iter().for_each(|text| report.problem(text));
        if !findings.is_sound() && report.problems.is_empty() {
            report.problem("it does not hold what it promised");
        }
        Ok(report)
    }
}

/// Returns the newest readable mark, if there is one.
pub(crate) fn read_mark(place: &StorePlace) -> Result<Option<Mark>, OpenError> {
    let path = place.watermark();
    match Watermark::read(&path) {
        Ok(mark) => Ok(mark),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OpenError::io("read", &path)(error)),
    }
}

/// Returns the survey of a store whose lock is held.
pub(crate) fn survey(place: &StorePlace, mark: Option<&Mark>) -> Result<Survey, OpenError> {
    let path = place.engine();
    let salvage = Salvage::look(&path, &place.aside()).map_err(OpenError::io("read", &path))?;
    Ok(Survey::of(&salvage, mark))
}
