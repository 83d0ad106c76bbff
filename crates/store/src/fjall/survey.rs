//! The survey of what a store holds and what of it cannot be read, made without the engine and shared by check, repair
//! and export.
//!
//! Where something is in doubt, a delivery counts as owed: it may be made twice under the same `jti`, and is never
//! lost.

mod deliveries;
mod findings;
mod parked;
mod rest;

use std::collections::{BTreeMap, BTreeSet};

use roaring::RoaringTreemap;

pub use findings::{Findings, GivenUp, LostParked, ReadableCounts, Stretch};

use crate::{
    Position, StreamNo,
    fjall::{
        believe::{HELD_BACK, read_held_back},
        bucket::number_of,
        engine::seq_of,
        open::adopted,
        replay::{COUNTERS, EPOCH, Fold, KEYS, read_counters, read_keys},
        salvage::{KeyspaceRole, Salvage},
        segment::Segment,
        shared::Keys,
        watermark::Mark,
    },
    state::{Numbers, State},
    time::HeldBack,
};

/// The survey of a store.
pub(crate) struct Survey {
    pub(crate) findings: Findings,
    /// The cursors and counters, as far as they can be determined.
    pub(crate) state: State,
    pub(crate) commit: u64,
    pub(crate) chain: u32,
    pub(crate) epoch: u64,
    pub(crate) keys: Keys,
    /// The rows of buckets of idempotency keys, by bucket.
    pub(crate) buckets: BTreeMap<u64, Vec<u8>>,
    /// The runs of records whose times were held back; `None` where they may be lost.
    pub(crate) held_back: Option<Vec<HeldBack>>,
    /// The positions whose head can be read.
    pub(crate) heads: RoaringTreemap,
    /// The positions whose body can be read.
    pub(crate) bodies: RoaringTreemap,
    /// The parked SETs that can be read completely.
    pub(crate) parked: BTreeSet<(StreamNo, u64)>,
    pub(crate) first: u64,
    segments: BTreeMap<u64, Segment>,
    fold: Fold,
    /// True when the content of the fold is known, which includes that there is none yet.
    fold_known: bool,
    /// The segments whose keyspaces count. Where the table of segments cannot be read, every segment that is found
    /// counts.
    pub(crate) chosen: Chosen,
    doubtful: BTreeSet<StreamNo>,
    all_doubtful: bool,
    /// The positions that the cursors record as owed.
    written: BTreeMap<StreamNo, RoaringTreemap>,
}

impl Survey {
    /// Reads the whole store.
    pub(crate) fn of(salvage: &Salvage, mark: Option<&Mark>) -> Self {
        let mut survey = Self {
            findings: Findings::default(),
            state: State::default(),
            commit: 0,
            chain: 0,
            epoch: 0,
            keys: Keys::new(),
            buckets: BTreeMap::new(),
            held_back: Some(Vec::new()),
            heads: RoaringTreemap::new(),
            bodies: RoaringTreemap::new(),
            parked: BTreeSet::new(),
            first: 0,
            segments: BTreeMap::new(),
            fold: Fold::default(),
            fold_known: true,
            chosen: Chosen::default(),
            doubtful: BTreeSet::new(),
            all_doubtful: false,
            written: BTreeMap::new(),
        };
        if mark.is_none() {
            survey.note("neither slot of the watermark reads: what was promised is not known");
        }
        let folded = survey.read_meta(salvage);
        survey.read_cursors(salvage, folded);
        survey.read_heads(salvage, mark);
        survey.read_deltas(salvage, mark);
        survey.read_parked(salvage);
        survey.read_bodies(salvage);
        survey.give_up_lost();
        survey.read_rest(salvage, mark);
        survey.look_for_gaps(mark);
        survey.finish(salvage, mark);
        survey
    }

    fn note(&mut self, text: impl std::fmt::Display) {
        self.findings.unreadable.push(text.to_string());
    }

    fn does_not_read(&mut self, what: impl std::fmt::Display) {
        self.note(format_args!("{what} does not read back as it was written"));
    }

    /// Returns whether the cursor of a stream cannot be trusted.
    fn is_doubtful(&self, stream: StreamNo) -> bool {
        self.all_doubtful || self.doubtful.contains(&stream)
    }

    /// Reads counters, fold and the table of segments. Returns the sequence number of the fold.
    fn read_meta(&mut self, salvage: &Salvage) -> u64 {
        let (mut folded, mut counters, mut keys) = (None, None, None);
        let mut reads = true;
        for row in salvage.rows(|role| role == KeyspaceRole::Meta) {
            let Some(value) = row.value else { continue };
            if row.key.starts_with(b"segment/") {
                match Segment::read(&value) {
                    Some(segment) => drop(self.segments.insert(segment.first, segment)),
                    None => {
                        reads = false;
                        self.does_not_read("a row of the table of segments");
                    }
                }
            } else if row.key == Fold::KEY.as_bytes() {
                folded = Some((row.seqno, Fold::read(&value)));
            } else if row.key == COUNTERS.as_bytes() {
                counters = Some(read_counters(&value));
            } else if row.key == KEYS.as_bytes() {
                keys = Some(read_keys(&value));
            } else if let Some(bucket) = number_of(&row.key) {
                self.buckets.insert(bucket, value.to_vec());
            } else if row.key == HELD_BACK.as_bytes() {
                self.held_back = read_held_back(&value).ok();
            } else if row.key == EPOCH.as_bytes() {
                self.epoch = seq_of(&value).unwrap_or_default();
            }
        }
        for (what, unread) in [
            ("the fold", matches!(folded, Some((_, None)))),
            ("the counters", counters == Some(None)),
            ("the counts of ids", keys == Some(None)),
            ("what is noted of times that were held back", self.held_back.is_none()),
        ] {
            if unread {
                self.does_not_read(what);
            }
        }
        let troubled =
            salvage.is_troubled(|role| role == KeyspaceRole::Meta) || !salvage.roles().contains(&KeyspaceRole::Meta);
        let chosen = self.segments.values().filter(|segment| !segment.condensed).map(|segment| segment.id);
        // With a part of the journals, rows of that table may be lost; without names it is unknown which keyspace
        // belongs to which row.
        let whole = reads && !troubled && salvage.lost_after.is_none() && !salvage.nameless;
        self.chosen = Chosen(whole.then(|| chosen.collect()));
        self.fold_known = !troubled && !matches!(folded, Some((_, None)));
        self.all_doubtful = !self.fold_known;
        self.held_back = self.held_back.take().filter(|_| !troubled);
        self.fold = folded.and_then(|(_, fold)| fold).unwrap_or_default();
        (self.state.version, self.state.membership, self.state.numbers) = counters.flatten().unwrap_or_default();
        self.keys = keys.flatten().unwrap_or_default();
        self.state.last_accepted = self.fold.accepted;
        folded.map_or(0, |(seqno, _)| seqno)
    }

    fn finish(&mut self, salvage: &Salvage, mark: Option<&Mark>) {
        let lost: Vec<String> = self
            .findings
            .given_up
            .deliveries
            .iter()
            .map(|(stream, count)| format!("{count} deliveries owed to stream {stream} cannot be read"))
            .collect();
        for text in lost {
            self.note(text);
        }
        for role in &salvage.gone {
            // The part in the journals is kept; the engine opens no segment without its folder.
            if (self.chosen.heads(*role) || self.chosen.bodies(*role)) && !salvage.nameless {
                self.findings.unreadable.push(format!("{role}: the folder is missing"));
            }
        }
        let mut problems = salvage.problems();
        problems.append(&mut self.findings.unreadable);
        self.findings.unreadable = problems;
        let findings = &mut self.findings;
        findings.last = Position::new(self.state.last);
        findings.promised = mark.map(|mark| Position::new(mark.last));
        findings.kept.events = self.heads.len();
        findings.kept.bodies = self.bodies.len();
        findings.kept.deliveries = self.state.waiting;
        findings.kept.streams = self.state.cursors.len() as u64;
        findings.kept.parked = self.parked.len() as u64;
        self.epoch = self.epoch.max(mark.map_or(0, |mark| mark.epoch));
    }

    /// Returns numbers from which on none was given, whatever is lost.
    pub(crate) fn numbers(&self) -> Numbers {
        let mut seen = self.state.numbers;
        for stream in self.state.cursors.keys() {
            seen.stream = seen.stream.max(stream.0);
        }
        let some = |number: u32| number.max(1);
        adopted(Numbers { stream: some(seen.stream), issuer: some(seen.issuer), producer: some(seen.producer) })
    }
}

/// The segments that count.
#[derive(Default)]
pub(crate) struct Chosen(Option<BTreeSet<u64>>);

impl Chosen {
    /// Returns whether a keyspace holds heads that count.
    pub(crate) fn heads(&self, role: KeyspaceRole) -> bool {
        matches!(role, KeyspaceRole::Heads(id) if self.has(id))
    }

    /// Returns whether a keyspace holds bodies that count.
    pub(crate) fn bodies(&self, role: KeyspaceRole) -> bool {
        matches!(role, KeyspaceRole::Bodies(id) if self.has(id))
    }

    fn has(&self, id: u64) -> bool {
        self.0.as_ref().is_none_or(|chosen| chosen.contains(&id))
    }
}
