//! Parked SETs: their rows, and their bodies.

use std::collections::BTreeMap;

use crate::{
    codec::read_body,
    fjall::{
        engine::{parked_of, read_row},
        salvage::{Salvage, Shelf},
        survey::Survey,
    },
    state::{End, Ended, Ops},
};
impl Survey {
    pub(super) fn read_parked(&mut self, salvage: &Salvage) {
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
}
