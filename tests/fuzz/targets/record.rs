//! The fuzz target of the records of a topic: `name: value` lines are headers, and the rest after an empty line is the
//! value.
#![no_main]

use bytes::Bytes;
use setgate_kafka::{
    Format, KnownBy,
    record::{Headers, Read, read},
};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let end = data.windows(2).position(|two| two == b"\n\n");
    let (head, value) = end.map_or((&b""[..], data), |end| (&data[..end], &data[end + 2..]));
    let head = String::from_utf8_lossy(head);
    let headers: Headers = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), Some(Bytes::copy_from_slice(value.as_bytes()))))
        .collect();
    let value = Bytes::copy_from_slice(value);
    for format in [Format::Auto, Format::Json, Format::Cloudevents] {
        match read(format, KnownBy::Id, "at", &headers, Some(&value)) {
            Read::Event(setgate_delivery::Identity::Given(id) | setgate_delivery::Identity::OrElse(id), body) => {
                assert!(!id.is_empty() && id.len() <= 256);
                // A body that is taken from within an event equals the one that a second reader finds there.
                if body != value && let Ok(whole) = serde_json::from_slice::<serde_json::Value>(&value) && whole["data"].is_object() {
                    assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).ok().as_ref(), whole.get("data"));
                }
            }
            Read::Bad(refusal) => assert!(refusal.description.is_some_and(|text| text.len() <= 512)),
            Read::Nothing => unreachable!("there is a value"),
        }
    }
});
