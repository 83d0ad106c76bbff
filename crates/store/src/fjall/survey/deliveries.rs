//! The survey of deliveries: what is owed, from cursors, heads, settlements and parked SETs, and what of it cannot be
//! delivered.

use crate::{
    Kind, Rule, StreamNo, Tally,
    codec::{WrittenHead, read_body, read_chunk, read_cursor, read_delta, read_head},
    fjall::{
        engine::seq_of,
        replay::numbers_of,
        salvage::{KeyspaceRole, Salvage},
        survey::Survey,
        watermark::Mark,
    },
    state::{Cursor, End, Ended, Ops},
};
impl Survey {
    pub(super) fn read_cursors(&mut self, salvage: &Salvage, folded: u64) {
        let mut newest = 0;
        for row in salvage.rows(|role| role == KeyspaceRole::Cursor) {
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
        let troubled = salvage.is_troubled(|role| role == KeyspaceRole::Cursor)
            || !salvage.roles().contains(&KeyspaceRole::Cursor);
        // Cursors are written with the fold. Where a commit later than the cursors is lost, it may have been a fold.
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

    pub(super) fn read_heads(&mut self, salvage: &Salvage, mark: Option<&Mark>) {
        let mut before: Option<(u64, u32)> = None;
        for row in salvage.rows(|role| self.chosen.heads(role)) {
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
        for row in salvage.rows(|role| role == KeyspaceRole::Held) {
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

    pub(super) fn read_deltas(&mut self, salvage: &Salvage, mark: Option<&Mark>) {
        for cursor in self.state.cursors.values_mut() {
            add_up(cursor);
        }
        self.state.waiting = self.state.cursors.values().map(|cursor| cursor.tally.waiting).sum();
        let next = self.fold.commit + 1;
        let mut found = 0u64;
        self.commit = self.fold.commit;
        for row in salvage.rows(|role| role == KeyspaceRole::Delta) {
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
        // Where a settlement is lost, its deliveries stay owed.
        let promised = self.commit.max(mark.map_or(0, |mark| mark.commit));
        if self.fold_known {
            self.findings.given_up.commits = (promised + 1).saturating_sub(next).saturating_sub(found);
        }
        self.commit = promised;
    }

    pub(super) fn read_bodies(&mut self, salvage: &Salvage) {
        let ledger = salvage.rows(|role| self.chosen.bodies(role));
        let ledger = ledger.filter_map(|row| Some((seq_of(&row.key)?, row.value?)));
        let mut rotten = Vec::new();
        for (seq, value) in ledger.chain(salvage.held_bodies()) {
            match read_body(seq, &value) {
                Ok(_) => drop(self.bodies.insert(seq)),
                Err(error) => rotten.push(error),
            }
        }
        for error in rotten {
            self.note(error);
        }
    }

    /// Drops, by a rule, what is owed and cannot be delivered, and counts it.
    pub(super) fn give_up_lost(&mut self) {
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
}

/// Makes the counts of a cursor fit what is owed: `owed = acknowledged + parked + dropped + waiting`.
fn add_up(cursor: &mut Cursor) {
    let tally = &mut cursor.tally;
    tally.waiting = cursor.owed.len();
    tally.owed = ended(tally) + tally.waiting;
    cursor.control.retain(|seq| cursor.owed.contains(*seq));
}

fn ended(tally: &Tally) -> u64 {
    tally.acknowledged_receiver + tally.acknowledged_broker + tally.parked + tally.dropped.values().sum::<u64>()
}
