//! The repair of a store that does not open: what can be read is written anew, what cannot is reported and given up.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fjall::PersistMode;
use serde::Serialize;
use setgate_clock::Runtime;
use setgate_set::Timestamp;

use crate::{
    FjallStore, Names, Position, StoreError,
    fjall::{
        batch::Filling,
        believe::{HELD_BACK, write_held_back},
        bucket,
        check::read_mark,
        engine::{Engine, engine_error, key, seq_of},
        guard::guarded,
        identity::{Identity, Instance},
        journal,
        open::{damaged, open_engine},
        place::{Lock, OpenError, StorePlace, sync_folder},
        replay::{COUNTERS, EPOCH, Fold, KEYS, write_counters, write_keys},
        salvage::{KeyspaceRole, Salvage},
        segment::Segment,
        survey::{Findings, Survey},
        watermark::{Mark, Watermark},
    },
    time::HeldBack,
};

/// The step by which positions advance, so that none which was given after the last known one is given again.
const MOVED: u64 = 1 << 20;
/// The bytes that are written at once.
const BATCH: usize = 1024 * 1024;
/// The records and bytes of a segment that is written anew.
const SEGMENT: (u64, u64) = (65_536, 64 * 1024 * 1024);

/// A closed store that was surveyed and stays locked until it is repaired or the value is dropped.
pub struct Repair {
    place: StorePlace,
    identity: Identity,
    /// The identity that is written where the old one is lost.
    anew: Option<Instance>,
    mark: Option<Mark>,
    salvage: Salvage,
    survey: Survey,
    _lock: Lock,
}

impl std::fmt::Debug for Repair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Repair({})", self.place.store.display())
    }
}

/// The result of a repair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// The folder of the repaired store.
    pub store: PathBuf,
    /// The folder of the parts as they were, if the repaired ones took their place.
    pub damaged: Option<PathBuf>,
    /// The first position that the store will give.
    pub next: Position,
    /// The deliveries that wait in the store.
    pub waiting: u64,
    /// The reason why the store counts as a copy, and is held until it is adopted, if it does.
    pub copy: Option<String>,
}

impl FjallStore {
    /// Surveys a closed store, whatever its state. Nothing is changed until [`Repair::carry_out`].
    ///
    /// # Errors
    /// Returns [`OpenError`] where there is no store, it is in use, or the disk cannot be read.
    pub fn repair(place: &StorePlace) -> Result<Repair, OpenError> {
        let identity = place.identity()?;
        let lock = place.lock()?;
        place.finish_swap().map_err(OpenError::io("put in place the repaired parts of", &place.store))?;
        let mark = read_mark(place)?;
        let path = place.engine();
        let salvage = Salvage::look(&path, &place.aside()).map_err(OpenError::io("read", &path))?;
        let mut survey = Survey::of(&salvage, mark.as_ref());
        if let Identity::Lost(why) = &identity {
            survey.findings.identity = Some(why.clone());
        }
        Ok(Repair { place: place.clone(), identity, anew: None, mark, salvage, survey, _lock: lock })
    }
}

impl Repair {
    /// Returns what would be kept and what would be given up.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.survey.findings
    }

    pub(crate) fn salvage(&self) -> &Salvage {
        &self.salvage
    }

    pub(crate) fn survey(&self) -> &Survey {
        &self.survey
    }

    /// Returns whether the store has faults.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.findings().identity.is_some() || self.is_broken()
    }

    /// Gives the store a new identity in place of one that is lost. It has no owner token: see [`Repaired::copy`].
    ///
    /// # Errors
    /// Returns [`OpenError`] where the file system or the owner token cannot be read.
    pub fn identify(&mut self, secret: &[u8; Names::SECRET], runtime: &Runtime) -> Result<(), OpenError> {
        self.anew = Some(self.place.anew(secret, runtime)?);
        Ok(())
    }

    /// Returns the value of a control-plane record, if it can be read.
    #[must_use]
    pub fn record(&self, key: &str) -> Option<Vec<u8>> {
        let full = crate::fjall::engine::control_key(&key.into());
        let row = self.salvage.rows(|role| role == KeyspaceRole::Control).find(|row| *row.key == *full)?;
        let record = crate::fjall::engine::read_record(key.into(), row.value.as_deref()?).ok()?;
        Some(record.value.to_vec())
    }

    /// Returns whether the engine cannot open the store, or something that was promised is missing.
    fn is_broken(&self) -> bool {
        let checked = crate::fjall::seal::check(&self.place.engine());
        !self.findings().is_sound() || self.mark.is_none() || !checked.is_ok_and(|wrong| wrong.is_empty())
    }

    /// Writes the store anew, opens and checks what was written, and only then puts it in place of the damaged parts,
    /// by renames. The damaged parts are kept beside it, in `damaged`. With `into` the repaired store is left there, a
    /// copy like any other, and the damaged one is not touched. Where only the identity is lost, only the identity is
    /// written.
    ///
    /// # Errors
    /// Returns [`OpenError`]; the store is unchanged, or the next attempt puts it in place completely.
    pub fn carry_out(self, into: Option<&Path>, runtime: &Runtime) -> Result<Repaired, OpenError> {
        let (instance, lost) = match (&self.identity, &self.anew) {
            (Identity::Known(instance), _) => (instance.clone(), false),
            (Identity::Lost(_), Some(anew)) => (anew.clone(), true),
            (Identity::Lost(why), None) => {
                return Err(OpenError::Damaged(
                    format!("{why}, and is not written anew without the store's secret").into(),
                ));
            }
        };
        let repaired = |store: PathBuf, damaged, last: u64, copy| Repaired {
            store,
            damaged,
            next: Position::new(last + 1),
            waiting: self.survey.state.waiting,
            copy,
        };
        if lost && into.is_none() && !self.is_broken() {
            self.place.replace_instance(&instance)?;
            let copy = self.place.check(&instance)?;
            return Ok(repaired(self.place.store.clone(), None, self.survey.state.last, copy));
        }
        let work = match into {
            Some(into) => into.to_path_buf(),
            None => self.place.rebuilt(),
        };
        if into.is_none() && work.exists() {
            fs::remove_dir_all(&work).map_err(OpenError::io("remove", &work))?;
        }
        fs::create_dir_all(&work).map_err(OpenError::io("make", &work))?;
        if fs::read_dir(&work).map_err(OpenError::io("read", &work))?.next().is_some() {
            return Err(OpenError::Exists(work));
        }
        let made = StorePlace { store: work.clone(), owner: self.place.owner.clone() };
        let mark = self.write(&made, runtime)?;
        self.prove(&made, &mark)?;
        // The watermark is written last: without it nothing is put in place.
        Watermark::create(&made.watermark(), mark).map_err(OpenError::io("write", &made.watermark()))?;
        if into.is_some() {
            // The identity is written last: a folder without it is not a store.
            made.write_instance(&instance)?;
            sync_folder(&work.join("engine")).map_err(OpenError::io("write", &work))?;
            let copy = made.check(&instance)?;
            return Ok(repaired(work, None, mark.last, copy));
        }
        let kept = self.place.swap().map_err(OpenError::io("put in place the repaired parts of", &self.place.store))?;
        journal::forget_aside(&self.place.aside()).map_err(OpenError::io("remove", &self.place.aside()))?;
        if lost {
            self.place.replace_instance(&instance)?;
        }
        let copy = self.place.check(&instance)?;
        Ok(repaired(self.place.store.clone(), Some(kept), mark.last, copy))
    }

    fn write(&self, made: &StorePlace, runtime: &Runtime) -> Result<Mark, OpenError> {
        let survey = &self.survey;
        let promised = self.mark.map_or(0, |mark| mark.last);
        let frontier = survey.state.last.max(promised) + MOVED;
        let commit = survey.commit + 1;
        let heartbeat =
            self.mark.map_or_else(|| Timestamp::from_millis(runtime.clock.wall_millis()), |mark| mark.heartbeat);
        let engine = Engine::open(&made.engine()).map_err(damaged)?;
        guarded(|| {
            let mut scribe = Scribe { engine: &engine, batch: None, bytes: 0, segments: Vec::new() };
            scribe.ledger(self)?;
            scribe.held(self)?;
            scribe.rest(self)?;
            scribe.cursors(
                self,
                Fold { commit, frontier, chain: survey.chain, accepted: survey.state.last_accepted, bytes: 0 },
                heartbeat,
            )
        })
        .map_err(damaged)?;
        drop(engine);
        Ok(Mark {
            number: 0,
            epoch: survey.epoch,
            boot: 0,
            commit,
            last: frontier,
            chain: survey.chain,
            version: survey.state.version.0 + 1,
            heartbeat,
            beat: self.mark.and_then(|mark| mark.beat),
            clean: true,
        })
    }

    /// Opens what was written, as a start does, and reads it completely.
    fn prove(&self, made: &StorePlace, mark: &Mark) -> Result<(), OpenError> {
        let fails = |why: String| OpenError::Damaged(format!("what was written anew is not whole: {why}").into());
        let (engine, loaded) = open_engine(made, mark)?;
        let (found, wanted) = (&loaded.state, &self.survey.state);
        let counts = |state: &crate::state::State| {
            let mut all: Vec<_> = state
                .cursors
                .iter()
                .filter(|(_, cursor)| cursor.tally.owed > 0 || cursor.parked_now > 0)
                .map(|(stream, cursor)| (*stream, cursor.tally.clone(), cursor.parked_now))
                .collect();
            all.sort_unstable_by_key(|(stream, ..)| *stream);
            all
        };
        if counts(found) != counts(wanted) {
            return Err(fails("the cursors differ".into()));
        }
        drop(engine);
        let read = crate::fjall::check::survey(made, Some(mark))?;
        let (kept, wanted) = (&read.findings.kept, &self.survey.findings.kept);
        if !read.findings.is_sound() {
            return Err(fails(read.findings.unreadable.join("; ")));
        }
        let same = (kept.deliveries, kept.parked, kept.records, kept.ids)
            == (wanted.deliveries, wanted.parked, wanted.records, wanted.ids);
        if same { Ok(()) } else { Err(fails(format!("{kept:?} was found, {wanted:?} expected"))) }
    }
}

/// The writer of the new store.
struct Scribe<'a> {
    engine: &'a Engine,
    batch: Option<Filling<'a>>,
    bytes: usize,
    segments: Vec<Segment>,
}

impl<'a> Scribe<'a> {
    fn insert(&mut self, keyspace: &fjall::Keyspace, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let engine = self.engine;
        let filling = self.batch.get_or_insert_with(|| Filling::new(engine, 1024));
        filling.batch.insert(keyspace, key, value);
        filling.touch(keyspace);
        self.bytes += key.len() + value.len();
        if self.bytes >= BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.bytes = 0;
        let Some(Filling { batch, touched, .. }) = self.batch.take() else { return Ok(()) };
        self.engine.await_room(touched.iter()).map_err(engine_error)?;
        batch.durability(Some(PersistMode::Buffer)).commit().map_err(engine_error)
    }

    /// Writes heads and bodies, in segments without gaps.
    fn ledger(&mut self, from: &Repair) -> Result<(), StoreError> {
        let survey = &from.survey;
        let mut bodies = from.salvage.rows(|role| survey.chosen.bodies(role)).peekable();
        // A head may be recovered whose segment was deleted and whose body is among the held.
        let mut held = from.salvage.held_bodies().peekable();
        for row in from.salvage.rows(|role| survey.chosen.heads(role)) {
            let (Some(seq), Some(value)) = (seq_of(&row.key), &row.value) else { continue };
            let Ok(written) = crate::codec::read_head(seq, value) else { continue };
            while bodies.next_if(|body| body.key < row.key).is_some() {}
            let fits = |segment: &Segment| {
                segment.last == Some(seq - 1) && seq - segment.first < SEGMENT.0 && segment.bytes < SEGMENT.1
            };
            if !self.segments.last().is_some_and(fits) {
                let id = self.segments.len() as u64 + 1;
                self.segments.push(Segment {
                    id,
                    first: seq,
                    last: None,
                    accepted_last: None,
                    bytes: 0,
                    condensed: false,
                    slot: id,
                    keyspaces: Some(self.engine.keyspaces(id)?),
                    written_out: false,
                });
            }
            let Some(segment) = self.segments.last_mut() else { continue };
            segment.last = Some(seq);
            segment.accepted_last = Some(written.head.accepted);
            segment.bytes += u64::from(written.head.body_len);
            let Some(keyspaces) = segment.keyspaces.clone() else { continue };
            self.insert(&keyspaces.heads, &row.key, value)?;
            while held.next_if(|(other, _)| *other < seq).is_some() {}
            let own = bodies.next_if(|body| body.key == row.key).and_then(|body| body.value);
            let outlived = held.next_if(|(other, _)| *other == seq).map(|(_, body)| body);
            let body = [own, outlived].into_iter().flatten().find(|body| crate::codec::read_body(seq, body).is_ok());
            if let Some(body) = body {
                self.insert(&keyspaces.bodies, &row.key, &body)?;
            }
        }
        self.flush()
    }

    /// Writes the held records that are still owed, with a condensed segment around each run of them.
    fn held(&mut self, from: &Repair) -> Result<(), StoreError> {
        let survey = &from.survey;
        let mut owed = roaring::RoaringTreemap::new();
        survey.state.cursors.values().for_each(|cursor| owed |= &cursor.owed);
        for segment in &self.segments {
            owed.remove_range(segment.first..=segment.last.unwrap_or(segment.first));
        }
        let mut runs: Vec<Segment> = Vec::new();
        for row in from.salvage.rows(|role| role == KeyspaceRole::Held) {
            let ([kind, at @ ..], Some(value)) = (&*row.key, &row.value) else { continue };
            let Some(seq) = seq_of(at).filter(|seq| owed.contains(*seq)) else { continue };
            if *kind == 0 {
                let Ok(written) = crate::codec::read_head(seq, value) else { continue };
                let between = |run: &Segment| {
                    let next = self.segments.partition_point(|segment| segment.first < run.first);
                    self.segments.get(next).is_none_or(|segment| segment.first > seq)
                };
                match runs.last_mut() {
                    Some(run) if between(&*run) => {
                        (run.last, run.accepted_last) = (Some(seq), Some(written.head.accepted));
                    }
                    _ => runs.push(Segment {
                        id: (self.segments.len() + runs.len()) as u64 + 1,
                        slot: (self.segments.len() + runs.len()) as u64 + 1,
                        first: seq,
                        last: Some(seq),
                        accepted_last: Some(written.head.accepted),
                        bytes: 0,
                        condensed: true,
                        keyspaces: None,
                        written_out: false,
                    }),
                }
            }
            self.insert(&self.engine.held, &row.key, value)?;
        }
        self.segments.append(&mut runs);
        self.flush()
    }

    /// Writes parked SETs, control-plane records and idempotency keys.
    fn rest(&mut self, from: &Repair) -> Result<(), StoreError> {
        let engine = self.engine;
        for (role, keyspace) in
            [(KeyspaceRole::Parked, &engine.parked), (KeyspaceRole::ParkedBodies, &engine.parked_bodies)]
        {
            for row in from.salvage.rows(|other| other == role) {
                let whole =
                    crate::fjall::engine::parked_of(&row.key).is_some_and(|at| from.survey.parked.contains(&at));
                if let (true, Some(value)) = (whole, &row.value) {
                    self.insert(keyspace, &row.key, value)?;
                }
            }
        }
        for row in from.salvage.rows(|role| role == KeyspaceRole::Control) {
            let name = String::from_utf8_lossy(row.key.get(1..).unwrap_or_default()).into_owned();
            if let Some(value) = &row.value
                && crate::fjall::engine::read_record(name.into(), value).is_ok()
            {
                self.insert(&engine.control, &row.key, value)?;
            }
        }
        for bucket in from.survey.keys.keys() {
            let keyspace = engine.bucket(*bucket, None)?.keyspace;
            for row in from.salvage.rows(|role| role == KeyspaceRole::Once(*bucket)) {
                if let Some(value) = &row.value
                    && crate::fjall::engine::read_kept(value).is_some()
                {
                    self.insert(&keyspace, &row.key, value)?;
                }
            }
        }
        self.flush()
    }

    /// Writes cursors, counters and the table of segments in one batch, and makes everything durable.
    fn cursors(&mut self, from: &Repair, fold: Fold, heartbeat: Timestamp) -> Result<(), StoreError> {
        let (engine, survey) = (self.engine, &from.survey);
        let mut filling = Filling::new(engine, 1024);
        filling.fold_all(&survey.state, &fold);
        for segment in &self.segments {
            filling.segment(segment);
        }
        let version = crate::Version(survey.state.version.0 + 1);
        // The new version makes the router decide again whatever was decided before.
        let counters = write_counters(version, version, survey.numbers());
        filling.batch.insert(&engine.meta, COUNTERS, counters);
        filling.batch.insert(&engine.meta, KEYS, write_keys(&survey.keys));
        filling.batch.insert(&engine.meta, EPOCH, key(survey.epoch));
        for (number, row) in survey.buckets.iter().filter(|(number, _)| survey.keys.contains_key(number)) {
            if let Some((until, _)) = bucket::read_row(*number, row) {
                filling.batch.insert(
                    &engine.meta,
                    bucket::row_key(*number),
                    bucket::write_row(*number, *number, until),
                );
            }
        }
        let held_back = survey.held_back.clone().unwrap_or_else(|| {
            // In doubt every record is as young as the last heartbeat: nothing is destroyed by an unknown age.
            let until = heartbeat.max(fold.accepted);
            let times = (Timestamp::from_millis(0), until);
            vec![HeldBack { first: 1, last: fold.frontier, times, until }]
        });
        if !held_back.is_empty() {
            filling.batch.insert(&engine.meta, HELD_BACK, write_held_back(&held_back));
        }
        let Filling { batch, touched, .. } = filling;
        engine.await_room(touched.iter()).map_err(engine_error)?;
        batch.durability(Some(PersistMode::SyncAll)).commit().map_err(engine_error)
    }
}
