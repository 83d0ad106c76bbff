//! The OpenAPI 3.1 documents of the listeners, written by hand and served as they are.

use axum::{
    response::IntoResponse as _,
    routing::{MethodRouter, get},
};
use bytes::Bytes;
use http::{HeaderValue, header};
use serde_json::{Value as Json, json};

/// The listener that a document describes.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Document {
    /// The intake endpoint.
    Intake,
    /// The admin listener.
    Operator,
}

/// The document of the admin listener.
const OPERATOR: &str = include_str!("openapi/operator.json");

/// The document of the intake endpoint, with an example in the place of its servers.
const INTAKE: &str = include_str!("openapi/intake.json");

/// Returns the document of the intake endpoint, with the gateway's issuers as servers.
pub(crate) fn intake<'a>(issuers: impl Iterator<Item = &'a str>) -> Bytes {
    let mut document: Json = serde_json::from_str(INTAKE).unwrap_or_default();
    let servers: Vec<_> = issuers.map(|issuer| json!({ "url": issuer.trim_end_matches('/') })).collect();
    if let Json::Object(members) = &mut document {
        members.insert("servers".to_owned(), servers.into());
    }
    document.to_string().into()
}

/// Returns the document of the admin listener.
pub(crate) fn operator() -> Bytes {
    Bytes::from_static(OPERATOR.as_bytes())
}

/// Creates the route that serves a document.
pub(crate) fn route<S: Clone + Send + Sync + 'static>(document: Bytes) -> MethodRouter<S> {
    get(move || async move {
        ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], document).into_response()
    })
}

#[cfg(test)]
pub(crate) mod tests;
