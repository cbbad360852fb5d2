//! The API over gRPC, with the standard health and reflection services beside it.

use std::sync::Arc;

use lifecycle::Tasks;
use model::{ClientError, ErrorCode, TraceContext};
use proto::v1::{
    BatchRequest, BatchResponse, DisconnectRequest, EmitRequest, EmitResponse, EmitWithAckRequest,
    EmitWithAckResponse, FetchSocketsRequest, FetchSocketsResponse, HistoryRequest, HistoryResponse,
    JoinRoomsRequest, LeaveRoomsRequest, NotifyUserRequest, NotifyUserResponse, SocketsResponse,
    publisher_server::{Publisher, PublisherServer, SERVICE_NAME},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
    service::Routes,
};
use tonic_health::ServingStatus;

use super::{
    front::Front,
    operations::{Request, Response},
};

/// Answers may have so many bytes: a history of large messages.
const MAX_ANSWER: usize = 256 << 20;
/// In the metadata of an error: the error object of the HTTP form.
const ERROR: &str = "fanfare-error-bin";

/// The services, to be served over HTTP/2. At `stop` health says `NOT_SERVING`.
pub(super) fn routes(
    front: Arc<Front>,
    max_request: usize,
    tasks: &Tasks,
    stop: CancellationToken,
) -> Routes {
    let (reporter, health) = tonic_health::server::health_reporter();
    tasks.spawn("publisher health", async move {
        for name in ["", SERVICE_NAME] {
            reporter.set_service_status(name, ServingStatus::Serving).await;
        }
        stop.cancelled().await;
        for name in ["", SERVICE_NAME] {
            reporter.set_service_status(name, ServingStatus::NotServing).await;
        }
    });
    let publisher = PublisherServer::new(Service(front))
        .max_decoding_message_size(max_request)
        .max_encoding_message_size(MAX_ANSWER);
    Routes::new(publisher)
        .add_service(health)
        .add_service(reflection_v1())
        .add_service(reflection_v1alpha())
}

struct Service(Arc<Front>);

impl Service {
    async fn call(&self, metadata: &MetadataMap, request: Request) -> Result<Response, Status> {
        let text = |name| metadata.get(name).and_then(|value| value.to_str().ok());
        let caller = self.0.identify(text("authorization")).map_err(status)?;
        let parent = || text(TraceContext::HEADER)?.parse().ok();
        let answered = self.0.call("grpc", &caller, parent, request).await;
        answered.map_err(status)
    }
}

/// The methods: each hands its request over and takes its own kind of answer.
macro_rules! methods {
    ($($method:ident: $request:ident($ask:ident) -> $response:ident($answer:ident),)*) => {
        #[tonic::async_trait]
        impl Publisher for Service {
            $(
                async fn $method(
                    &self,
                    request: tonic::Request<$ask>,
                ) -> Result<tonic::Response<$answer>, Status> {
                    let (metadata, _, request) = request.into_parts();
                    match self.call(&metadata, Request::$request(request)).await? {
                        Response::$response(answer) => Ok(tonic::Response::new(answer)),
                        _ => Err(Status::internal("an answer of another kind")),
                    }
                }
            )*
        }
    };
}

methods! {
    emit: Emit(EmitRequest) -> Emit(EmitResponse),
    batch: Batch(BatchRequest) -> Batch(BatchResponse),
    emit_with_ack: EmitWithAck(EmitWithAckRequest) -> EmitWithAck(EmitWithAckResponse),
    join_rooms: JoinRooms(JoinRoomsRequest) -> Sockets(SocketsResponse),
    leave_rooms: LeaveRooms(LeaveRoomsRequest) -> Sockets(SocketsResponse),
    disconnect: Disconnect(DisconnectRequest) -> Sockets(SocketsResponse),
    notify_user: NotifyUser(NotifyUserRequest) -> NotifyUser(NotifyUserResponse),
    history: History(HistoryRequest) -> History(HistoryResponse),
    fetch_sockets: FetchSockets(FetchSocketsRequest) -> FetchSockets(FetchSocketsResponse),
}

fn status(error: ClientError) -> Status {
    let code = match error.code {
        ErrorCode::ValidationError => Code::InvalidArgument,
        ErrorCode::Unauthorized => Code::Unauthenticated,
        ErrorCode::Forbidden => Code::PermissionDenied,
        ErrorCode::NotFound => Code::NotFound,
        ErrorCode::RateLimited | ErrorCode::PayloadTooLarge => Code::ResourceExhausted,
        ErrorCode::NoHandler => Code::Unimplemented,
        ErrorCode::Unavailable => Code::Unavailable,
        ErrorCode::Internal => Code::Internal,
    };
    let broken: Vec<String> = error
        .details
        .iter()
        .map(|detail| format!("{} {}", detail.path, detail.message))
        .collect();
    let message = match &broken[..] {
        [] => error.message.clone(),
        broken => format!("{}: {}", error.message, broken.join("; ")),
    };
    // Headers are short: clients take 8 KiB as they come.
    let message: String = message.chars().take(1000).collect();
    let mut status = Status::new(code, message);
    let object = serde_json::to_vec(&error).unwrap_or_default();
    if object.len() <= 4096 {
        status
            .metadata_mut()
            .insert_bin(ERROR, MetadataValue::from_bytes(&object));
    }
    status
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
