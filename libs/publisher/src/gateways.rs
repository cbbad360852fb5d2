//! Which gateways there are, by their heartbeats.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bus::{Signals, SignalsError, Subscription, subjects};
use model::ClientError;
use parking_lot::Mutex;
use prost::Message;
use proto::v1::GatewayHeartbeat;
use tokio::time::{Instant, sleep_until};

use crate::errors::unavailable;

/// Gateways are heard every second; after this time all of them have been.
const ALL_HEARD: Duration = Duration::from_millis(1500);
/// One that has not been heard for so long is asked no more. Asking one that is gone costs nothing.
const SILENT: Duration = Duration::from_secs(10);
/// Ids are new for each run, so one that left does not come back; heartbeats that were under way change nothing.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// The gateways of the cluster.
pub(crate) struct Gateways {
    begun: Instant,
    known: Mutex<BTreeMap<String, Gateway>>,
}

struct Gateway {
    heard: Instant,
    left: bool,
}

impl Gateways {
    /// Knows nobody yet.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            known: Mutex::default(),
        })
    }

    /// The subscription for [`Gateways::follow`].
    ///
    /// # Errors
    /// When the bus does not answer.
    pub(crate) async fn subscribe(signals: &dyn Signals) -> Result<Box<dyn Subscription>, SignalsError> {
        signals.subscribe(subjects::GATEWAY_HEARTBEAT, None).await
    }

    /// Follows the heartbeats until the subscription ends. Cancelling it stops the table where it is.
    pub(crate) async fn follow(&self, mut heartbeats: Box<dyn Subscription>) {
        while let Some(signal) = heartbeats.next().await {
            match GatewayHeartbeat::decode(signal.payload) {
                Ok(heartbeat) => self.heard(heartbeat),
                Err(error) => tracing::warn!(%error, "a gateway's heartbeat cannot be read"),
            }
        }
    }

    /// Ids of those that are there now, ascending. Waits until all can have been heard since the start. A cluster
    /// may have none; nobody is told so before that is sure.
    ///
    /// # Errors
    /// `UNAVAILABLE` when none is heard although one must be there that never said it leaves, or may be there as it
    /// is not long since the start: the bus may be away.
    pub(crate) async fn live(&self) -> Result<Vec<String>, ClientError> {
        sleep_until(self.begun + ALL_HEARD).await;
        let now = Instant::now();
        let known = self.known.lock();
        let mut present = known.iter().filter(|(_, gateway)| !gateway.left).peekable();
        let one_must_be = present.peek().is_some();
        let live = present.filter(|(_, gateway)| now.duration_since(gateway.heard) < SILENT);
        let live: Vec<String> = live.map(|(id, _)| id.clone()).collect();
        let may_be = known.is_empty() && now.duration_since(self.begun) < SILENT;
        if live.is_empty() && (one_must_be || may_be) {
            return Err(unavailable("no gateway is heard"));
        }
        Ok(live)
    }

    fn heard(&self, heartbeat: GatewayHeartbeat) {
        let now = Instant::now();
        let mut known = self.known.lock();
        known.retain(|_, gateway| now.duration_since(gateway.heard) < FORGOTTEN);
        let gateway = known.entry(heartbeat.gateway).or_insert(Gateway {
            heard: now,
            left: false,
        });
        gateway.heard = now;
        gateway.left |= heartbeat.leaving;
    }
}

#[cfg(test)]
mod tests {
    use model::ErrorCode;

    use super::*;

    fn beat(gateway: &str, leaving: bool) -> GatewayHeartbeat {
        GatewayHeartbeat {
            gateway: gateway.to_owned(),
            leaving,
            ..GatewayHeartbeat::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_there() {
        let gateways = Gateways::new();
        gateways.heard(beat("b", false));
        gateways.heard(beat("a", false));
        let begun = Instant::now();
        assert_eq!(gateways.live().await.unwrap(), ["a", "b"]);
        assert_eq!(begun.elapsed(), ALL_HEARD);
        gateways.heard(beat("a", true));
        gateways.heard(beat("a", false));
        assert_eq!(
            gateways.live().await.unwrap(),
            ["b"],
            "what left does not come back"
        );
        tokio::time::sleep(SILENT).await;
        let silent = gateways.live().await.unwrap_err();
        assert_eq!(silent.code, ErrorCode::Unavailable, "it never said it leaves");
        gateways.heard(beat("b", false));
        assert_eq!(gateways.live().await.unwrap(), ["b"]);
        gateways.heard(beat("b", true));
        assert!(gateways.live().await.unwrap().is_empty(), "all have left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_without_gateways_is_told_once_it_is_sure() {
        let gateways = Gateways::new();
        assert_eq!(gateways.live().await.unwrap_err().code, ErrorCode::Unavailable);
        tokio::time::sleep(SILENT).await;
        assert!(gateways.live().await.unwrap().is_empty());
    }
}
