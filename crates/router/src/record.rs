//! The key of a stream's record in the store.

use setgate_store::{Key, StreamNo};

/// Keys of streams begin with it.
pub(crate) const PREFIX: &str = "stream/";

pub(crate) fn key(no: StreamNo) -> Key {
    Key(format!("{PREFIX}{:010}", no.0))
}
