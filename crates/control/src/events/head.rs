//! The headers that describe a request's body, checked before the body is read.

use http::{HeaderMap, StatusCode, header};

use super::source::{Coding, too_large};
use crate::{IntakeConfig, error::Problem};

/// The media types of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `application/json`: one event, or an array of events.
    Json,
    /// A line-based type such as `application/x-ndjson`: one event a line.
    Lines,
}

/// The facts that the headers state about the body.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) coding: Coding,
    /// The `Idempotency-Key`.
    pub(super) key: Option<Box<str>>,
}

const KINDS: &str = "application/json, application/x-ndjson, application/jsonl";
const CODINGS: &str = "gzip, zstd";
/// The most bytes of an `id`, in the body or in the header (hardening H14).
const LONGEST_ID: usize = 256;

impl Head {
    /// Reads the headers.
    ///
    /// # Errors
    /// 415 that names what would be accepted, 413 when the announced length is over the limit, 400 for an unusable
    /// `Idempotency-Key`.
    pub(super) fn read(headers: &HeaderMap, config: &IntakeConfig) -> Result<Self, Problem> {
        let kind = kind(headers)?;
        let coding = coding(headers)?;
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if coding == Coding::Identity && length.is_some_and(|length| length > config.body_bytes) {
            return Err(too_large(config).into());
        }
        Ok(Self { kind, coding, key: key(headers)? })
    }
}

fn kind(headers: &HeaderMap) -> Result<Kind, Problem> {
    let unsupported = || {
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("the body is one of {KINDS}"))
            .accepting("accept", KINDS)
    };
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).ok_or_else(unsupported)?;
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    // JSON is UTF-8 (RFC 8259 §8.1); other parameters are ignored.
    let is_utf8 = parts.all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    });
    match essence.as_str() {
        _ if !is_utf8 => Err(unsupported()),
        "application/json" => Ok(Kind::Json),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
            Ok(Kind::Lines)
        }
        _ => Err(unsupported()),
    }
}

fn coding(headers: &HeaderMap) -> Result<Coding, Problem> {
    let unsupported = || {
        let detail = format!("the body is not compressed, or one of {CODINGS}");
        // The answer says which codings would be accepted (RFC 9110 §15.5.16).
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail).accepting("accept-encoding", CODINGS)
    };
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(value) = values.next() else { return Ok(Coding::Identity) };
    if values.next().is_some() {
        return Err(unsupported());
    }
    match value.to_str().map(|text| text.trim().to_ascii_lowercase()).as_deref() {
        Ok("identity" | "") => Ok(Coding::Identity),
        Ok("gzip" | "x-gzip") => Ok(Coding::Gzip),
        Ok("zstd") => Ok(Coding::Zstd),
        _ => Err(unsupported()),
    }
}

/// Reads the `Idempotency-Key`: a structured string in quotation marks, or the same without them.
fn key(headers: &HeaderMap) -> Result<Option<Box<str>>, Problem> {
    let bad = |detail: &str| Problem::bad(format!("Idempotency-Key: {detail}"));
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(bad("there are two"));
    }
    let text = value.to_str().map_err(|_| bad("visible ASCII is expected"))?.trim();
    let text = match text.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').ok_or_else(|| bad("the closing quotation mark is missing"))?,
        None => text,
    };
    if text.contains(['"', '\\']) {
        return Err(bad("quotation marks and backslashes are not taken"));
    }
    if !(1..=LONGEST_ID).contains(&text.len()) {
        return Err(bad("1 to 256 characters are expected"));
    }
    Ok(Some(text.into()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn head(pairs: &[(&'static str, &str)]) -> Result<Head, Problem> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Head::read(&headers, &IntakeConfig::default())
    }

    #[test]
    fn knows_the_media_types() {
        for (text, kind) in [
            ("application/json", Kind::Json),
            ("Application/JSON; charset=UTF-8", Kind::Json),
            ("application/json;charset=\"utf-8\"", Kind::Json),
            ("application/x-ndjson", Kind::Lines),
            ("application/jsonl", Kind::Lines),
        ] {
            assert_eq!(head(&[("content-type", text)]).unwrap().kind, kind, "{text}");
        }
        for text in
            ["", "text/plain", "application/json; charset=latin1", "application/secevent+jwt", "application/jsonx"]
        {
            let problem = head(&[("content-type", text)]).unwrap_err();
            assert_eq!(problem.status, 415, "{text}");
        }
        assert_eq!(head(&[]).unwrap_err().status, 415);
    }

    #[test]
    fn knows_the_codings() {
        let json = ("content-type", "application/json");
        for (text, coding) in
            [("gzip", Coding::Gzip), ("GZIP", Coding::Gzip), ("zstd", Coding::Zstd), ("identity", Coding::Identity)]
        {
            assert_eq!(head(&[json, ("content-encoding", text)]).unwrap().coding, coding);
        }
        for text in ["br", "deflate", "gzip, gzip", "gzip, zstd"] {
            assert_eq!(head(&[json, ("content-encoding", text)]).unwrap_err().status, 415, "{text}");
        }
        let twice = head(&[json, ("content-encoding", "gzip"), ("content-encoding", "gzip")]);
        assert_eq!(twice.unwrap_err().status, 415);
    }

    #[test]
    fn refuses_an_announced_length_beyond_the_limit() {
        let json = ("content-type", "application/json");
        let problem = head(&[json, ("content-length", "67108865")]).unwrap_err();
        assert_eq!((problem.status.as_u16(), problem.rule), (413, Some("body_bytes")));
        assert!(head(&[json, ("content-length", "67108864")]).is_ok());
    }

    #[test]
    fn reads_the_idempotency_key_with_and_without_quotation_marks() {
        let json = ("content-type", "application/json");
        for text in ["abc-1", "\"abc-1\"", " \"abc-1\" "] {
            assert_eq!(head(&[json, ("idempotency-key", text)]).unwrap().key.as_deref(), Some("abc-1"), "{text}");
        }
        let long = "a".repeat(257);
        for text in ["", "\"\"", "\"abc", "a\"b", "\"a\\\\b\"", "\u{e4}", &long] {
            assert_eq!(head(&[json, ("idempotency-key", text)]).unwrap_err().status, 400, "{text}");
        }
        let twice = head(&[json, ("idempotency-key", "a"), ("idempotency-key", "a")]);
        assert_eq!(twice.unwrap_err().status, 400);
    }
}
