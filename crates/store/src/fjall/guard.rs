//! A guard that turns a panic of the engine into an error of a damaged store.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::StoreError;

/// Runs work with the engine; a panic in it becomes [`StoreError::Corrupt`].
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(StoreError::Corrupt(panic_text(&*panic).into())))
}

/// Returns the message of a panic.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the engine gave up ({})", text.unwrap_or("it did not say why").replace('\n', " "))
}
