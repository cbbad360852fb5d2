//! The API on Redis: what only a store that others share goes through.

use std::{sync::Arc, time::Duration};

use presence::api::Settings;
use proto::v1::{IsOnlineRequest, SnapshotReason};
use registry::{
    presence_store::redis::RedisPresence,
    redis::{RedisConfig, connect},
};
use servers::Redis;

use crate::{
    stage::{Stage, connected, joined},
    watch::{Ear, online, resume, watch},
};

const LONG: Duration = Duration::from_secs(3_600);

async fn stage(server: &Redis) -> Stage {
    let config = RedisConfig {
        urls: server.url(),
        ..RedisConfig::default()
    };
    let redis = connect(&config).await.unwrap();
    Stage::on(Arc::new(RedisPresence::new(redis)), LONG).await
}

#[tokio::test]
async fn watches_go_on_at_other_replicas_and_after_a_flush() {
    let server = Redis::start().unwrap();
    let mut stage = stage(&server).await;
    let (first, second) = (
        stage.replica(Settings::default()).await,
        stage.replica(Settings::default()).await,
    );
    let what = || watch(&["ada"], &["lobby"]);
    let mut ear = Ear::at(&first, what()).await;
    let snapshot = ear.snapshot(SnapshotReason::Start).await;
    assert_eq!(online(&snapshot.users), [("ada", false)].into());
    stage
        .report("gate-1", vec![connected("a", "ada"), joined("a", "lobby")])
        .await;
    assert_eq!(ear.changes(1).await, ["Online ada"]);
    let token = ear.token.clone();
    drop(ear);

    // More than is read at a time.
    for some in 0..5 {
        let crowd = (some * 300..(some + 1) * 300).flat_map(|n| {
            let name = format!("u{n:04}");
            [connected(&name, &name), joined(&name, "lobby")]
        });
        stage.report("gate-1", crowd.collect()).await;
    }
    let mut ear = Ear::at(&second, resume(what(), &token)).await;
    ear.resumed().await;
    assert_eq!(ear.changes(1).await, ["Joined ada lobby 1"]);
    let wanted: Vec<_> = (0..1_500)
        .map(|n| format!("Joined u{n:04} lobby {}", n + 2))
        .collect();
    assert_eq!(ear.changes(1_500).await, wanted);

    server.command("FLUSHALL").unwrap();
    stage.begin_anew();
    let snapshot = ear.snapshot(SnapshotReason::StoreReset).await;
    assert_eq!(online(&snapshot.users), [("ada", false)].into());
    assert_eq!(snapshot.rooms[0].members, []);
    stage
        .report("gate-1", vec![connected("a", "ada"), joined("a", "lobby")])
        .await;
    assert_eq!(ear.changes(2).await, ["Online ada", "Joined ada lobby 1"]);
    let mut late = Ear::at(&first, resume(what(), &token)).await;
    let snapshot = late.snapshot(SnapshotReason::ResumeExpired).await;
    assert_eq!(online(&snapshot.users), [("ada", true)].into());
    let asked = IsOnlineRequest {
        namespace: "/chat".to_owned(),
        user_id: "ada".to_owned(),
    };
    assert!(
        second
            .client()
            .await
            .is_online(asked)
            .await
            .unwrap()
            .into_inner()
            .online
    );
    stage.strike().await;
}
