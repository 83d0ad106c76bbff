//! The key of a stream's record in the store.

use setgate_store::{Key, StreamNo};

/// The prefix of the keys of streams.
pub(crate) const PREFIX: &str = "stream/";

pub(crate) fn key(no: StreamNo) -> Key {
    Key(format!("{PREFIX}{:010}", no.0))
}
