//! Bodies and header fields of RFC 8936: pure.

use setgate_delivery::{
    Attempt, Jti, Outcome, Refusal, SealedSet,
    exchange::{Bounds, Exchange, Malformed, Speech},
    fields,
    http::{HeaderMap, HeaderValue, header},
};

/// The media type of requests and answers (RFC 8936 §2.2, §2.3).
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Largest answer that the receiving half reads.
pub const LARGEST_ANSWER: usize = 16 << 20;

/// What the receiving half takes from a transmitter.
const OF_TRANSMITTER: Bounds = Bounds { bytes: LARGEST_ANSWER, ids: 0, sets: 10_000 };

/// What a receiver asks for (RFC 8936 §2.2).
#[derive(Debug)]
pub struct Ask {
    /// What it reports of earlier SETs.
    pub outcomes: Vec<(Jti, Option<Attempt>, Outcome)>,
    /// Ids that no gateway makes.
    pub unknown: usize,
    /// SETs that it takes at most.
    pub sets: usize,
    /// Whether the answer may wait for SETs.
    pub waits: bool,
}

impl Ask {
    /// Reads the body of a request with these header fields.
    ///
    /// # Errors
    /// [`Malformed`] when it is no poll request, or larger than [`Bounds::OF_RECEIVER`].
    pub fn parse(body: &[u8], headers: &HeaderMap) -> Result<Self, Malformed> {
        let mut read = Exchange::parse(body, Bounds::OF_RECEIVER, fields::language(headers))?;
        let sets = read.max_events.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        // RFC 8936 §2.4.2 wants `returnImmediately` beside `maxEvents: 0`; without it there is nothing to wait for either.
        let waits = !read.return_immediately && sets > 0;
        Ok(Self { outcomes: read.outcomes(), unknown: read.unknown, sets, waits })
    }
}

/// Whether a request is labelled as RFC 8936 §2.2 demands; parameters are let through.
#[must_use]
pub fn is_json(headers: &HeaderMap) -> bool {
    let mut labels = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(label), None) = (labels.next(), labels.next()) else { return false };
    let Ok(label) = label.to_str() else { return false };
    label.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// The body of an answer (RFC 8936 §2.3).
#[must_use]
pub fn answer(sets: &[SealedSet], more: bool) -> Vec<u8> {
    Speech { sets: Some(sets), more_available: more.then_some(true), ..Speech::default() }.to_json()
}

/// The last byte of every answer.
pub const LAST: &[u8] = b"}";

/// How many bytes [`answer`] has.
#[must_use]
pub fn length(sets: &[SealedSet], more: bool) -> usize {
    let mut ends = Vec::new();
    open(&mut ends);
    close(&mut ends, more);
    // An id and a token in quotes, and a colon between them; neither has anything to escape.
    let one = |set: &SealedSet| set.jti.as_str().len() + set.body.len() + 5;
    ends.len() + sets.iter().map(one).sum::<usize>() + sets.len().saturating_sub(1)
}

/// The beginning of an answer that is written piece by piece.
pub fn open(out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"sets":{"#);
}

/// One SET of it; a comma stands before every one but the first.
pub fn set(out: &mut Vec<u8>, set: &SealedSet) {
    for (before, text) in [(&b"\""[..], set.jti.as_str().as_bytes()), (b"\":\"", &set.body)] {
        out.extend_from_slice(before);
        out.extend_from_slice(text);
    }
    out.push(b'"');
}

/// Its end.
pub fn close(out: &mut Vec<u8>, more: bool) {
    out.extend_from_slice(if more { br#"},"moreAvailable":true}"# } else { b"}}" });
}

/// The body of a request.
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

/// The header fields of a request; the language is that of the texts in `setErrs` (RFC 8936 §2.6).
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

/// Reads an answer.
///
/// # Errors
/// [`Malformed`] when it is none.
pub fn read_answer(body: &[u8]) -> Result<Exchange, Malformed> {
    Exchange::parse(body, OF_TRANSMITTER, None)
}

#[cfg(test)]
mod tests;
