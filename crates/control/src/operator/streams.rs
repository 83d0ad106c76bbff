//! The routes below `/admin/v1/streams`.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::{OperatorParts, body::Json};
use crate::error::Problem;

/// The most bytes of a reason that are kept with a stream.
const LONGEST_REASON: usize = 256;

pub(super) fn routes() -> Router<Arc<OperatorParts>> {
    Router::new()
        .route("/streams", get(list))
        .route("/streams/{id}", get(one).delete(delete))
        .route("/streams/{id}/pause", post(pause))
        .route("/streams/{id}/resume", post(resume))
}

async fn list(State(parts): State<Arc<OperatorParts>>) -> Response {
    let health = parts.operate.health();
    let obstacle = health
        .obstacle
        .map(|obstacle| json!({ "reason": obstacle, "why": obstacle.to_string(), "remedy": obstacle.remedy() }));
    let warnings: Vec<String> = health.clock_trouble.into_iter().collect();
    let streams = parts.operate.streams().await;
    axum::Json(json!({ "streams": streams, "intake_closed": obstacle, "warnings": warnings })).into_response()
}

async fn one(State(parts): State<Arc<OperatorParts>>, Path(id): Path<String>) -> Result<Response, Problem> {
    let stream = parts.operate.stream(&id).await.ok_or_else(|| Problem::unknown("there is no such stream"))?;
    Ok(axum::Json(stream).into_response())
}

async fn delete(State(parts): State<Arc<OperatorParts>>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    parts.operate.delete(&id).await?;
    tracing::info!(stream = id, "a stream was deleted by the operator");
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pause {
    reason: Option<String>,
}

async fn pause(
    State(parts): State<Arc<OperatorParts>>,
    Path(id): Path<String>,
    Json(Pause { reason }): Json<Pause>,
) -> Result<Response, Problem> {
    let reason = reason
        .as_deref()
        .map_or_else(|| "paused by the operator".into(), |text| setgate_telemetry::clean(text, LONGEST_REASON));
    let stream = parts.operate.pause(&id, reason).await?;
    tracing::info!(stream = id, "a stream was paused by the operator");
    Ok(axum::Json(stream).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resume {
    #[serde(default)]
    reissue: bool,
}

async fn resume(
    State(parts): State<Arc<OperatorParts>>,
    Path(id): Path<String>,
    Json(Resume { reissue }): Json<Resume>,
) -> Result<Response, Problem> {
    let stream = parts.operate.resume(&id, reissue).await?;
    tracing::info!(stream = id, reissue, "a stream was resumed by the operator");
    Ok(axum::Json(stream).into_response())
}
