//! Errors of the configuration.

use std::{fmt, path::PathBuf};

/// An error of the configuration: what is wrong, where, and the remedy. Values are never shown, since they may be
/// secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file or the environment variable that is wrong.
    pub place: Place,
    /// The key, as a path such as `net.allow_ports`; empty where the whole file is meant.
    pub key: String,
    /// The description of the error.
    pub what: String,
    /// The advice to the operator.
    pub remedy: Option<String>,
}

/// The place where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file, with the line, counted from 1, if it is known.
    File(PathBuf, Option<usize>),
    /// An environment variable.
    Variable(String),
    /// The built-in configuration.
    BuiltIn,
}

impl ConfigError {
    /// Creates an error without a remedy.
    #[must_use]
    pub fn new(place: Place, key: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place, key: key.into(), what: what.into(), remedy: None }
    }

    /// Adds the remedy.
    #[must_use]
    pub fn remedy(mut self, what: impl Into<String>) -> Self {
        self.remedy = Some(what.into());
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, Some(line)) => write!(f, "{}, line {line}", path.display()),
            Self::File(path, None) => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::BuiltIn => f.write_str("the built-in configuration"),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "`{}`: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for ConfigError {}

impl From<ConfigError> for setgate_cli::Failure {
    fn from(error: ConfigError) -> Self {
        let failure = Self::usage(error.to_string());
        match error.remedy {
            Some(remedy) => failure.remedy(remedy),
            None => failure,
        }
    }
}

/// Returns the known name that is most similar to an unknown one; `None` if more than a third of its letters differ.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = name.len().div_ceil(3);
    known
        .into_iter()
        .map(|known| (distance(name, known), known))
        .filter(|(far, _)| *far <= most)
        .min()
        .map(|(_, known)| known)
}

fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, a) in one.bytes().enumerate() {
        let mut diagonal = at;
        if let Some(first) = row.first_mut() {
            *first = at + 1;
        }
        let mut left = at + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(other.bytes()) {
            let here = (diagonal + usize::from(a != b)).min(*cell + 1).min(left + 1);
            diagonal = *cell;
            *cell = here;
            left = here;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        let known = ["allow_networks", "deny_networks", "allow_ports"];
        assert_eq!(nearest("alow_networks", known), Some("allow_networks"));
        assert_eq!(nearest("allow_port", known), Some("allow_ports"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
