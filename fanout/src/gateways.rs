//! Which gateways there are, by their heartbeats, and the links to them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bus::{Signals, SignalsError, Subscription, subjects};
use delivery::{Connector, GatewayLink};
use parking_lot::RwLock;
use prost::Message;
use proto::v1::GatewayHeartbeat;
use tokio::time::Instant;

/// A gateway that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(3);

/// The gateways a worker knows. Each has a number that tables use instead of its id; numbers are not
/// given out twice.
pub(crate) struct Gateways {
    connector: Arc<dyn Connector>,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    numbers: HashMap<Arc<str>, u32>,
    gateways: Vec<Gateway>,
}

struct Gateway {
    id: Arc<str>,
    link: Option<Arc<dyn GatewayLink>>,
    /// `None`: gone for good, or never heard of.
    heard: Option<Instant>,
    /// It is worth waiting for until then although it was not heard of yet.
    expected_until: Instant,
}

impl Gateways {
    pub(crate) fn new(connector: Arc<dyn Connector>) -> Arc<Self> {
        Arc::new(Self {
            connector,
            known: RwLock::default(),
        })
    }

    /// The number of a gateway, which may not have been heard of yet.
    pub(crate) fn number(&self, id: &str) -> u32 {
        if let Some(number) = self.known.read().numbers.get(id) {
            return *number;
        }
        let mut known = self.known.write();
        if let Some(number) = known.numbers.get(id) {
            return *number;
        }
        let number = u32::try_from(known.gateways.len()).unwrap_or(u32::MAX);
        let id: Arc<str> = id.into();
        known.numbers.insert(Arc::clone(&id), number);
        known.gateways.push(Gateway {
            id,
            link: None,
            heard: None,
            expected_until: Instant::now() + SILENCE,
        });
        number
    }

    pub(crate) fn id(&self, number: u32) -> Option<Arc<str>> {
        self.known
            .read()
            .gateways
            .get(number as usize)
            .map(|gateway| Arc::clone(&gateway.id))
    }

    pub(crate) fn link(&self, number: u32) -> Option<Arc<dyn GatewayLink>> {
        self.known.read().gateways.get(number as usize)?.link.clone()
    }

    /// Whether nothing is to be expected of the gateway any more.
    pub(crate) fn is_gone(&self, number: u32) -> bool {
        let now = Instant::now();
        let known = self.known.read();
        known
            .gateways
            .get(number as usize)
            .is_none_or(|gateway| match gateway.heard {
                Some(heard) => now.duration_since(heard) > SILENCE,
                None => now > gateway.expected_until,
            })
    }

    pub(crate) async fn subscribe(signals: &dyn Signals) -> Result<Box<dyn Subscription>, SignalsError> {
        signals.subscribe(subjects::GATEWAY_HEARTBEAT, None).await
    }

    /// Follows the heartbeats until the subscription ends.
    pub(crate) async fn follow(&self, mut heartbeats: Box<dyn Subscription>) {
        while let Some(signal) = heartbeats.next().await {
            match GatewayHeartbeat::decode(signal.payload) {
                Ok(heartbeat) => self.heard(&heartbeat).await,
                Err(error) => tracing::warn!(%error, "a gateway's heartbeat cannot be read"),
            }
        }
    }

    async fn heard(&self, heartbeat: &GatewayHeartbeat) {
        let number = self.number(&heartbeat.gateway) as usize;
        let linked = {
            let mut known = self.known.write();
            let Some(gateway) = known.gateways.get_mut(number) else {
                return;
            };
            if heartbeat.leaving {
                gateway.heard = None;
                gateway.expected_until = Instant::now();
                gateway.link = None;
                tracing::info!(gateway = %gateway.id, "gateway leaves");
                return;
            }
            gateway.heard = Some(Instant::now());
            gateway.link.is_some()
        };
        if linked {
            return;
        }
        match self
            .connector
            .connect(&heartbeat.gateway, &heartbeat.address)
            .await
        {
            Ok(link) => {
                tracing::info!(gateway = %heartbeat.gateway, address = %heartbeat.address, "gateway connected");
                if let Some(gateway) = self.known.write().gateways.get_mut(number) {
                    gateway.link = Some(link);
                }
            }
            Err(error) => {
                tracing::warn!(%error, gateway = %heartbeat.gateway, address = %heartbeat.address, "gateway cannot be reached");
            }
        }
    }
}
