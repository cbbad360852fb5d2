//! The admin HTTP server: `/livez`, `/readyz`, `/metrics` (CONTRACT section 2), and what an operator may ask a process
//! to do, e.g. `POST /drain`.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, Query},
    http::{StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
};
use parking_lot::RwLock;

use crate::Readiness;

/// Writes the metrics in Prometheus' text format.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What an operator may ask for, by `POST /<name>?<parameters>`. Cheap to clone; clones share the commands.
#[derive(Clone, Default)]
pub struct Commands {
    commands: Arc<RwLock<HashMap<&'static str, Command>>>,
}

/// Begins what was asked for, from the parameters of the query, and says in words what it does, or why it does not.
pub type Command = Arc<dyn Fn(&HashMap<String, String>) -> Result<String, String> + Send + Sync>;

impl Commands {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on `POST /<name>` is answered: with 202 when it has begun, 400 when it has not.
    pub fn add(&self, name: &'static str, command: Command) {
        self.commands.write().insert(name, command);
    }

    fn run(&self, name: &str, parameters: &HashMap<String, String>) -> impl IntoResponse + use<> {
        let command = self.commands.read().get(name).cloned();
        match command.map(|command| command(parameters)) {
            Some(Ok(words)) => (StatusCode::ACCEPTED, format!("{words}\n")),
            Some(Err(words)) => (StatusCode::BAD_REQUEST, format!("{words}\n")),
            None => (StatusCode::NOT_FOUND, "there is no such command\n".to_owned()),
        }
    }
}

/// The routes.
pub fn router(readiness: Readiness, metrics: Metrics, commands: Commands) -> Router {
    let run = async move |Path(name): Path<String>, Query(parameters): Query<HashMap<String, String>>| {
        commands.run(&name, &parameters)
    };
    Router::new()
        .route("/{command}", post(run).fallback(async || StatusCode::NOT_FOUND))
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
        net::{TcpListener, TcpStream},
    };
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::Tasks;

    async fn get(address: SocketAddr, path: &str) -> String {
        ask(address, "GET", path).await
    }

    async fn ask(address: SocketAddr, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
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
        let commands = Commands::new();
        let metrics: Metrics = Arc::new(|| "things_total 1\n".to_owned());
        let router = router(readiness, metrics, commands.clone());
        let (connections, until) = (tasks.clone(), stop.clone());
        tasks.spawn("admin", async move {
            crate::serve(listener, router, None, &connections, until).await;
        });

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

        let asked = ask(address, "POST", "/shed?percent=5").await;
        assert!(asked.starts_with("HTTP/1.1 404"), "{asked}");
        let percent = |parameters: &HashMap<String, String>| {
            let percent = parameters.get("percent").ok_or("no percent")?;
            Ok(format!("{percent} %"))
        };
        commands.add("shed", Arc::new(percent));
        let asked = ask(address, "POST", "/shed?percent=5").await;
        assert!(
            asked.starts_with("HTTP/1.1 202") && asked.ends_with("5 %\n"),
            "{asked}"
        );
        assert!(ask(address, "POST", "/shed").await.starts_with("HTTP/1.1 400"));
        assert!(
            get(address, "/shed").await.starts_with("HTTP/1.1 404"),
            "looking changes nothing"
        );

        stop.cancel();
        assert_eq!(tasks.shutdown(std::time::Duration::from_secs(30)).await, 0);
    }
}
