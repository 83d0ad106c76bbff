//! The routes below `/admin/v1/sources`.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    OperatorParts,
    body::{Asked, Json},
};
use crate::{Collected, error::Problem};

/// The most records of a page; one record may have 64 KiB.
const PAGE: usize = 100;

pub(super) fn routes() -> Router<Arc<OperatorParts>> {
    Router::new()
        .route("/sources", get(list))
        .route("/sources/{name}/parked", get(parked))
        .route("/sources/{name}/parked/drop", post(discard))
}

async fn list(State(parts): State<Arc<OperatorParts>>) -> Response {
    axum::Json(json!({ "sources": parts.sources.list().await })).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    after: Option<String>,
    limit: Option<usize>,
}

async fn parked(
    State(parts): State<Arc<OperatorParts>>,
    Path(name): Path<String>,
    Asked(list): Asked<List>,
) -> Result<Response, Problem> {
    let most = list.limit.unwrap_or(PAGE);
    if !(1..=PAGE).contains(&most) {
        return Err(Problem::bad(format!("`limit` is 1 to {PAGE}")));
    }
    let parked = parts.sources.parked(source(&parts, &name)?, list.after.as_deref(), most).await?;
    let next = if parked.len() == most { parked.last().and_then(|last| last.get("at")).cloned() } else { None };
    Ok(axum::Json(json!({ "parked": parked, "next": next })).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Discard {
    #[serde(default)]
    at: Vec<String>,
    #[serde(default)]
    all: bool,
}

async fn discard(
    State(parts): State<Arc<OperatorParts>>,
    Path(name): Path<String>,
    Json(Discard { at, all }): Json<Discard>,
) -> Result<Response, Problem> {
    let which = match (at.len(), all) {
        (0, true) => None,
        (1..=1000, false) => Some(at.as_slice()),
        _ => return Err(Problem::bad("`at` names 1 to 1000 parked records, or `all` is true").at("/at")),
    };
    let dropped = parts.sources.discard(source(&parts, &name)?, which).await?;
    tracing::info!(source = name, dropped, "parked records of a source were dropped by the operator");
    Ok(axum::Json(json!({ "dropped": dropped })).into_response())
}

fn source<'a>(parts: &'a OperatorParts, name: &str) -> Result<&'a Collected, Problem> {
    parts.sources.get(name).map(|source| &**source).ok_or_else(|| Problem::unknown("there is no such source"))
}
