//! Header fields that several HTTP methods share: checks of those that are sent, and readers of those that come back.

use std::time::{Duration, UNIX_EPOCH};

use setgate_net::http::{HeaderMap, HeaderValue, header};
use setgate_set::{ErrorCode, Timestamp};
use setgate_telemetry::clean;

use crate::{Cause, Refusal};

/// The most bytes of an `authorization_header` (hardening H26).
pub const LONGEST_AUTHORIZATION: usize = 4096;

/// Makes the field value of an `authorization_header`, marked as sensitive (SSF 1.0 §6.1.1, RFC 9110 §5.5, hardening
/// H26).
///
/// # Errors
/// A cause when the text is empty, longer than [`LONGEST_AUTHORIZATION`], has spaces around it, or holds anything but
/// visible ASCII characters and spaces.
pub fn authorization(text: &str) -> Result<HeaderValue, Cause> {
    let fault = |why: &str| Cause::configuration("invalid", format!("it is sent as a header field: {why}"));
    if text.is_empty() || text.trim() != text {
        return Err(fault("it must not be empty or have spaces around it"));
    }
    if text.len() > LONGEST_AUTHORIZATION {
        return Err(fault("at most 4096 bytes are allowed"));
    }
    if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(fault("only visible ASCII characters and spaces are allowed"));
    }
    let mut value = HeaderValue::from_str(text).map_err(|_| fault("it is no field value"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Reads the time for which the peer asks not to be called: `Retry-After` in seconds or as a date (RFC 9110 §10.2.3).
///
/// A date in the past gives zero; any other text is ignored. The router clamps the time (hardening H50).
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that does not fit is longer than any wait.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::from(u32::MAX))));
    }
    let at = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(at.saturating_sub(Duration::from_millis(now.as_millis())))
}

/// Makes a refusal from a peer's words, cut to length and made safe to show (RFC 8935 §2.3, hardening H50).
#[must_use]
pub fn refusal(err: &str, description: Option<&str>, headers: &HeaderMap) -> Refusal {
    Refusal {
        code: ErrorCode::from_wire(&clean(err, ErrorCode::LONGEST)),
        description: description.map(|text| clean(text, 512).into()),
        language: language(headers).map(Into::into),
    }
}

/// Returns `Content-Language`, if it looks like one.
#[must_use]
pub fn language(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::CONTENT_LANGUAGE)?.to_str().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b',' | b' ');
    (text.len() <= 64 && text.bytes().all(plain)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, text.parse().unwrap());
        // 1994-11-06T08:49:00Z
        retry_after(&headers, Timestamp::from_seconds(784_111_740))
    }

    #[test]
    fn reads_retry_after_in_seconds_and_as_a_date() {
        assert_eq!(after("120"), Some(Duration::from_secs(120)));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(37)));
        assert_eq!(after("Sun, 06 Nov 1994 08:48:37 GMT"), Some(Duration::ZERO));
        assert_eq!(after("99999999999999999999999"), Some(Duration::from_secs(u64::from(u32::MAX))));
        for nonsense in ["", "-1", "1.5", "soon", "1s"] {
            assert_eq!(after(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn an_authorization_is_sent_as_it_is_or_refused() {
        assert_eq!(authorization("Bearer abc == ~").unwrap().to_str().unwrap(), "Bearer abc == ~");
        assert!(authorization("Bearer abc").unwrap().is_sensitive());
        for bad in ["", " a", "a ", "a\r\nb", "a\nb", "a\0b", "a\tb", "ä", "a\u{7f}", &"a".repeat(4097)] {
            assert!(authorization(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_refusal_is_cut_and_cannot_steer_a_terminal() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LANGUAGE, "en-US".parse().unwrap());
        let refusal = refusal(&"x\u{1b}".repeat(1000), Some(&"\u{202e}y".repeat(1000)), &headers);
        assert!(refusal.code.as_str().len() <= 64 && !refusal.code.as_str().contains('\u{1b}'));
        let description = refusal.description.unwrap();
        assert!(description.len() <= 512 && !description.contains('\u{202e}'));
        assert_eq!(refusal.language.as_deref(), Some("en-US"));
    }
}
