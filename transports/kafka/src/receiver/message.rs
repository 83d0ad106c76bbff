//! Records as the library brings them.

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

/// The record, if its partition is ours.
pub(super) fn record(shared: &Shared, message: &BorrowedMessage<'_>) -> Option<Record> {
    let (topic, partition) = (Arc::<str>::from(message.topic()), message.partition());
    // Not ours any more: whoever has it now takes it.
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

/// The headers, if they are few enough and have names.
fn headers(message: &BorrowedMessage<'_>) -> Result<Headers, &'static str> {
    let Some(all) = message.headers() else { return Ok(Vec::new()) };
    if all.count() > MOST_HEADERS {
        return Err("the record has more than 128 headers");
    }
    // A producer of the topic may have written anything, and the library may end its reading of it with a panic.
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
