//! The service's gRPC API, `fanfare.v1.Presence` (CONTRACT section 7), with the standard health and reflection
//! services beside it. `proto/fanfare/v1/presence_api.proto` says what callers may rely on.

mod auth;
mod check;
mod deadline;
mod health;
mod metrics;
mod queries;
mod service;
mod token;
mod watching;

use std::sync::Arc;

use apikeys::Keys;
use bus::{Signals, SignalsError};
use lifecycle::Tasks;
use proto::v1::presence_server::{PresenceServer, SERVICE_NAME};
use registry::presence_store::PresenceStore;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

pub use metrics::Metrics;

use crate::watch::Feed;

/// What the API works with.
pub struct Deps {
    /// Where presence is kept.
    pub store: Arc<dyn PresenceStore>,
    /// Where replicas hear that something has changed.
    pub signals: Arc<dyn Signals>,
    /// Where its tasks run.
    pub tasks: Tasks,
    /// What it counts.
    pub metrics: Metrics,
}

/// How the API behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who may call; see [`Keys::listen_on`].
    pub keys: Keys,
    /// Changes kept for watchers: one that is further behind has lagged. At least 1; a change takes about
    /// 300 bytes.
    pub watch_buffer: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            keys: Keys::default(),
            watch_buffer: 16_384,
        }
    }
}

/// The services, to be mounted on an HTTP/2 server ([`lifecycle::serve`]).
///
/// At `stop` health says `NOT_SERVING`, watches end with `UNAVAILABLE`, and the tasks behind them end.
///
/// # Errors
/// [`SignalsError::Unavailable`] when the bus does not answer.
pub async fn router(deps: Deps, settings: Settings, stop: CancellationToken) -> Result<Routes, SignalsError> {
    let Deps {
        store,
        signals,
        tasks,
        metrics,
    } = deps;
    let changed = Feed::listen(&*signals).await?;
    let feed = Arc::new(Feed::new(Arc::clone(&store), settings.watch_buffer));
    let (running, stopping) = (Arc::clone(&feed), stop.clone());
    tasks.spawn("presence changes", async move {
        running.run(changed, stopping).await;
    });

    let (reporter, health) = tonic_health::server::health_reporter();
    health::report(&reporter, false).await;
    tasks.spawn(
        "presence health",
        health::follow(reporter, Arc::clone(&store), stop.clone()),
    );

    let key = auth::Key::new(settings.keys, metrics.clone());
    let presence = service::Api::new(store, feed, metrics, tasks, stop);
    let presence = PresenceServer::with_interceptor(presence, key);
    Ok(Routes::new(presence)
        .add_service(health)
        .add_service(reflection_v1())
        .add_service(reflection_v1alpha()))
}

/// The names that reflection tells: what is served here, not all that the descriptors know.
const SERVED: [&str; 4] = [
    SERVICE_NAME,
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

fn reflection() -> tonic_reflection::server::Builder<'static> {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET);
    SERVED
        .into_iter()
        .fold(builder, tonic_reflection::server::Builder::with_service_name)
}

#[expect(
    clippy::expect_used,
    reason = "the descriptors are compiled in; every test of the API builds this"
)]
fn reflection_v1()
-> tonic_reflection::server::v1::ServerReflectionServer<impl tonic_reflection::server::v1::ServerReflection> {
    reflection().build_v1().expect("the descriptors are good")
}

#[expect(
    clippy::expect_used,
    reason = "the descriptors are compiled in; every test of the API builds this"
)]
fn reflection_v1alpha() -> tonic_reflection::server::v1alpha::ServerReflectionServer<
    impl tonic_reflection::server::v1alpha::ServerReflection,
> {
    reflection().build_v1alpha().expect("the descriptors are good")
}
