//! What a store holds and what of it cannot be read, found without the engine: the one account that check, repair and export share.
//!
//! Where something is in doubt, a delivery counts as owed: it may be made twice under the same `jti`, and is never forgotten.

use std::collections::{BTreeMap, BTreeSet};

use roaring::RoaringTreemap;
use serde::Serialize;

use crate::{
    Kind, Position, Rule, StreamNo, Tally, Version,
    codec::{WrittenHead, read_body, read_chunk, read_cursor, read_delta, read_head},
    fjall::{
        engine::{parked_of, read_kept, read_record, read_row, seq_of},
        open::adopted,
        replay::{COUNTERS, EPOCH, Fold, KEYS, numbers_of, read_counters, read_keys},
        salvage::{Salvage, Shelf},
        segment::Segment,
        shared::Keys,
        watermark::Mark,
    },
    state::{Cursor, End, Ended, Numbers, Ops, State},
};

/// A run of positions of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// Its first position.
    pub from: Position,
    /// Its last position.
    pub to: Position,
}

/// What is there and reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Events of which the head reads.
    pub events: u64,
    /// Events of which the body reads.
    pub bodies: u64,
    /// Deliveries owed.
    pub deliveries: u64,
    /// Streams that have a cursor.
    pub streams: u64,
    /// Parked SETs.
    pub parked: u64,
    /// Control-plane records.
    pub records: u64,
    /// Idempotency keys.
    pub ids: u64,
}

/// What is not there, or does not read, and would be given up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GivenUp {
    /// Accepted events of which the head is lost and nobody knows all the streams that were owed them.
    pub events: Vec<Stretch>,
    /// How many events these are.
    pub event_count: u64,
    /// Commits of which the settlements are lost.
    pub commits: u64,
    /// Deliveries, by stream, that are known to be owed and cannot be made: they count as dropped by the rule `lost`.
    pub deliveries: BTreeMap<StreamNo, u64>,
    /// Parked SETs, by stream.
    pub parked: BTreeMap<StreamNo, u64>,
    /// Control-plane records, by key.
    pub records: Vec<String>,
    /// Changes of the control-plane records that were promised and are not found.
    pub changes: u64,
    /// Idempotency keys that are known to be lost.
    pub ids: u64,
}

impl GivenUp {
    /// Whether nothing would be given up.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What a store holds and what of it cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// The last record found.
    pub last: Position,
    /// The last record that was promised, if the watermark says so.
    pub promised: Option<Position>,
    /// What is there.
    pub kept: Kept,
    /// What is given up.
    pub given_up: GivenUp,
    /// Deliveries, by stream, that may have been settled and are owed again, since what settled them is lost.
    pub again: BTreeMap<StreamNo, u64>,
    /// What cannot be read, or does not fit, in words.
    pub unreadable: Vec<String>,
}

impl Findings {
    /// Whether everything reads and everything that was promised is there.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.unreadable.is_empty() && self.given_up.is_nothing() && self.again.is_empty()
    }
}

/// The account of a store.
pub(crate) struct Survey {
    pub(crate) findings: Findings,
    /// Cursors and counters as they can be made out.
    pub(crate) state: State,
    pub(crate) commit: u64,
    pub(crate) chain: u32,
    pub(crate) epoch: u64,
    pub(crate) keys: Keys,
    /// Positions of which the head reads.
    pub(crate) heads: RoaringTreemap,
    /// Positions of which the body reads.
    pub(crate) bodies: RoaringTreemap,
    /// Parked SETs that read as a whole.
    pub(crate) parked: BTreeSet<(StreamNo, u64)>,
    pub(crate) first: u64,
    segments: BTreeMap<u64, Segment>,
    fold: Fold,
    /// Whether what was folded is known: nothing yet is known, too.
    fold_known: bool,
    /// The segments whose keyspaces count; nothing where the table of segments does not read: then every one that is found counts.
    pub(crate) chosen: Chosen,
    doubtful: BTreeSet<StreamNo>,
    all_doubtful: bool,
    /// What the cursors say is owed.
    written: BTreeMap<StreamNo, RoaringTreemap>,
}

impl Survey {
    /// Reads everything.
    pub(crate) fn of(salvage: &Salvage, mark: Option<&Mark>) -> Self {
        let mut survey = Self {
            findings: Findings::default(),
            state: State::default(),
            commit: 0,
            chain: 0,
            epoch: 0,
            keys: Keys::new(),
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

    /// Whether the cursor of a stream cannot be trusted.
    fn is_doubtful(&self, stream: StreamNo) -> bool {
        self.all_doubtful || self.doubtful.contains(&stream)
    }

    /// Counters, fold and the table of segments. Answers the sequence number of the fold.
    fn read_meta(&mut self, salvage: &Salvage) -> u64 {
        let (mut folded, mut counters, mut keys) = (None, None, None);
        let mut reads = true;
        for row in salvage.rows(|shelf| shelf == Shelf::Meta) {
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
            } else if row.key == EPOCH.as_bytes() {
                self.epoch = seq_of(&value).unwrap_or_default();
            }
        }
        for (what, unread) in [
            ("the fold", matches!(folded, Some((_, None)))),
            ("the counters", counters == Some(None)),
            ("the counts of ids", keys == Some(None)),
        ] {
            if unread {
                self.does_not_read(what);
            }
        }
        let troubled = salvage.is_troubled(|shelf| shelf == Shelf::Meta) || !salvage.shelves().contains(&Shelf::Meta);
        let chosen = self.segments.values().filter(|segment| !segment.condensed).map(|segment| segment.id);
        // With a part of the journals, rows of that table may be lost; without names nobody knows which keyspace belongs to which row.
        let whole = reads && !troubled && salvage.lost_after.is_none() && !salvage.nameless;
        self.chosen = Chosen(whole.then(|| chosen.collect()));
        self.fold_known = !troubled && !matches!(folded, Some((_, None)));
        self.all_doubtful = !self.fold_known;
        self.fold = folded.and_then(|(_, fold)| fold).unwrap_or_default();
        (self.state.version, self.state.membership, self.state.numbers) = counters.flatten().unwrap_or_default();
        self.keys = keys.flatten().unwrap_or_default();
        self.state.last_accepted = self.fold.accepted;
        folded.map_or(0, |(seqno, _)| seqno)
    }

    fn read_cursors(&mut self, salvage: &Salvage, folded: u64) {
        let mut newest = 0;
        for row in salvage.rows(|shelf| shelf == Shelf::Cursor) {
            let (Some(value), Some((stream, chunk))) = (row.value, numbers_of(&row.key)) else { continue };
            newest = newest.max(row.seqno);
            let read = if row.key.first() == Some(&b'c') {
                read_cursor(&value).map(|(tally, dropped_through, control)| {
                    let cursor = self.state.cursors.entry(stream).or_default();
                    (cursor.tally, cursor.dropped_through) = (tally, dropped_through);
                    cursor.control.extend(control);
                })
            } else {
                read_chunk(&value).map(|(owed, attempts)| {
                    let base = u64::from(chunk) << 16;
                    let cursor = self.state.cursors.entry(stream).or_default();
                    cursor.owed.extend(owed.iter().map(|low| base + u64::from(low)));
                    cursor.attempts.extend(attempts);
                })
            };
            if read.is_none() {
                self.does_not_read(format_args!("the cursor of stream {stream}"));
                self.doubtful.insert(stream);
            }
        }
        let troubled =
            salvage.is_troubled(|shelf| shelf == Shelf::Cursor) || !salvage.shelves().contains(&Shelf::Cursor);
        // Cursors are written down with the fold. Where a later commit is lost than they are, a fold may be among it.
        let apart = newest > folded && (salvage.lost_after.is_some() || troubled);
        self.all_doubtful |= troubled || apart || salvage.lost_after.is_some_and(|lost| folded > lost);
        for (stream, cursor) in &self.state.cursors {
            let tally = &cursor.tally;
            let fits = tally.waiting == cursor.owed.len() && tally.owed == ended(tally) + tally.waiting;
            if !fits && !self.all_doubtful && self.doubtful.insert(*stream) {
                self.findings.unreadable.push(format!("the counts of stream {stream} do not add up"));
            }
            self.written.insert(*stream, cursor.owed.clone());
        }
    }

    fn read_heads(&mut self, salvage: &Salvage, mark: Option<&Mark>) {
        let mut before: Option<(u64, u32)> = None;
        for row in salvage.rows(|shelf| self.chosen.heads(shelf)) {
            let (Some(seq), Some(value)) = (seq_of(&row.key), row.value) else { continue };
            let Ok(written) = read_head(seq, &value) else {
                self.does_not_read(format_args!("the head of record {seq}"));
                before = None;
                continue;
            };
            if before.is_some_and(|(last, chain)| last + 1 == seq && !written.follows(chain)) {
                self.note(format_args!("record {seq} does not follow the one before it"));
            }
            if mark.is_some_and(|mark| mark.last == seq && mark.chain != written.chain) {
                self.note(format_args!("record {seq} is not the one that was promised"));
            }
            before = Some((seq, written.chain));
            self.chain = written.chain;
            self.take_head(seq, &written);
        }
        for row in salvage.rows(|shelf| shelf == Shelf::Held) {
            let ([0, at @ ..], Some(value)) = (&*row.key, row.value) else { continue };
            let Some(seq) = seq_of(at).filter(|seq| !self.heads.contains(*seq)) else { continue };
            match read_head(seq, &value) {
                Ok(written) => self.take_head(seq, &written),
                Err(_) => self.does_not_read(format_args!("the head of record {seq}")),
            }
        }
        let found = self.heads.max().unwrap_or_default();
        self.state.last = self.state.last.max(found).max(self.fold.frontier);
    }

    fn take_head(&mut self, seq: u64, written: &WrittenHead) {
        self.heads.insert(seq);
        let head = &written.head;
        self.state.last_accepted = self.state.last_accepted.max(head.accepted);
        let numbers = &mut self.state.numbers;
        (numbers.issuer, numbers.producer) = (numbers.issuer.max(head.issuer.0), numbers.producer.max(head.producer.0));
        numbers.stream = numbers.stream.max(written.targets.max().unwrap_or_default());
        for stream in written.targets.iter() {
            let stream = StreamNo(stream);
            if seq <= self.fold.frontier && !self.is_doubtful(stream) {
                continue;
            }
            let cursor = self.state.cursors.entry(stream).or_default();
            if seq > cursor.dropped_through && cursor.owed.insert(seq) && head.kind == Kind::Control {
                cursor.control.insert(seq);
            }
        }
    }

    fn read_deltas(&mut self, salvage: &Salvage, mark: Option<&Mark>) {
        for cursor in self.state.cursors.values_mut() {
            add_up(cursor);
        }
        self.state.waiting = self.state.cursors.values().map(|cursor| cursor.tally.waiting).sum();
        let next = self.fold.commit + 1;
        let mut found = 0u64;
        self.commit = self.fold.commit;
        for row in salvage.rows(|shelf| shelf == Shelf::Delta) {
            let (Some(commit), Some(value)) = (seq_of(&row.key), row.value) else { continue };
            match read_delta(commit, &value) {
                Ok(ops) => {
                    self.state.deltas(&ops);
                    found += u64::from(commit >= next);
                }
                Err(error) => self.note(error),
            }
            self.commit = self.commit.max(commit);
        }
        // A settlement that is lost leaves its deliveries owed.
        let promised = self.commit.max(mark.map_or(0, |mark| mark.commit));
        if self.fold_known {
            self.findings.given_up.commits = (promised + 1).saturating_sub(next).saturating_sub(found);
        }
        self.commit = promised;
    }

    fn read_parked(&mut self, salvage: &Salvage) {
        let mut rows = BTreeMap::new();
        for row in salvage.rows(|shelf| shelf == Shelf::Parked) {
            let (Some(at), Some(value)) = (parked_of(&row.key), row.value) else { continue };
            match read_row(&value) {
                Ok(row) => drop(rows.insert(at, row.bytes)),
                Err(_) => {
                    self.does_not_read(format_args!("a parked SET of stream {} (record {})", at.0, at.1));
                    *self.findings.given_up.parked.entry(at.0).or_default() += 1;
                }
            }
        }
        for row in salvage.rows(|shelf| shelf == Shelf::ParkedBodies) {
            let (Some(at), Some(value)) = (parked_of(&row.key), row.value) else { continue };
            if rows.contains_key(&at) && read_body(at.1, &value).is_ok() {
                self.parked.insert(at);
            }
        }
        for ((stream, seq), bytes) in rows {
            if !self.parked.contains(&(stream, seq)) {
                self.note(format_args!("the body of a parked SET of stream {stream} (record {seq}) cannot be read"));
                *self.findings.given_up.parked.entry(stream).or_default() += 1;
                continue;
            }
            self.state.parked(stream, 1, i64::try_from(bytes).unwrap_or_default());
            // Parked is settled, whether or not what says so is there.
            let ended = vec![Ended { stream, seq, how: End::Parked }];
            self.state.deltas(&Ops { ended, ..Ops::default() });
        }
    }

    fn read_bodies(&mut self, salvage: &Salvage) {
        let ledger = salvage.rows(|shelf| self.chosen.bodies(shelf));
        let held = salvage.rows(|shelf| shelf == Shelf::Held);
        let held = held.filter_map(|row| match &*row.key {
            [1, at @ ..] => Some((seq_of(at)?, row.value?)),
            _ => None,
        });
        let mut rotten = Vec::new();
        for (seq, value) in ledger.filter_map(|row| Some((seq_of(&row.key)?, row.value?))).chain(held) {
            match read_body(seq, &value) {
                Ok(_) => drop(self.bodies.insert(seq)),
                Err(error) => rotten.push(error),
            }
        }
        for error in rotten {
            self.note(error);
        }
    }

    /// What is owed and cannot be delivered is dropped by a rule, and counted.
    fn give_up_lost(&mut self) {
        let whole = &self.heads & &self.bodies;
        let mut ended = Vec::new();
        for (stream, cursor) in &self.state.cursors {
            for seq in &(&cursor.owed - &whole) {
                ended.push(Ended { stream: *stream, seq, how: End::Dropped(Rule::Lost) });
                *self.findings.given_up.deliveries.entry(*stream).or_default() += 1;
            }
        }
        self.state.deltas(&Ops { ended, ..Ops::default() });
        for (stream, cursor) in &self.state.cursors {
            if self.is_doubtful(*stream) {
                let written = self.written.get(stream).cloned().unwrap_or_default();
                let known = if self.fold_known { self.fold.frontier } else { u64::MAX };
                let after = cursor.owed.len() - cursor.owed.range_cardinality(..=known);
                let again = (&cursor.owed - &written).len().saturating_sub(after);
                if again > 0 {
                    self.findings.again.insert(*stream, again);
                }
            }
        }
    }

    fn read_rest(&mut self, salvage: &Salvage, mark: Option<&Mark>) {
        let mut newest = Version::default();
        let expected = std::mem::take(&mut self.keys);
        for row in salvage.rows(|shelf| shelf == Shelf::Control) {
            let Some(value) = row.value else { continue };
            let key = String::from_utf8_lossy(row.key.get(1..).unwrap_or_default()).into_owned();
            match read_record(key.clone().into(), &value) {
                Ok(record) => {
                    newest = newest.max(record.version);
                    self.findings.kept.records += 1;
                }
                Err(error) => {
                    self.note(error);
                    self.findings.given_up.records.push(key);
                }
            }
        }
        if salvage.nameless {
            let found = salvage.shelves();
            let gone = expected.iter().filter(|(bucket, _)| !found.contains(&Shelf::Once(**bucket)));
            self.findings.given_up.ids = gone.flat_map(|(_, counts)| counts.values()).sum();
        }
        self.state.version = self.state.version.max(newest);
        let promised = mark.map_or(0, |mark| mark.version);
        self.findings.given_up.changes = promised.saturating_sub(self.state.version.0);
        self.state.version = Version(self.state.version.0.max(promised));
        for shelf in salvage.shelves() {
            let Shelf::Once(bucket) = shelf else { continue };
            let (mut found, mut bad) = (0, 0);
            for row in salvage.rows(|other| other == shelf) {
                let Some(value) = row.value else { continue };
                let producer = row.key.split_at_checked(4).and_then(|(producer, _)| producer.try_into().ok());
                match (read_kept(&value), producer.map(u32::from_be_bytes)) {
                    (Some(_), Some(producer)) => {
                        *self.keys.entry(bucket).or_default().entry(crate::ProducerNo(producer)).or_default() += 1;
                        found += 1;
                    }
                    _ => bad += 1,
                }
            }
            let counted: u64 = expected.get(&bucket).map_or(0, |counts| counts.values().sum());
            self.findings.kept.ids += found;
            self.findings.given_up.ids += bad.max(counted.saturating_sub(found));
            if bad > 0 {
                self.note(format_args!(
                    "{bad} idempotency keys of bucket {bucket} do not read back as they were written"
                ));
            }
        }
    }

    /// Events that must be there and are not.
    fn look_for_gaps(&mut self, mark: Option<&Mark>) {
        let promised = mark.map_or(0, |mark| mark.last);
        let last = self.state.last.max(promised);
        let mut expected = RoaringTreemap::new();
        if self.chosen.0.is_some() {
            for segment in self.segments.values().filter(|segment| !segment.condensed) {
                expected.insert_range(segment.first..=segment.last.unwrap_or(last));
            }
        } else if let (Some(first), Some(found)) = (self.heads.min(), self.heads.max()) {
            // What was trimmed is not there either; nothing tells it from what is lost.
            expected.insert_range(first..=found);
        }
        if promised > self.state.last {
            expected.insert_range(self.state.last + 1..=promised);
        }
        let missing = expected - &self.heads;
        // What is settled by every stream is not missed; what is owed and lost was counted with its stream.
        let sure = if self.all_doubtful { 0 } else { self.fold.frontier };
        let mut stretches: Vec<Stretch> = Vec::new();
        for seq in missing.iter().filter(|seq| *seq > sure) {
            self.findings.given_up.event_count += 1;
            match stretches.last_mut() {
                Some(stretch) if stretch.to.seq + 1 == seq => stretch.to = Position::new(seq),
                _ => stretches.push(Stretch { from: Position::new(seq), to: Position::new(seq) }),
            }
        }
        for stretch in &stretches {
            let text = match stretch.to.seq - stretch.from.seq + 1 {
                1 => format!("record {} is missing", stretch.from.seq),
                count => format!("records {} to {} are missing, {count} in all", stretch.from.seq, stretch.to.seq),
            };
            self.note(text);
        }
        self.findings.given_up.events = stretches;
        let closed = self.segments.values().filter(|segment| segment.condensed);
        let early = closed.filter(|segment| segment.last.is_some_and(|last| last > self.fold.frontier));
        let early: Vec<u64> = early.map(|segment| segment.id).collect();
        if self.chosen.0.is_some() {
            for id in early {
                self.note(format_args!(
                    "segment {id} was given up before its end was written down: what was settled in it is not counted"
                ));
            }
        }
        self.first = self.segments.values().next().map_or(0, |segment| segment.first);
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
        for shelf in &salvage.gone {
            // What the journals have of it is kept; the engine opens no segment without its folder.
            if (self.chosen.heads(*shelf) || self.chosen.bodies(*shelf)) && !salvage.nameless {
                self.findings.unreadable.push(format!("{shelf}: the folder is missing"));
            }
        }
        let mut told = salvage.told();
        told.append(&mut self.findings.unreadable);
        self.findings.unreadable = told;
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

    /// Numbers that were surely not given, whatever is lost.
    pub(crate) fn numbers(&self) -> Numbers {
        let mut seen = self.state.numbers;
        for stream in self.state.cursors.keys() {
            seen.stream = seen.stream.max(stream.0);
        }
        let some = |number: u32| number.max(1);
        adopted(Numbers { stream: some(seen.stream), issuer: some(seen.issuer), producer: some(seen.producer) })
    }
}

/// Which segments count.
#[derive(Default)]
pub(crate) struct Chosen(Option<BTreeSet<u64>>);

impl Chosen {
    /// Whether a keyspace holds heads that count.
    pub(crate) fn heads(&self, shelf: Shelf) -> bool {
        matches!(shelf, Shelf::Heads(id) if self.has(id))
    }

    /// Whether a keyspace holds bodies that count.
    pub(crate) fn bodies(&self, shelf: Shelf) -> bool {
        matches!(shelf, Shelf::Bodies(id) if self.has(id))
    }

    fn has(&self, id: u64) -> bool {
        self.0.as_ref().is_none_or(|chosen| chosen.contains(&id))
    }
}

/// Makes the counts of a cursor fit what is owed: `owed = acknowledged + parked + dropped + waiting`.
fn add_up(cursor: &mut Cursor) {
    let tally = &mut cursor.tally;
    tally.waiting = cursor.owed.len();
    tally.owed = ended(tally) + tally.waiting;
    cursor.control.retain(|seq| cursor.owed.contains(*seq));
}

fn ended(tally: &Tally) -> u64 {
    tally.acknowledged_receiver + tally.acknowledged_carrier + tally.parked + tally.dropped.values().sum::<u64>()
}
