//! The refusals of RFC 6750 §3, as answers.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

/// The reason why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// The request has no bearer token: 401 without an error code (RFC 6750 §3.1).
    #[error("a bearer token is needed")]
    Missing,
    /// The token is unknown, expired, or not one for this listener.
    #[error("the token is not valid here")]
    Invalid,
    /// The request is malformed: it has two tokens, or one in the wrong place.
    #[error("{0}")]
    Malformed(&'static str),
    /// The token is valid, but does not allow this request.
    #[error("the token does not allow this: {what}")]
    Insufficient {
        /// The scope that the request needs.
        scope: &'static str,
        /// A description of that scope for people.
        what: &'static str,
    },
}

impl Denied {
    /// The scope of putting events in.
    pub const INTAKE: &'static str = "setgate.intake";
    /// The scope of opening streams.
    pub const READ: &'static str = "ssf.read";

    /// Returns the status of the answer.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Missing | Self::Invalid => StatusCode::UNAUTHORIZED,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Insufficient { .. } => StatusCode::FORBIDDEN,
        }
    }

    /// Returns the error code; `None` where no credential was given.
    #[must_use]
    pub const fn code(&self) -> Option<&'static str> {
        match self {
            Self::Missing => None,
            Self::Invalid => Some("invalid_token"),
            Self::Malformed(_) => Some("invalid_request"),
            Self::Insufficient { .. } => Some("insufficient_scope"),
        }
    }

    /// Returns the challenge, the value of `WWW-Authenticate`.
    #[must_use]
    pub fn challenge(&self) -> String {
        let mut text = String::from("Bearer realm=\"setgate\"");
        if let Some(code) = self.code() {
            // The texts are fixed and have neither quotation marks nor backslashes (RFC 6750 §3).
            text.push_str(&format!(", error=\"{code}\", error_description=\"{self}\""));
        }
        if let Self::Insufficient { scope, .. } = self {
            text.push_str(&format!(", scope=\"{scope}\""));
        }
        text
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "title": self.status().canonical_reason().unwrap_or_default(),
            "status": self.status().as_u16(),
            "detail": self.to_string(),
        });
        let mut response = (self.status(), body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(challenge) = HeaderValue::from_str(&self.challenge()) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_rfc_6750_section_3_says() {
        let insufficient = Denied::Insufficient { scope: Denied::INTAKE, what: "events of this issuer" };
        for (denied, status, challenge) in [
            (Denied::Missing, 401, "Bearer realm=\"setgate\""),
            (
                Denied::Invalid,
                401,
                "Bearer realm=\"setgate\", error=\"invalid_token\", error_description=\"the token is not valid here\"",
            ),
            (
                Denied::Malformed("two tokens"),
                400,
                "Bearer realm=\"setgate\", error=\"invalid_request\", error_description=\"two tokens\"",
            ),
            (
                insufficient,
                403,
                "Bearer realm=\"setgate\", error=\"insufficient_scope\", \
                 error_description=\"the token does not allow this: events of this issuer\", scope=\"setgate.intake\"",
            ),
        ] {
            let response = denied.into_response();
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers()["www-authenticate"], challenge);
            assert_eq!(response.headers()["cache-control"], "no-store");
        }
    }
}
