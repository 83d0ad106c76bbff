//! The credential of a request (RFC 6750 §2).

use http::{HeaderMap, header::AUTHORIZATION};

use crate::Denied;

/// The most bytes of a credential.
const LONGEST: usize = 4096;

/// Returns the bearer token of a request, from its `Authorization` header and from nowhere else.
///
/// # Errors
/// [`Denied::Missing`] when there is none or another scheme is used, [`Denied::Malformed`] when there are two, when it
/// is not a `b64token`, is longer than 4096 bytes, or when the query carries one (RFC 6750 §2.3 allows it; the
/// interoperability profile §2.7 forbids it).
pub fn credential<'a>(headers: &'a HeaderMap, query: Option<&str>) -> Result<&'a str, Denied> {
    if query.is_some_and(names_token) {
        return Err(Denied::Malformed("the token belongs in the Authorization header, not in the query"));
    }
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = all.next() else { return Err(Denied::Missing) };
    if all.next().is_some() {
        return Err(Denied::Malformed("there are two Authorization headers"));
    }
    let text = value.to_str().map_err(|_| Denied::Malformed("the Authorization header is not ASCII"))?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        // RFC 6750 §3.1: no error code where no bearer token was given.
        return Err(Denied::Missing);
    }
    let token = token.trim_start_matches(' ');
    if token.len() > LONGEST || !is_b64token(token) {
        return Err(Denied::Malformed("the bearer token is empty, too long or has characters that no token has"));
    }
    Ok(token)
}

/// Returns whether a query has a parameter `access_token`, also when its name is percent-encoded.
fn names_token(query: &str) -> bool {
    query
        .split('&')
        .any(|pair| decoded(pair.split('=').next().unwrap_or_default()).eq_ignore_ascii_case(b"access_token"))
}

fn decoded(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let escaped = (*first == b'%')
            .then(|| std::str::from_utf8(tail.get(..2)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if escaped.is_some() {
            rest = tail.get(2..).unwrap_or_default();
        }
        out.push(escaped.unwrap_or(*first));
    }
    out
}

/// Returns whether a text is a `b64token` of RFC 6750 §2.1.
fn is_b64token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    !body.is_empty() && body.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn takes_the_token_of_the_header_whatever_the_case_of_the_scheme() {
        for scheme in ["Bearer", "bearer", "BEARER"] {
            assert_eq!(credential(&headers(&[&format!("{scheme} sgp_a-b")]), None), Ok("sgp_a-b"));
        }
    }

    #[test]
    fn no_header_or_another_scheme_is_a_missing_credential() {
        for values in [&[][..], &["Basic dXNlcjpwYXNz"], &["Negotiate"], &["sgp_token"]] {
            assert_eq!(credential(&headers(values), None), Err(Denied::Missing), "{values:?}");
        }
    }

    #[test]
    fn two_tokens_are_malformed() {
        assert!(matches!(credential(&headers(&["Bearer a", "Bearer a"]), None), Err(Denied::Malformed(_))));
        assert!(matches!(credential(&headers(&["Bearer a, Bearer b"]), None), Err(Denied::Malformed(_))));
    }

    #[test]
    fn refuses_a_token_in_the_query_even_beside_a_good_header() {
        let good = headers(&["Bearer a"]);
        for query in ["access_token=a", "x=1&access_token=a", "ACCESS_TOKEN=a", "%61ccess%5Ftoken=a", "access_token"] {
            let answer = credential(&good, Some(query));
            assert!(matches!(answer, Err(Denied::Malformed(_))), "{query}");
        }
        assert_eq!(credential(&good, Some("token=a&%zz=1&%")), Ok("a"));
    }

    #[test]
    fn refuses_what_is_no_token() {
        let long = format!("Bearer {}", "a".repeat(4097));
        for value in ["Bearer", "Bearer ", "Bearer a b", "Bearer =", "Bearer \"a\"", "Bearer a\u{e4}", &long] {
            assert!(matches!(credential(&headers(&[value]), None), Err(Denied::Malformed(_))), "{value}");
        }
    }
}
