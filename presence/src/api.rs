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

use std::{net::SocketAddr, sync::Arc};

use bus::{Signals, SignalsError};
use config::Secret;
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What callers must show (`api.key`). Without one the API may be served on loopback only, see
    /// [`address_allowed`].
    pub api_key: Option<Secret>,
    /// Changes kept for watchers: one that is further behind has lagged. At least 1; a change takes about
    /// 300 bytes.
    pub watch_buffer: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            api_key: None,
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

    let key = auth::Key::new(settings.api_key.as_ref(), metrics.clone());
    let presence = service::Api::new(store, feed, metrics, tasks, stop);
    let presence = PresenceServer::with_interceptor(presence, key);
    Ok(Routes::new(presence)
        .add_service(health)
        .add_service(reflection_v1())
        .add_service(reflection_v1alpha()))
}

/// Whether the API may be served on an address: without a key on loopback only (CONTRACT section 3).
///
/// # Errors
/// [`KeyMissing`], which says what to set.
pub fn address_allowed(address: SocketAddr, api_key: Option<&Secret>) -> Result<(), KeyMissing> {
    if api_key.is_some() || address.ip().to_canonical().is_loopback() {
        Ok(())
    } else {
        Err(KeyMissing(address))
    }
}

/// The API would be open to everybody who reaches the address.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "without api.key the presence API listens on loopback only, not on {0}: set api.key or presence.grpc_listen"
)]
pub struct KeyMissing(SocketAddr);

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_key_on_loopback_only() {
        let key = Secret::from("k".to_owned());
        for (address, without) in [
            ("127.0.0.1:7004", true),
            ("127.9.9.9:7004", true),
            ("[::1]:7004", true),
            ("[::ffff:127.0.0.1]:7004", true),
            ("0.0.0.0:7004", false),
            ("[::]:7004", false),
            ("10.0.0.1:7004", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(address_allowed(address, None).is_ok(), without, "{address}");
            assert_eq!(address_allowed(address, Some(&key)), Ok(()));
        }
    }
}
