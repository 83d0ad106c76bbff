//! Values that must not be shown, and the places where an operator may keep them.

use std::{env::VarError, error::Error, fmt, path::PathBuf};

use serde::{Deserialize, Deserializer};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::NetError;

/// A value that is redacted in `Debug`, compared in constant time and wiped when dropped.
#[derive(Clone)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Wraps a value.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// Returns the value, which the caller must not print.
    #[must_use]
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize + AsRef<[u8]>> PartialEq for Secret<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_ref().ct_eq(other.0.as_ref()).into()
    }
}

impl<T: Zeroize + AsRef<[u8]>> Eq for Secret<T> {}

impl<T: Zeroize> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

/// Deserializes the value itself: a value in an API is always literal, never a reference (hardening H26).
impl<'de, T: Zeroize + Deserialize<'de>> Deserialize<'de> for Secret<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::deserialize(from).map(Self)
    }
}

/// The place where the operator keeps a secret: `file:PATH`, `env:NAME`, or the secret itself.
///
/// Only types of the operator's configuration may contain it; types that an API reads hold [`Secret`] (hardening H26).
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum SecretRef {
    /// The contents of a file, without the line break at the end.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// The secret itself.
    Literal(Secret<String>),
}

impl SecretRef {
    /// The most bytes of a secret file.
    pub const LONGEST_FILE: u64 = 64 * 1024;

    /// Reads the secret.
    ///
    /// # Errors
    /// [`NetError::Secret`] when the file or the variable does not exist, is not UTF-8, is too long or empty.
    pub fn load(&self) -> Result<Secret<String>, NetError> {
        let fault = |source: Box<dyn Error + Send + Sync>| NetError::Secret { place: self.to_string(), source };
        let secret = match self {
            Self::Literal(secret) => secret.clone(),
            Self::Env(name) => Secret::new(std::env::var(name).map_err(|error| match error {
                VarError::NotPresent => fault(error.into()),
                // This error would show the value.
                VarError::NotUnicode(_) => fault("it is not UTF-8".into()),
            })?),
            Self::File(path) => {
                let length = std::fs::metadata(path).map_err(|error| fault(error.into()))?.len();
                if length > Self::LONGEST_FILE {
                    return Err(fault(format!("it has {length} bytes, {} are allowed", Self::LONGEST_FILE).into()));
                }
                let mut text = std::fs::read_to_string(path).map_err(|error| fault(error.into()))?;
                let end = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text)).map(str::len);
                text.truncate(end.unwrap_or(text.len()));
                Secret::new(text)
            }
        };
        if secret.expose().is_empty() {
            return Err(fault("it is empty".into()));
        }
        Ok(secret)
    }
}

impl From<String> for SecretRef {
    fn from(text: String) -> Self {
        if let Some(path) = text.strip_prefix("file:") {
            Self::File(PathBuf::from(path))
        } else if let Some(name) = text.strip_prefix("env:") {
            Self::Env(name.to_owned())
        } else {
            Self::Literal(Secret::new(text))
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Env(name) => write!(f, "env:{name}"),
            Self::Literal(_) => f.write_str("the literal secret"),
        }
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretRef({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_nothing_in_debug() {
        let secret = Secret::new("canary".to_owned());
        let reference = SecretRef::from("canary".to_owned());
        assert!(!format!("{secret:?} {reference:?} {reference}").contains("canary"));
    }

    #[test]
    fn compares_by_value() {
        assert_eq!(Secret::new("a".to_owned()), Secret::new("a".to_owned()));
        assert_ne!(Secret::new("a".to_owned()), Secret::new("ab".to_owned()));
    }

    #[test]
    fn reads_a_file_without_its_last_line_break() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "one\ntwo\r\n").unwrap();
        let secret = SecretRef::from(format!("file:{}", path.display())).load().unwrap();
        assert_eq!(secret.expose(), "one\ntwo");
    }

    #[test]
    fn refuses_an_empty_or_a_missing_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty");
        std::fs::write(&path, "\n").unwrap();
        for place in
            [format!("file:{}", path.display()), "file:/no/such/file".to_owned(), "env:NO_SUCH_VARIABLE_".to_owned()]
        {
            assert!(SecretRef::from(place.clone()).load().is_err(), "{place}");
        }
    }

    #[test]
    fn the_error_of_the_system_is_kept_and_said_once() {
        let error = SecretRef::from("file:/no/such/file".to_owned()).load().unwrap_err();
        let source = error.source().and_then(|source| source.downcast_ref::<std::io::Error>()).unwrap();
        assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
        assert_eq!(setgate_telemetry::chain(&error), format!("file:/no/such/file cannot be used: {source}"));
    }

    #[test]
    fn an_api_value_is_always_literal() {
        let secret: Secret<String> = serde_json::from_str(r#""file:/proc/self/environ""#).unwrap();
        assert_eq!(secret.expose(), "file:/proc/self/environ");
    }
}
