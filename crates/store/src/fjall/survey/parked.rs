//! The survey of parked SETs: their rows and their bodies.

use std::collections::{BTreeMap, BTreeSet};

use setgate_set::Jti;

use crate::{
    Position, StreamNo,
    codec::read_body,
    fjall::{
        engine::{parked_of, read_row},
        salvage::{KeyspaceRole, Salvage},
        survey::{LostParked, Survey},
    },
    state::{End, Ended, Ops},
};
impl Survey {
    pub(super) fn read_parked(&mut self, salvage: &Salvage) {
        let mut rows = BTreeMap::new();
        let mut lost = BTreeSet::new();
        for row in salvage.rows(|role| role == KeyspaceRole::Parked) {
            let (Some(at), Some(value)) = (parked_of(&row.key), row.value) else { continue };
            match read_row(&value) {
                Ok(row) => drop(rows.insert(at, row)),
                Err(_) => drop(lost.insert(at)),
            }
        }
        // A row and its body are written and removed together: where rows are lost, a body identifies its SET.
        let rows_may_be_lost = salvage.is_troubled(|role| role == KeyspaceRole::Parked) || salvage.lost_after.is_some();
        for row in salvage.rows(|role| role == KeyspaceRole::ParkedBodies) {
            let (Some(at), Some(value)) = (parked_of(&row.key), row.value) else { continue };
            if !rows.contains_key(&at) {
                if rows_may_be_lost {
                    lost.insert(at);
                }
            } else if read_body(at.1, &value).is_ok() {
                self.parked.insert(at);
            }
        }
        for at in lost {
            self.lose_parked(at, None);
        }
        for ((stream, seq), row) in rows {
            if !self.parked.contains(&(stream, seq)) {
                self.lose_parked((stream, seq), Some(row.parked.jti));
                continue;
            }
            self.state.parked(stream, 1, i64::try_from(row.bytes).unwrap_or_default());
            // A parked delivery is settled, whether or not its settlement is found.
            let ended = vec![Ended { stream, seq, how: End::Parked }];
            self.state.deltas(&Ops { ended, ..Ops::default() });
        }
        self.findings.given_up.parked_sets.sort_by_key(|lost| (lost.stream, lost.at));
    }

    /// Counts a parked SET as given up, since its row or its body cannot be read.
    fn lose_parked(&mut self, (stream, seq): (StreamNo, u64), jti: Option<Jti>) {
        match &jti {
            Some(jti) => self.note(format_args!(
                "the body of the parked SET {jti} of stream {stream} (record {seq}) cannot be read"
            )),
            None => self.does_not_read(format_args!("a parked SET of stream {stream} (record {seq})")),
        }
        *self.findings.given_up.parked.entry(stream).or_default() += 1;
        self.findings.given_up.parked_sets.push(LostParked { stream, at: Position::new(seq), jti });
    }
}
