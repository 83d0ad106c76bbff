//! The export of a store's content as JSON lines, as far as it can be read.

use std::io;

use roaring::RoaringTreemap;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Kind, Position,
    codec::{WrittenHead, read_body, read_head},
    fjall::{
        engine::{parked_of, read_record, read_row, seq_of},
        repair::Repair,
        salvage::{KeyspaceRole, tree::Row},
        survey::Stretch,
    },
};

/// The counts of an export.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// True when everything could be read, and everything that was promised is there.
    pub complete: bool,
    /// The events.
    pub events: u64,
    /// The events whose body cannot be read.
    pub without_body: u64,
    /// The streams.
    pub streams: u64,
    /// The parked SETs.
    pub parked: u64,
    /// The control-plane records that are named.
    pub records: u64,
}

/// A function that receives one line at a time.
type Line<'a> = &'a mut dyn FnMut(&str) -> io::Result<()>;

impl Repair {
    /// Writes the content of the store, one JSON object per line: first `store`, then every `event` with its body and
    /// the streams that were owed it, every `stream` with what waits, every `parked` SET, the name of every
    /// control-plane `record`, and at the end what could not be read. The values of records are left out: they hold
    /// sealed keys and hashes of tokens.
    ///
    /// # Errors
    /// Returns the error of `line`.
    pub fn export(&self, line: Line<'_>) -> io::Result<Exported> {
        let (salvage, survey) = (self.salvage(), self.survey());
        let findings = self.findings();
        line(&json!({"type": "store", "format": 1, "last": findings.last, "promised": findings.promised}).to_string())?;
        let mut done = Exported { complete: findings.is_sound(), ..Exported::default() };

        let in_ledger = |rows: Row| Some((seq_of(&rows.key)?, rows.value?));
        let held = |kind: u8| {
            move |row: Row| match &*row.key {
                [first, at @ ..] if *first == kind => Some((seq_of(at)?, row.value?)),
                _ => None,
            }
        };
        let mut seen = RoaringTreemap::new();
        let heads = salvage.rows(|role| survey.chosen.heads(role)).filter_map(in_ledger);
        let heads = heads.chain(salvage.rows(|role| role == KeyspaceRole::Held).filter_map(held(0)));
        let mut ledger = salvage.rows(|role| survey.chosen.bodies(role)).filter_map(in_ledger).peekable();
        let mut kept = salvage.rows(|role| role == KeyspaceRole::Held).filter_map(held(1)).peekable();
        for (seq, value) in heads {
            let Ok(written) = read_head(seq, &value) else { continue };
            if !seen.insert(seq) {
                continue;
            }
            let mut body = None;
            for bodies in [&mut ledger as &mut dyn Bodies, &mut kept] {
                body = body.or_else(|| bodies.at(seq));
            }
            done.events += 1;
            done.without_body += u64::from(body.is_none());
            line(&event(&written, body.as_ref()).to_string())?;
        }

        let mut streams: Vec<_> = survey.state.cursors.iter().collect();
        streams.sort_unstable_by_key(|(stream, _)| **stream);
        for (stream, cursor) in streams {
            done.streams += 1;
            let text = json!({
                "type": "stream", "stream": stream, "counts": cursor.tally, "waiting": stretches(&cursor.owed),
                "dropped_through": Position::new(cursor.dropped_through),
            });
            line(&text.to_string())?;
        }

        let in_parked = |row: Row| Some((parked_of(&row.key)?, row.value?));
        let mut bodies = salvage.rows(|role| role == KeyspaceRole::ParkedBodies).filter_map(in_parked).peekable();
        for (at, value) in salvage.rows(|role| role == KeyspaceRole::Parked).filter_map(in_parked) {
            let Ok(row) = read_row(&value) else { continue };
            while bodies.next_if(|(other, _)| *other < at).is_some() {}
            let body = bodies.next_if(|(other, _)| *other == at).and_then(|(_, body)| readable(at.1, &body));
            done.parked += 1;
            line(&json!({"type": "parked", "parked": row.parked, "body": body}).to_string())?;
        }

        for row in salvage.rows(|role| role == KeyspaceRole::Control) {
            let key = String::from_utf8_lossy(row.key.get(1..).unwrap_or_default()).into_owned();
            let Some(Ok(record)) = row.value.map(|value| read_record(key.into(), &value)) else { continue };
            done.records += 1;
            let text = json!({
                "type": "record", "key": record.key, "version": record.version, "bytes": record.value.len(),
            });
            line(&text.to_string())?;
        }
        let end = json!({
            "type": "end", "complete": done.complete, "counts": done, "missing": findings.given_up.events,
            "unreadable": findings.unreadable,
        });
        line(&end.to_string())?;
        Ok(done)
    }
}

/// An iterator over bodies in the order of their positions.
trait Bodies {
    /// Returns the body at a position; the positions must be requested in order.
    fn at(&mut self, seq: u64) -> Option<Value>;
}

impl<V: AsRef<[u8]>, I: Iterator<Item = (u64, V)>> Bodies for std::iter::Peekable<I> {
    fn at(&mut self, seq: u64) -> Option<Value> {
        while self.next_if(|(other, _)| *other < seq).is_some() {}
        self.next_if(|(other, _)| *other == seq).and_then(|(_, value)| readable(seq, value.as_ref()))
    }
}

fn readable(seq: u64, value: &[u8]) -> Option<Value> {
    let body = read_body(seq, value).ok()?;
    let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
    Some(serde_json::from_slice(&body).unwrap_or_else(|_| text()))
}

fn event(written: &WrittenHead, body: Option<&Value>) -> Value {
    let head = &written.head;
    let (kind, of) = match head.kind {
        Kind::Intake => ("intake", None),
        Kind::Control => ("control", None),
        Kind::Reissue { of } => ("reissue", Some(of)),
    };
    json!({
        "type": "event", "at": head.at, "boot": format!("{:010x}", head.boot.0), "kind": kind, "of": of,
        "issuer": head.issuer, "producer": head.producer, "config": head.config,
        "accepted_millis": head.accepted.as_millis(), "order": format!("{:016x}", head.order.bits()),
        "streams": written.targets.iter().collect::<Vec<_>>(), "body": body,
    })
}

fn stretches(owed: &RoaringTreemap) -> Vec<Stretch> {
    let mut all: Vec<Stretch> = Vec::new();
    for seq in owed {
        match all.last_mut() {
            Some(stretch) if stretch.to.seq + 1 == seq => stretch.to = Position::new(seq),
            _ => all.push(Stretch { from: Position::new(seq), to: Position::new(seq) }),
        }
    }
    all
}
