//! The survey of control-plane records and idempotency keys, and of events that must exist and do not.

use roaring::RoaringTreemap;

use crate::{
    Position, Version,
    fjall::{
        engine::{read_kept, read_record},
        salvage::{KeyspaceRole, Salvage},
        survey::{Stretch, Survey},
        watermark::Mark,
    },
};
impl Survey {
    pub(super) fn read_rest(&mut self, salvage: &Salvage, mark: Option<&Mark>) {
        let mut newest = Version::default();
        let expected = std::mem::take(&mut self.keys);
        for row in salvage.rows(|role| role == KeyspaceRole::Control) {
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
            let found = salvage.roles();
            let gone = expected.iter().filter(|(bucket, _)| !found.contains(&KeyspaceRole::Once(**bucket)));
            self.findings.given_up.ids = gone.flat_map(|(_, counts)| counts.values()).sum();
        }
        self.state.version = self.state.version.max(newest);
        let promised = mark.map_or(0, |mark| mark.version);
        self.findings.given_up.changes = promised.saturating_sub(self.state.version.0);
        self.state.version = Version(self.state.version.0.max(promised));
        let found = salvage.roles();
        let rows: Vec<u64> = self.buckets.keys().copied().collect();
        for bucket in rows.into_iter().filter(|_| !salvage.nameless) {
            let role = KeyspaceRole::Once(bucket);
            if !found.contains(&role) || salvage.gone.contains(&role) {
                self.note(format_args!("{role}: the folder is missing"));
            }
            if !found.contains(&role) {
                self.findings.given_up.ids += expected.get(&bucket).map_or(0, |counts| counts.values().sum());
            }
        }
        for role in found {
            let KeyspaceRole::Once(bucket) = role else { continue };
            // Earlier versions wrote no rows of buckets.
            let has_rows = !self.buckets.is_empty() || salvage.is_emptied(role);
            let dropped = salvage.gone.contains(&role) || self.chosen.0.is_some() && has_rows;
            if dropped && !self.buckets.contains_key(&bucket) {
                // Its row went first; its keyspace may wait to be used again, and the counts are those of the last fold.
                continue;
            }
            let (mut found, mut bad) = (0, 0);
            for row in salvage.rows(|other| other == role) {
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

    /// Finds the events that must exist and do not.
    pub(super) fn look_for_gaps(&mut self, mark: Option<&Mark>) {
        let promised = mark.map_or(0, |mark| mark.last);
        let last = self.state.last.max(promised);
        let mut expected = RoaringTreemap::new();
        if self.chosen.0.is_some() {
            for segment in self.segments.values().filter(|segment| !segment.condensed) {
                expected.insert_range(segment.first..=segment.last.unwrap_or(last));
            }
        } else if let (Some(first), Some(found)) = (self.heads.min(), self.heads.max()) {
            // Trimmed records are missing as well; nothing distinguishes them from lost ones.
            expected.insert_range(first..=found);
        }
        if promised > self.state.last {
            expected.insert_range(self.state.last + 1..=promised);
        }
        let missing = expected - &self.heads;
        // Records that every stream has settled are not missed; those that are owed and lost were counted with their
        // streams.
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
}
