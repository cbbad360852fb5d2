//! What others publish in Redis comes, in order, from any kind of it, and again after it was away.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

use std::time::Duration;

use registry::redis::{Feed, FeedNews, RedisConfig, Topology, Wanted};
use servers::{Redis, RedisCluster, RedisSentinel};
use tokio::time::timeout;

/// Something that must come has this long; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(60);

fn feed(urls: String, topology: Topology) -> Feed {
    let config = RedisConfig {
        urls,
        topology,
        ..RedisConfig::default()
    };
    let wanted = Wanted {
        patterns: vec!["news\\*#*".to_owned()],
        channels: vec!["marks".to_owned()],
    };
    Feed::start(&config, wanted).unwrap()
}

async fn next(feed: &mut Feed) -> FeedNews {
    timeout(PATIENCE, feed.next()).await.unwrap().unwrap()
}

async fn comes(feed: &mut Feed, channel: &str, payload: &str) {
    let expected = FeedNews::Message {
        channel: channel.to_owned(),
        payload: payload.as_bytes().to_vec(),
    };
    assert_eq!(next(feed).await, expected);
}

#[tokio::test]
async fn messages_come_in_order_and_again_after_a_restart() {
    let mut redis = Redis::start().unwrap();
    let mut feed = feed(redis.url(), Topology::Single);
    for round in 0..2 {
        assert_eq!(next(&mut feed).await, FeedNews::Subscribed);
        redis.command("PUBLISH newsy#/ no").unwrap();
        for number in 0..100 {
            redis.command(&format!("PUBLISH news*#/a# {number}")).unwrap();
        }
        assert!(feed.publish("marks", b"one".to_vec()));
        assert!(feed.publish("marks", b"two".to_vec()));
        for number in 0..100 {
            comes(&mut feed, "news*#/a#", &number.to_string()).await;
        }
        comes(&mut feed, "marks", "one").await;
        comes(&mut feed, "marks", "two").await;
        if round == 0 {
            redis.kill();
            assert_eq!(next(&mut feed).await, FeedNews::Lost);
            redis.start_again().unwrap();
        }
    }
}

#[tokio::test]
async fn a_cluster_tells_at_every_node() {
    let mut cluster = RedisCluster::start().unwrap();
    let mut feed = feed(cluster.url(), Topology::Cluster);
    assert_eq!(next(&mut feed).await, FeedNews::Subscribed);
    for node in cluster.nodes().iter() {
        node.command("PUBLISH news*# there").unwrap();
        comes(&mut feed, "news*#", "there").await;
    }
    assert!(feed.publish("marks", b"here".to_vec()));
    comes(&mut feed, "marks", "here").await;
}

#[tokio::test]
async fn sentinels_lead_to_the_master() {
    let mut sentinels = RedisSentinel::start().unwrap();
    let topology = Topology::Sentinel {
        master: "fanfare".to_owned(),
    };
    let mut feed = feed(sentinels.url(), topology);
    assert_eq!(next(&mut feed).await, FeedNews::Subscribed);
    sentinels.master().command("PUBLISH news*# x").unwrap();
    comes(&mut feed, "news*#", "x").await;
}
