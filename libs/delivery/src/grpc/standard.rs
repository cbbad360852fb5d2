//! What every gRPC server has: health, and reflection in both versions.

use futures_util::FutureExt;
use proto::v1::gateway_link_server::SERVICE_NAME;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_reflection::server::Builder;

const SERVED: [&str; 4] = [
    SERVICE_NAME,
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Healthy as long as it answers: what a gateway can do without is on its `/readyz`.
#[expect(
    clippy::expect_used,
    reason = "the descriptors are compiled in; every test of the link builds this"
)]
pub(super) fn with_health_and_reflection(routes: Routes) -> Routes {
    let (reporter, health) = tonic_health::server::health_reporter();
    // Nobody else has the table yet, so this does not wait.
    let _ = reporter
        .set_service_status(SERVICE_NAME, ServingStatus::Serving)
        .now_or_never();
    routes
        .add_service(health)
        .add_service(reflection().build_v1().expect("the descriptors are good"))
        .add_service(reflection().build_v1alpha().expect("the descriptors are good"))
}

fn reflection() -> Builder<'static> {
    let builder = Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET);
    SERVED.into_iter().fold(builder, Builder::with_service_name)
}
