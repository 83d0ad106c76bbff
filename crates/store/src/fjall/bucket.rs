//! Buckets of idempotency keys. One at a time collects keys, for a quarter of the window or until a producer fills its
//! share; each is dropped as a whole when its newest key is older than the window.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use fjall::{Keyspace, PersistMode};
use setgate_set::Timestamp;

use crate::{
    Options, ProducerNo, StoreError,
    codec::{In, Out},
    fjall::{
        batch::Filling,
        bloom_filter::BloomFilter,
        engine::{Engine, engine_error, seq_of},
        shared::Shared,
    },
};

/// The number of shares of the remembered keys of a producer: a producer that fills one share in a bucket makes the
/// next begin.
const SHARES: u64 = 4;

/// The prefix of the keys of buckets' rows.
const ROW: &[u8] = b"bucket/";

/// A bucket of idempotency keys with its Bloom filter.
#[derive(Clone)]
pub(crate) struct Bucket {
    /// The number in the name of the keyspace: the bucket's own, or that of the bucket that had it first.
    pub(crate) slot: u64,
    pub(crate) keyspace: Keyspace,
    pub(crate) filter: Arc<BloomFilter>,
    /// The time that no key in the bucket is younger than. Earlier versions wrote none: see [`Engine::date_buckets`].
    pub(crate) until: Option<Timestamp>,
}

/// Returns the key of a bucket's row.
pub(crate) fn row_key(number: u64) -> Vec<u8> {
    [ROW, &number.to_be_bytes()].concat()
}

/// Returns the bucket of a row's key.
pub(crate) fn number_of(key: &[u8]) -> Option<u64> {
    seq_of(key.strip_prefix(ROW)?)
}

/// Encodes the row of a bucket: the limit of its keys' times, and the number in the name of its keyspace where that is
/// not its own.
pub(crate) fn write_row(number: u64, slot: u64, until: Timestamp) -> Vec<u8> {
    let mut out = Out::new(16);
    out.number(until.as_millis());
    if slot != number {
        out.number(slot);
    }
    out.sealed()
}

/// Reads the row of a bucket: the limit of its keys' times, and the number in the name of its keyspace.
pub(crate) fn read_row(number: u64, value: &[u8]) -> Option<(Timestamp, u64)> {
    let mut from = In::sealed(value)?;
    let until = from.number().map(Timestamp::from_millis)?;
    Some((until, from.number().unwrap_or(number)))
}

impl Options {
    /// Returns the milliseconds for which one bucket of idempotency keys collects: a quarter of the window.
    fn bucket_millis(&self) -> u64 {
        u64::try_from(self.idempotency_window.as_millis() / 4).unwrap_or(u64::MAX).max(1)
    }

    /// Returns the number of keys of one producer that one bucket accepts.
    fn bucket_share(&self) -> u64 {
        (self.idempotency_keys_per_producer / SHARES).max(1)
    }
}

impl Engine {
    pub(crate) fn find_buckets(&mut self) -> Result<(), StoreError> {
        let mut once = BTreeMap::new();
        // The buckets and the limits of their keys' times, by the number in the name of the keyspace.
        let mut owners = BTreeMap::new();
        for item in self.meta.prefix(ROW) {
            let (key, value) = item.into_inner().map_err(engine_error)?;
            let Some(number) = number_of(&key) else { continue };
            let (until, slot) = read_row(number, &value).map_or((None, number), |(until, slot)| (Some(until), slot));
            owners.insert(slot, (number, until));
        }
        for name in self.db.list_keyspace_names() {
            let Some(slot) = name.strip_prefix("once-").and_then(|slot| slot.parse().ok()) else { continue };
            self.spare_buckets.seen(slot);
            match owners.get(&slot) {
                Some((number, until)) => drop(once.insert(*number, self.bucket(slot, *until)?)),
                // Earlier versions wrote no rows; the first opening by one that does writes all of them.
                None if owners.is_empty() => drop(once.insert(slot, self.bucket(slot, None)?)),
                None => self.spare_buckets.found(slot, self.bucket(slot, None)?.keyspace),
            }
        }
        *self.once.write() = once;
        Ok(())
    }

    /// Dates the buckets of earlier versions by their numbers. None is dated in the future, whatever the clock was when
    /// they were made. A bucket that has a row and is not too old to be searched must exist.
    pub(crate) fn date_buckets(&self, options: &Options, now: Timestamp) -> Result<(), StoreError> {
        let mut batch = self.db.batch().durability(Some(PersistMode::Buffer));
        let mut changed = 0;
        let window = options.idempotency_window;
        for item in self.meta.prefix(ROW) {
            let (key, value) = item.into_inner().map_err(engine_error)?;
            let Some(number) = number_of(&key).filter(|number| !self.once.read().contains_key(number)) else {
                continue;
            };
            if read_row(number, &value).is_none_or(|(until, _)| now.since(until) < window) {
                return Err(StoreError::Corrupt(format!("the idempotency keys of bucket {number} are missing").into()));
            }
            // The bucket was dropped, and the process ended before its row was.
            batch.remove(&self.meta, &*key);
            changed += 1;
        }
        for (number, bucket) in self.once.write().iter_mut().filter(|(_, bucket)| bucket.until.is_none()) {
            let width = options.bucket_millis();
            let said = Timestamp::from_millis(number.saturating_add(1).saturating_mul(width));
            let until = said.min(now.plus(std::time::Duration::from_millis(width)));
            batch.insert(&self.meta, row_key(*number), write_row(*number, bucket.slot, until));
            bucket.until = Some(until);
            changed += 1;
        }
        if changed > 0 { batch.commit().map_err(engine_error) } else { Ok(()) }
    }
}

impl Shared {
    /// Returns the oldest bucket of idempotency keys that is still searched. While the wall clock is suspect, all are.
    pub(crate) fn oldest_bucket(&self, engine: &Engine) -> u64 {
        let time = self.sanity.time(&self.runtime);
        if time.suspect {
            return 0;
        }
        let window = self.options.idempotency_window;
        let once = engine.once.read();
        let asked = |bucket: &Bucket| bucket.until.is_none_or(|until| time.now.since(until) < window);
        let oldest = once.iter().find(|(_, bucket)| asked(bucket)).map(|(number, _)| *number);
        oldest.or(once.last_key_value().map(|(newest, _)| newest + 1)).unwrap_or_default()
    }

    /// Returns the bucket that collects keys now, with its number. A new one is made where the newest is full, or has
    /// collected for long enough.
    pub(crate) fn open_bucket(&self, engine: &Engine, filling: &mut Filling<'_>) -> Result<(u64, Bucket), StoreError> {
        let now = self.sanity.now(&self.runtime);
        let newest = engine.once.read().last_key_value().map(|(number, bucket)| (*number, bucket.clone()));
        let crowded = self.crowded.load(Ordering::Acquire);
        let takes =
            |(number, bucket): &(u64, Bucket)| bucket.until.is_some_and(|until| now < until) && *number >= crowded;
        if let Some(newest) = newest.clone().filter(takes) {
            return Ok(newest);
        }
        let width = self.options.bucket_millis();
        let after = newest.map_or(0, |(number, _)| number + 1);
        // A number is never reused: what is known of the old bucket would be applied to the new one.
        let number = after.max(now.as_millis() / width).max(crowded).max(self.given.load(Ordering::Acquire) + 1);
        self.given.store(number, Ordering::Release);
        let until = now.plus(std::time::Duration::from_millis(width));
        let slot = engine.spare_buckets.slot(number);
        let bucket = engine.bucket(slot, Some(until))?;
        engine.once.write().insert(number, bucket.clone());
        filling.batch.insert(&engine.meta, row_key(number), write_row(number, slot, until));
        self.shorten(self.oldest_bucket(engine));
        Ok((number, bucket))
    }

    /// Counts the idempotency keys of records that are durable now.
    pub(crate) fn count_keys(&self, number: u64, producers: impl Iterator<Item = ProducerNo>) {
        let share = self.options.bucket_share();
        let mut keys = self.keys.lock();
        let counts = keys.entry(number).or_default();
        for producer in producers {
            let count = counts.entry(producer).or_default();
            *count += 1;
            if *count >= share {
                self.crowded.fetch_max(number + 1, Ordering::AcqRel);
            }
        }
    }

    /// Shortens the window of producers that have too many keys: their oldest buckets are no longer searched.
    pub(crate) fn shorten(&self, oldest: u64) {
        let keys = self.keys.lock();
        let mut horizons = self.horizons.write();
        horizons.retain(|_, horizon| *horizon > oldest);
        let mut sums: BTreeMap<ProducerNo, u64> = BTreeMap::new();
        // The newest bucket comes first, so that the oldest of a producer are dropped.
        for (bucket, counts) in keys.iter().rev() {
            for (producer, count) in counts {
                let sum = sums.entry(*producer).or_default();
                let full = *sum >= self.options.idempotency_keys_per_producer;
                *sum += count;
                if full && horizons.get(producer).is_none_or(|horizon| *horizon <= *bucket) {
                    tracing::warn!(%producer, "a producer has too many ids: its oldest are forgotten before their time");
                    self.observed.keys_forgotten.inc_by(*count);
                    horizons.insert(*producer, bucket + 1);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
