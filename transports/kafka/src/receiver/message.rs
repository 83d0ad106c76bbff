//! The conversion of the library's messages into records.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use rdkafka::{
    Message as _,
    message::{BorrowedMessage, Headers as _},
};
use setgate_delivery::Bytes;

use super::{
    batch::{Assignment, Record},
    group::Shared,
    record::{Headers, MOST_HEADER_BYTES, MOST_HEADERS},
};

/// Returns the record, if its partition is assigned to this member.
pub(super) fn record(shared: &Shared, message: &BorrowedMessage<'_>) -> Option<Record> {
    let (topic, partition) = (Arc::<str>::from(message.topic()), message.partition());
    // A partition that is not assigned here any more: its new owner takes the record.
    let epoch = shared.epoch(&topic, partition)?;
    let (headers, headers_bad) = match headers(message) {
        Ok(headers) => (headers, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    Some(Record {
        place: Assignment { topic, partition, epoch },
        offset: message.offset(),
        millis: message.timestamp().to_millis(),
        key: message.key().map(Bytes::copy_from_slice),
        headers,
        headers_bad,
        value: message.payload().map(Bytes::copy_from_slice),
    })
}

/// Returns the headers, if they are few enough and have names.
fn headers(message: &BorrowedMessage<'_>) -> Result<Headers, &'static str> {
    let Some(all) = message.headers() else { return Ok(Vec::new()) };
    if all.count() > MOST_HEADERS {
        return Err("the record has more than 128 headers");
    }
    // A producer of the topic may have written anything, and the library may panic when it reads it.
    let read = catch_unwind(AssertUnwindSafe(|| {
        let mut bytes = 0;
        let mut headers = Vec::with_capacity(all.count());
        for header in all.iter() {
            bytes += header.key.len() + header.value.map_or(0, <[u8]>::len);
            if bytes > MOST_HEADER_BYTES {
                return Err("the headers of the record have more than 64 KiB");
            }
            headers.push((header.key.to_owned(), header.value.map(Bytes::copy_from_slice)));
        }
        Ok(headers)
    }));
    read.unwrap_or(Err("the headers of the record cannot be read"))
}
