//! Requests and answers of the receiving half (RFC 8935 §2.2, §2.3).

use serde::Serialize;
use setgate_delivery::{
    Refusal,
    axum::{body::Body, response::Response},
    http::{HeaderValue, StatusCode, header},
};

use crate::ContentType;

/// The answer of the receiving half (RFC 8935 §2.2, §2.3).
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The SET was accepted: 202 with an empty body.
    Accepted,
    /// The SET or its sender is not acceptable: 400 with the reason.
    Refused(Refusal),
    /// The SET cannot be accepted now: 503 with the time of the next attempt.
    Busy(std::time::Duration),
    /// An error of HTTP: this status with an empty body.
    Status(StatusCode),
}

#[derive(Serialize)]
struct ErrorAnswer<'a> {
    err: &'a str,
    description: &'a str,
}

impl From<Reply> for Response {
    fn from(reply: Reply) -> Self {
        let mut answer = Self::new(Body::empty());
        let fields = |answer: &mut Self, name, value| {
            answer.headers_mut().insert(name, value);
        };
        match reply {
            Reply::Accepted => *answer.status_mut() = StatusCode::ACCEPTED,
            Reply::Status(status) => {
                *answer.status_mut() = status;
                if status == StatusCode::METHOD_NOT_ALLOWED {
                    fields(&mut answer, header::ALLOW, HeaderValue::from_static("POST"));
                }
            }
            Reply::Busy(after) => {
                *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                // The value is in whole seconds, rounded up and at least 1, so that the peer does not come back at
                // once.
                let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
                fields(&mut answer, header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
            }
            Reply::Refused(refusal) => {
                let error = ErrorAnswer {
                    err: refusal.code.as_str(),
                    description: refusal.description.as_deref().unwrap_or_default(),
                };
                *answer.status_mut() = StatusCode::BAD_REQUEST;
                *answer.body_mut() = Body::from(serde_json::to_vec(&error).unwrap_or_default());
                fields(&mut answer, header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                let language = refusal.language.as_deref().and_then(|language| HeaderValue::from_str(language).ok());
                fields(&mut answer, header::CONTENT_LANGUAGE, language.unwrap_or(HeaderValue::from_static("en")));
                return answer;
            }
        }
        fields(&mut answer, header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        answer
    }
}

/// Returns whether a request's content type is a SET's; parameters and case are tolerated (RFC 9110 §8.3.1).
#[must_use]
pub fn is_set(content_type: Option<&HeaderValue>, accept_legacy: bool) -> bool {
    let Some(text) = content_type.and_then(|value| value.to_str().ok()) else { return false };
    let essence = text.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(ContentType::SeceventJwt.as_str())
        || accept_legacy && essence.eq_ignore_ascii_case(ContentType::Jwt.as_str())
}
