//! The routes `/admin/v1/info`, `/admin/v1/store`, `/admin/v1/producers` and `/admin/v1/receivers`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use setgate_oauth::{EventsAllowed, Producer, Receiver, StreamsAllowed, SubjectPolicy};

use super::OperatorParts;
use crate::{error::Problem, keys::time};

pub(super) fn routes() -> Router<Arc<OperatorParts>> {
    Router::new()
        .route("/info", get(info))
        .route("/store", get(store))
        .route("/store/confirm-clock", post(confirm_clock))
        .route("/producers", get(producers))
        .route("/receivers", get(receivers))
}

async fn info(State(parts): State<Arc<OperatorParts>>) -> Response {
    let methods = parts.operate.methods();
    let methods: Vec<_> = methods.iter().map(|method| json!({ "name": method.name, "uri": method.uri })).collect();
    let ready = parts.readiness();
    let info = json!({
        "name": "setgate",
        "version": env!("CARGO_PKG_VERSION"),
        "issuers": parts.keys.issuers().collect::<Vec<_>>(),
        "methods": methods,
        "ready": ready.is_ok(),
        "but": ready.as_ref().ok().cloned().flatten(),
        "not_ready_because": ready.err(),
    });
    Json(info).into_response()
}

async fn store(State(parts): State<Arc<OperatorParts>>) -> Response {
    let (health, now) = (parts.operate.health(), parts.operate.time().now);
    let clock = now.as_millis().saturating_add_signed(health.clock_offset_seconds.saturating_mul(1000));
    let mut shown = serde_json::to_value(&health).unwrap_or_default();
    if let Value::Object(members) = &mut shown {
        members.insert("clock".to_owned(), time(clock).into());
        members.insert("believed_time".to_owned(), time(now.as_millis()).into());
    }
    Json(shown).into_response()
}

/// Believes the wall clock, on an operator's word.
async fn confirm_clock(State(parts): State<Arc<OperatorParts>>) -> Result<Response, Problem> {
    let confirmed = parts.operate.confirm_clock().await?;
    tracing::warn!(
        offset_seconds = confirmed.offset_seconds,
        went_back_seconds = confirmed.went_back_seconds,
        clock = time(parts.operate.time().now.as_millis()),
        "an operator confirmed the wall clock: it is believed from now on"
    );
    Ok(Json(confirmed).into_response())
}

async fn producers(State(parts): State<Arc<OperatorParts>>) -> Response {
    let producers: Vec<_> = parts.producers.producers().iter().map(|producer| shown(producer)).collect();
    Json(json!({ "producers": producers })).into_response()
}

/// Returns a producer as the configuration writes it, without any hash.
fn shown(producer: &Producer) -> Value {
    let events = match &producer.events {
        EventsAllowed::All => json!("all"),
        EventsAllowed::Exact(uris) => json!(uris),
    };
    let subjects = match &producer.subjects {
        SubjectPolicy::Any => json!("any"),
        SubjectPolicy::Rules(rules) => json!(rules),
    };
    json!({
        "name": producer.name,
        "no": producer.no,
        "issuers": producer.issuers().collect::<Vec<_>>(),
        "events": events,
        "subjects": subjects,
        "tokens": tokens(producer.expiries()),
    })
}

async fn receivers(State(parts): State<Arc<OperatorParts>>) -> Response {
    let shown = |receiver: &Arc<Receiver>| {
        let streams = match receiver.streams() {
            StreamsAllowed::All => json!("all"),
            StreamsAllowed::Exact(ids) => json!(ids),
        };
        json!({
            "name": &*receiver.name,
            "issuers": receiver.issuers().collect::<Vec<_>>(),
            "streams": streams,
            "tokens": tokens(receiver.expiries()),
        })
    };
    let receivers: Vec<_> = parts.producers.receivers().iter().map(shown).collect();
    Json(json!({ "receivers": receivers })).into_response()
}

/// Returns the expiry of each token.
fn tokens<T: ToString>(expiries: impl Iterator<Item = Option<T>>) -> Vec<Value> {
    expiries.map(|expires| json!({ "expires": expires.map(|at| at.to_string()) })).collect()
}
