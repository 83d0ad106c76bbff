//! The commit of one group of calls: planned, made durable, made visible, answered.

use std::sync::{atomic::Ordering, mpsc::Receiver};

use parking_lot::RwLock;

use crate::{
    Durability, Head, Kind, NewEvent, Note, ProducerNo, StoreError, StreamNo, Unit, Why,
    fjall::{
        batch::{Failure, Filling},
        bloom_filter::keys_of,
        bucket::Bucket,
        engine::Engine,
        segment::Segment,
        shared::Shared,
        writer::{Call, Job, Next, Writer},
    },
    plan::{Answer, IdempotencyRecord, Lookup, ParkedRow, Plan, Planner},
    ring::{Recent, Ring},
    state::Ops,
};

/// The most units that share a flush.
const GROUP_UNITS: usize = 256;
/// The most bytes that share a flush, unless one unit is larger.
const GROUP_BYTES: usize = 1024 * 1024;

/// The writer's view of the store for planning.
struct PlanningView<'a> {
    engine: &'a Engine,
    ring: &'a RwLock<Ring>,
    shared: &'a Shared,
    since: u64,
}

impl Lookup for PlanningView<'_> {
    fn once(&self, producer: ProducerNo, key: &[u8; 16]) -> Result<Option<IdempotencyRecord>, StoreError> {
        let since = self.shared.horizons.read().get(&producer).copied().unwrap_or_default().max(self.since);
        self.engine.kept(producer, key, since)
    }

    fn parked(&self, stream: StreamNo, seq: u64) -> Result<Option<ParkedRow>, StoreError> {
        self.engine.parked_row(stream, seq)
    }

    fn record(&self, seq: u64) -> Result<Option<(Head, Option<bytes::Bytes>)>, StoreError> {
        if let Some(recent) = self.ring.read().get(seq) {
            return Ok(Some((recent.entry.head.clone(), Some(recent.body.clone()))));
        }
        let Some(written) = self.engine.head(seq)? else { return Ok(None) };
        let body = match self.engine.body(seq) {
            // A damaged body counts as gone; the head says what was lost.
            Err(StoreError::Corrupt(_)) => None,
            read => read?,
        };
        Ok(Some((written.head, body)))
    }
}

fn brings_events(unit: &Unit) -> bool {
    let intake = |event: &NewEvent| event.kind == Kind::Intake;
    matches!(unit, Unit::Append { events } if events.iter().any(intake))
}

fn may_be_lazy(unit: &Unit) -> bool {
    let lazy = |note: &Note| matches!(note, Note::Acknowledged(_) | Note::Attempt(_));
    matches!(unit, Unit::Settle { what, .. } if what.iter().all(|settlement| lazy(&settlement.note)))
}

impl Writer {
    /// Collects further queued calls and commits them together with the first.
    pub(crate) fn gather(&mut self, first: Call, queue: &Receiver<Job>) -> Result<Next, Failure> {
        let (mut units, mut bytes) = (first.units.len(), first.bytes);
        let mut calls = vec![first];
        while units < GROUP_UNITS && bytes < GROUP_BYTES {
            match queue.try_recv() {
                Ok(Job::Commit(call)) => {
                    units += call.units.len();
                    bytes += call.bytes;
                    calls.push(*call);
                }
                Ok(other) => {
                    self.after = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        self.shared.queued.fetch_sub(units, Ordering::Relaxed);
        self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.group(calls)?;
        Ok(Next::On)
    }

    /// Plans calls in order. A call that cannot be planned leaves no trace.
    fn plan(&self, engine: &Engine, calls: Vec<Call>) -> (Plan, Vec<(Call, Vec<Answer>)>) {
        let shared = &self.shared;
        let now = shared.sanity.now(&shared.runtime);
        let since = shared.oldest_bucket(engine);
        let view = PlanningView { engine, ring: &shared.ring, shared, since };
        let state = shared.state.read();
        let mut calls = calls;
        loop {
            let mut planner = Planner::new(&state, &view, &shared.names, shared.boot(), shared.fence, now);
            let mut answers = Vec::with_capacity(calls.len());
            let mut failed = None;
            for (index, call) in calls.iter().enumerate() {
                match call.units.iter().map(|unit| planner.unit(unit)).collect::<Result<Vec<_>, _>>() {
                    Ok(answer) => answers.push(answer),
                    Err(error) => {
                        failed = Some((index, error));
                        break;
                    }
                }
            }
            match failed {
                None => return (planner.finish(), calls.into_iter().zip(answers).collect()),
                Some((index, error)) => {
                    let _ = calls.remove(index).answer.send(Err(error));
                }
            }
        }
    }

    fn group(&mut self, calls: Vec<Call>) -> Result<(), Failure> {
        let Some(engine) = self.engine.clone() else {
            for call in calls {
                let _ = call.answer.send(Err(StoreError::Unavailable("it is closed".into())));
            }
            return Ok(());
        };
        self.measure();
        let closed = self.shared.closed_to_events();
        let mut taken = Vec::with_capacity(calls.len());
        for call in calls {
            match &closed {
                Some(error) if call.units.iter().any(brings_events) => drop(call.answer.send(Err(error.clone()))),
                _ => taken.push(call),
            }
        }
        let sync = taken.iter().any(|call| call.how == Durability::Sync || !call.units.iter().all(may_be_lazy));
        let (mut plan, answers) = self.plan(&engine, taken);
        let writes = sync && !(plan.is_empty() && self.pending.is_empty());
        if writes && let Err(failure) = self.write(&engine, &plan) {
            let error = self.trouble(&failure);
            for (call, _) in answers {
                let _ = call.answer.send(Err(error.clone()));
            }
            return Err(failure);
        }
        let units: usize = answers.iter().map(|(call, _)| call.units.len()).sum();
        let counts = self.show(&mut plan);
        if !writes && !plan.ops.is_empty() {
            if self.pending.is_empty() {
                self.pending_since = self.now();
            }
            self.pending.append(plan.ops);
        }
        let now = self.now();
        for (call, answers) in answers {
            let done = answers.into_iter().map(|answer| answer.done(&counts)).collect();
            if call.how == Durability::Sync {
                self.shared.observed.commit.observe(now.saturating_sub(call.since).as_secs_f64());
            }
            let _ = call.answer.send(Ok(done));
        }
        if writes {
            self.shared.observed.group.observe(units as f64);
            self.fold_if_due()?;
        } else if self.pending.len() >= self.shared.options.flush_count && !self.is_short() {
            self.flush()?;
        }
        Ok(())
    }

    /// Records that writing failed, before any call is answered. Returns the error for the callers: it is unknown what
    /// took place.
    pub(crate) fn trouble(&self, failure: &Failure) -> StoreError {
        let error = failure.error();
        *self.shared.trouble.lock() = Some(error.clone());
        StoreError::Poisoned(Why::of(error))
    }

    /// Makes a plan durable, together with the pending deltas.
    pub(crate) fn write(&mut self, engine: &Engine, plan: &Plan) -> Result<(), Failure> {
        let commit = self.commit + 1;
        let mut filling = Filling::new(engine, plan.records.len() * 3 + plan.rows.len() * 2 + plan.puts.len() + 4);
        let mut chain = self.chain;
        let mut taken_by = None;
        if !plan.records.is_empty() {
            let (segment, bucket) = self.make_room(engine, &mut filling, plan).map_err(Failure::Write)?;
            if let Some((number, bucket)) = &bucket {
                taken_by = Some(*number);
                // The keys are added before they are written: what may be on the disk is looked up, also when a write
                // is in doubt.
                bucket.filter.add(keys_of(&plan.records).iter());
            }
            let keyspace = bucket.as_ref().map(|(_, bucket)| &bucket.keyspace);
            chain = filling.records(plan, &segment, keyspace, chain).map_err(Failure::Write)?;
        }
        filling.rest(plan, &self.shared.state.read()).map_err(Failure::Write)?;
        let pending = self.pending.len();
        if pending > 0 {
            let mut ops = std::mem::take(&mut self.pending);
            ops.append(plan.ops.clone());
            filling.deltas(commit, &ops);
            // The deltas stay pending until the disk has them; after a failure they are applied again to the state
            // found then.
            ops.ended.truncate(ops.ended.len() - plan.ops.ended.len());
            ops.attempts.truncate(ops.attempts.len() - plan.ops.attempts.len());
            ops.clears.truncate(ops.clears.len() - plan.ops.clears.len());
            self.pending = ops;
        } else {
            filling.deltas(commit, &plan.ops);
        }
        let Filling { batch, touched, .. } = filling;
        let began = self.now();
        self.to_disk(engine, batch, &touched)?;
        self.shared.observed.sync.observe(self.now().saturating_sub(began).as_secs_f64());
        self.pending = Ops::default();
        (self.commit, self.chain) = (commit, chain);
        if !self.is_short() {
            self.pauses = 0;
        }
        self.deltas_since_fold += (pending + plan.ops.len()) as u64;
        if let Some(number) = taken_by {
            let keyed = plan.records.iter().filter(|fresh| fresh.once.is_some());
            self.shared.count_keys(number, keyed.map(|fresh| fresh.entry.head.producer));
        }
        self.unmeasured += plan.records.iter().map(|fresh| fresh.body.len() as u64).sum::<u64>();
        let last = plan.records.last().map(|fresh| fresh.entry.head.at.seq);
        if let (Some(last), Some(mut open)) = (last, engine.segments.write().last_entry()) {
            open.get_mut().bytes += plan.records.iter().map(|fresh| fresh.body.len() as u64).sum::<u64>();
            open.get_mut().accepted_last = plan.records.last().map(|fresh| fresh.entry.head.accepted);
            debug_assert!(open.get().first <= last);
        }
        self.mark(last, plan.version.map(|version| version.0))?;
        // Only a commit that is answered shows that an opening was not in vain.
        (self.vain, self.was_full) = (0, false);
        Ok(())
    }

    /// Returns the segment for the records of a plan, and the bucket for their keys; either is created where it is due.
    fn make_room(
        &self,
        engine: &Engine,
        filling: &mut Filling<'_>,
        plan: &Plan,
    ) -> Result<(Segment, Option<(u64, Bucket)>), StoreError> {
        let last = self.shared.state.read().last;
        let newest = engine.segments.read().values().next_back().cloned();
        let options = &self.shared.options;
        let fits = |segment: &Segment| {
            segment.last.is_none()
                && last + 1 - segment.first < options.segment_records
                && segment.bytes < options.segment_bytes
        };
        let segment = match newest {
            Some(segment) if fits(&segment) => segment,
            newest => {
                let id = newest.as_ref().map_or(1, |segment| segment.id + 1);
                let slot = engine.spare_segments.slot(id);
                let open = Segment {
                    id,
                    first: last + 1,
                    last: None,
                    accepted_last: None,
                    bytes: 0,
                    condensed: false,
                    slot,
                    keyspaces: Some(engine.keyspaces(slot)?),
                    written_out: false,
                };
                let mut segments = engine.segments.write();
                if let Some(mut full) = newest.filter(|segment| segment.last.is_none()) {
                    full.last = Some(last);
                    tracing::debug!(segment = full.id, last, bytes = full.bytes, "a segment is full");
                    filling.segment(&full);
                    segments.insert(full.first, full);
                }
                filling.segment(&open);
                segments.insert(open.first, open.clone());
                open
            }
        };
        if !plan.records.iter().any(|fresh| fresh.once.is_some()) {
            return Ok((segment, None));
        }
        Ok((segment, Some(self.shared.open_bucket(engine, filling)?)))
    }

    /// Makes a plan visible. Returns the number of deliveries that each clear dropped.
    fn show(&mut self, plan: &mut Plan) -> Vec<usize> {
        let shared = &self.shared;
        let counts = {
            let mut state = shared.state.write();
            let counts = plan.apply(&mut state);
            if let Some(witness) = &*shared.witness.lock() {
                witness.saw(&plan.facts(&counts), state.waiting);
            }
            counts
        };
        let observed = &shared.observed;
        observed.settled.inc_by((plan.ops.ended.len() + counts.iter().sum::<usize>()) as u64);
        observed.waiting.set(i64::try_from(shared.state.read().waiting).unwrap_or(i64::MAX));
        let Some(last) = plan.records.last().map(|fresh| fresh.entry.head.at.seq) else { return counts };
        observed.appended.inc_by(plan.records.len() as u64);
        let mut ring = shared.ring.write();
        for fresh in plan.records.drain(..) {
            observed.appended_bytes.inc_by(fresh.body.len() as u64);
            ring.push(Recent { entry: fresh.entry, body: fresh.body });
        }
        drop(ring);
        shared.last.send_replace(last);
        counts
    }
}
