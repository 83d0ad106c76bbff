//! Panics of any thread. The store's threads end with one, and whoever waits for them sees no more than that they are gone.

use std::sync::{Mutex, PoisonError};

static HEARD: Mutex<Option<String>> = Mutex::new(None);

/// Notes every panic from now on.
pub(crate) fn listen() {
    std::panic::set_hook(Box::new(|panic| {
        HEARD.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic.to_string());
    }));
}

/// Returns the first panic since the last question. Where several histories are played at once it may be of another one.
pub(crate) fn heard() -> Option<String> {
    HEARD.lock().unwrap_or_else(PoisonError::into_inner).take()
}
