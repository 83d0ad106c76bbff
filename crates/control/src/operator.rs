//! The admin listener: health and metrics for every caller that reaches it, the rest for callers with the admin token
//! (hardening H6).

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::get,
};
use http::{HeaderValue, StatusCode, header};
use setgate_oauth::{AdminGuard, Guard};

mod about;
mod body;
mod keys;
mod parked;
mod shield;
mod sources;
mod streams;

use crate::{Keys, Operate, OperatorConfig, Sources, error::Problem, openapi};

/// The parts of the admin listener.
#[derive(Clone)]
pub struct OperatorParts {
    /// The router.
    pub operate: Arc<dyn Operate>,
    /// The signing keys.
    pub keys: Keys,
    /// The guard that knows the admin token.
    pub guard: Arc<AdminGuard>,
    /// The guard that knows producers and receivers.
    pub producers: Arc<Guard>,
    /// The sources from which events are collected.
    pub sources: Arc<Sources>,
    /// The `[admin]` section.
    pub config: OperatorConfig,
    /// The address that the listener is bound to, which may stand in `Host`.
    pub address: SocketAddr,
    /// Returns whether the gateway is ready, or why not: public listener up, store open, keys loaded, not draining
    /// (hardening H33).
    pub ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// Returns the metrics as OpenMetrics text.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

/// Creates the routes of the admin listener: `/healthz`, `/readyz`, `/metrics`, `/openapi.json`, and `/admin/v1/...`
/// behind the admin token.
pub fn operator(parts: OperatorParts) -> Router {
    let shield = Arc::new(shield::Shield::new(&parts.config, parts.address));
    let parts = Arc::new(parts);
    let admin = Router::new()
        .merge(streams::routes())
        .merge(parked::routes())
        .merge(sources::routes())
        .merge(keys::routes())
        .merge(about::routes())
        .fallback(|| async { Problem::unknown("there is nothing of this name") })
        .method_not_allowed_fallback(|| async { Problem::new(StatusCode::METHOD_NOT_ALLOWED, "not in this way") })
        .layer(middleware::from_fn_with_state(parts.clone(), admit));
    let mut open = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/openapi.json", openapi::route(openapi::operator()));
    if parts.config.metrics {
        open = open.route("/metrics", get(metrics));
    }
    open.nest("/admin/v1", admin)
        .fallback(|| async { Problem::unknown("there is nothing of this name") })
        .layer(middleware::from_fn_with_state(shield, shield::stand))
        .with_state(parts)
}

/// The content type of the metrics.
const METRICS: HeaderValue = HeaderValue::from_static(setgate_telemetry::Registry::CONTENT_TYPE);

async fn metrics(State(parts): State<Arc<OperatorParts>>) -> Response {
    ([(header::CONTENT_TYPE, METRICS)], (parts.metrics)()).into_response()
}

async fn ready(State(parts): State<Arc<OperatorParts>>) -> Response {
    match parts.readiness() {
        Ok(None) => (StatusCode::OK, "ready\n").into_response(),
        Ok(Some(but)) => (StatusCode::OK, format!("ready\n{but}\n")).into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

impl OperatorParts {
    /// Returns a warning, if there is one, when the gateway is ready, and the reason when it is not.
    ///
    /// A closed intake alone leaves the gateway ready: the receivers that poll are what makes room (hardening H33). A
    /// store from which nothing is delivered either makes it not ready.
    fn readiness(&self) -> Result<Option<String>, String> {
        (self.ready)()?;
        let health = self.operate.health();
        match health.obstacle {
            Some(obstacle) if obstacle.stops_delivery() => Err(format!("{obstacle}; {}", obstacle.remedy())),
            Some(obstacle) => Ok(Some(format!("intake is closed: {obstacle}; {}", obstacle.remedy()))),
            None => Ok(health.clock_trouble.map(|trouble| format!("warning: {trouble}"))),
        }
    }
}

/// Lets in callers with the admin token.
async fn admit(State(parts): State<Arc<OperatorParts>>, request: Request, next: Next) -> Response {
    match parts.guard.admit(request.headers(), request.uri().query()) {
        Ok(()) => {
            if let Some(permit) = request.extensions().get::<setgate_net::ConnectionPermit>() {
                permit.vouch("operator");
            }
            next.run(request).await
        }
        Err(denied) => denied.into_response(),
    }
}

#[cfg(test)]
mod tests;
