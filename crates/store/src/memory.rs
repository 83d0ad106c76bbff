//! A store in memory, for demonstrations and tests, and the reference of the contract suite. Its content is lost with
//! the process.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use setgate_clock::Runtime;
use setgate_set::Timestamp;
use tokio::sync::watch;

use crate::{
    Attempted, Boot, Bounds, ClockObserved, Confirmed, Cursor, Done, Durability, Entry, Fence, Head, Health, Key,
    Names, Obstacle, Parked, ParkedFilter, Position, ProducerNo, Record, Store, StoreError, StreamNo, Time, Unit,
    Version, Witness,
    plan::{IdempotencyRecord, Lookup, ParkedRow, Planner},
    sanity::{LEAP, Sanity},
    state::State,
    time::HeldBack,
};

/// The time for which an idempotency key is kept.
const WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Default)]
struct Tables {
    records: BTreeMap<u64, (Entry, Bytes)>,
    once: HashMap<[u8; 16], (IdempotencyRecord, Timestamp)>,
    rows: BTreeMap<(StreamNo, u64), ParkedRow>,
    control: BTreeMap<Key, Record>,
}

struct Inner {
    state: State,
    tables: Tables,
    witness: Option<Arc<dyn Witness>>,
    closed: bool,
}

/// A store in memory.
pub struct MemoryStore {
    names: Names,
    boot: Boot,
    sanity: Sanity,
    runtime: Runtime,
    inner: Arc<Mutex<Inner>>,
    last: watch::Sender<u64>,
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MemoryStore")
    }
}

impl Lookup for Tables {
    fn once(&self, _producer: ProducerNo, key: &[u8; 16]) -> Result<Option<IdempotencyRecord>, StoreError> {
        Ok(self.once.get(key).map(|(kept, _)| kept.clone()))
    }

    fn parked(&self, stream: StreamNo, seq: u64) -> Result<Option<ParkedRow>, StoreError> {
        Ok(self.rows.get(&(stream, seq)).cloned())
    }

    fn record(&self, seq: u64) -> Result<Option<(Head, Option<Bytes>)>, StoreError> {
        Ok(self.records.get(&seq).map(|(entry, body)| (entry.head.clone(), Some(body.clone()))))
    }
}

impl MemoryStore {
    /// Creates an empty store whose names derive from this secret.
    #[must_use]
    pub fn new(runtime: Runtime, secret: &[u8; Names::SECRET]) -> Arc<Self> {
        let state = State { first: 1, ..State::default() };
        Arc::new(Self {
            names: Names::new(b'a', secret),
            boot: Boot(runtime.random.below(1 << 40)),
            sanity: Sanity::new(&runtime, LEAP, ClockObserved::default(), None),
            inner: Arc::new(Mutex::new(Inner { state, tables: Tables::default(), witness: None, closed: false })),
            last: watch::Sender::new(0),
            runtime,
        })
    }

    /// Checks the clock before anything is planned, and believes it when it has run steadily for long enough.
    fn watch_clock(&self, inner: &mut Inner) -> Timestamp {
        let seen = self.sanity.watch(&self.runtime, inner.state.last, inner.state.last_accepted);
        match seen.suspect {
            Some(strayed) if strayed.left.is_zero() => {
                self.believe(inner);
                self.sanity.now(&self.runtime)
            }
            _ => seen.now,
        }
    }

    /// Believes the wall clock. Records that were accepted while it was suspect count as no older than this moment.
    fn believe(&self, inner: &mut Inner) -> Confirmed {
        let seen = self.sanity.look(&self.runtime, Some(inner.state.last));
        self.sanity.believe(&self.runtime);
        let Some(strayed) = seen.suspect else { return Confirmed::default() };
        let (state, until) = (&mut inner.state, strayed.wall);
        let from = strayed.last.unwrap_or(state.last);
        if strayed.offset > 0 {
            if from < state.last {
                let run = HeldBack { first: from + 1, last: state.last, times: (strayed.began, seen.now), until };
                run.add(&mut state.held_back, state.first, Duration::ZERO);
            }
            inner.tables.once.values_mut().for_each(|(_, at)| *at = until);
        } else {
            inner.tables.once.values_mut().for_each(|(_, at)| *at = until.min(*at));
            state.held_back.iter_mut().for_each(|run| run.until = until.min(run.until));
        }
        Confirmed { offset_seconds: strayed.seconds(), went_back_seconds: 0 }
    }

    fn write(&self, units: Vec<Unit>) -> Result<Vec<Done>, StoreError> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if inner.closed {
            return Err(StoreError::Unavailable("it is closed".into()));
        }
        let now = self.watch_clock(inner);
        let mut planner = Planner::new(&inner.state, &inner.tables, &self.names, self.boot, self.fence(), now);
        let answers: Vec<_> = units.iter().map(|unit| planner.unit(unit)).collect::<Result<_, _>>()?;
        let plan = planner.finish();
        let counts = plan.apply(&mut inner.state);
        if let Some(witness) = &inner.witness {
            witness.saw(&plan.facts(&counts), inner.state.waiting);
        }
        for fresh in plan.records {
            let head = &fresh.entry.head;
            if let Some(once) = fresh.once {
                let kept = IdempotencyRecord { seq: head.at.seq, digest: once.digest, txn: once.txn };
                inner.tables.once.insert(once.key, (kept, head.accepted));
            }
            inner.tables.records.insert(head.at.seq, (fresh.entry, fresh.body));
        }
        for (key, row) in plan.rows {
            match row {
                Some(row) => drop(inner.tables.rows.insert(key, row)),
                None => drop(inner.tables.rows.remove(&key)),
            }
        }
        for (key, (version, value)) in plan.puts {
            match value {
                Some(value) => drop(inner.tables.control.insert(key.clone(), Record { key, version, value })),
                None => drop(inner.tables.control.remove(&key)),
            }
        }
        let last = inner.state.last;
        drop(guard);
        self.last.send_if_modified(|seen| std::mem::replace(seen, last) != last);
        Ok(answers.into_iter().map(|answer| answer.done(&counts)).collect())
    }

    fn read<T>(&self, read: impl FnOnce(&Inner) -> T) -> Result<T, StoreError> {
        Self::look(&self.inner, read)
    }

    fn look<T>(inner: &Mutex<Inner>, read: impl FnOnce(&Inner) -> T) -> Result<T, StoreError> {
        let inner = inner.lock();
        if inner.closed { Err(StoreError::Unavailable("it is closed".into())) } else { Ok(read(&inner)) }
    }

    fn ready<T: Send + 'static>(result: Result<T, StoreError>) -> BoxFuture<'static, Result<T, StoreError>> {
        Box::pin(std::future::ready(result))
    }

    fn head(inner: &Inner, seq: u64) -> Option<Head> {
        inner.tables.records.get(&seq).map(|(entry, _)| entry.head.clone())
    }

    /// Returns the records after a position, and the last position. Where there are no such records, nothing up to the
    /// last position is owed any more.
    fn entries(inner: &Mutex<Inner>, after: u64, most: usize) -> Result<(Vec<Entry>, u64), StoreError> {
        Self::look(inner, |inner| {
            let all = inner.tables.records.range(after.saturating_add(1)..);
            (all.take(most.max(1)).map(|(_, (entry, _))| entry.clone()).collect(), inner.state.last)
        })
    }
}

impl Store for MemoryStore {
    fn commit(&self, units: Vec<Unit>, _how: Durability) -> BoxFuture<'static, Result<Vec<Done>, StoreError>> {
        Self::ready(self.write(units))
    }

    fn tail(&self, after: Position, most: usize, wait: Duration) -> BoxFuture<'static, Result<Vec<Entry>, StoreError>> {
        let (inner, mut newest, runtime) = (self.inner.clone(), self.last.subscribe(), self.runtime.clone());
        Box::pin(async move {
            let until = runtime.clock.monotonic() + wait;
            let mut after = after.seq;
            loop {
                let (found, last) = Self::entries(&inner, after, most)?;
                let left = until.saturating_sub(runtime.clock.monotonic());
                if !found.is_empty() || left.is_zero() {
                    return Ok(found);
                }
                after = after.max(last);
                let arrived = std::pin::pin!(newest.wait_for(|last| *last > after));
                let _ = futures_util::future::select(arrived, runtime.clock.sleep(left)).await;
            }
        })
    }

    fn bodies(&self, at: Vec<Position>) -> BoxFuture<'static, Result<Vec<Option<Bytes>>, StoreError>> {
        let body = |inner: &Inner, at: &Position| inner.tables.records.get(&at.seq).map(|(_, body)| body.clone());
        Self::ready(self.read(|inner| at.iter().map(|at| body(inner, at)).collect()))
    }

    fn heads(&self, at: Vec<Position>) -> BoxFuture<'static, Result<Vec<Option<Head>>, StoreError>> {
        Self::ready(self.read(|inner| at.iter().map(|at| Self::head(inner, at.seq)).collect()))
    }

    fn owed(&self, stream: StreamNo, after: Position, max: usize) -> BoxFuture<'static, Result<Vec<Head>, StoreError>> {
        Self::ready(self.read(|inner| {
            let owed = inner.state.owed(stream, after.seq, max);
            owed.into_iter().filter_map(|seq| Self::head(inner, seq)).collect()
        }))
    }

    fn owed_control(&self, stream: StreamNo) -> BoxFuture<'static, Result<Vec<Head>, StoreError>> {
        Self::ready(self.read(|inner| {
            let cursor = inner.state.cursors.get(&stream);
            cursor.into_iter().flat_map(|cursor| &cursor.control).filter_map(|seq| Self::head(inner, *seq)).collect()
        }))
    }

    fn is_owed(&self, stream: StreamNo, at: Position) -> bool {
        self.inner.lock().state.is_owed(stream, at.seq)
    }

    fn waiting(&self, stream: StreamNo) -> u64 {
        self.inner.lock().state.cursors.get(&stream).map_or(0, |cursor| cursor.tally.waiting)
    }

    fn attempts(&self, stream: StreamNo) -> Vec<(Position, Attempted)> {
        self.inner.lock().state.attempts(stream)
    }

    fn cursor(&self, stream: StreamNo) -> BoxFuture<'static, Result<Cursor, StoreError>> {
        Self::ready(self.read(|inner| {
            let Some(cursor) = inner.state.cursors.get(&stream) else { return Cursor::default() };
            let bytes =
                cursor.owed.iter().filter_map(|seq| Self::head(inner, seq)).map(|head| u64::from(head.body_len)).sum();
            Cursor {
                tally: cursor.tally.clone(),
                oldest: cursor.owed.min().and_then(|seq| Self::head(inner, seq)),
                bytes,
                dropped_through: Position::new(cursor.dropped_through),
                parked_now: cursor.parked_now,
            }
        }))
    }

    fn nth_newest(&self, stream: StreamNo, n: u64) -> Option<Position> {
        self.inner.lock().state.nth_newest(stream, n)
    }

    fn first_accepted_at(&self, when: Timestamp) -> BoxFuture<'static, Result<Position, StoreError>> {
        Self::ready(self.read(|inner| {
            let found = inner.tables.records.iter().find(|(_, (entry, _))| entry.head.accepted >= when);
            let found = found.map_or(inner.state.last + 1, |(seq, _)| *seq);
            Position::new(HeldBack::first_since(&inner.state.held_back, when).map_or(found, |first| first.min(found)))
        }))
    }

    fn parked(&self, which: ParkedFilter) -> BoxFuture<'static, Result<Vec<Parked>, StoreError>> {
        Self::ready(self.read(|inner| {
            let from = which.from.map_or((StreamNo(0), 0), |(stream, at)| (stream, at.seq));
            let rows = inner.tables.rows.range(from..).map(|(_, row)| &row.parked);
            rows.filter(|parked| which.takes(parked)).take(which.most).cloned().collect()
        }))
    }

    fn get(&self, keys: Vec<Key>) -> BoxFuture<'static, Result<Vec<Option<Record>>, StoreError>> {
        Self::ready(self.read(|inner| keys.iter().map(|key| inner.tables.control.get(key).cloned()).collect()))
    }

    fn range(&self, prefix: Key) -> BoxFuture<'static, Result<Vec<Record>, StoreError>> {
        Self::ready(self.read(|inner| {
            let all = inner.tables.control.range(prefix.clone()..);
            all.take_while(|(key, _)| key.0.starts_with(&prefix.0)).map(|(_, record)| record.clone()).collect()
        }))
    }

    fn version(&self) -> Version {
        self.inner.lock().state.version
    }

    fn bounds(&self) -> Bounds {
        let inner = self.inner.lock();
        Bounds { first: Position::new(inner.state.first), last: Position::new(inner.state.last) }
    }

    fn fence(&self) -> Fence {
        Fence { epoch: 1 }
    }

    fn names(&self) -> &Names {
        &self.names
    }

    fn health(&self) -> Health {
        let inner = self.inner.lock();
        let bytes: usize = inner.tables.records.values().map(|(_, body)| body.len()).sum();
        Health {
            bytes: bytes as u64,
            budget: u64::MAX,
            free: u64::MAX,
            waiting: inner.state.waiting,
            parked: inner.state.parked,
            ..self.sanity.health(&self.runtime, inner.state.last_accepted)
        }
        .hindered(inner.closed.then_some(Obstacle::Closed))
    }

    fn watch(&self, witness: Arc<dyn Witness>) {
        let mut inner = self.inner.lock();
        witness.saw(&inner.state.before(), inner.state.waiting);
        inner.witness = Some(witness);
    }

    fn time(&self) -> Time {
        self.sanity.time(&self.runtime)
    }

    fn confirm_clock(&self) -> BoxFuture<'static, Result<Confirmed, StoreError>> {
        let mut inner = self.inner.lock();
        let mut confirmed = self.believe(&mut inner);
        let now = self.sanity.now(&self.runtime);
        let accepted = &mut inner.state.last_accepted;
        confirmed.went_back_seconds = accepted.since(now).as_secs();
        *accepted = now.min(*accepted);
        Self::ready(Ok(confirmed))
    }

    fn housekeep(&self) -> BoxFuture<'static, Result<(), StoreError>> {
        let mut guard = self.inner.lock();
        let now = self.watch_clock(&mut guard);
        let suspect = self.sanity.check(&self.runtime);
        let Inner { state, tables, closed, .. } = &mut *guard;
        if !*closed {
            let owed = state.cursors.values().fold(roaring::RoaringTreemap::new(), |all, cursor| all | &cursor.owed);
            state.first = owed.min().unwrap_or(state.last + 1);
            tables.records.retain(|seq, _| *seq >= state.first);
            state.cursors.retain(|_, cursor| !cursor.is_over());
            if !suspect {
                tables.once.retain(|_, (_, accepted)| now.since(*accepted) < WINDOW);
            }
        }
        drop(guard);
        Self::ready(Ok(()))
    }

    fn close(&self) -> BoxFuture<'static, Result<(), StoreError>> {
        self.inner.lock().closed = true;
        Self::ready(Ok(()))
    }
}
