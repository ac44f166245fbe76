//! The requests about a cluster: `/cluster`, `/ranges`, and orders below `/cluster/`.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Drain, Leave, Operations, Recover, Refused, Replace};
use crate::sources::Sources;

/// Ranges that one request may name.
const RANGES_MAX: usize = 256;

/// An answer that is not what was asked for.
type Failure = (StatusCode, String);

pub(crate) fn router() -> Router<Sources> {
    Router::new()
        .route("/cluster", get(cluster))
        .route("/ranges", get(ranges))
        .route("/cluster/drain", post(drain))
        .route("/cluster/leave", post(leave))
        .route("/cluster/replace", post(replace))
        .route("/cluster/recover", get(losses).post(recover))
}

async fn cluster(State(sources): State<Sources>) -> Result<Response, Failure> {
    Ok(json(StatusCode::OK, &operations(&sources)?.cluster()))
}

async fn ranges(State(sources): State<Sources>) -> Result<Response, Failure> {
    Ok(json(StatusCode::OK, &operations(&sources)?.ranges()))
}

async fn drain(
    State(sources): State<Sources>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let example = r#"{"store": "0123456789abcdef"}, or {} for this node"#;
    let order: Drain = parse(&headers, &body, example)?;
    let store = operations(&sources)?.drain(&order).map_err(|why| refused(&why))?;
    tracing::info!(store = store.id, cancel = order.cancel, "ordered to drain");
    Ok(json(StatusCode::ACCEPTED, &store))
}

async fn leave(
    State(sources): State<Sources>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let Leave {} = parse(&headers, &body, "{}")?;
    let store = operations(&sources)?.leave().map_err(|why| refused(&why))?;
    tracing::info!(store = store.id, "ordered to leave the cluster");
    Ok(json(StatusCode::ACCEPTED, &store))
}

async fn replace(
    State(sources): State<Sources>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let order: Replace = parse(&headers, &body, r#"{"store": "0123456789abcdef"}"#)?;
    let store = operations(&sources)?.replace(&order).map_err(|why| refused(&why))?;
    tracing::info!(store = store.id, "a store is given up by order");
    Ok(json(StatusCode::ACCEPTED, &store))
}

async fn losses(
    State(sources): State<Sources>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let ranges = named(query.as_deref().unwrap_or_default())?;
    let losses = operations(&sources)?.losses(&ranges).map_err(|why| refused(&why))?;
    Ok(json(StatusCode::OK, &losses))
}

async fn recover(
    State(sources): State<Sources>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let example = r#"{"accept_loss_of": ["0123456789abcdef"]}; GET /cluster/recover says of whom"#;
    let order: Recover = parse(&headers, &body, example)?;
    if order.ranges.len() > RANGES_MAX {
        return Err(too_many(order.ranges.len()));
    }
    tracing::warn!(ranges = ?order.ranges, lost = ?order.accept_loss_of, "ordered to recover");
    let recovered = operations(&sources)?.recover(order).await.map_err(|why| refused(&why))?;
    Ok(json(StatusCode::OK, &recovered))
}

fn operations(sources: &Sources) -> Result<Arc<dyn Operations>, Failure> {
    let alone = "this node stands alone: its configuration has no [cluster]\n";
    sources.cluster.clone().ok_or_else(|| (StatusCode::NOT_FOUND, alone.to_owned()))
}

/// Reads an order.
fn parse<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: &[u8],
    example: &str,
) -> Result<T, Failure> {
    let said = headers.get(header::CONTENT_TYPE).and_then(|said| said.to_str().ok());
    let essence = said.and_then(|said| said.split(';').next()).unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let text = "an order is sent with the header Content-Type: application/json\n";
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, text.to_owned()));
    }
    serde_json::from_slice(body).map_err(|error| {
        (StatusCode::BAD_REQUEST, format!("the body is no such order: {error}: send {example}\n"))
    })
}

/// The ranges that a query names.
fn named(query: &str) -> Result<Vec<String>, Failure> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    let name = |part: &str| match part.strip_prefix("range=") {
        Some(range) => Ok(range.to_owned()),
        None => {
            let text = format!("{part:?} is not known here: range=NUMBER is\n");
            Err((StatusCode::BAD_REQUEST, text))
        }
    };
    let named = parts.map(name).collect::<Result<Vec<_>, _>>()?;
    if named.len() > RANGES_MAX { Err(too_many(named.len())) } else { Ok(named) }
}

fn too_many(count: usize) -> Failure {
    let text = format!("{count} ranges are too many for one order: name at most {RANGES_MAX}\n");
    (StatusCode::BAD_REQUEST, text)
}

fn refused(refused: &Refused) -> Failure {
    let status = match refused {
        Refused::Senseless(_) => StatusCode::BAD_REQUEST,
        Refused::Unknown(_) => StatusCode::NOT_FOUND,
        Refused::Conflict(_) => StatusCode::CONFLICT,
        Refused::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{refused}\n"))
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    match serde_json::to_string(value) {
        Ok(text) => (status, kind, format!("{text}\n")).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as json");
            (StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be written\n").into_response()
        }
    }
}

#[cfg(test)]
#[path = "http_test.rs"]
mod tests;
