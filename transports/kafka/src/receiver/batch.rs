//! Records that are taken together, and how far each partition is done.

use std::{collections::HashMap, sync::Arc};

use setgate_delivery::Bytes;

use super::record::{Headers, Read};

/// A partition, with the number of its assignment to this member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Assignment {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) epoch: u64,
}

/// A record as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) place: Assignment,
    pub(crate) offset: i64,
    /// The time at which the record was made or appended, as the topic has it.
    pub(crate) millis: Option<i64>,
    pub(crate) key: Option<Bytes>,
    pub(crate) headers: Headers,
    /// The reason why the headers cannot be read, if they cannot.
    pub(crate) headers_bad: Option<&'static str>,
    pub(crate) value: Option<Bytes>,
}

impl Record {
    /// Returns the bytes that the record occupies in memory.
    pub(crate) fn bytes(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Bytes::len)).sum();
        self.value.as_ref().map_or(0, Bytes::len) + self.key.as_ref().map_or(0, Bytes::len) + headers + 128
    }

    /// Returns the identity by which the record is known when it comes again. A topic that is deleted and created anew
    /// counts from the beginning, and the time tells its records from those that stood there before.
    pub(crate) fn name(&self, cluster: &str) -> String {
        match self.millis {
            Some(millis) => format!("kafka:{cluster}:{}@{millis}", self.at()),
            None => format!("kafka:{cluster}:{}", self.at()),
        }
    }

    /// Returns the place of the record, as the operator reads it.
    pub(crate) fn at(&self) -> String {
        format!("{}/{}/{}", self.place.topic, self.place.partition, self.offset)
    }
}

/// A record in hand; `left` is `None` when nothing more is to be done for it.
pub(crate) struct Item {
    pub(crate) record: Record,
    pub(crate) left: Option<Read>,
}

/// Returns the offset at which each partition may be continued: that of its first record with something left to do, or
/// the one behind its last record.
pub(crate) fn positions(items: &[Item]) -> HashMap<Assignment, i64> {
    let mut next: HashMap<&Assignment, (i64, bool)> = HashMap::new();
    for item in items {
        let (at, open) = next.entry(&item.record.place).or_insert((item.record.offset, true));
        match (*open, item.left.is_none()) {
            (true, true) => *at = item.record.offset + 1,
            (true, false) => *open = false,
            (false, _) => {}
        }
    }
    next.into_iter().map(|(place, (at, _))| (place.clone(), at)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(partition: i32, offset: i64, done: bool) -> Item {
        let place = Assignment { topic: "t".into(), partition, epoch: 1 };
        let record = Record {
            place,
            offset,
            millis: None,
            key: None,
            headers: Vec::new(),
            headers_bad: None,
            value: Some(Bytes::new()),
        };
        Item { record, left: (!done).then_some(Read::Nothing) }
    }

    #[test]
    fn a_topic_made_anew_has_no_names_of_the_old_one() {
        let name = |millis| Record { millis, ..item(0, 5, true).record }.name("main");
        assert_eq!((name(None), name(Some(7))), ("kafka:main:t/0/5".into(), "kafka:main:t/0/5@7".into()));
        assert_ne!(name(Some(8)), name(Some(7)));
    }

    #[test]
    fn a_partition_goes_on_at_its_first_record_that_is_not_done() {
        let items = [
            item(0, 5, true),
            item(1, 9, false),
            item(0, 7, true),
            item(0, 8, false),
            item(0, 9, true),
            item(1, 10, true),
        ];
        let at = positions(&items);
        let of = |partition| at[&Assignment { topic: "t".into(), partition, epoch: 1 }];
        assert_eq!((of(0), of(1), at.len()), (8, 9, 2));
    }
}
