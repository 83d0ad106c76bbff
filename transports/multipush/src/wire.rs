//! The wire format and its meaning, free of I/O, so that it can be fuzzed.

use setgate_delivery::{
    Attempt, Cause, ErrorCode, HttpResponse, Jti, Outcome, Refusal, Scope, SealedSet, Timestamp, Verdict,
    axum::{body::Body, response::Response},
    endpoint::{self, Said},
    exchange::{Bounds, Exchange, Malformed, Speech},
    fields,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};

/// The largest SET that is sent, in bytes.
pub const LARGEST: usize = 1024 * 1024;

/// The bytes that the JSON object adds to each SET: its `jti`, quotes, colon and comma.
pub const OVERHEAD: usize = 30;

/// The limits of an answer: bytes that are read, and ids in it that are kept (hardening H43).
pub const ANSWER: Bounds = Bounds::OF_RECEIVER;

/// The error code for more SETs in a request than the receiver accepts (draft §4.4.2); it is registered nowhere.
pub const TOO_MANY: &str = "too_many_sets";

/// Returns the header fields of every request of a channel (draft §4.3).
#[must_use]
pub fn request_fields(authorization: Option<HeaderValue>) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(6);
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    fields.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_static("en"));
    if let Some(authorization) = authorization {
        fields.insert(header::AUTHORIZATION, authorization);
    }
    fields
}

/// Returns the body of a request; without SETs it asks for outstanding acknowledgements (draft §4).
#[must_use]
pub fn request(sets: &[SealedSet]) -> Vec<u8> {
    Speech { sets: Some(sets), ..Speech::default() }.to_json()
}

/// The meaning of an answer for the SETs of its request.
#[derive(Clone, Debug, PartialEq)]
pub enum Meaning {
    /// The request was understood. These SETs are settled, of this request or of earlier ones; the others stay
    /// outstanding.
    Understood(Vec<(Jti, Option<Attempt>, Outcome)>),
    /// The receiver accepts fewer SETs at once: the same SETs are sent again, in smaller requests.
    TooMany,
    /// The request was refused, perhaps for one of its SETs: the same SETs are sent again, in smaller requests.
    Halve,
    /// The verdict holds for every SET of the request.
    Each(Verdict),
    /// The receiver contradicts itself.
    Fault(Cause),
}

/// Returns the meaning of an answer to a request of `sent` SETs, as in the table of the README.
#[must_use]
pub fn meaning(answer: &HttpResponse, sent: usize, now: Timestamp) -> Meaning {
    let status = answer.status.as_u16();
    let retry =
        |scope, cause| Meaning::Each(Verdict::Retry { scope, after: fields::retry_after(&answer.headers, now), cause });
    let plain = || endpoint::cause(status, &answer.body, hint(status));
    match status {
        200..=299 => match read(answer) {
            Ok(mut said) => Meaning::Understood(said.outcomes()),
            Err(cause) => retry(Scope::Channel, cause),
        },
        413 => too_many(ErrorCode::TooLarge, "the receiver answered 413", answer, sent),
        // The draft has 400 only; receivers that validate answer 422.
        400 | 422 => match Said::read(&answer.body) {
            Some(said) if said.err == TOO_MANY => {
                let text = said.description.as_deref().unwrap_or("the receiver takes no SETs at all");
                too_many(ErrorCode::from_wire(TOO_MANY), text, answer, sent)
            }
            Some(said) if said.err == "authentication_failed" => retry(Scope::Channel, refused("http_401", &said)),
            Some(said) if said.err == "access_denied" => retry(Scope::Channel, refused("http_403", &said)),
            Some(said) if said.err == "invalid_request" && sent == 1 => {
                let refusal = fields::refusal(&said.err, said.description.as_deref(), &answer.headers);
                Meaning::Each(Verdict::Refuse(refusal))
            }
            // Other codes are not defined for a whole request (draft §4.4.2), so they settle nothing.
            Some(said) if said.err != "invalid_request" => retry(Scope::Channel, plain()),
            _ => alone(sent, retry(Scope::Set, plain())),
        },
        // The receiver's handler failed; smaller requests show whether it failed on one of these SETs.
        500 => alone(sent, retry(Scope::Set, plain())),
        _ => retry(Scope::Channel, plain()),
    }
}

/// Returns `verdict` for a request of at most one SET, and [`Meaning::Halve`] for more: a failure is only attributed to
/// a SET that travels alone.
fn alone(sent: usize, verdict: Meaning) -> Meaning {
    if sent > 1 { Meaning::Halve } else { verdict }
}

fn too_many(code: ErrorCode, text: &str, answer: &HttpResponse, sent: usize) -> Meaning {
    match sent {
        0 => Meaning::Fault(Cause::new(TOO_MANY, "the receiver said `too_many_sets` to a request without SETs")),
        1 => {
            let refusal = fields::refusal(code.as_str(), Some(text), &answer.headers);
            Meaning::Each(Verdict::Refuse(Refusal { code, ..refusal }))
        }
        _ => Meaning::TooMany,
    }
}

fn refused(code: &'static str, said: &Said) -> Cause {
    let text = said.description.as_deref().map(|text| format!(": {text}")).unwrap_or_default();
    Cause::configuration(code, setgate_delivery::clean(&format!("the receiver said {}{text}", said.err), 512))
}

/// Parses the answer of a success. An empty one is valid: `ack` may come later, or be missing.
fn read(answer: &HttpResponse) -> Result<Exchange, Cause> {
    if answer.truncated {
        return Err(Cause::new("answer_cut", format!("the answer broke off or has more than {} bytes", ANSWER.bytes)));
    }
    let body = answer.body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&answer.body);
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Exchange::default());
    }
    let read = Exchange::parse(body, ANSWER, fields::language(&answer.headers));
    let settles = |said: &Exchange| !said.ack.is_empty() || !said.set_errs.is_empty();
    // The answer settles nothing and contradicts its status; the SETs would only be missed later, without a reason.
    if !read.as_ref().is_ok_and(settles)
        && let Some(cause) = endpoint::contradiction(answer)
    {
        return Err(cause);
    }
    read.map_err(|malformed| {
        let code = match malformed {
            Malformed::TooLarge(_) => "answer_too_large",
            _ => "answer_invalid",
        };
        let text = setgate_delivery::clean(&format!("the receiver's answer cannot be used: {malformed}"), 512);
        Cause::configuration(code, text)
    })
}

const fn hint(status: u16) -> &'static str {
    match status {
        404 | 405 | 415 => "; is it the endpoint of multi-SET push, not of single push?",
        _ => "",
    }
}

/// The limits of a request to the receiving half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receives {
    /// The most SETs in one request.
    pub sets: usize,
    /// The most bytes of the body.
    pub bytes: usize,
}

/// Parses the SETs of a request.
///
/// # Errors
/// Returns the answer to a request that is not acceptable.
pub fn sets(body: &[u8], receives: Receives) -> Result<Vec<(Box<str>, setgate_delivery::Bytes)>, Reply> {
    let bounds = Bounds { bytes: receives.bytes, sets: receives.sets, ids: ANSWER.ids };
    match Exchange::parse(body, bounds, None) {
        // The draft of 2025 allowed `sets` to be left out.
        Ok(exchange) => Ok(exchange.sets.unwrap_or_default()),
        Err(Malformed::TooLarge(_)) => Err(Reply::TooMany),
        Err(_) => Err(Reply::Invalid("the body is no object with `sets`")),
    }
}

/// The answer of the receiving half (draft §4.4).
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The request was understood: 202 with the outcomes of its SETs.
    Understood {
        /// The SETs that were accepted.
        ack: Vec<Box<str>>,
        /// The SETs that were refused.
        set_errs: Vec<(Box<str>, Refusal)>,
    },
    /// The request has more SETs or bytes than are accepted: 413 (draft §7.1), with the error of draft §4.4.2.
    TooMany,
    /// The request as a whole is not acceptable: 400 with the reason.
    Invalid(&'static str),
    /// The request cannot be accepted now: 503 with the time of the next attempt.
    Busy(std::time::Duration),
    /// An error of HTTP: this status with an empty body.
    Status(StatusCode),
}

impl From<Reply> for Response {
    fn from(reply: Reply) -> Self {
        let error = |err: &str, why: &str| serde_json::json!({ "err": err, "description": why }).to_string();
        let (status, body, language) = match &reply {
            Reply::Understood { ack, set_errs } => {
                let refused = (!set_errs.is_empty()).then_some(&set_errs[..]);
                let body = Speech { ack: Some(ack), set_errs: refused, ..Speech::default() }.to_json();
                // One field applies to all descriptions: where their languages differ it is `mul`.
                let mut languages = set_errs.iter().map(|(_, refusal)| refusal.language.as_deref().unwrap_or("en"));
                let first = languages.next();
                let language = first.map(|first| if languages.all(|other| other == first) { first } else { "mul" });
                (StatusCode::ACCEPTED, body, language.map(str::to_owned))
            }
            Reply::TooMany => {
                let body = error(TOO_MANY, "more SETs or bytes than this receiver takes at once");
                (StatusCode::PAYLOAD_TOO_LARGE, body.into_bytes(), Some("en".to_owned()))
            }
            Reply::Invalid(why) => {
                (StatusCode::BAD_REQUEST, error("invalid_request", why).into_bytes(), Some("en".to_owned()))
            }
            Reply::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, Vec::new(), None),
            Reply::Status(status) => (*status, Vec::new(), None),
        };
        let mut answer = Self::new(Body::empty());
        *answer.status_mut() = status;
        let fields = answer.headers_mut();
        if body.is_empty() {
            fields.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        } else {
            fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(language) = language {
            let language = HeaderValue::from_str(&language).unwrap_or(HeaderValue::from_static("en"));
            fields.insert(header::CONTENT_LANGUAGE, language);
        }
        if let Reply::Busy(after) = reply {
            // The value is in whole seconds, rounded up and at least 1, so that the peer does not come back at once.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            fields.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            fields.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        *answer.body_mut() = Body::from(body);
        answer
    }
}

/// Returns whether a request's content type is JSON; parameters and case are tolerated (RFC 9110 §8.3.1).
#[must_use]
pub fn is_json(content_type: Option<&HeaderValue>) -> bool {
    let Some(text) = content_type.and_then(|value| value.to_str().ok()) else { return false };
    text.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests;
