//! Refusals of the listeners: one text for the caller (RFC 9457), another for the log.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use setgate_jose::JoseError;
use setgate_router::{ChangeError, Closed};
use setgate_set::{EventError, JsonError};
use setgate_store::StoreError;

use crate::keys::KeysError;

/// A refusal as the caller sees it: a whole answer, or one line of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    /// The mistake in words, without internals of the gateway and without values of a subject.
    pub(crate) detail: String,
    /// The JSON pointer to the member that is wrong.
    pub(crate) pointer: Option<String>,
    /// The rule of the producer, or the limit, that refuses.
    pub(crate) rule: Option<&'static str>,
    pub(crate) retry_after: Option<Duration>,
    /// The header of a 415 that states what would be accepted: its name and its value.
    accept: Option<(&'static str, &'static str)>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), pointer: None, rule: None, retry_after: None, accept: None }
    }

    pub(crate) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    pub(crate) fn unknown(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// Creates a refusal with 413 that names the option whose limit was reached.
    pub(crate) fn limit(option: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail).ruled(option)
    }

    pub(crate) fn busy(detail: impl Into<String>, after: Duration) -> Self {
        Self { retry_after: Some(after), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    /// Sets the JSON pointer to the mistake.
    pub(crate) fn at(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = Some(pointer.into());
        self
    }

    pub(crate) fn ruled(mut self, rule: &'static str) -> Self {
        self.rule = Some(rule);
        self
    }

    /// Adds a header that states what would be accepted. The name is in lower case.
    pub(crate) fn accepting(mut self, name: &'static str, value: &'static str) -> Self {
        self.accept = Some((name, value));
        self
    }
}

/// Turns a closed gate into the answer of the intake endpoint: the caller reads what is closed, the log has the
/// figures.
impl From<Closed> for Problem {
    fn from(closed: Closed) -> Self {
        let status = StatusCode::from_u16(closed.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        tracing::debug!(why = closed.why, status = closed.status, "intake is closed");
        let detail = match status {
            StatusCode::TOO_MANY_REQUESTS => "too much is on its way; try again later".to_owned(),
            _ => format!("{}; repeat the events with the same id", closed.summary),
        };
        Self { retry_after: Some(closed.retry_after), rule: closed.rule, ..Self::new(status, detail) }
    }
}

impl From<JsonError> for Problem {
    fn from(error: JsonError) -> Self {
        let detail = format!("{} at byte {}", error.message, error.at);
        Self { pointer: (!error.pointer.is_empty()).then_some(error.pointer), ..Self::bad(detail) }
    }
}

impl From<EventError> for Problem {
    fn from(error: EventError) -> Self {
        let pointer = (!error.pointer.is_empty()).then_some(error.pointer);
        let status = if error.forbidden { StatusCode::FORBIDDEN } else { StatusCode::BAD_REQUEST };
        let rule = error.forbidden.then_some("framework_events");
        Self { pointer, rule, ..Self::new(status, error.message) }
    }
}

/// Turns a store error into an answer of the admin listener, with the whole text: its callers are operators.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            error => Self::busy(error.to_string(), Duration::from_secs(5)),
        }
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Unknown(_) => Self::unknown(error.to_string()),
            ChangeError::Store(error) => error.into(),
            error => Self::new(StatusCode::CONFLICT, error.to_string()),
        }
    }
}

impl From<KeysError> for Problem {
    fn from(error: KeysError) -> Self {
        let status = match error {
            KeysError::Store(error) => return error.into(),
            KeysError::UnknownIssuer(_) | KeysError::Jose(JoseError::UnknownKid(_) | JoseError::NoKey(_)) => {
                StatusCode::NOT_FOUND
            }
            KeysError::Jose(JoseError::Known(_) | JoseError::Revoked(_) | JoseError::TooSoon { .. }) => {
                StatusCode::CONFLICT
            }
            KeysError::Jose(JoseError::Generate(_) | JoseError::Sign(_)) | KeysError::Seal(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            KeysError::Jose(_) | KeysError::WhichIssuer | KeysError::Bits => StatusCode::BAD_REQUEST,
            KeysError::Closing => return Self::busy(error.to_string(), Duration::from_secs(5)),
        };
        Self::new(status, error.to_string())
    }
}

/// Returns the seconds for `Retry-After`: rounded up, at least one.
pub(crate) fn seconds(after: Duration) -> u64 {
    (after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1)
}

#[derive(Serialize)]
struct Written<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let written = Written {
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: &self.detail,
            pointer: self.pointer.as_deref(),
            rule: self.rule,
        };
        let body = serde_json::to_vec(&written).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(after)));
        }
        if let Some((name, value)) = self.accept {
            headers.insert(header::HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_never_zero_and_never_early() {
        for (millis, expected) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_999, 60)] {
            assert_eq!(seconds(Duration::from_millis(millis)), expected, "{millis}");
        }
    }

    #[test]
    fn a_status_that_is_none_becomes_503() {
        let closed = Closed {
            why: "17 bytes".into(),
            summary: "full",
            rule: None,
            retry_after: Duration::from_secs(2),
            status: 7,
        };
        let response = Problem::from(closed).into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "2");
    }
}
