//! The admin HTTP server: `/livez`, `/readyz`, `/metrics` (CONTRACT section 2).

use std::{io, sync::Arc};

use axum::{
    Json, Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Readiness;

/// Writes the metrics in Prometheus' text format.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// Serves until `stop`, then finishes the requests under way.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Metrics,
    stop: CancellationToken,
) -> io::Result<()> {
    let router = router(readiness, metrics);
    axum::serve(listener, router)
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await
}

/// The routes alone.
pub fn router(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(move || async move { ready(&readiness) }))
        .route(
            "/metrics",
            get(move || async move {
                let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
                (content_type, metrics())
            }),
        )
}

fn ready(readiness: &Readiness) -> impl IntoResponse + use<> {
    let missing = readiness.missing();
    let (status, word) = if missing.is_empty() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    (
        status,
        Json(serde_json::json!({ "status": word, "missing": missing })),
    )
}
