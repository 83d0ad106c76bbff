//! The errors of the store.

use std::{error::Error, fmt, ops::Deref, sync::Arc};

/// An error of the store, which says what follows from it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Only the reserve is left, or the budget is reached: intake is closed, settling continues. The caller tries again
    /// later.
    #[error("the store is full: {0}")]
    Full(#[source] Why),
    /// A write failed; whether it took place is unknown. The store reopens itself where it can.
    #[error("the store could not write ({0}); whether the last changes took place is not known")]
    Poisoned(#[source] Why),
    /// The disk does not return what was written.
    #[error("the store is damaged: {0}")]
    Corrupt(#[source] Why),
    /// Too much is queued; the caller tries again later.
    #[error("the store is busy")]
    Busy,
    /// The store is closed, or was opened as a copy and waits for `setgate store adopt`.
    #[error("the store is not available: {0}")]
    Unavailable(#[source] Why),
}

/// The description of a fault, with the error that caused it where there is one.
#[derive(Clone)]
pub struct Why {
    text: Box<str>,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl Why {
    /// Creates the description from the text of its cause.
    pub fn of(cause: impl Error + Send + Sync + 'static) -> Self {
        Self::because(cause.to_string(), cause)
    }

    /// Creates a description with this text and cause.
    pub fn because(text: impl Into<Box<str>>, cause: impl Error + Send + Sync + 'static) -> Self {
        Self { text: text.into(), cause: Some(Arc::new(cause)) }
    }
}

impl<T: Into<Box<str>>> From<T> for Why {
    fn from(text: T) -> Self {
        Self { text: text.into(), cause: None }
    }
}

impl Deref for Why {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Some(cause) => write!(f, "{:?} of {cause:?}", self.text),
            None => write!(f, "{:?}", self.text),
        }
    }
}

impl Error for Why {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Returns the causes of an error, the nearest first.
    fn causes<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
        std::iter::successors(error.source(), |&error: &&'a (dyn Error + 'static)| error.source()).collect()
    }

    #[test]
    fn the_error_of_the_disk_is_still_there_behind_what_the_store_says() {
        let disk = || io::Error::new(io::ErrorKind::StorageFull, "no space left on device");
        let lost = StoreError::Poisoned(Why::of(StoreError::Full(Why::of(disk()))));
        assert_eq!(
            lost.to_string(),
            "the store could not write (the store is full: no space left on device); whether the last changes took place is not known"
        );
        let io = causes(&lost).into_iter().find_map(|cause| cause.downcast_ref::<io::Error>());
        assert_eq!(io.map(io::Error::kind), Some(io::ErrorKind::StorageFull));
        let mark = StoreError::Poisoned(Why::because("the watermark", disk()));
        assert_eq!(
            causes(&mark).iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["the watermark", "no space left on device"]
        );
        assert!(causes(&StoreError::Unavailable("it is closed".into())).len() == 1);
    }
}
