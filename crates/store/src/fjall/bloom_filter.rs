//! Bloom filters that exclude unknown idempotency keys, so that the engine is not searched for them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use fjall::Keyspace;
use parking_lot::Mutex;

use crate::{
    StoreError,
    fjall::engine::{engine_error, once_key},
    plan::Fresh,
};

/// The most bytes of all filters together, enough for eleven million keys. Beyond that the engine is searched.
const BUDGET: usize = 16 * 1024 * 1024;
/// The bits of memory per key: the engine is searched for one unknown key in a hundred.
const BITS: usize = 12;
/// The bits that a key sets, nine bits of its hash each, all in one line of the processor's cache.
const SET: u32 = 7;
/// The least number of keys that fit into the first layer.
const FIRST: usize = 16 * 1024;
/// The keys of one page: those that are read from the engine before the lock is taken to add them.
const PAGE: usize = 1024;

/// A line of the processor's cache.
type Block = [u64; 8];

/// The memory that is left for filters.
#[derive(Clone, Debug)]
pub(crate) struct MemoryBudget(Arc<AtomicUsize>);

/// The keys of one bucket as a Bloom filter in layers, each twice as large as the one before.
///
/// A key that was added is always found from then on. Until every key of the bucket was added, and when memory does not
/// suffice, everything is found.
pub(crate) struct BloomFilter {
    layers: Mutex<Vec<Layer>>,
    /// True when every key of the bucket is in the filter.
    whole: AtomicBool,
    /// True when there was no memory for the filter, or the keys could not be read.
    given_up: AtomicBool,
    budget: MemoryBudget,
}

struct Layer {
    blocks: Box<[Block]>,
    /// The number of keys that still fit.
    room: usize,
}

impl MemoryBudget {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicUsize::new(BUDGET)))
    }

    fn reserve(&self, bytes: usize) -> bool {
        let left = |left: usize| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, left).is_ok()
    }
}

impl BloomFilter {
    /// Creates an empty filter, for a bucket without keys or for one whose keys are added by [`BloomFilter::fill`].
    pub(crate) fn new(empty: bool, budget: &MemoryBudget) -> Self {
        Self {
            layers: Mutex::default(),
            whole: AtomicBool::new(empty),
            given_up: AtomicBool::new(false),
            budget: budget.clone(),
        }
    }

    /// Returns whether the bucket may have this key. `false` is certain.
    pub(crate) fn may_have(&self, key: &[u8; 20]) -> bool {
        if !self.whole.load(Ordering::Acquire) {
            return true;
        }
        let hash = Hash::of(key);
        let layers = self.layers.lock();
        // The filter may have been given up since the first check.
        !self.whole.load(Ordering::Acquire) || layers.iter().any(|layer| layer.has(hash))
    }

    /// Adds keys, before they are written.
    pub(crate) fn add<'a>(&self, keys: impl Iterator<Item = &'a [u8; 20]>) {
        if self.given_up.load(Ordering::Acquire) {
            return;
        }
        let mut layers = self.layers.lock();
        for key in keys {
            if self.given_up.load(Ordering::Acquire) || !self.grow(&mut layers, 0) {
                return;
            }
            if let Some(newest) = layers.last_mut() {
                newest.add(Hash::of(key));
            }
        }
    }

    /// Adds the keys that were in the bucket when it was opened, `about` of them. The work is done once, whether or not
    /// it succeeds.
    ///
    /// # Errors
    /// Returns [`StoreError`] when the keys cannot be read; then everything is found.
    pub(crate) fn fill(&self, keyspace: &Keyspace, about: usize) -> Result<(), StoreError> {
        if self.whole.load(Ordering::Acquire) || self.given_up.load(Ordering::Acquire) {
            return Ok(());
        }
        let filled = self.load(keyspace, about);
        self.conclude(filled.is_ok());
        filled
    }

    /// Ends the filling, after all keys of the bucket were added or could not be read. The decision is made under the
    /// lock under which memory runs out: a filter that was given up in between must not count as whole, since it is
    /// empty and would deny everything.
    fn conclude(&self, filled: bool) {
        let mut layers = self.layers.lock();
        if !filled {
            self.given_up.store(true, Ordering::Release);
            self.put_back(&mut layers);
        }
        self.whole.store(!self.given_up.load(Ordering::Acquire), Ordering::Release);
    }

    fn load(&self, keyspace: &Keyspace, about: usize) -> Result<(), StoreError> {
        self.grow(&mut self.layers.lock(), about);
        let mut page: Vec<[u8; 20]> = Vec::with_capacity(PAGE);
        for item in keyspace.iter() {
            // A key of another length was not written by the store, and is never searched for.
            if let Ok(key) = item.key().map_err(engine_error)?.as_ref().try_into() {
                page.push(key);
            }
            if page.len() == PAGE {
                self.add(page.iter());
                page.clear();
            }
        }
        self.add(page.iter());
        Ok(())
    }

    /// Makes sure that the newest layer has room. Where memory does not suffice, the filter is given up.
    fn grow(&self, layers: &mut Vec<Layer>, about: usize) -> bool {
        if layers.last().is_some_and(|newest| newest.room > 0) {
            return true;
        }
        let room = layers.last().map_or(FIRST, |newest| newest.capacity() * 2).max(about);
        let layer = Layer::size(room);
        if !self.budget.reserve(layer) {
            self.whole.store(false, Ordering::Release);
            self.given_up.store(true, Ordering::Release);
            self.put_back(layers);
            return false;
        }
        layers.push(Layer { blocks: vec![[0; 8]; layer / size_of::<Block>()].into(), room });
        true
    }

    fn put_back(&self, layers: &mut Vec<Layer>) {
        let bytes = layers.drain(..).map(|layer| size_of_val(&*layer.blocks)).sum();
        self.budget.0.fetch_add(bytes, Ordering::AcqRel);
    }
}

impl Drop for BloomFilter {
    fn drop(&mut self) {
        let mut layers = std::mem::take(&mut *self.layers.lock());
        self.put_back(&mut layers);
    }
}

/// Returns the idempotency keys of records, in their stored form.
pub(crate) fn keys_of(records: &[Fresh]) -> Vec<[u8; 20]> {
    let keys = records.iter().filter_map(|fresh| Some(once_key(fresh.entry.head.producer, &fresh.once.as_ref()?.key)));
    keys.collect()
}

/// The parts of a key that select a cache line and its bits. A key is a keyed hash already, so no outsider can choose
/// its bits.
#[derive(Clone, Copy)]
struct Hash {
    line: u64,
    bits: u64,
}

impl Hash {
    fn of(key: &[u8; 20]) -> Self {
        let word =
            |from: usize| key.get(from..from + 8).and_then(|part| part.try_into().ok()).map_or(0, u64::from_be_bytes);
        // The producer precedes the hash.
        let producer = word(0) >> 32;
        Self { line: word(4) ^ producer.wrapping_mul(0x9e37_79b9_7f4a_7c15), bits: word(12) }
    }

    fn masks(self) -> impl Iterator<Item = (usize, u64)> {
        (0..SET).map(move |number| {
            let bit = (self.bits >> (9 * number)) & 511;
            (usize::try_from(bit >> 6).unwrap_or_default(), 1u64 << (bit & 63))
        })
    }
}

impl Layer {
    fn size(keys: usize) -> usize {
        (keys * BITS).div_ceil(512).max(1) * size_of::<Block>()
    }

    fn capacity(&self) -> usize {
        self.blocks.len() * 512 / BITS
    }

    fn at(&self, hash: Hash) -> usize {
        let place = (u128::from(hash.line) * self.blocks.len() as u128) >> 64;
        usize::try_from(place).unwrap_or_default()
    }

    fn has(&self, hash: Hash) -> bool {
        let block = self.blocks.get(self.at(hash));
        block.is_some_and(|block| hash.masks().all(|(word, mask)| block.get(word).is_some_and(|word| word & mask != 0)))
    }

    fn add(&mut self, hash: Hash) {
        let at = self.at(hash);
        if let Some(block) = self.blocks.get_mut(at) {
            for (word, mask) in hash.masks() {
                if let Some(word) = block.get_mut(word) {
                    *word |= mask;
                }
            }
        }
        self.room = self.room.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> [u8; 20] {
        let hash = blake3::hash(&number.to_be_bytes());
        let mut key = [0; 20];
        key[3] = 1;
        key[4..].copy_from_slice(&hash.as_bytes()[..16]);
        key
    }

    #[test]
    fn what_was_taken_up_is_found_and_little_else_is() {
        let budget = MemoryBudget::new();
        let filter = BloomFilter::new(true, &budget);
        let known: Vec<_> = (0..200_000).map(key).collect();
        for page in known.chunks(77) {
            filter.add(page.iter());
        }
        assert!(known.iter().all(|key| filter.may_have(key)), "a key was lost");
        let wrong = (200_000..300_000).filter(|number| filter.may_have(&key(*number))).count();
        assert!(wrong < 3_000, "{wrong} of 100000 unknown keys are asked for in vain");
        let mut other = known[0];
        other[3] = 2;
        assert!(!filter.may_have(&other), "the same hash of another producer");
        let bytes = BUDGET - budget.0.load(Ordering::Relaxed);
        assert!(bytes < 200_000 * 4, "{bytes} bytes");
        drop(filter);
        assert_eq!(budget.0.load(Ordering::Relaxed), BUDGET, "memory was not given back");
    }

    #[test]
    fn without_memory_or_without_all_keys_everything_is_found() {
        let budget = MemoryBudget::new();
        let part = BloomFilter::new(false, &budget);
        part.add([key(1)].iter());
        assert!(part.may_have(&key(2)), "nobody knows what else is in the bucket");
        let filter = BloomFilter::new(true, &budget);
        assert!(!filter.may_have(&key(2)));
        assert!(budget.reserve(budget.0.load(Ordering::Relaxed)), "the budget is used up");
        filter.add([key(1)].iter());
        assert!(filter.may_have(&key(1)) && filter.may_have(&key(2)));
        filter.add([key(3)].iter());
        assert!(filter.may_have(&key(3)));
    }

    #[test]
    fn memory_that_runs_out_while_keys_are_read_ahead_leaves_a_filter_that_finds_everything() {
        let budget = MemoryBudget::new();
        let filter = BloomFilter::new(false, &budget);
        filter.add([key(1)].iter());
        // All keys were read. Before the filling ends, a key is added for which there is no memory.
        assert!(budget.reserve(budget.0.load(Ordering::Relaxed)));
        let many: Vec<_> = (2..2 + FIRST as u64).map(key).collect();
        filter.add(many.iter());
        filter.conclude(true);
        assert!(filter.may_have(&key(1)) && filter.may_have(&key(1_000_000)));
        filter.add([key(2_000_000)].iter());
        assert!(filter.may_have(&key(3_000_000)), "what was given up is not begun again");
    }
}
