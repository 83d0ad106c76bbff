//! The wire format and its meaning, free of I/O, so that it can be fuzzed.

mod outcome;
mod reply;

pub use outcome::{Taken, outcome};
pub use reply::{Reply, is_set};

use setgate_delivery::http::{HeaderMap, HeaderValue, header};

use crate::ContentType;

/// The largest SET that is accepted or pushed, in bytes (RFC 8935 §5.4).
pub const LARGEST: usize = 1024 * 1024;

/// The most bytes of an answer's body that are read for the error in it.
pub const ANSWER: usize = 8 * 1024;

/// Returns the header fields of every request of a channel (RFC 8935 §2.1).
#[must_use]
pub fn request_fields(content_type: ContentType, authorization: Option<HeaderValue>) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(6);
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type.as_str()));
    fields.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    fields.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_static("en"));
    if let Some(authorization) = authorization {
        fields.insert(header::AUTHORIZATION, authorization);
    }
    fields
}

#[cfg(test)]
mod tests;
