//! The bodies and queries of requests to the admin listener: bounded, parsed strictly, and answered with a problem when
//! they are wrong.

use axum::{
    extract::{FromRequest, FromRequestParts, Query, Request},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use crate::error::Problem;

/// The most bytes of a body: an RSA key in PEM has 3 KiB, a page of `jti`s 15 KiB.
const LONGEST: usize = 256 * 1024;

/// A JSON body; an empty one counts as `{}`.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let read = axum::body::to_bytes(request.into_body(), LONGEST).await;
        let text = read.map_err(|_| Problem::limit("body", format!("a body has at most {LONGEST} bytes")))?;
        let text = if text.iter().all(u8::is_ascii_whitespace) { &b"{}"[..] } else { &text };
        // The error names member and place; a value that it quotes is the caller's own.
        serde_json::from_slice(text).map(Self).map_err(|error| Problem::bad(error.to_string()))
    }
}

/// The parameters of the query.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = Query::try_from_uri(&parts.uri).map_err(|error| Problem::bad(error.body_text()))?;
        Ok(Self(query.0))
    }
}
