//! Formatting of an error with its sources in one line.

use std::error::Error;

/// Returns the text of an error followed by the texts of its sources, separated by colons.
///
/// A source whose text is part of the line already is skipped: many errors end with the text of their source, so that
/// they are complete where only they are shown.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let text = source.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        next = source.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Outer {
        #[error("the store could not write")]
        Apart(#[source] std::io::Error),
        #[error("the store could not write: {0}")]
        Within(#[source] Box<Outer>),
    }

    #[test]
    fn each_source_is_said_once() {
        let full = || Outer::Apart(std::io::Error::other("no space left on device"));
        assert_eq!(chain(&full()), "the store could not write: no space left on device");
        let whole = Outer::Within(Box::new(full()));
        assert_eq!(chain(&whole), "the store could not write: the store could not write: no space left on device");
        assert_eq!(chain(&std::io::Error::other("alone")), "alone");
    }
}
