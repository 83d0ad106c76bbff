//! The parts that channels over HTTP have in common: pool key, endpoint, and the meaning of answers outside the
//! protocol.

mod trust;

pub use trust::{Trust, Trusting};

use serde::Deserialize;
use setgate_net::{
    HttpClient, HttpError, HttpFault, HttpResponse, Outbound, Secret, TlsPolicy, Url,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use setgate_set::ErrorCode;
use setgate_telemetry::clean;

use crate::{Cause, Class, Fault, Scope, Verdict, fields};

/// The most bytes of an `endpoint_url`.
pub const LONGEST_URL: usize = 2048;

/// The checked endpoint of a channel, with the client of its pool key.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The client.
    pub client: HttpClient,
    /// The member `endpoint_url`.
    pub url: Url,
    /// The member `authorization_header`, sent verbatim (SSF 1.0 §6.1.1).
    pub authorization: Option<HeaderValue>,
}

impl Endpoint {
    /// Checks what a receiver wrote, without I/O.
    ///
    /// # Errors
    /// [`Fault::Terms`] names the member that is not acceptable.
    pub fn new(
        http: &Outbound,
        policy: &TlsPolicy,
        url: &str,
        authorization: Option<&Secret<String>>,
    ) -> Result<Self, Fault> {
        let fault = |member: &str, cause| Fault::Terms { pointer: format!("/{member}"), cause };
        if url.len() > LONGEST_URL {
            return Err(fault("endpoint_url", Cause::configuration("invalid", "at most 2048 bytes are allowed")));
        }
        let url = Url::parse(url).map_err(|error| {
            fault("endpoint_url", Cause::configuration("invalid", format!("it is no absolute URL: {error}")))
        })?;
        let authorization = authorization
            .map(|text| fields::authorization(text.expose()))
            .transpose()
            .map_err(|cause| fault("authorization_header", cause))?;
        let client = http.client(policy);
        client.check(&url).map_err(|error| fault("endpoint_url", Cause::configuration(error.code(), error.text)))?;
        Ok(Self { client, url, authorization })
    }
}

/// Makes the verdict for a request without an answer: the channel is unhealthy, whatever the reason.
#[must_use]
pub fn no_answer(error: &HttpError) -> Verdict {
    let text = match error.fault {
        HttpFault::Guard => format!("the endpoint is refused: {}", error.text),
        _ => error.text.clone(),
    };
    let class = if error.fault.is_lasting() { Class::Configuration } else { Class::Transient };
    Verdict::Retry { scope: Scope::Channel, after: None, cause: Cause::of(class, error.code(), clean(&text, 512)) }
}

/// The error in an answer's body (RFC 8935 §2.3), read tolerantly: other members, a missing description and any content
/// type are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Said {
    /// The code; never empty.
    pub err: String,
    /// The text.
    #[serde(default, deserialize_with = "text_or_nothing")]
    pub description: Option<String>,
}

fn text_or_nothing<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(serde_json::Value::deserialize(from)?.as_str().map(str::to_owned))
}

impl Said {
    /// Reads a body; returns `None` when it does not hold such an object.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        // A derived reader also takes an array for a struct, and frameworks answer with arrays of messages.
        let is_object = body.trim_ascii_start().starts_with(b"{");
        serde_json::from_slice::<Self>(body).ok().filter(|said| is_object && !said.err.is_empty())
    }
}

/// Returns the cause when a success status does not acknowledge: the body shows that something other than the receiver
/// answered, or that the receiver refused.
///
/// A page for people (a login, a proxy's error page) may come with 200, as an acknowledgement does; RFC 8935 §2.2 has
/// 202 with an empty body, which no page has. An `err` (RFC 8935 §2.3) contradicts any success, since a repeat costs
/// little and a loss much.
#[must_use]
pub fn contradiction(answer: &HttpResponse) -> Option<Cause> {
    let status = answer.status.as_u16();
    let why = match Said::read(&answer.body) {
        Some(said) => format!("said {}", clean(&said.err, ErrorCode::LONGEST)),
        None if answer.status != StatusCode::ACCEPTED && is_page(answer) => "sent a page for people".to_owned(),
        None => return None,
    };
    let text = format!("the receiver answered {status} and {why}: that is no acknowledgement");
    Some(Cause::configuration("answer_contradicts", text))
}

/// Returns whether an answer holds HTML, judged by its type or its first characters. The type alone is not enough,
/// since some servers give it to an empty body.
fn is_page(answer: &HttpResponse) -> bool {
    let body = answer.body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&answer.body).trim_ascii_start();
    let begins = |tag: &str| body.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag.as_bytes()));
    let typed = ["text/html", "application/xhtml+xml"].iter().any(|page| is_media(&answer.headers, page));
    (typed && (!body.is_empty() || answer.truncated)) || begins("<!doctype html") || begins("<html")
}

fn is_media(headers: &HeaderMap, essence: &str) -> bool {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(essence)
}

/// Makes the cause for an answer with this status. Its text holds the code from the body, if there is one, and a hint.
#[must_use]
pub fn cause(status: u16, body: &[u8], hint: &str) -> Cause {
    let said = Said::read(body).map(|said| format!(" and said {}", clean(&said.err, ErrorCode::LONGEST)));
    let hint = match status {
        300..=399 => "; redirects are never followed",
        407 => "; it is the egress proxy that wants credentials",
        511 => "; a network on the way wants somebody to sign in",
        _ => hint,
    };
    let (class, code) = meaning(status);
    Cause::of(class, code, format!("the receiver answered {status}{}{hint}", said.unwrap_or_default()))
}

/// Returns the class and the stable code of a status that acknowledges nothing.
const fn meaning(status: u16) -> (Class, &'static str) {
    use Class::{Configuration, Transient};
    match status {
        200..=299 => (Configuration, "http_2xx"),
        300..=399 => (Configuration, "redirect"),
        400 => (Configuration, "http_400"),
        401 => (Configuration, "http_401"),
        403 => (Configuration, "http_403"),
        404 => (Configuration, "http_404"),
        405 => (Configuration, "http_405"),
        // Only the egress proxy asks for credentials this way (RFC 9110 §15.5.8).
        407 => (Transient, "proxy"),
        408 => (Transient, "http_408"),
        410 => (Configuration, "http_410"),
        415 => (Configuration, "http_415"),
        422 => (Configuration, "http_422"),
        425 => (Transient, "http_425"),
        429 => (Transient, "http_429"),
        500 => (Transient, "http_500"),
        501 => (Configuration, "http_501"),
        502 => (Transient, "http_502"),
        503 => (Transient, "http_503"),
        504 => (Transient, "http_504"),
        505 => (Configuration, "http_505"),
        506 => (Configuration, "http_506"),
        510 => (Configuration, "http_510"),
        511 => (Configuration, "http_511"),
        402..=499 => (Configuration, "http_4xx"),
        507..=599 => (Transient, "http_5xx"),
        _ => (Configuration, "http_other"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_says_cannot_steer_a_terminal() {
        let body = format!(r#"{{"err":"{}"}}"#, "\\u001b[31m\\u202e".repeat(200));
        let cause = cause(401, body.as_bytes(), "; hint");
        assert_eq!(cause.code, "http_401");
        assert!(!cause.text.contains(['\u{1b}', '\u{202e}']) && cause.text.len() < 200, "{}", cause.text);
    }
}
