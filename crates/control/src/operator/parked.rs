//! The routes below `/admin/v1/parked`.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use setgate_router::ParkedView;
use setgate_set::ErrorCode;

use super::{
    OperatorParts,
    body::{Asked, Json},
};
use crate::{Which, error::Problem, keys::time};

/// The most SETs of a page, and the most `jti`s in one request.
const PAGE: usize = 1000;

pub(super) fn routes() -> Router<Arc<OperatorParts>> {
    Router::new()
        .route("/parked", get(list))
        .route("/parked/{jti}", get(one))
        .route("/parked/reissue", post(reissue))
        .route("/parked/drop", post(discard))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    stream: Option<String>,
    code: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

async fn list(State(parts): State<Arc<OperatorParts>>, Asked(list): Asked<List>) -> Result<Response, Problem> {
    let most = list.limit.unwrap_or(100);
    if !(1..=PAGE).contains(&most) {
        return Err(Problem::bad(format!("`limit` is 1 to {PAGE}")));
    }
    let code = list.code.as_deref().map(ErrorCode::from_wire);
    let which = Which { stream: list.stream, code, after: list.after, most };
    let parked = parts.operate.parked(which).await?;
    let next = parked.get(most - 1).map(|last| last.jti);
    let parked: Vec<_> = parked.iter().map(shown).collect();
    Ok(axum::Json(json!({ "parked": parked, "next": next })).into_response())
}

async fn one(State(parts): State<Arc<OperatorParts>>, Path(jti): Path<String>) -> Result<Response, Problem> {
    let parked = parts.operate.parked_one(&jti).await?.ok_or_else(|| Problem::unknown("no such SET is parked"))?;
    Ok(axum::Json(shown(&parked)).into_response())
}

/// Returns a parked SET with its times in RFC 3339.
fn shown(parked: &ParkedView) -> Value {
    let mut shown = json!(parked);
    if let Value::Object(members) = &mut shown {
        for (name, at) in [("parked_at", parked.parked_at), ("accepted", parked.accepted)] {
            members.insert(name.to_owned(), time(at.as_millis()).into());
        }
    }
    shown
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reissue {
    jtis: Vec<String>,
    #[serde(default)]
    out_of_order: bool,
}

async fn reissue(State(parts): State<Arc<OperatorParts>>, Json(asked): Json<Reissue>) -> Result<Response, Problem> {
    let jtis = some(asked.jtis)?;
    let results = parts.operate.reissue(jtis, asked.out_of_order).await?;
    let done = results.iter().filter(|result| result.error.is_none()).count();
    tracing::info!(done, "parked SETs were issued again by the operator");
    Ok(axum::Json(json!({ "results": results })).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Discard {
    jtis: Vec<String>,
}

async fn discard(State(parts): State<Arc<OperatorParts>>, Json(asked): Json<Discard>) -> Result<Response, Problem> {
    let dropped = parts.operate.discard(some(asked.jtis)?).await?;
    tracing::info!(dropped, "parked SETs were dropped by the operator");
    Ok(axum::Json(json!({ "dropped": dropped })).into_response())
}

fn some(jtis: Vec<String>) -> Result<Vec<String>, Problem> {
    if !(1..=PAGE).contains(&jtis.len()) {
        return Err(Problem::bad(format!("`jtis` names 1 to {PAGE} parked SETs")).at("/jtis"));
    }
    Ok(jtis)
}
