//! The routes below `/admin/v1/keys`.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;
use setgate_jose::Algorithm;
use setgate_net::Secret;

use super::{
    OperatorParts,
    body::{Asked, Json},
};
use crate::{
    error::Problem,
    keys::{Change, KeyView},
};

pub(super) fn routes() -> Router<Arc<OperatorParts>> {
    Router::new()
        .route("/keys", get(list))
        .route("/keys/rotate", post(rotate))
        .route("/keys/revoke", post(revoke))
        .route("/keys/import", post(import))
}

fn answer(keys: &[KeyView]) -> Response {
    axum::Json(json!({ "keys": keys })).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    issuer: Option<String>,
}

async fn list(State(parts): State<Arc<OperatorParts>>, Asked(asked): Asked<List>) -> Result<Response, Problem> {
    Ok(answer(&parts.keys.list(asked.issuer.as_deref())?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate {
    issuer: Option<String>,
    algorithm: Option<Algorithm>,
    bits: Option<u16>,
    #[serde(default)]
    force: bool,
}

async fn rotate(State(parts): State<Arc<OperatorParts>>, Json(asked): Json<Rotate>) -> Result<Response, Problem> {
    let Rotate { issuer, algorithm, bits, force } = asked;
    Ok(answer(&parts.keys.change(issuer, Change::Rotate { algorithm, bits, force }).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    issuer: Option<String>,
    kid: String,
}

async fn revoke(State(parts): State<Arc<OperatorParts>>, Json(asked): Json<Revoke>) -> Result<Response, Problem> {
    Ok(answer(&parts.keys.change(asked.issuer, Change::Revoke { kid: asked.kid }).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Import {
    issuer: Option<String>,
    pem: Secret<String>,
    algorithm: Option<Algorithm>,
    #[serde(default)]
    force: bool,
}

async fn import(State(parts): State<Arc<OperatorParts>>, Json(asked): Json<Import>) -> Result<Response, Problem> {
    let Import { issuer, pem, algorithm, force } = asked;
    Ok(answer(&parts.keys.change(issuer, Change::Import { pem, algorithm, force }).await?))
}
