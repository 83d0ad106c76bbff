//! What is known of one history: the model, what receivers saw and said, what fired, and the first broken promise.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    hash::{DefaultHasher, Hasher},
    sync::Arc,
};

use base64::Engine as _;
use parking_lot::Mutex;
use serde_json::Value;
use setgate_delivery::SealedSet;
use setgate_set::Jti;
use setgate_store::{Done, Names, Note, Rule, StoreError, Unit};

use crate::{
    model::{How, Model, Moment, Rules, said},
    process::Time,
    tally::Tally,
};

/// The secret of every store of a simulation.
pub(crate) const SECRET: [u8; 32] = [7; 32];

/// The time after which a settled SET may not be handed over any more, in milliseconds: what was made ready for a
/// consumer before may leave until then.
const LATE: u64 = 60_000;

/// The failures after which a SET is parked as `poison`.
pub(crate) const POISON_AFTER: u32 = 3;

/// How a receiver behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Good,
    Slow,
    /// It is not reachable, or does not come.
    Dead,
    /// It refuses some SETs.
    Refuses,
    /// It refuses all, as the gateway's key is unknown to it.
    BadKey,
    /// It fails on some SETs.
    Poisonous,
    /// Requests and answers are lost and late.
    Flaky,
    /// A person is needed.
    Halted,
}

/// What one receiver has seen and said, by record.
#[derive(Debug, Default)]
pub(crate) struct Receiver {
    arrived: BTreeSet<u64>,
    acknowledged: BTreeSet<u64>,
    refused: BTreeSet<u64>,
    failed: BTreeMap<u64, u32>,
    /// The arrivals of which it said nothing.
    silent: BTreeMap<u64, u32>,
    jtis: BTreeMap<u64, Jti>,
    /// What was skipped by a rule that was in force then.
    skipped: BTreeSet<(u64, Rule)>,
    /// What is under way, by order key.
    under_way: BTreeMap<u64, u32>,
}

/// The book of one history.
pub(crate) struct Book {
    pub(crate) model: Model,
    pub(crate) tally: Tally,
    pub(crate) fault: Option<String>,
    pub(crate) process: u32,
    /// How far the wall clock leapt forward, all leaps together, in milliseconds.
    pub(crate) ahead: u64,
    pub(crate) moods: BTreeMap<String, Mood>,
    /// What the operator was told of each stream, and what its record said since.
    told: BTreeMap<u32, Vec<Rules>>,
    names: Names,
    time: Arc<Time>,
    receivers: BTreeMap<u32, Receiver>,
    payloads: BTreeMap<Jti, Vec<u8>>,
    orders: BTreeMap<String, u64>,
    hash: DefaultHasher,
    trace: Option<Vec<String>>,
}

/// One call of `commit` with its answer; true where it was lazy.
pub(crate) type Answered = (Vec<Unit>, bool, Result<Vec<Done>, StoreError>);

/// A book that tasks share.
pub(crate) type Shared = Arc<Mutex<Book>>;

impl Book {
    pub(crate) fn new(model: Model, time: Arc<Time>, traced: bool) -> Self {
        let (tally, moods, told, receivers, payloads, orders) = Default::default();
        Self {
            model,
            tally,
            fault: None,
            process: 0,
            ahead: 0,
            moods,
            told,
            names: Names::new(b'a', &SECRET),
            time,
            receivers,
            payloads,
            orders,
            hash: DefaultHasher::new(),
            trace: traced.then(Vec::new),
        }
    }

    pub(crate) fn now(&self) -> Moment {
        Moment { at: self.time.millis(), ahead: self.ahead, process: self.process }
    }

    /// Writes a line of the history.
    pub(crate) fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let mut text = String::new();
        let _ = write!(text, "{:>9} {line}", self.time.millis());
        self.hash.write(text.as_bytes());
        if let Some(trace) = &mut self.trace {
            trace.push(text);
        }
    }

    pub(crate) fn fired(&mut self, what: &'static str) {
        self.tally.add(what, 1);
    }

    /// Notes the first broken promise.
    pub(crate) fn broken(&mut self, why: String) {
        self.line(format_args!("BROKEN: {why}"));
        self.fault.get_or_insert(why);
    }

    pub(crate) fn check(&mut self, done: Result<(), String>) {
        if let Err(why) = done {
            self.broken(why);
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash.finish()
    }

    pub(crate) fn trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }

    pub(crate) fn mood(&self, stream: &str) -> Mood {
        self.moods.get(stream).copied().unwrap_or(Mood::Good)
    }

    /// Takes the commits of one group and the answers to them. Returns those that are in doubt.
    pub(crate) fn group(&mut self, group: &[Answered]) -> bool {
        for (units, lazy, answer) in group {
            let what: Vec<_> = units.iter().map(name_of).collect();
            let said = answer.as_ref().map_err(short);
            self.line(format_args!("  commit {what:?}{} -> {said:?}", if *lazy { " lazily" } else { "" }));
        }
        if group.len() > 1 {
            self.fired("several commits in one group");
        }
        let accepted: Vec<_> = group.iter().filter(|(.., answer)| answer.is_ok()).collect();
        for (units, ..) in &accepted {
            units.iter().for_each(|unit| self.settled_rightly(unit));
        }
        for (units, ..) in group.iter().filter(|(.., answer)| answer.is_err()) {
            units.iter().for_each(|unit| self.note_skipped(unit));
        }
        let now = self.now();
        let applied = accepted
            .iter()
            .map(|(units, lazy, answer)| (units.as_slice(), *lazy, answer.as_ref().ok().map(Vec::as_slice)));
        let done = self.model.group(applied, now);
        self.check(done);
        self.note_rules();
        for (units, _, answer) in &accepted {
            let answers = answer.as_ref().into_iter().flatten();
            units.iter().zip(answers).for_each(|(unit, done)| self.tally.unit(unit, done));
        }
        group.iter().any(|(.., answer)| matches!(answer, Err(StoreError::Poisoned(_))))
    }

    /// Notes what was skipped by a rule in force and could not be written down: when it is written, another rule may be in
    /// force.
    fn note_skipped(&mut self, unit: &Unit) {
        let Unit::Settle { what, .. } = unit else { return };
        for settlement in what {
            let (stream, seq) = (settlement.stream.0, settlement.at.seq);
            if let Note::Dropped(rule) = settlement.note
                && self.model.skips(stream, seq) == Some(rule)
            {
                self.receivers.entry(stream).or_default().skipped.insert((seq, rule));
            }
        }
    }

    /// Checks that what ends a delivery came about.
    fn settled_rightly(&mut self, unit: &Unit) {
        let Unit::Settle { what, .. } = unit else { return };
        for settlement in what {
            let (stream, seq) = (settlement.stream.0, settlement.at.seq);
            if !self.model.is_owed(stream, seq) {
                continue;
            }
            let receiver = self.receivers.entry(stream).or_default();
            let fault = match &settlement.note {
                Note::Acknowledged(_) if !receiver.acknowledged.contains(&seq) => "acknowledged by nobody".to_owned(),
                Note::Parked { code, attempts, .. } if !receiver.refused.contains(&seq) => {
                    let times = |of: &BTreeMap<u64, u32>| of.get(&seq).copied().unwrap_or_default();
                    let (failed, silent) = (times(&receiver.failed), times(&receiver.silent));
                    if code.as_str() == "poison" && failed >= POISON_AFTER && failed + silent >= *attempts {
                        continue;
                    }
                    format!(
                        "parked as {code} after {attempts} attempts, of which {failed} failed, and refused by nobody",
                        code = code.as_str()
                    )
                }
                Note::Dropped(rule) if receiver.skipped.contains(&(seq, *rule)) => continue,
                Note::Dropped(rule) if self.model.skips(stream, seq) == Some(*rule) => continue,
                Note::Dropped(rule) => format!("dropped by the rule {rule:?}, which is not in force"),
                _ => continue,
            };
            self.broken(format!("P2: the SET {stream}/{seq} is {fault}"));
        }
    }

    /// Notes that an operator was told of a change: what the records say now is in force.
    pub(crate) fn told(&mut self) {
        self.told = self.model.streams.iter().map(|(no, rules)| (*no, vec![rules.clone()])).collect();
    }

    /// Notes what the records of streams say, where it is something else: until an operator is told, what was in force in
    /// between may still be.
    pub(crate) fn note_rules(&mut self) {
        for (no, rules) in &self.model.streams {
            if let Some(told) = self.told.get_mut(no).filter(|told| told.last() != Some(rules)) {
                told.push(rules.clone());
            }
        }
    }

    /// Returns the record and stream of a SET.
    fn named(&mut self, jti: &Jti) -> Option<(u32, u64)> {
        let named = self.names.read(jti).map(|named| (named.stream.0, named.at.seq));
        if named.is_none() {
            self.broken(format!("P3: the jti {jti} names nothing"));
        }
        named
    }

    /// Checks SETs that are being handed over.
    pub(crate) fn handed(&mut self, stream: &str, sets: &[SealedSet]) {
        for set in sets {
            let Some((no, seq)) = self.named(&set.jti) else { return };
            self.line(format_args!("  hand over {no}/{seq} of {stream}, attempt {}", set.attempt.0));
            let done = self.may_leave(no, seq, stream);
            self.check(done);
        }
    }

    fn may_leave(&self, no: u32, seq: u64, stream: &str) -> Result<(), String> {
        let kept = self.model.records.get(&seq).ok_or_else(|| format!("P1: {no}/{seq} leaves and is no record"))?;
        if !kept.targets.contains(&no) {
            return Err(format!("P8: {no}/{seq} leaves, and is not for stream {no}"));
        }
        let now = self.now();
        if let Some(end) = self.model.ended.get(&(no, seq)) {
            if end.when.process < self.process {
                return Err(format!("{no}/{seq} leaves again: it ended before the start, as {:?}", end.how));
            }
            if end.when.at + LATE < now.at {
                return Err(format!("{no}/{seq} leaves long after it ended as {:?}", end.how));
            }
        }
        let (Some(rules), Some(told)) = (self.model.streams.get(&no), self.told.get(&no)) else { return Ok(()) };
        if rules.id != stream {
            return Err(format!("P8: {no}/{seq} leaves for {stream}, and is for {}", rules.id));
        }
        if kept.control {
            return Ok(());
        }
        if told.iter().all(|rules| rules.status != "enabled") {
            return Err(format!("{no}/{seq} leaves for {stream}, which is {}", rules.status));
        }
        let said = said(&kept.body).ok_or("a record does not read")?;
        if told.iter().all(|rules| rules.skips(&said.kind, &said.subject).is_some()) {
            return Err(format!("P8: {no}/{seq} leaves for {stream}, which skips it"));
        }
        Ok(())
    }

    /// Takes a SET that has arrived. Returns its number, if it is an event.
    pub(crate) fn arrives(&mut self, set: &SealedSet) -> Option<u64> {
        let (no, seq) = self.named(&set.jti)?;
        self.line(format_args!("  {no}/{seq} arrives"));
        match self.arrived(no, seq, set) {
            Ok(n) => n,
            Err(why) => {
                self.broken(why);
                None
            }
        }
    }

    fn arrived(&mut self, no: u32, seq: u64, set: &SealedSet) -> Result<Option<u64>, String> {
        let kept = self.model.records.get(&seq).ok_or_else(|| format!("P1: {no}/{seq} arrives and is no record"))?;
        let kept = kept.clone();
        let claims = set.body.split(|byte| *byte == b'.').nth(1).unwrap_or_default();
        let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).map_err(|_| "no token")?;
        let known = self.payloads.entry(set.jti).or_insert_with(|| payload.clone());
        if *known != payload {
            return Err(format!("P3: {no}/{seq} comes again with another payload"));
        }
        let read: Value = serde_json::from_slice(&payload).map_err(|_| "the claims do not read")?;
        let body: Value = serde_json::from_slice(&kept.body).map_err(|_| "a body does not read")?;
        for name in ["events", "sub_id", "txn"] {
            if read[name] != body[name] {
                return Err(format!("{no}/{seq} arrives with another `{name}` than was accepted"));
            }
        }
        if let Some(rules) = self.model.streams.get(&no)
            && (read["aud"] != rules.audience.as_str() || read["iss"] != rules.issuer.as_str())
        {
            return Err(format!("P8: {no}/{seq} arrives with the wrong issuer or audience"));
        }
        let receiver = self.receivers.entry(no).or_default();
        if *receiver.jtis.entry(seq).or_insert(set.jti) != set.jti {
            return Err(format!("P3: {no}/{seq} comes again with another jti"));
        }
        let said = said(&kept.body).filter(|_| !kept.control);
        if let Some(said) = &said {
            let subject = format!("{}{}", kept.issuer, said.subject);
            if *self.orders.entry(said.subject.clone()).or_insert(kept.order) != kept.order {
                return Err(format!("the subject {subject} has two order keys"));
            }
        }
        let receiver = self.receivers.entry(no).or_default();
        if !receiver.arrived.insert(seq) {
            self.tally.add("a SET arrived again", 1);
        } else if !kept.control {
            let (arrived, model) = (&receiver.arrived, &self.model);
            let earlier = model.records.range(..seq).filter(|(_, earlier)| {
                earlier.order == kept.order && !earlier.control && earlier.targets.contains(&no)
            });
            let missing = earlier.map(|(at, _)| *at).find(|at| !arrived.contains(at) && model.is_owed(no, *at));
            if let Some(missing) = missing {
                return Err(format!("P4: {no}/{seq} arrives before {no}/{missing} of the same order key"));
            }
        }
        Ok(said.map(|said| said.n))
    }

    /// Notes that a SET of an order key is under way on its own.
    pub(crate) fn under_way(&mut self, set: &SealedSet, more: bool) {
        let Some((no, seq)) = self.named(&set.jti) else { return };
        let control = self.model.records.get(&seq).is_none_or(|kept| kept.control);
        if control {
            return;
        }
        let count = self.receivers.entry(no).or_default().under_way.entry(set.order.bits()).or_default();
        if !more {
            *count = count.saturating_sub(1);
            return;
        }
        *count += 1;
        if *count > 1 {
            self.broken(format!("P4: {no}/{seq} is under way beside another SET of its order key"));
        }
    }

    /// Notes that nothing is under way any more, as the process ended.
    pub(crate) fn nothing_under_way(&mut self) {
        self.receivers.values_mut().for_each(|receiver| receiver.under_way.clear());
    }

    /// Notes that the receiver acknowledges a SET.
    pub(crate) fn acknowledges(&mut self, jti: &Jti) {
        if let Some((no, seq)) = self.named(jti) {
            self.receivers.entry(no).or_default().acknowledged.insert(seq);
        }
    }

    /// Notes that the receiver refuses a SET.
    pub(crate) fn refuses(&mut self, jti: &Jti) {
        if let Some((no, seq)) = self.named(jti) {
            self.receivers.entry(no).or_default().refused.insert(seq);
        }
    }

    /// Notes that the receiver says nothing of a SET that arrived.
    pub(crate) fn says_nothing(&mut self, jti: &Jti) {
        if let Some((no, seq)) = self.named(jti) {
            *self.receivers.entry(no).or_default().silent.entry(seq).or_default() += 1;
        }
    }

    /// Notes that a hand-over of a SET failed.
    pub(crate) fn fails(&mut self, jti: &Jti) {
        if let Some((no, seq)) = self.named(jti) {
            *self.receivers.entry(no).or_default().failed.entry(seq).or_default() += 1;
        }
    }

    /// Checks at the end that what was acknowledged has arrived.
    pub(crate) fn all_arrived(&mut self) {
        let lost = self.model.ended.iter().find(|((no, seq), end)| {
            end.how == How::Acknowledged
                && !self.receivers.get(no).is_some_and(|receiver| receiver.arrived.contains(seq))
        });
        if let Some(((no, seq), _)) = lost {
            let why = format!("P2: {no}/{seq} counts as acknowledged and never arrived");
            self.broken(why);
        }
    }
}

fn short(error: &StoreError) -> String {
    error.to_string().chars().take(90).collect()
}

fn name_of(unit: &Unit) -> String {
    match unit {
        Unit::Append { events } => {
            let targets: Vec<_> = events.iter().map(|event| event.targets.iter().collect::<Vec<_>>()).collect();
            format!("append for {targets:?}")
        }
        Unit::Settle { what, .. } => {
            let each = what.iter().map(|one| {
                let how = match &one.note {
                    Note::Acknowledged(_) => "acknowledged",
                    Note::Parked { .. } => "parked",
                    Note::Dropped(_) => "dropped",
                    Note::Attempt(_) => "tried",
                };
                format!("{}/{} {how}", one.stream, one.at.seq)
            });
            format!("settle {}", each.collect::<Vec<_>>().join(", "))
        }
        Unit::Reissue { stream, of, .. } => format!("reissue {stream}/{}", of.seq),
        Unit::Discard { what, .. } => format!("discard {}", what.len()),
        Unit::Configure { change, drop_through, notice, .. } => {
            let keys: Vec<_> = change
                .iter()
                .map(|put| format!("{}{}", put.key.0, if put.value.is_none() { " gone" } else { "" }))
                .collect();
            format!("configure {keys:?} dropping {drop_through:?} telling {}", notice.len())
        }
        Unit::Allocate { space } => format!("allocate a {space:?}"),
        Unit::Retain { stream, below, rule, .. } => format!("retain {stream} from {} by {rule:?}", below.seq),
    }
}
