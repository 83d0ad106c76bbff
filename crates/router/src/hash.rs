//! Maps by numbers that no outsider can choose: positions of the ledger, numbers of streams and consumers, order keys.
//!
//! Order keys come from a keyed hash, and the other numbers are counted here. A multiplication therefore spreads them
//! well enough, and senders of events cannot make them collide.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
};

/// A map whose keys are such numbers.
pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;
/// A set of such numbers.
pub(crate) type Set<K> = HashSet<K, BuildHasherDefault<Mix>>;

/// A hasher that spreads a number over all bits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.0 ^ number ^ 0x243F_6A88_85A3_08D3) * 0x9E37_79B9_7F4A_7C15;
        // The upper half holds what the lower half lost.
        self.0 = (product ^ (product >> 64)) as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_follow_each_other_are_spread() {
        let hash = |number: u64| {
            let mut mix = Mix::default();
            mix.write_u64(number);
            mix.finish()
        };
        for shift in [0, 16, 32] {
            let places: HashSet<u64> = (0..1024).map(|number| hash(number << shift) & 0xFFFF).collect();
            let tags: HashSet<u64> = (0..1024).map(|number| hash(number << shift) >> 57).collect();
            assert!(places.len() > 950 && tags.len() > 120, "{} and {} of << {shift}", places.len(), tags.len());
        }
    }
}
