//! The publisher API as configured, in a worker and in standalone.

use apikeys::Keys;
use config::Config;
use fanout::publisher::{Api, Deps, Settings};
use tokio_util::sync::CancellationToken;

use crate::process::{bind, listener_tls};

/// Serves gRPC and HTTP to whoever has one of `keys` until `stop`; without a key on loopback only (CONTRACT section 3).
///
/// # Errors
/// When an address or a certificate cannot be used.
pub(crate) async fn serve(
    config: &Config,
    keys: Keys,
    deps: Deps,
    stop: CancellationToken,
) -> anyhow::Result<Api> {
    let grpc = keys.listen_on(config.fanout.grpc_listen);
    let grpc = bind(grpc, "the publisher API's address for gRPC").await?;
    let http = keys.listen_on(config.fanout.http_listen);
    let http = bind(http, "the publisher API's address for HTTP").await?;
    let settings = Settings {
        keys,
        max_payload: config.gateway.max_payload,
    };
    let tls = listener_tls(&config.api.tls_cert, &config.api.tls_key, &deps.tasks)?;
    let api = Api::start(deps, settings);
    tracing::info!(grpc = %grpc.local_addr()?, http = %http.local_addr()?, "publisher API");
    api.serve_grpc(grpc, tls.clone(), stop.clone());
    api.serve_http(http, tls, stop);
    Ok(api)
}
