//! What goes over the wire and what it means; pure, so that it can be fuzzed.

use serde::Serialize;
use setgate_delivery::{
    ErrorCode, HttpResponse, Outcome, Receipt, Refusal, Scope, Timestamp, Verdict,
    axum::{body::Body, response::Response},
    endpoint::{self, Said},
    fields,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};

use crate::ContentType;

/// Largest SET that is taken, and largest one that is pushed, in bytes (RFC 8935 §5.4).
pub const LARGEST: usize = 1024 * 1024;

/// Bytes of an answer's body that are read for the error in it.
pub const ANSWER: usize = 8 * 1024;

/// The header fields of every request of a line (RFC 8935 §2.1).
#[must_use]
pub fn request_fields(content_type: ContentType, authorization: Option<HeaderValue>) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(6);
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type.as_str()));
    fields.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    fields.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_static("en"));
    if let Some(authorization) = authorization {
        fields.insert(header::AUTHORIZATION, authorization);
    }
    fields
}

/// Which successes acknowledge a SET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// 202, and what receivers say in its place: 200, 201 and 204.
    Tolerant,
    /// 202 (RFC 8935 §2.2).
    ByTheLetter,
}

/// What an answer means for the SET; the table in the README, in code.
///
/// # Errors
/// The verdict, when the SET was not taken.
pub fn outcome(answer: &HttpResponse, taken: Taken, now: Timestamp) -> Outcome {
    let status = answer.status.as_u16();
    let because = |scope, cause| Err(Verdict::Retry { scope, after: fields::retry_after(&answer.headers, now), cause });
    let retry = |scope| because(scope, endpoint::cause(status, &answer.body, hint(status, taken)));
    let unless_contradicted = || match endpoint::contradiction(answer).filter(|_| !says_taken(&answer.body)) {
        Some(cause) => because(Scope::Line, cause),
        None => Ok(Receipt::Receiver),
    };
    match status {
        202 => unless_contradicted(),
        200 | 201 | 204 if taken == Taken::Tolerant => unless_contradicted(),
        // RFC 8935 §2.3 has 400 only; receivers that validate say 422.
        400 | 422 if says_taken(&answer.body) => Ok(Receipt::Receiver),
        400 | 422 => match Said::read(&answer.body) {
            Some(said) => {
                Err(Verdict::Refuse(fields::refusal(&said.err, said.description.as_deref(), &answer.headers)))
            }
            // Nobody who knows the protocol says it like that: a proxy, or a receiver that chokes on this SET.
            None => retry(Scope::Set),
        },
        // One SET a request: it is this one that is too large.
        413 => Err(Verdict::Refuse(Refusal {
            code: ErrorCode::TooLarge,
            description: Some("the receiver answered 413".into()),
            language: None,
        })),
        // The receiver's handler failed on this SET; whether on others as well is seen when they are tried.
        500 => retry(Scope::Set),
        _ => retry(Scope::Line),
    }
}

/// The drafts before RFC 8935 had codes for "I have it already" (delivery.md 6).
fn says_taken(body: &[u8]) -> bool {
    Said::read(body).is_some_and(|said| matches!(said.err.as_str(), "dup" | "duplicate"))
}

const fn hint(status: u16, taken: Taken) -> &'static str {
    match (status, taken) {
        (200 | 201 | 204, Taken::ByTheLetter) => "; with `accept_only_202` only 202 acknowledges a SET",
        (200..=299, _) => "; a receiver acknowledges a SET with 202 (RFC 8935, section 2.2)",
        (415, _) => "; a receiver from before RFC 8935 may want `content_type` to be `application/jwt`",
        _ => "",
    }
}

/// What the receiving half answers (RFC 8935 §2.2, §2.3).
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// It is kept: 202, empty.
    Accepted,
    /// The SET or its sender is not acceptable: 400 and why.
    Refused(Refusal),
    /// Not now: 503, and when.
    Busy(std::time::Duration),
    /// Something of HTTP: this status, empty.
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
                // Whole seconds, and never none: a peer that comes back at once is no help.
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

/// Whether a request's content type is a SET's: parameters and case are tolerated (RFC 9110 §8.3.1).
#[must_use]
pub fn is_set(content_type: Option<&HeaderValue>, accept_legacy: bool) -> bool {
    let Some(text) = content_type.and_then(|value| value.to_str().ok()) else { return false };
    let essence = text.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(ContentType::SeceventJwt.as_str())
        || accept_legacy && essence.eq_ignore_ascii_case(ContentType::Jwt.as_str())
}

#[cfg(test)]
mod tests;
