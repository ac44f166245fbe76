//! The service: bind first, so that a taken port stops the start, then run until told to stop.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use tokio::net::TcpListener;

use crate::access::require_token;
use crate::cluster;
use crate::config::Config;
use crate::connection::BoundedListener;
use crate::expiry;
use crate::sources::Sources;

/// A request's body: an order is short.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// How long open requests may take once the service stops.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// The service cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process listens there; nothing was started.
    #[error(
        "management api: {address} is in use by another process: stop it, or choose another admin.address"
    )]
    AddressInUse {
        /// Where it should listen.
        address: SocketAddr,
    },
    /// The system refuses the address; nothing was started.
    #[error("management api cannot listen on {address}: {source}")]
    Bind {
        /// Where it should listen.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The listener broke.
    #[error("management api stopped: {0}")]
    Serve(#[source] io::Error),
}

/// The bound service.
pub struct Service {
    listener: BoundedListener,
    router: Router,
    address: SocketAddr,
}

impl Service {
    /// Binds the address.
    ///
    /// # Errors
    /// [`Error::AddressInUse`] and [`Error::Bind`].
    pub async fn bind(config: &Config, sources: Sources) -> Result<Self, Error> {
        let address = config.address();
        let refused = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => Error::AddressInUse { address },
            _ => Error::Bind { address, source },
        };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let listener = BoundedListener::new(listener);
        Ok(Self { listener, router: router(config, sources), address })
    }

    /// Where it listens: with the port that the system chose, if it was 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is done, then finishes open requests within some seconds.
    ///
    /// # Errors
    /// [`Error::Serve`] when the listener breaks.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
        let (stopping, mut stopped) = tokio::sync::watch::channel(());
        let signal = async move {
            stop.await;
            drop(stopping);
        };
        let serve = axum::serve(self.listener, self.router).with_graceful_shutdown(signal);
        let deadline = async move {
            // It ends with an error once the sender is dropped, and only then.
            while stopped.changed().await.is_ok() {}
            tokio::time::sleep(DRAIN_MAX).await;
        };
        // Both are dropped as a whole, so cancelling either loses nothing.
        tokio::select! {
            served = async { serve.await } => served.map_err(Error::Serve),
            () = deadline => Ok(()),
        }
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Service").field("address", &self.address).finish_non_exhaustive()
    }
}

fn router(config: &Config, sources: Sources) -> Router {
    let token = config.token().cloned();
    let protected = Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/tenants/{tenant}/sessions/inactive", delete(expiry::sessions))
        .route("/tenants/{tenant}/retained", delete(expiry::retained))
        .merge(cluster::http::router())
        .layer(middleware::from_fn_with_state(token, require_token));
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .merge(protected)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(sources)
}

async fn metrics(State(sources): State<Sources>) -> Response {
    ([(header::CONTENT_TYPE, sources.metrics_type)], (sources.metrics)()).into_response()
}

async fn status(State(sources): State<Sources>) -> Response {
    axum_json(&(sources.status)())
}

/// The process answers, so it lives.
async fn livez() -> &'static str {
    "ok\n"
}

/// 200 when every check is met, otherwise 503 with what is awaited. `?verbose` lists all.
async fn readyz(State(sources): State<Sources>, RawQuery(query): RawQuery) -> Response {
    let mut checks = (sources.checks)();
    if let Some(cluster) = &sources.cluster {
        checks.extend(cluster.checks().await);
    }
    let ready = checks.iter().all(|check| check.state.is_ok());
    let is_verbose = |part: &str| part.split('=').next() == Some("verbose");
    let verbose = query.is_some_and(|query| query.split('&').any(is_verbose));
    let mut body = String::new();
    for check in checks {
        match check.state {
            Ok(()) if verbose => body.push_str(&format!("[+] {} ok\n", check.name)),
            Ok(()) => {}
            Err(reason) => body.push_str(&format!("[-] {}: {reason}\n", check.name)),
        }
    }
    body.push_str(if ready { "ok\n" } else { "not ready\n" });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, body).into_response()
}

fn axum_json(value: &serde_json::Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], format!("{value}\n")).into_response()
}

#[cfg(test)]
#[path = "service_test.rs"]
pub(crate) mod tests;
