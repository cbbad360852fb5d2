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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::Tasks;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_and_metrics_until_told_to_stop() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (readiness, stop, tasks) = (Readiness::new(), CancellationToken::new(), Tasks::new());
        let log = readiness.condition("log");
        let serving = serve(
            listener,
            readiness,
            Arc::new(|| "things_total 1\n".to_owned()),
            stop.clone(),
        );
        tasks.spawn("admin", async move { serving.await.unwrap() });

        let waiting = get(address, "/readyz").await;
        assert!(waiting.starts_with("HTTP/1.1 503"), "{waiting}");
        assert!(
            waiting.ends_with(r#"{"missing":{"log":"not yet"},"status":"not ready"}"#),
            "{waiting}"
        );
        assert!(
            get(address, "/livez").await.starts_with("HTTP/1.1 200"),
            "alive, ready or not"
        );
        log.met();
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        log.missing("draining");
        assert!(get(address, "/readyz").await.contains("draining"));
        let metrics = get(address, "/metrics").await;
        assert!(
            metrics.contains("text/plain; version=0.0.4") && metrics.ends_with("things_total 1\n"),
            "{metrics}"
        );
        assert!(get(address, "/other").await.starts_with("HTTP/1.1 404"));

        stop.cancel();
        assert_eq!(tasks.shutdown(std::time::Duration::from_secs(30)).await, 0);
    }
}
