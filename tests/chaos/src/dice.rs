//! Randomness from a seed.

use std::sync::atomic::{AtomicU64, Ordering};

use setgate_clock::Random;

/// A generator (SplitMix64) that gives the same numbers for the same seed. Clones do not share their state.
#[derive(Debug)]
pub(crate) struct Dice(AtomicU64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d))
    }

    /// Makes a generator for one part of a history, so that no part changes what another draws.
    pub(crate) fn part(seed: u64, part: u64) -> Self {
        Self::new(seed ^ part.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    pub(crate) fn next(&self) -> u64 {
        let step = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`.
    pub(crate) fn under(&self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Returns an index below `bound`.
    pub(crate) fn index(&self, bound: usize) -> usize {
        usize::try_from(self.under(bound as u64)).unwrap_or_default()
    }

    /// Returns true once in `of` times.
    pub(crate) fn once_in(&self, of: u64) -> bool {
        self.under(of) == 0
    }
}

impl Random for Dice {
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            chunk.iter_mut().zip(self.next().to_le_bytes()).for_each(|(to, from)| *to = from);
        }
    }
}
