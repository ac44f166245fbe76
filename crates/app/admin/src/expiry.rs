//! Orders to end what a tenant has before its time: `DELETE` below `/tenants/{tenant}`.
//!
//! An order is accepted with the number of what is there now (202) and carried out little by little.
//! The method is one that a page of another site cannot send to an address of this machine without
//! being allowed to.

use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::sources::Sources;

/// What of a tenant is to end.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Persistent sessions that have had no connection for so long.
    InactiveSessions {
        /// How long at least.
        away_min: Duration,
    },
    /// Retained messages.
    RetainedMessages,
}

/// INBOX-016. `?away=SECONDS` spares those who left later.
pub(crate) async fn sessions(
    state: State<Sources>,
    tenant: Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    match away(query.as_deref().unwrap_or_default()) {
        Ok(away_min) => order(&state, &tenant, Expiry::InactiveSessions { away_min }, "sessions"),
        Err(reason) => (StatusCode::BAD_REQUEST, format!("{reason}\n")).into_response(),
    }
}

/// RET-009
pub(crate) async fn retained(state: State<Sources>, tenant: Path<String>) -> Response {
    order(&state, &tenant, Expiry::RetainedMessages, "messages")
}

fn order(sources: &Sources, tenant: &str, expiry: Expiry, what: &str) -> Response {
    let Some(expire) = &sources.expire else {
        return (StatusCode::NOT_FOUND, "this node has no tenants\n").into_response();
    };
    match expire(tenant, expiry) {
        Ok(count) => {
            tracing::info!(tenant, count, what, "ordered to end");
            let json = [(header::CONTENT_TYPE, "application/json")];
            let body = serde_json::json!({ "tenant": tenant, what: count });
            (StatusCode::ACCEPTED, json, format!("{body}\n")).into_response()
        }
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// The one parameter that there is.
fn away(query: &str) -> Result<Duration, String> {
    let mut away = Duration::ZERO;
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let Some(seconds) = part.strip_prefix("away=") else {
            return Err(format!("{part:?} is not known here: away=SECONDS is"));
        };
        let parsed = seconds.parse().map(Duration::from_secs);
        away = parsed.map_err(|_| format!("away={seconds} is no number of seconds"))?;
    }
    Ok(away)
}
