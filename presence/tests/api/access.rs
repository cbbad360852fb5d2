//! The key, health, reflection.

use std::time::Duration;

use futures_util::stream;
use presence::api::Settings;
use proto::v1::{GetStatsRequest, IsOnlineRequest};
use tokio::time::timeout;
use tonic::{Code, Request};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb;

use crate::{
    stage::{LATE, Replica, Stage, with_key},
    store::Mode,
};

#[tokio::test]
async fn calls_need_the_key() {
    let stage = Stage::set(Duration::ZERO).await;
    let replica = stage.replica(with_key("correct horse")).await;
    let mut client = replica.client().await;
    for (shown, let_in) in [
        (None, false),
        (Some(""), false),
        (Some("correct horse"), false),
        (Some("Basic correct horse"), false),
        (Some("Bearer"), false),
        (Some("Bearer "), false),
        (Some("Bearer correct"), false),
        (Some("Bearer correct horse!"), false),
        (Some("Bearer Correct Horse"), false),
        (Some("Bearer correct horse"), true),
        (Some("bearer correct horse"), true),
    ] {
        let mut request = Request::new(GetStatsRequest {});
        if let Some(shown) = shown {
            request
                .metadata_mut()
                .insert("authorization", shown.parse().unwrap());
        }
        let answer = client.get_stats(request).await;
        match answer {
            Ok(_) => assert!(let_in, "{shown:?}"),
            Err(status) => {
                assert!(!let_in, "{shown:?}");
                assert_eq!(status.code(), Code::Unauthenticated);
                assert!(!status.message().contains("horse"));
            }
        }
    }
    let bytes = tonic::metadata::MetadataValue::try_from(&b"Bearer \xff"[..]).unwrap();
    let mut request = Request::new(GetStatsRequest {});
    request.metadata_mut().insert("authorization", bytes);
    assert_eq!(
        client.get_stats(request).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    let status = client
        .watch(proto::v1::WatchRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        status.code(),
        Code::Unauthenticated,
        "before what is asked is looked at"
    );

    // Health and reflection are for everybody.
    healthy(&replica, ServingStatus::Serving).await;
    assert!(!services_v1(&replica).await.is_empty());
    stage.strike().await;
}

#[tokio::test]
async fn without_a_key_nobody_is_asked_for_one() {
    let stage = Stage::set(Duration::ZERO).await;
    let replica = stage.replica(Settings::default()).await;
    replica
        .client()
        .await
        .get_stats(GetStatsRequest {})
        .await
        .unwrap();
    stage.strike().await;
}

async fn status(replica: &Replica, service: &str) -> ServingStatus {
    let mut client = HealthClient::new(replica.channel().await);
    let service = service.to_owned();
    let answer = client.check(HealthCheckRequest { service }).await.unwrap();
    answer.into_inner().status()
}

async fn healthy(replica: &Replica, wanted: ServingStatus) {
    let wait = async {
        for service in ["", "fanfare.v1.Presence"] {
            while status(replica, service).await != wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    timeout(LATE, wait).await.unwrap();
}

#[tokio::test]
async fn health_follows_the_store_and_the_stop() {
    let stage = Stage::set(Duration::ZERO).await;
    let replica = stage.replica(Settings::default()).await;
    healthy(&replica, ServingStatus::Serving).await;
    stage.store.set(Mode::Away);
    healthy(&replica, ServingStatus::NotServing).await;
    let asked = IsOnlineRequest {
        namespace: "/chat".to_owned(),
        user_id: "ada".to_owned(),
    };
    let status = replica.client().await.is_online(asked).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(!status.message().contains("secret-host"), "{status:?}");
    stage.store.set(Mode::Stalls);
    healthy(&replica, ServingStatus::NotServing).await;
    stage.store.set(Mode::There);
    healthy(&replica, ServingStatus::Serving).await;

    let mut client = HealthClient::new(replica.channel().await);
    let service = "fanfare.v1.Presence".to_owned();
    let mut told = client
        .watch(HealthCheckRequest { service })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        told.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    replica.stop();
    let next = timeout(LATE, told.message()).await.unwrap();
    assert_eq!(next.unwrap().unwrap().status(), ServingStatus::NotServing);
    stage.strike().await;
}

/// What a caller does who has no .proto: lists the services, asks for the descriptor of one.
macro_rules! reflect {
    ($name:ident, $version:ident) => {
        async fn $name(replica: &Replica) -> Vec<String> {
            use pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
            };
            let ask = |message| ServerReflectionRequest {
                host: String::new(),
                message_request: Some(message),
            };
            let symbol = "fanfare.v1.Presence".to_owned();
            let file = "google/protobuf/timestamp.proto".to_owned();
            let asked = [
                ask(MessageRequest::ListServices(String::new())),
                ask(MessageRequest::FileContainingSymbol(symbol)),
                ask(MessageRequest::FileByFilename(file)),
            ];
            let mut client = ServerReflectionClient::new(replica.channel().await);
            let answer = client
                .server_reflection_info(stream::iter(asked))
                .await
                .unwrap();
            let mut answer = answer.into_inner();
            let mut services = Vec::new();
            while let Some(next) = answer.message().await.unwrap() {
                match next.message_response.unwrap() {
                    MessageResponse::ListServicesResponse(list) => {
                        services.extend(list.service.into_iter().map(|service| service.name));
                    }
                    MessageResponse::FileDescriptorResponse(files) => {
                        assert_eq!(files.file_descriptor_proto.len(), 1);
                    }
                    other => panic!("{other:?}"),
                }
            }
            services.sort();
            services
        }
    };
}
reflect!(services_v1, v1);
reflect!(services_v1alpha, v1alpha);

#[tokio::test]
async fn reflection_tells_what_is_served() {
    let stage = Stage::set(Duration::ZERO).await;
    let replica = stage.replica(Settings::default()).await;
    let served = [
        "fanfare.v1.Presence",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ];
    assert_eq!(services_v1(&replica).await, served);
    assert_eq!(services_v1alpha(&replica).await, served);
    stage.strike().await;
}
