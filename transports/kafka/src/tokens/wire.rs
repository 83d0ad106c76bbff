//! The request for a token and the answer to it: pure.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use setgate_delivery::{
    Bytes, Cause, Json, Secret,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use url::form_urlencoded;

use crate::config::TokenSection;

/// The longest token that is accepted, in bytes.
const LONGEST_TOKEN: usize = 32 << 10;
/// The lifetime in seconds of a token whose answer names none (RFC 6749 §5.1).
const UNSAID: u64 = 300;
/// The longest time in seconds for which a token is kept.
const LONGEST_LIFE: u64 = 86_400;
/// The error codes of RFC 6749 §5.2. Others are not repeated, since the endpoint has just seen the secret.
const CODES: [&str; 6] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];

/// Returns the header fields of the request: HTTP Basic with both parts form-encoded (RFC 6749 §2.3.1), and the media
/// types.
///
/// # Errors
/// Fails if the credentials cannot be a header field, which the check of the section rules out.
pub(super) fn headers(section: &TokenSection) -> Result<HeaderMap, Cause> {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let both = Secret::new(format!("{}:{}", encode(&section.client_id), encode(section.client_secret.expose())));
    let basic = Secret::new(format!("Basic {}", STANDARD.encode(both.expose())));
    let mut value = HeaderValue::from_str(basic.expose())
        .map_err(|_| Cause::configuration("configuration", "the credentials cannot be sent as a header field"))?;
    value.set_sensitive(true);
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, value);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    Ok(headers)
}

/// Returns the form of the request (RFC 6749 §4.4.2).
pub(super) fn form(section: &TokenSection) -> Bytes {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    if let Some(scope) = &section.scope {
        form.append_pair("scope", scope);
    }
    if let Some(audience) = &section.audience {
        form.append_pair("audience", audience);
    }
    form.finish().into()
}

#[derive(Deserialize)]
struct Granted {
    access_token: Secret<String>,
    token_type: String,
    #[serde(default)]
    expires_in: Option<Json>,
}

#[derive(Deserialize)]
struct Denied {
    error: String,
}

/// Returns the token and its lifetime from an answer (RFC 6749 §5.1 and §5.2).
///
/// # Errors
/// The reason why there is no token; it repeats nothing that the endpoint wrote freely.
pub(super) fn token(status: StatusCode, kind: Option<&str>, body: &[u8]) -> Result<(Secret<String>, Duration), Cause> {
    if status != StatusCode::OK {
        let denied = serde_json::from_slice::<Denied>(body).ok();
        let code = denied.and_then(|denied| CODES.into_iter().find(|code| *code == denied.error));
        return Err(match code {
            Some("invalid_client") => Cause::configuration(
                "token_refused",
                "it does not know this client or its secret (invalid_client): fix `client_id` and `client_secret`",
            ),
            Some("invalid_scope") => {
                Cause::configuration("token_refused", "it refuses the scope (invalid_scope): fix `scope`")
            }
            Some(code) => Cause::configuration("token_refused", format!("it refuses ({code})")),
            None => Cause::new("token_endpoint", format!("it answered with status {}", status.as_u16())),
        });
    }
    let wrong = |why: &str| Cause::new("token_endpoint", format!("its answer is no token: {why}"));
    if !kind.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("application/json")) {
        return Err(wrong("it is not `application/json`"));
    }
    // Serde's own words could repeat the token.
    let granted: Granted =
        serde_json::from_slice(body).map_err(|_| wrong("no JSON object with `access_token` and `token_type`"))?;
    // RFC 6749 §7.1: a type that is not understood must not be used.
    if !granted.token_type.eq_ignore_ascii_case("bearer") {
        return Err(wrong("`token_type` is not `Bearer`"));
    }
    // RFC 6750 §2.1; other characters could break out of the SASL message (RFC 7628 §3.1).
    let fits =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=');
    let token = granted.access_token.expose();
    if token.is_empty() || token.len() > LONGEST_TOKEN || !token.bytes().all(fits) {
        return Err(wrong("`access_token` is empty, too long or has characters that no bearer token has"));
    }
    let seconds = match granted.expires_in {
        None | Some(Json::Null) => UNSAID,
        Some(Json::Number(number)) => number.as_u64().unwrap_or(0),
        // Some servers write it as a string.
        Some(Json::String(text)) => text.parse().unwrap_or(0),
        Some(_) => 0,
    };
    if seconds == 0 {
        return Err(wrong("`expires_in` is not a number of seconds above 0"));
    }
    Ok((granted.access_token, Duration::from_secs(seconds.min(LONGEST_LIFE))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn section(more: &Json) -> TokenSection {
        let mut section =
            json!({ "token_endpoint": "https://as.example", "client_id": "a b:c", "client_secret": "p%ö+" });
        section.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(section).unwrap()
    }

    fn read(body: &Json) -> Result<(Secret<String>, Duration), Cause> {
        token(StatusCode::OK, Some("application/json; charset=utf-8"), body.to_string().as_bytes())
    }

    #[test]
    fn credentials_travel_as_basic_with_both_parts_encoded() {
        let headers = headers(&section(&json!({}))).unwrap();
        let value = headers.get(header::AUTHORIZATION).unwrap();
        assert!(value.is_sensitive());
        let basic = value.to_str().unwrap().strip_prefix("Basic ").unwrap();
        assert_eq!(STANDARD.decode(basic).unwrap(), b"a+b%3Ac:p%25%C3%B6%2B");
    }

    #[test]
    fn the_form_holds_what_was_asked_for_and_no_secret() {
        assert_eq!(form(&section(&json!({}))), "grant_type=client_credentials");
        let section = section(&json!({ "scope": "kafka write", "audience": "https://k.example/?a&b" }));
        let said = "grant_type=client_credentials&scope=kafka+write&audience=https%3A%2F%2Fk.example%2F%3Fa%26b";
        assert_eq!(form(&section), said);
    }

    #[test]
    fn a_token_has_its_life_time() {
        let life = |expires: Json| {
            read(&json!({ "access_token": "a.b-c_d~e+f/g=", "token_type": "bearer", "expires_in": expires }))
                .map(|(_, life)| life)
        };
        assert_eq!(life(json!(3600)), Ok(Duration::from_secs(3600)));
        assert_eq!(life(json!("60")), Ok(Duration::from_secs(60)));
        assert_eq!(life(Json::Null), Ok(Duration::from_secs(300)));
        assert_eq!(life(json!(u64::MAX)), Ok(Duration::from_secs(86_400)));
        for bad in [json!(0), json!(-1), json!(1.5), json!("soon"), json!([]), json!(true)] {
            assert!(life(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_bearer_token_is_refused_and_not_repeated() {
        for bad in [
            json!({}),
            json!([]),
            json!({ "access_token": "canary" }),
            json!({ "access_token": "canary", "token_type": "mac" }),
            json!({ "access_token": "", "token_type": "Bearer" }),
            json!({ "access_token": 7, "token_type": "Bearer" }),
            json!({ "access_token": "canary\u{1}host=evil", "token_type": "Bearer" }),
            json!({ "access_token": "canary x", "token_type": "Bearer" }),
            json!({ "access_token": "canary\0", "token_type": "Bearer" }),
            json!({ "access_token": "c".repeat(LONGEST_TOKEN + 1), "token_type": "Bearer" }),
        ] {
            let cause = read(&bad).unwrap_err();
            assert_eq!(cause.code, "token_endpoint", "{bad}");
            assert!(!cause.text.contains("canary"), "{cause}");
        }
        let good = json!({ "access_token": "t", "token_type": "Bearer" }).to_string();
        assert!(token(StatusCode::OK, Some("text/html"), good.as_bytes()).is_err());
        assert!(token(StatusCode::OK, None, good.as_bytes()).is_err());
        assert!(token(StatusCode::CREATED, Some("application/json"), good.as_bytes()).is_err());
    }

    #[test]
    fn a_denial_is_told_by_its_code_alone() {
        let deny = |body: &str| token(StatusCode::UNAUTHORIZED, Some("application/json"), body.as_bytes()).unwrap_err();
        let cause = deny(r#"{"error": "invalid_client", "error_description": "canary"}"#);
        assert_eq!(cause.code, "token_refused");
        assert!(cause.text.contains("client_secret") && !cause.text.contains("canary"), "{cause}");
        for body in [r#"{"error": "canary"}"#, "canary", ""] {
            let cause = deny(body);
            assert!(cause.text.contains("401") && !cause.text.contains("canary"), "{cause}");
        }
    }
}
