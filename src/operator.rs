//! What the operator door is given.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{http::StatusCode, routing::get};
use cli::Failure;
use clock::House;
use oauth::Guard;
use router::{Issuer, Router};

use crate::{config::Config, opening::Kept};

/// What the routes need.
pub(crate) struct Parts<'a> {
    pub(crate) house: House,
    pub(crate) config: &'a Config,
    pub(crate) router: Router,
    pub(crate) issuers: Vec<Issuer>,
    pub(crate) guard: Arc<Guard>,
    pub(crate) kept: &'a Kept,
    pub(crate) ready: Arc<AtomicBool>,
}

/// The routes of the operator door.
///
/// # Errors
/// When a section is not acceptable.
pub(crate) fn routes(parts: Parts<'_>) -> Result<axum::Router, Failure> {
    let Parts { ready, kept, .. } = parts;
    let registry = kept.registry.clone();
    Ok(axum::Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route(
            "/readyz",
            get(async move || {
                if ready.load(Ordering::SeqCst) {
                    (StatusCode::OK, "ready\n")
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
                }
            }),
        )
        .route("/metrics", get(async move || registry.text())))
}
