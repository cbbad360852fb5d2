//! The `Publisher` API (CONTRACT section 6): one implementation, served over gRPC, HTTP/JSON and NATS requests.
//! `proto/fanfare/v1/publisher.proto` and the OpenAPI document say what callers may rely on.

mod front;
mod grpc;
mod http;
mod important;
mod json;
mod metrics;
mod nats;
mod operations;
mod questions;

use std::sync::Arc;

use apikeys::Keys;
use async_trait::async_trait;
use axum::Router;
use bus::{Documents, EventLog, Signals, SignalsError};
use lifecycle::{Tasks, tls::ServerTls};
use model::ClientError;
use proto::v1::NotifyUserRequest;
use publisher::{Emitter, Sockets};
use telemetry::trace::{Receiving, Tracer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::{front::Front, important::Important, operations::Operations, questions::Questions};
pub use self::{
    important::{BUCKET as IMPORTANT_BUCKET, MAX_AGE as IMPORTANT_AGE},
    metrics::Metrics,
    questions::{BUCKET as QUESTIONS_BUCKET, MAX_AGE as QUESTIONS_AGE},
};

/// What is wrapped around an event's payload in a request, at most; payloads may be base64.
const OVERHEAD: usize = 256 << 10;
/// Bytes of a batch.
const MAX_BATCH: usize = 16 << 20;

/// What the API works with.
pub struct Deps {
    /// The partition logs.
    pub log: Arc<dyn EventLog>,
    /// Volatile events.
    pub signals: Arc<dyn Signals>,
    /// Commands to gateways.
    pub sockets: Sockets,
    /// Events that wait for acknowledgements, answers, and who is a member of which room.
    pub documents: Arc<dyn Documents>,
    /// Notifies users.
    pub notifier: Arc<dyn Notifier>,
    /// Where its tasks run.
    pub tasks: Tasks,
    /// What it counts.
    pub metrics: Metrics,
    /// Makes the spans of traces that are recorded.
    pub tracer: Tracer,
}

/// How the API behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who may call.
    pub keys: Keys,
    /// Bytes that an event may have.
    pub max_payload: usize,
}

/// Notifies users for certain.
#[async_trait]
pub trait Notifier: Send + Sync + 'static {
    /// Takes a notification; its id. Once this returns it is not lost. `trace`: what it is part of, if that is recorded.
    ///
    /// # Errors
    /// What the caller is told.
    async fn notify(
        &self,
        request: NotifyUserRequest,
        trace: Option<&Receiving>,
    ) -> Result<String, ClientError>;
}

/// The API, before it is served.
pub struct Api {
    front: Arc<Front>,
    signals: Arc<dyn Signals>,
    tasks: Tasks,
    max_body: usize,
}

impl Api {
    /// Looks after important events from now on.
    #[must_use]
    pub fn start(deps: Deps, settings: Settings) -> Self {
        let Deps {
            log,
            signals,
            sockets,
            documents,
            notifier,
            tasks,
            metrics,
            tracer,
        } = deps;
        let important = Important::new(
            Arc::clone(&documents),
            sockets.clone(),
            tasks.clone(),
            settings.max_payload,
        );
        tasks.background("important events", important.clone().look_after());
        let operations = Operations {
            emitter: Emitter::new(Arc::clone(&log), Arc::clone(&signals)),
            sockets,
            log,
            notifier,
            important,
            questions: Questions::new(Arc::clone(&documents), tasks.clone()),
            documents,
            max_payload: settings.max_payload,
        };
        Self {
            front: Arc::new(Front::new(operations, settings.keys, metrics, tracer)),
            signals,
            tasks,
            max_body: MAX_BATCH.max(settings.max_payload / 3 * 4 + OVERHEAD),
        }
    }

    /// Serves gRPC until `stop`, with the standard health and reflection services.
    pub fn serve_grpc(&self, listener: TcpListener, tls: Option<ServerTls>, stop: CancellationToken) {
        let routes = grpc::routes(Arc::clone(&self.front), self.max_body, &self.tasks, stop.clone());
        self.serve("publisher gRPC", listener, routes.into_axum_router(), tls, stop);
    }

    /// Serves HTTP and JSON until `stop`.
    pub fn serve_http(&self, listener: TcpListener, tls: Option<ServerTls>, stop: CancellationToken) {
        let router = http::router(Arc::clone(&self.front), self.max_body);
        self.serve("publisher HTTP", listener, router, tls, stop);
    }

    fn serve(
        &self,
        name: &'static str,
        listener: TcpListener,
        router: Router,
        tls: Option<ServerTls>,
        stop: CancellationToken,
    ) {
        let connections = self.tasks.clone();
        self.tasks.spawn(name, async move {
            lifecycle::serve(listener, router, tls, &connections, stop).await;
        });
    }

    /// Answers requests on `fanfare.pub.<namespace>`, together with the other workers, until `stop`. Who may send them
    /// is a matter of the bus.
    ///
    /// # Errors
    /// When the bus does not answer.
    pub async fn serve_bus(&self, stop: CancellationToken) -> Result<(), SignalsError> {
        let requests = nats::Requests::listen(Arc::clone(&self.signals), Arc::clone(&self.front)).await?;
        let tasks = self.tasks.clone();
        self.tasks.spawn("publisher on the bus", async move {
            stop.run_until_cancelled(requests.answer(tasks)).await;
        });
        Ok(())
    }
}
