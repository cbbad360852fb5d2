//! An application behind HTTP.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

const WITHIN: Duration = Duration::from_secs(30);

/// What it says to a question: status, body, and after which pause.
pub(crate) type Said = (u16, Value, Duration);
type Answer = Arc<dyn Fn(&Value) -> Said + Send + Sync>;

/// Answers every POST as `answer` says, and keeps what it gets. Ends when it is dropped.
pub(crate) struct Web {
    pub(crate) url: String,
    inner: Arc<Inner>,
    serving: JoinHandle<()>,
}

struct Inner {
    answer: Mutex<Answer>,
    got: Mutex<Vec<Request>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    pub(crate) body: Value,
}

/// At once.
pub(crate) fn says(status: u16, body: Value) -> Said {
    (status, body, Duration::ZERO)
}

impl Web {
    #[expect(clippy::disallowed_methods, reason = "aborted when it is dropped")]
    pub(crate) async fn start(answer: impl Fn(&Value) -> Said + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let url = format!("http://{}/hook", listener.local_addr()?);
        let inner = Arc::new(Inner {
            answer: Mutex::new(Arc::new(answer)),
            got: Mutex::default(),
        });
        let router = Router::new().fallback(handle).with_state(Arc::clone(&inner));
        let serving = tokio::spawn(async move {
            // Nothing ends it but its owner.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { url, inner, serving })
    }

    /// From now on it answers so.
    pub(crate) fn answers(&self, answer: impl Fn(&Value) -> Said + Send + Sync + 'static) {
        *self.inner.answer.lock() = Arc::new(answer);
    }

    /// What it got since it was asked last.
    pub(crate) fn got(&self) -> Vec<Request> {
        std::mem::take(&mut *self.inner.got.lock())
    }

    /// Waits until it has got so many; those.
    pub(crate) async fn has_got(&self, count: usize) -> Result<Vec<Request>> {
        let until = Instant::now() + WITHIN;
        while self.inner.got.lock().len() < count {
            ensure!(
                Instant::now() < until,
                "{count} were expected: {:?}",
                self.inner.got.lock()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(self.got())
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn handle(
    State(inner): State<Arc<Inner>>,
    headers: HeaderMap,
    text: String,
) -> (StatusCode, Json<Value>) {
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    inner.got.lock().push(Request {
        headers,
        text,
        body: body.clone(),
    });
    let answer = Arc::clone(&inner.answer.lock());
    let (status, answer, pause) = answer(&body);
    tokio::time::sleep(pause).await;
    (StatusCode::from_u16(status).unwrap(), Json(answer))
}
