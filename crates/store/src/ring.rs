//! The newest records, kept in memory so that new events are routed without disk access.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use crate::Entry;

/// A recent record.
#[derive(Debug)]
pub(crate) struct Recent {
    pub(crate) entry: Entry,
    pub(crate) body: Bytes,
}

impl Recent {
    /// Returns the approximate memory that the record uses, in bytes.
    fn cost(&self) -> usize {
        self.body.len() + self.entry.targets.serialized_size() + 160
    }
}

/// A gapless run of records that ends with the last one, bounded in bytes.
#[derive(Debug)]
pub(crate) struct Ring {
    records: VecDeque<Arc<Recent>>,
    bytes: usize,
    limit: usize,
}

impl Ring {
    pub(crate) fn new(limit: usize) -> Self {
        Self { records: VecDeque::new(), bytes: 0, limit }
    }

    /// Adds the record that follows the last one and drops the oldest beyond the limit.
    pub(crate) fn push(&mut self, recent: Recent) {
        self.bytes += recent.cost();
        self.records.push_back(Arc::new(recent));
        while self.bytes > self.limit
            && let Some(oldest) = self.records.pop_front()
        {
            self.bytes -= oldest.cost();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.records.clear();
        self.bytes = 0;
    }

    pub(crate) fn get(&self, seq: u64) -> Option<&Arc<Recent>> {
        let first = self.records.front()?.entry.head.at.seq;
        self.records.get(usize::try_from(seq.checked_sub(first)?).ok()?)
    }

    /// Returns the records from `from` on, or `None` where the first of them is not in the ring.
    pub(crate) fn from(&self, from: u64, most: usize) -> Option<Vec<Entry>> {
        self.get(from)?;
        let start = self.records.front()?.entry.head.at.seq;
        let skip = usize::try_from(from.checked_sub(start)?).ok()?;
        Some(self.records.iter().skip(skip).take(most.max(1)).map(|recent| recent.entry.clone()).collect())
    }
}
