//! What a store must hold, in plain maps: every unit is applied here as well, by rules of its own, and the answers and
//! contents are compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use serde_json::Value;
use setgate_store::{Appended, Done, Kind, NewEvent, Note, Position, Rule, Settlement, Space, StreamNo, Unit, Version};

/// The limits that the store of a history has, in milliseconds where they are times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The time for which an `id` is remembered.
    pub(crate) window: u64,
    pub(crate) parked_age: u64,
    pub(crate) parked_count: u64,
    /// The ids of one producer that are remembered.
    pub(crate) ids: u64,
}

/// The moment at which something happens.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    /// The time of the simulation, in milliseconds.
    pub(crate) at: u64,
    /// How far the wall clock leapt forward until then, all leaps together, in milliseconds.
    pub(crate) ahead: u64,
    /// The process, counted from 0.
    pub(crate) process: u32,
}

impl Moment {
    /// Returns the most that a clock may say has passed since an earlier moment.
    fn most_since(self, earlier: Self) -> u64 {
        self.at - earlier.at + (self.ahead - earlier.ahead)
    }
}

/// A record of the ledger.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) control: bool,
    pub(crate) issuer: u32,
    pub(crate) order: u64,
    pub(crate) body: Bytes,
    pub(crate) targets: BTreeSet<u32>,
    pub(crate) when: Moment,
}

/// What a delivery ended as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Acknowledged,
    Parked,
    Dropped(Rule),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) how: How,
    pub(crate) when: Moment,
}

/// The counts of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) owed: u64,
    pub(crate) acknowledged: u64,
    pub(crate) parked: u64,
    pub(crate) dropped: BTreeMap<Rule, u64>,
}

/// A stream as its record says it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rules {
    pub(crate) id: String,
    pub(crate) issuer: String,
    pub(crate) audience: String,
    pub(crate) status: String,
    /// `None` stands for all.
    pub(crate) events: Option<BTreeSet<String>>,
    pub(crate) everyone: bool,
    pub(crate) added: BTreeSet<String>,
    pub(crate) removed: BTreeSet<String>,
    pub(crate) most: u64,
    /// The longest age in milliseconds.
    pub(crate) age: u64,
}

impl Rules {
    fn read(value: &[u8]) -> Option<Self> {
        let record: Value = serde_json::from_slice(value).ok()?;
        let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
        let status = match &record["status"] {
            Value::String(word) => word.clone(),
            Value::Object(members) => members.keys().next()?.clone(),
            _ => return None,
        };
        let subjects = |name: &str| -> BTreeSet<String> {
            let all = record["roster"][name].as_array().into_iter().flatten();
            all.filter_map(|subject| subject["id"].as_str()).map(str::to_owned).collect()
        };
        let exact = record["events"]["exact"].as_array();
        let age = &record["retention"]["age"];
        Some(Self {
            id: text("id"),
            issuer: text("issuer"),
            audience: text("audience"),
            status,
            events: exact.map(|all| all.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
            everyone: record["default_subjects"] == "ALL",
            added: subjects("added"),
            removed: subjects("removed"),
            most: record["retention"]["sets"].as_u64()?,
            age: age["secs"].as_u64()? * 1000 + age["nanos"].as_u64()? / 1_000_000,
        })
    }

    /// Returns the rule by which an event is not owed, or `None` where it is.
    pub(crate) fn skips(&self, kind: &str, subject: &str) -> Option<Rule> {
        if self.status == "disabled" {
            Some(Rule::Disabled)
        } else if self.events.as_ref().is_some_and(|events| !events.contains(kind)) {
            Some(Rule::EventNotWanted)
        } else if self.removed.contains(subject) || !(self.everyone || self.added.contains(subject)) {
            Some(Rule::SubjectRemoved)
        } else {
            None
        }
    }
}

#[derive(Clone, Debug)]
struct Id {
    digest: [u8; 16],
    seq: u64,
    txn: Box<str>,
    when: Moment,
}

/// The content that a store must have.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) limits: Limits,
    pub(crate) issuers: Arc<Vec<String>>,
    pub(crate) records: BTreeMap<u64, Arc<Kept>>,
    pub(crate) last: u64,
    pub(crate) owed: BTreeMap<u32, BTreeSet<u64>>,
    pub(crate) counts: BTreeMap<u32, Counts>,
    pub(crate) parked: BTreeMap<(u32, u64), Moment>,
    pub(crate) ended: BTreeMap<(u32, u64), End>,
    ids: BTreeMap<[u8; 16], Id>,
    pub(crate) streams: BTreeMap<u32, Rules>,
    pub(crate) deleted: BTreeSet<u32>,
    pub(crate) version: u64,
    pub(crate) membership: u64,
    numbers: BTreeMap<u8, BTreeSet<u32>>,
    /// The deliveries acknowledged lazily that a crash may make owed again, each with its time.
    pub(crate) loose: Vec<(u32, u64, u64)>,
    /// The number of the deliveries whose lazy end a crash took back.
    pub(crate) taken_back: u64,
}

/// What an event says of itself.
pub(crate) struct Said {
    pub(crate) kind: String,
    pub(crate) subject: String,
    pub(crate) n: u64,
}

/// Reads what the simulation wrote into an event.
pub(crate) fn said(body: &[u8]) -> Option<Said> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let (kind, event) = body["events"].as_object()?.iter().next()?;
    let subject = body["sub_id"]["id"].as_str()?.to_owned();
    Some(Said { kind: kind.clone(), subject, n: event["n"].as_u64()? })
}

impl Model {
    /// Returns the rule in force by which the stream skips a record.
    pub(crate) fn skips(&self, stream: u32, seq: u64) -> Option<Rule> {
        let said = said(&self.records.get(&seq)?.body)?;
        self.streams.get(&stream)?.skips(&said.kind, &said.subject)
    }

    pub(crate) fn new(limits: Limits, issuers: Vec<String>) -> Self {
        let (records, owed, counts, parked, ended) = Default::default();
        let (ids, streams, deleted, numbers, loose) = Default::default();
        Self {
            limits,
            issuers: Arc::new(issuers),
            records,
            last: 0,
            owed,
            counts,
            parked,
            ended,
            ids,
            streams,
            deleted,
            version: 0,
            membership: 0,
            numbers,
            loose,
            taken_back: 0,
        }
    }

    /// Applies the commits of one group with the answers that the store gave, or would have given.
    ///
    /// # Errors
    /// Says what the store did that it may not do.
    pub(crate) fn group<'a>(
        &mut self,
        group: impl IntoIterator<Item = (&'a [Unit], bool, Option<&'a [Done]>)>,
        now: Moment,
    ) -> Result<(), String> {
        let mut sync = false;
        for (units, lazy, done) in group {
            sync |= !(lazy && units.iter().all(is_lazy));
            for (at, unit) in units.iter().enumerate() {
                let done = done.map(|done| done.get(at).ok_or("an answer is missing")).transpose()?;
                self.unit(unit, done, now).map_err(|why| format!("{why}\n  unit {unit:?}\n  answer {done:?}"))?;
            }
        }
        if sync {
            self.loose.clear();
        }
        Ok(())
    }

    fn unit(&mut self, unit: &Unit, done: Option<&Done>, now: Moment) -> Result<(), String> {
        let expected = match unit {
            Unit::Append { events } => {
                let answers = match done {
                    Some(Done::Appended(answers)) => Some(answers),
                    None => None,
                    Some(_) => return Err("an append has another answer".into()),
                };
                for (at, event) in events.iter().enumerate() {
                    self.append(event, answers.and_then(|answers| answers.get(at)), now)?;
                }
                return Ok(());
            }
            Unit::Settle { what, .. } => {
                let mut news = 0;
                for settlement in what {
                    news += usize::from(self.settle(settlement, now));
                }
                Done::Settled(news)
            }
            Unit::Reissue { stream, of, .. } => {
                let known = self.parked.remove(&(stream.0, of.seq)).is_some();
                let again = self.records.get(&of.seq).filter(|_| known).cloned();
                Done::Reissued(again.map(|again| {
                    let again = Kept {
                        control: again.control,
                        issuer: again.issuer,
                        order: again.order,
                        body: again.body.clone(),
                        targets: BTreeSet::from([stream.0]),
                        when: now,
                    };
                    Position::new(self.write(again))
                }))
            }
            Unit::Discard { what, .. } => {
                let known = what.iter().filter(|(stream, at)| self.parked.remove(&(stream.0, at.seq)).is_some());
                Done::Discarded(known.count())
            }
            Unit::Configure { change, expect, membership, drop_through, notice } => {
                if expect.is_some_and(|expect| expect.0 != self.version) {
                    Done::Outdated(Version(self.version))
                } else {
                    self.version += 1;
                    if *membership {
                        self.membership = self.version;
                    }
                    for put in change {
                        self.put(&put.key.0, put.value.as_deref())?;
                    }
                    for (stream, rule) in drop_through {
                        self.drop_below(stream.0, u64::MAX, *rule, now);
                        if *rule == Rule::Deleted {
                            self.deleted.insert(stream.0);
                        }
                    }
                    let mut notices = Vec::new();
                    for event in notice {
                        notices.push(Position::new(self.write(kept(event, now))));
                    }
                    Done::Configured { version: Version(self.version), notices }
                }
            }
            Unit::Allocate { space } => {
                let space = match space {
                    Space::Stream => 0,
                    Space::Issuer => 1,
                    Space::Producer => 2,
                };
                let Some(Done::Allocated(number)) = done else { return Ok(()) };
                if !self.numbers.entry(space).or_default().insert(*number) {
                    return Err(format!("law 10: the number {number} is given twice"));
                }
                return Ok(());
            }
            Unit::Retain { stream, below, rule, .. } => {
                let gone = self.drop_below(stream.0, below.seq.min(self.last + 1), *rule, now);
                self.check_limit(stream.0, below.seq, *rule, &gone, now)?;
                Done::Retained(gone.len())
            }
        };
        match done {
            Some(done) if *done != expected => Err(format!("the model expects {expected:?}")),
            _ => Ok(()),
        }
    }

    fn append(&mut self, event: &NewEvent, answer: Option<&Appended>, now: Moment) -> Result<(), String> {
        if event.config.0 < self.membership {
            return match answer {
                None | Some(Appended::Stale { .. }) => Ok(()),
                Some(_) => Err("an event that was decided by an old configuration is accepted".into()),
            };
        }
        if let Some(once) = &event.once
            && let Some(known) = self.ids.get(&once.key)
        {
            let at = Position::new(known.seq);
            let expected = if known.digest == once.digest {
                Appended::Repeat { at, txn: known.txn.clone() }
            } else {
                Appended::Conflict { at }
            };
            let recent = now.most_since(known.when) < self.limits.window
                && self.ids.values().filter(|id| id.when.at >= known.when.at).count() as u64 <= self.limits.ids;
            match answer {
                None => return Ok(()),
                Some(answer) if *answer == expected => return Ok(()),
                Some(Appended::New { .. }) if !recent => {}
                Some(_) => return Err(format!("law 3: the model expects {expected:?}")),
            }
        }
        let rules = self.wanted(event)?;
        let targets: BTreeSet<u32> = event.targets.iter().collect();
        if rules != targets {
            return Err(format!("the streams that want the event are {rules:?}, and it is owed to {targets:?}"));
        }
        let seq = self.write(kept(event, now));
        match answer {
            None => {}
            Some(Appended::New { at, .. }) if at.seq == seq => {}
            Some(_) => return Err(format!("the model expects a new record {seq}")),
        }
        if let Some(once) = &event.once {
            let id = Id { digest: once.digest, seq, txn: once.txn.clone(), when: now };
            self.ids.insert(once.key, id);
        }
        Ok(())
    }

    /// Returns the streams that an event is owed to, by their records.
    fn wanted(&self, event: &NewEvent) -> Result<BTreeSet<u32>, String> {
        if event.kind != Kind::Intake {
            return Ok(event.targets.iter().collect());
        }
        let said = said(&event.body).ok_or("the body of an event does not read")?;
        let issuer = self.issuers.get(event.issuer.0 as usize - 1).ok_or("an event has no known issuer")?;
        let all = self.streams.iter().filter(|(_, rules)| rules.issuer == *issuer);
        Ok(all.filter(|(_, rules)| rules.skips(&said.kind, &said.subject).is_none()).map(|(no, _)| *no).collect())
    }

    fn write(&mut self, kept: Kept) -> u64 {
        self.last += 1;
        for stream in &kept.targets {
            self.owed.entry(*stream).or_default().insert(self.last);
            self.counts.entry(*stream).or_default().owed += 1;
        }
        self.records.insert(self.last, Arc::new(kept));
        self.last
    }

    fn put(&mut self, key: &str, value: Option<&[u8]>) -> Result<(), String> {
        let Some(no) = key.strip_prefix("stream/").and_then(|no| no.parse().ok()) else { return Ok(()) };
        match value {
            Some(value) => {
                let rules = Rules::read(value).ok_or_else(|| format!("the record of stream {no} does not read"))?;
                self.streams.insert(no, rules);
            }
            None => {
                self.streams.remove(&no);
            }
        }
        Ok(())
    }

    /// Returns whether a delivery is owed.
    pub(crate) fn is_owed(&self, stream: u32, seq: u64) -> bool {
        self.owed.get(&stream).is_some_and(|owed| owed.contains(&seq))
    }

    fn settle(&mut self, settlement: &Settlement, now: Moment) -> bool {
        let (stream, seq) = (settlement.stream.0, settlement.at.seq);
        let how = match &settlement.note {
            Note::Attempt(_) => return false,
            Note::Acknowledged(_) => How::Acknowledged,
            Note::Parked { .. } => How::Parked,
            Note::Dropped(rule) => How::Dropped(*rule),
        };
        if !self.end(stream, seq, how, now) {
            return false;
        }
        match how {
            How::Acknowledged => self.loose.push((stream, seq, now.at)),
            How::Parked => {
                self.parked.insert((stream, seq), now);
            }
            How::Dropped(_) => {}
        }
        true
    }

    fn end(&mut self, stream: u32, seq: u64, how: How, when: Moment) -> bool {
        if !self.owed.entry(stream).or_default().remove(&seq) {
            return false;
        }
        let counts = self.counts.entry(stream).or_default();
        match how {
            How::Acknowledged => counts.acknowledged += 1,
            How::Parked => counts.parked += 1,
            How::Dropped(rule) => *counts.dropped.entry(rule).or_default() += 1,
        }
        self.ended.insert((stream, seq), End { how, when });
        true
    }

    fn drop_below(&mut self, stream: u32, below: u64, rule: Rule, now: Moment) -> Vec<u64> {
        let gone: Vec<u64> = self.owed.entry(stream).or_default().range(..below).copied().collect();
        for seq in &gone {
            self.end(stream, *seq, How::Dropped(rule), now);
        }
        gone
    }

    /// Checks that a limit was passed before something was dropped by it.
    fn check_limit(&self, stream: u32, below: u64, rule: Rule, gone: &[u64], now: Moment) -> Result<(), String> {
        let Some(rules) = self.streams.get(&stream) else { return Ok(()) };
        match rule {
            Rule::TooOld => {
                let young = gone.iter().filter_map(|seq| Some((seq, self.records.get(seq)?)));
                let young = young.map(|(seq, kept)| (seq, now.most_since(kept.when)));
                match young.into_iter().find(|(_, age)| *age < rules.age) {
                    Some((seq, age)) => Err(format!(
                        "record {seq} is dropped as too old after {age} ms at most; the limit of {} is {} ms",
                        rules.id, rules.age
                    )),
                    None => Ok(()),
                }
            }
            Rule::TooMany => {
                let kept = self.records.range(below..).filter(|(_, kept)| kept.targets.contains(&stream)).count();
                if !gone.is_empty() && (kept as u64) < rules.most {
                    return Err(format!("only {kept} were kept of {}, whose limit is {}", rules.id, rules.most));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Takes note that the store forgot parked SETs by its limits: these are all that it has.
    ///
    /// # Errors
    /// Says which of them it may not have forgotten.
    pub(crate) fn forgotten(&mut self, left: &BTreeSet<(u32, u64)>, now: Moment) -> Result<u64, String> {
        let gone: Vec<_> = self.parked.keys().filter(|key| !left.contains(key)).copied().collect();
        for (stream, seq) in &gone {
            let of_stream = self.parked.range((*stream, 0)..(*stream + 1, 0));
            let newer = of_stream.clone().filter(|((_, at), _)| at > seq).count() as u64;
            let old =
                self.parked.get(&(*stream, *seq)).is_some_and(|when| now.most_since(*when) > self.limits.parked_age);
            if !old && newer < self.limits.parked_count {
                return Err(format!("the parked SET {stream}/{seq} is gone, which is neither old nor one of too many"));
            }
        }
        for key in &gone {
            self.parked.remove(key);
        }
        Ok(gone.len() as u64)
    }

    /// Takes back a lazy end that a crash undid.
    pub(crate) fn take_back(&mut self, stream: u32, seq: u64) {
        self.owed.entry(stream).or_default().insert(seq);
        self.counts.entry(stream).or_default().acknowledged -= 1;
        self.ended.remove(&(stream, seq));
        self.taken_back += 1;
    }

    /// Takes note that everything which was lazy before a time is on the disk.
    pub(crate) fn flushed(&mut self, before: u64) {
        self.loose.retain(|(_, _, at)| *at > before);
    }
}

fn kept(event: &NewEvent, when: Moment) -> Kept {
    Kept {
        control: event.kind == Kind::Control,
        issuer: event.issuer.0,
        order: event.order.bits(),
        body: event.body.clone(),
        targets: event.targets.iter().collect(),
        when,
    }
}

fn is_lazy(unit: &Unit) -> bool {
    let lazy = |settlement: &Settlement| matches!(settlement.note, Note::Acknowledged(_) | Note::Attempt(_));
    matches!(unit, Unit::Settle { what, .. } if what.iter().all(lazy))
}

/// Returns the streams of a model, as the store numbers them.
pub(crate) fn numbers(model: &Model) -> Vec<StreamNo> {
    let known: BTreeSet<u32> = model.counts.keys().chain(model.streams.keys()).copied().collect();
    known.into_iter().map(StreamNo).collect()
}
