//! How streams are made, changed and refused.

use std::time::Duration;

use async_nats::{Client, jetstream::stream};
use bus::{
    EventLog,
    event_log::nats::{NatsLog, NatsLogConfig, OpenError},
};
use futures_util::future::join_all;
use servers::{Nats, NatsVersion};

use crate::{client_at, config, entry, jetstream_at, log_at};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_reconciled_or_refused_clearly() {
    for version in NatsVersion::ALL {
        let nats = Nats::start(version).unwrap();
        let url = nats.url();
        // Several processes at once.
        let opened = join_all((0..3).map(|_| log_at(&url, config()))).await;
        let log = opened
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
            .unwrap()
            .remove(0);
        // Not in the first partition: any entry tells how many there are.
        log.append(2, entry(1, "kept")).await.unwrap();
        // Somebody has turned what is ours.
        let context = jetstream_at(&url).await;
        let mut turned = context
            .get_stream("FANFARE_1")
            .await
            .unwrap()
            .cached_info()
            .clone();
        turned.config.max_messages_per_subject = 10;
        turned.config.max_bytes = 1 << 30;
        turned.config.discard = stream::DiscardPolicy::Old;
        context.update_stream(turned.config).await.unwrap();
        let older = NatsLogConfig {
            max_age: Duration::from_secs(3600),
            ..config()
        };
        let log = log_at(&url, older).await.unwrap();
        assert_eq!(log.last_seq(2).await.unwrap(), 1);
        for partition in 0..4 {
            let stream = context.get_stream(format!("FANFARE_{partition}")).await.unwrap();
            let found = &stream.cached_info().config;
            assert_eq!(found.max_age, Duration::from_secs(3600));
            assert_eq!(found.discard, stream::DiscardPolicy::New);
            assert!(found.max_messages_per_subject <= 0);
            let max_bytes = if partition == 1 { 1 << 30 } else { -1 };
            assert_eq!(found.max_bytes, max_bytes);
        }
        for partitions in [2, 8] {
            let other = NatsLogConfig {
                partitions,
                ..config()
            };
            let refused = log_at(&url, other).await.err();
            assert!(
                matches!(refused, Some(OpenError::Partitions { .. })),
                "{refused:?}"
            );
        }
        let copies = NatsLogConfig {
            replicas: 3,
            ..config()
        };
        let refused = log_at(&url, copies).await.err().unwrap().to_string();
        assert!(
            refused.starts_with("stream FANFARE_0: ") && refused.contains("num_replicas"),
            "{version:?}: {refused}"
        );
        let kept = context.get_stream("FANFARE_0").await.unwrap();
        assert_eq!(kept.cached_info().config.num_replicas, 1, "{version:?}");
        let large = NatsLogConfig {
            max_record_bytes: 32 << 20,
            ..config()
        };
        let refused = log_at(&url, large).await.err().unwrap().to_string();
        assert!(refused.contains("max_payload: 50331648"), "{refused}");
    }
}

/// Roles start at the same time, all of them on a server that has no streams yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "the test waits for what it spawns")]
async fn those_who_start_at_once_share_the_streams() {
    for version in NatsVersion::ALL {
        let nats = Nats::start(version).unwrap();
        let (url, context) = (nats.url(), jetstream_at(&nats.url()).await);
        let clients = join_all((0..8).map(|_| client_at(&url))).await;
        for _ in 0..100 {
            let open = |client: &Client| tokio::spawn(NatsLog::open(client.clone(), config()));
            for opened in join_all(clients.iter().map(open)).await {
                opened.unwrap().unwrap();
            }
            for partition in 0..config().partitions {
                let stream = format!("FANFARE_{partition}");
                context.delete_stream(stream).await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_changed_is_named() {
    for version in NatsVersion::ALL {
        let nats = Nats::start(version).unwrap();
        let context = jetstream_at(&nats.url()).await;
        let in_memory = stream::Config {
            name: "FANFARE_3".to_owned(),
            subjects: vec!["fanfare.log.3.>".to_owned()],
            storage: stream::StorageType::Memory,
            ..stream::Config::default()
        };
        context.create_stream(in_memory).await.unwrap();
        let refused = log_at(&nats.url(), config()).await.err().unwrap().to_string();
        assert_eq!(
            refused,
            "stream FANFARE_3 has storage Memory, wanted is File: that cannot be changed in place"
        );
        // Subjects of one of ours are another stream's.
        context.delete_stream("FANFARE_3").await.unwrap();
        let other = stream::Config {
            name: "OTHER".to_owned(),
            subjects: vec!["fanfare.>".to_owned()],
            ..stream::Config::default()
        };
        context.delete_stream("FANFARE_0").await.unwrap();
        context.delete_stream("FANFARE_1").await.unwrap();
        context.delete_stream("FANFARE_2").await.unwrap();
        context.create_stream(other).await.unwrap();
        let refused = log_at(&nats.url(), config()).await.err();
        assert!(matches!(refused, Some(OpenError::Refused { .. })), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_jetstream_is_told_of() {
    for version in NatsVersion::ALL {
        let nats = Nats::start_with(version, "jetstream: false").unwrap();
        let refused = log_at(&nats.url(), config()).await.err();
        assert_eq!(refused, Some(OpenError::NoJetStream), "{version:?}");
    }
}
