//! An application behind HTTP.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use bytes::Bytes;
use tokio::{net::TcpListener, task::JoinHandle};

type Answer = Arc<dyn Fn(Bytes) -> (u16, Bytes, Duration) + Send + Sync>;

/// Answers every POST as it is told, and keeps what it gets. Ends when it is dropped.
pub(crate) struct Web {
    pub(crate) url: String,
    inner: Arc<Mutex<Inner>>,
    serving: JoinHandle<()>,
}

struct Inner {
    answer: Answer,
    got: Vec<(HeaderMap, Bytes)>,
}

impl Web {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let inner = Arc::new(Mutex::new(Inner {
            answer: Arc::new(|_| (404, Bytes::new(), Duration::ZERO)),
            got: Vec::new(),
        }));
        let router = Router::new().fallback(handle).with_state(Arc::clone(&inner));
        let serving = async move { axum::serve(listener, router).await.unwrap() };
        #[expect(clippy::disallowed_methods, reason = "aborted when it is dropped")]
        let serving = tokio::spawn(serving);
        Self { url, inner, serving }
    }

    pub(crate) fn answers(&self, answer: impl Fn(Bytes) -> (u16, Bytes, Duration) + Send + Sync + 'static) {
        self.inner.lock().unwrap().answer = Arc::new(answer);
    }

    pub(crate) fn says(&self, status: u16, body: &'static str) {
        self.answers(move |_| (status, Bytes::from_static(body.as_bytes()), Duration::ZERO));
    }

    /// What it got since it was asked last.
    pub(crate) fn got(&self) -> Vec<(HeaderMap, Bytes)> {
        std::mem::take(&mut self.inner.lock().unwrap().got)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn handle(
    State(inner): State<Arc<Mutex<Inner>>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Bytes) {
    let answer = {
        let mut inner = inner.lock().unwrap();
        inner.got.push((headers, body.clone()));
        Arc::clone(&inner.answer)
    };
    let (status, body, pause) = answer(body);
    tokio::time::sleep(pause).await;
    (StatusCode::from_u16(status).unwrap(), body)
}
