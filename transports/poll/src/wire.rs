//! Bodies and header fields of RFC 8936, free of I/O.

use setgate_delivery::{
    Attempt, Jti, Outcome, Refusal, SealedSet,
    exchange::{Bounds, Exchange, Malformed, Speech},
    fields,
    http::{HeaderMap, HeaderValue, header},
};

/// The media type of requests and answers (RFC 8936 §2.2, §2.3).
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The largest answer that the receiving half reads, in bytes.
pub const LARGEST_ANSWER: usize = 16 << 20;

/// The limits of what the receiving half accepts from a transmitter.
const OF_TRANSMITTER: Bounds = Bounds { bytes: LARGEST_ANSWER, ids: 0, sets: 10_000 };

/// A poll request (RFC 8936 §2.2).
#[derive(Debug)]
pub struct Ask {
    /// The outcomes of earlier SETs that the receiver reports.
    pub outcomes: Vec<(Jti, Option<Attempt>, Outcome)>,
    /// The number of ids that no gateway makes.
    pub unknown: usize,
    /// The most SETs that the receiver accepts in the answer.
    pub sets: usize,
    /// Whether the answer may wait for SETs.
    pub waits: bool,
}

impl Ask {
    /// Parses the body of a request with these header fields.
    ///
    /// # Errors
    /// Returns [`Malformed`] when it is no poll request, or larger than [`Bounds::OF_RECEIVER`].
    pub fn parse(body: &[u8], headers: &HeaderMap) -> Result<Self, Malformed> {
        let mut read = Exchange::parse(body, Bounds::OF_RECEIVER, fields::language(headers))?;
        let sets = read.max_events.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        // RFC 8936 §2.4.2 requires `returnImmediately` with `maxEvents: 0`; without it there is nothing to wait for
        // either.
        let waits = !read.return_immediately && sets > 0;
        Ok(Self { outcomes: read.outcomes(), unknown: read.unknown, sets, waits })
    }
}

/// Returns whether a request has the content type of RFC 8936 §2.2; parameters are ignored.
#[must_use]
pub fn is_json(headers: &HeaderMap) -> bool {
    let mut labels = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(label), None) = (labels.next(), labels.next()) else { return false };
    let Ok(label) = label.to_str() else { return false };
    label.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// Returns the body of an answer (RFC 8936 §2.3).
#[must_use]
pub fn answer(sets: &[SealedSet], more: bool) -> Vec<u8> {
    Speech { sets: Some(sets), more_available: more.then_some(true), ..Speech::default() }.to_json()
}

/// The last byte of every answer.
pub const LAST: &[u8] = b"}";

/// Returns the length of [`answer`] in bytes.
#[must_use]
pub fn length(sets: &[SealedSet], more: bool) -> usize {
    let mut ends = Vec::new();
    open(&mut ends);
    close(&mut ends, more);
    // An id and a token are in quotes with a colon between them; neither has anything to escape.
    let one = |set: &SealedSet| set.jti.as_str().len() + set.body.len() + 5;
    ends.len() + sets.iter().map(one).sum::<usize>() + sets.len().saturating_sub(1)
}

/// Writes the beginning of an answer that is written piece by piece.
pub fn open(out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"sets":{"#);
}

/// Writes one SET of such an answer; the caller writes a comma before every one but the first.
pub fn set(out: &mut Vec<u8>, set: &SealedSet) {
    for (before, text) in [(&b"\""[..], set.jti.as_str().as_bytes()), (b"\":\"", &set.body)] {
        out.extend_from_slice(before);
        out.extend_from_slice(text);
    }
    out.push(b'"');
}

/// Writes the end of such an answer.
pub fn close(out: &mut Vec<u8>, more: bool) {
    out.extend_from_slice(if more { br#"},"moreAvailable":true}"# } else { b"}}" });
}

/// Returns the body of a request.
#[must_use]
pub fn request(ack: &[Box<str>], errors: &[(Box<str>, Refusal)], max_events: usize, at_once: bool) -> Vec<u8> {
    Speech {
        ack: (!ack.is_empty()).then_some(ack),
        set_errs: (!errors.is_empty()).then_some(errors),
        max_events: Some(max_events as u64),
        return_immediately: at_once.then_some(true),
        ..Speech::default()
    }
    .to_json()
}

/// Returns the header fields of a request; the language is that of the texts in `setErrs` (RFC 8936 §2.6).
#[must_use]
pub fn request_fields(authorization: Option<&HeaderValue>, errors: bool) -> HeaderMap {
    let mut all = HeaderMap::new();
    all.insert(header::CONTENT_TYPE, JSON);
    all.insert(header::ACCEPT, JSON);
    if errors {
        all.insert(header::CONTENT_LANGUAGE, HeaderValue::from_static("en"));
    }
    if let Some(authorization) = authorization {
        all.insert(header::AUTHORIZATION, authorization.clone());
    }
    all
}

/// Parses an answer.
///
/// # Errors
/// Returns [`Malformed`] when the body is no answer to a poll.
pub fn read_answer(body: &[u8]) -> Result<Exchange, Malformed> {
    Exchange::parse(body, OF_TRANSMITTER, None)
}

#[cfg(test)]
mod tests;
