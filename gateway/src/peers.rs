//! Which other gateways there are, and where their internal listeners are, by their heartbeats.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bus::{Subscription, subjects};
use model::GatewayId;
use parking_lot::RwLock;
use prost::Message;
use proto::v1::GatewayHeartbeat;
use rand::Rng;
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, sleep},
};

/// Silence is counted in these, so that a gateway that was itself stopped for a while takes nobody for
/// dead when it goes on.
const TICK: Duration = Duration::from_millis(500);
/// A gateway that has said nothing for so many ticks (3 s) is gone until it is heard again.
const SILENT: u32 = 6;
/// One that left, or has been silent, for so many ticks (2 minutes) is forgotten: no heartbeat of it can
/// still be under way.
const FORGOTTEN: u32 = 240;
/// Those who hear a newcomer answer it within this time, not all in the same moment.
const WELCOME: Duration = Duration::from_millis(50);

/// The other gateways of the cluster.
pub struct Peers {
    own: GatewayId,
    known: RwLock<HashMap<Box<str>, Peer>>,
    newcomer: Notify,
}

struct Peer {
    /// `None` where the gateway cannot be reached from outside its process.
    address: Option<Arc<str>>,
    /// Ticks since it was heard.
    silent: u32,
    /// Ids are new for each run, so one that left does not come back; heartbeats that were under way
    /// change nothing.
    left: bool,
}

impl Peers {
    /// Knows nobody yet. Heartbeats of `own` are not looked at.
    #[must_use]
    pub fn new(own: GatewayId) -> Arc<Self> {
        Arc::new(Self {
            own,
            known: RwLock::default(),
            newcomer: Notify::new(),
        })
    }

    /// The subject to hand to [`Peers::follow`] a subscription of.
    pub const SUBJECT: &'static str = subjects::GATEWAY_HEARTBEAT;

    /// Follows the heartbeats until the subscription ends. Cancelling it stops the table where it is.
    pub async fn follow(&self, mut heartbeats: Box<dyn Subscription>) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // What was said while this process stood still is heard before silence is counted.
                biased;
                signal = heartbeats.next() => match signal.map(|signal| GatewayHeartbeat::decode(signal.payload)) {
                    Some(Ok(heartbeat)) => self.heard(heartbeat),
                    Some(Err(error)) => tracing::warn!(%error, "a gateway's heartbeat cannot be read"),
                    None => return,
                },
                _ = ticks.tick() => self.tick(),
            }
        }
    }

    /// Where the internal listener of a gateway is (`host:port`); `None` for one that is not known, was
    /// not heard for 3 s, has left, or is this one.
    #[must_use]
    pub fn address_of(&self, gateway: &str) -> Option<Arc<str>> {
        let known = self.known.read();
        let peer = known.get(gateway)?;
        let there = !peer.left && peer.silent < SILENT;
        there.then(|| peer.address.clone()).flatten()
    }

    /// How many others are there.
    #[must_use]
    pub fn len(&self) -> usize {
        let known = self.known.read();
        let there = known.values().filter(|peer| !peer.left && peer.silent < SILENT);
        there.count()
    }

    /// Whether no other is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns some milliseconds after a gateway was heard for the first time: the moment to send an own
    /// heartbeat, so that the newcomer need not wait for the next regular one. One that came while nobody
    /// waited counts for the next call. For one caller at a time; cancel safe, but for a newcomer that is
    /// then told at the next heartbeat.
    pub async fn newcomer(&self) {
        self.newcomer.notified().await;
        let wait = rand::rng().random_range(Duration::ZERO..WELCOME);
        sleep(wait).await;
    }

    fn tick(&self) {
        self.known.write().retain(|gateway, peer| {
            peer.silent += 1;
            if peer.silent == SILENT && !peer.left {
                tracing::warn!(%gateway, "a gateway is silent");
            }
            peer.silent < FORGOTTEN
        });
    }

    fn heard(&self, heartbeat: GatewayHeartbeat) {
        if heartbeat.gateway == self.own.as_str() {
            return;
        }
        let address = (!heartbeat.address.is_empty()).then(|| Arc::from(heartbeat.address));
        let mut known = self.known.write();
        if let Some(peer) = known.get_mut(heartbeat.gateway.as_str()) {
            if peer.left {
                return;
            }
            peer.left = heartbeat.leaving;
            peer.silent = 0;
            if peer.address != address {
                peer.address = address;
            }
            if peer.left {
                tracing::info!(gateway = %heartbeat.gateway, "a gateway leaves");
            }
        } else {
            tracing::info!(gateway = %heartbeat.gateway, ?address, "a gateway is there");
            let peer = Peer {
                address,
                silent: 0,
                left: heartbeat.leaving,
            };
            known.insert(heartbeat.gateway.into(), peer);
            if !heartbeat.leaving {
                self.newcomer.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(gateway: &str, address: &str, leaving: bool) -> GatewayHeartbeat {
        GatewayHeartbeat {
            gateway: gateway.to_owned(),
            address: address.to_owned(),
            connections: 0,
            draining: leaving,
            leaving,
        }
    }

    fn peers() -> Arc<Peers> {
        Peers::new(GatewayId::new("own-id").unwrap())
    }

    #[test]
    fn a_silent_gateway_is_gone_until_it_is_heard() {
        let peers = peers();
        peers.heard(beat("abcdef", "h:1", false));
        for _ in 1..SILENT {
            peers.tick();
        }
        assert_eq!(peers.address_of("abcdef").as_deref(), Some("h:1"));
        peers.tick();
        assert_eq!(peers.address_of("abcdef"), None);
        assert!(peers.is_empty());
        peers.heard(beat("abcdef", "h:2", false));
        assert_eq!(peers.address_of("abcdef").as_deref(), Some("h:2"));
    }

    #[test]
    fn one_that_left_is_not_brought_back_by_a_late_heartbeat_and_is_forgotten() {
        let peers = peers();
        peers.heard(beat("abcdef", "h:1", false));
        peers.heard(beat("abcdef", "h:1", true));
        peers.heard(beat("abcdef", "h:1", false));
        assert_eq!(peers.address_of("abcdef"), None);
        for _ in 0..FORGOTTEN {
            peers.tick();
        }
        assert!(peers.known.read().is_empty());
    }

    #[test]
    fn neither_this_gateway_nor_one_without_an_address_is_forwarded_to() {
        let peers = peers();
        peers.heard(beat("own-id", "h:1", false));
        peers.heard(beat("abcdef", "", false));
        assert_eq!(peers.address_of("own-id"), None);
        assert_eq!(peers.address_of("abcdef"), None);
        assert_eq!(peers.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_is_told_of_once() {
        let peers = peers();
        peers.heard(beat("abcdef", "h:1", false));
        peers.heard(beat("abcdef", "h:1", false));
        peers.newcomer().await;
        let again = tokio::time::timeout(Duration::from_secs(60), peers.newcomer()).await;
        assert!(again.is_err());
    }
}
