//! The beginning of a group that is to take only records from now on.
//!
//! The library's own `auto.offset.reset=latest` would skip to the end again at each start until there is an offset, and
//! whenever an offset is gone from the topic: records that came meanwhile would be lost. Here the end is looked up once
//! and committed; from then on the group has an offset, and an offset that is gone means the oldest record that is
//! left.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaResult,
};

use super::group::Member;

/// The longest wait for one answer, during which the group waits too.
const WITHIN: Duration = Duration::from_secs(10);

/// Lets those of the assigned partitions that have no offset begin at their present end, and returns these ends.
///
/// # Errors
/// The brokers do not report the offsets or the ends; nothing may be taken then.
pub(super) fn begin(
    consumer: &BaseConsumer<Member>,
    assigned: &TopicPartitionList,
) -> KafkaResult<Vec<(Arc<str>, i32, i64)>> {
    let known = consumer.committed_offsets(assigned.clone(), WITHIN)?;
    let mut begun = Vec::new();
    for mut one in assigned.elements() {
        if let Some(known) = known.find_partition(one.topic(), one.partition()) {
            known.error()?;
            if matches!(known.offset(), Offset::Offset(_)) {
                continue;
            }
        }
        let (_, end) = consumer.fetch_watermarks(one.topic(), one.partition(), WITHIN)?;
        one.set_offset(Offset::Offset(end))?;
        begun.push((one.topic().into(), one.partition(), end));
    }
    Ok(begun)
}
