//! Which gateways there are, by their heartbeats, and the links to them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bus::{Signals, SignalsError, Subscription, subjects};
use delivery::{Connector, GatewayLink, LinkError};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::RwLock;
use prost::Message;
use proto::v1::GatewayHeartbeat;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::metrics::Metrics;

/// Silence is counted in these, so that a worker that was itself stopped for a while (a suspended
/// machine, a debugger) takes nobody for dead when it goes on.
const TICK: Duration = Duration::from_millis(500);
/// A gateway that has said nothing for so many ticks (3 s) is sent nothing more. Its interest stays: when
/// it is heard again it goes on, and reads from the log what it missed.
const SILENT: u32 = 6;
/// A gateway that has said nothing for so many ticks (2 minutes, the recovery window) is gone.
const GONE: u32 = 240;

/// The gateways a worker knows. Each has a number that tables use instead of its id; numbers are not
/// given out twice.
pub(crate) struct Gateways {
    metrics: Arc<Metrics>,
    connector: Arc<dyn Connector>,
    known: RwLock<Known>,
    /// Counts the times that a gateway was heard anew.
    news: watch::Sender<u64>,
}

#[derive(Default)]
struct Known {
    numbers: HashMap<Arc<str>, u32>,
    gateways: Vec<Gateway>,
}

struct Gateway {
    id: Arc<str>,
    link: Option<Link>,
    /// Links it has had so far.
    links: u64,
    /// Ticks since it was heard, or since it was first heard of.
    silent: u32,
    /// It was heard by itself: an interest record alone says nothing about now.
    heard: bool,
    /// A link is being made.
    connecting: bool,
    /// It said that it leaves. Ids are new for each run, so it does not come back; heartbeats that were
    /// under way change nothing.
    left: bool,
}

impl Gateway {
    fn is_gone(&self) -> bool {
        self.left || self.silent >= GONE
    }
}

/// A link to a gateway.
#[derive(Clone)]
pub(crate) struct Link {
    /// Tells apart the links that one gateway has had.
    pub(crate) number: u64,
    pub(crate) to: Arc<dyn GatewayLink>,
}

/// A link that was asked for, with the gateway's number.
type Connecting = BoxFuture<'static, (u32, Result<Arc<dyn GatewayLink>, LinkError>)>;

impl Gateways {
    pub(crate) fn new(connector: Arc<dyn Connector>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            metrics,
            connector,
            known: RwLock::default(),
            news: watch::Sender::default(),
        })
    }

    /// The number of a gateway, which may not have been heard yet.
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
            links: 0,
            silent: 0,
            heard: false,
            connecting: false,
            left: false,
        });
        number
    }

    pub(crate) fn id(&self, number: u32) -> Option<Arc<str>> {
        let known = self.known.read();
        known
            .gateways
            .get(number as usize)
            .map(|gateway| Arc::clone(&gateway.id))
    }

    pub(crate) fn link(&self, number: u32) -> Option<Link> {
        self.known.read().gateways.get(number as usize)?.link.clone()
    }

    /// The link is closed; another one is made when the gateway is heard.
    pub(crate) fn closed(&self, number: u32, link: &Link) {
        let mut known = self.known.write();
        let gateway = known.gateways.get_mut(number as usize);
        if let Some(gateway) = gateway.filter(|gateway| gateway.links == link.number)
            && gateway.link.take().is_some()
        {
            self.metrics.links_lost.inc();
        }
    }

    /// Whether nothing is to be expected of the gateway any more.
    pub(crate) fn is_gone(&self, number: u32) -> bool {
        let known = self.known.read();
        known.gateways.get(number as usize).is_none_or(Gateway::is_gone)
    }

    /// Changes whenever [`Gateways::live`] may have more to tell.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// The gateways that are heard now.
    pub(crate) fn live(&self) -> Vec<u32> {
        let known = self.known.read();
        let numbered = (0..).zip(&known.gateways);
        numbered
            .filter(|(_, gateway)| gateway.heard && !gateway.left && gateway.silent < SILENT)
            .map(|(number, _)| number)
            .collect()
    }

    pub(crate) async fn subscribe(signals: &dyn Signals) -> Result<Box<dyn Subscription>, SignalsError> {
        signals.subscribe(subjects::GATEWAY_HEARTBEAT, None).await
    }

    /// Follows the heartbeats until the subscription ends. A gateway that is slow to connect does not
    /// keep the others from being heard.
    pub(crate) async fn follow(&self, mut heartbeats: Box<dyn Subscription>) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connecting: FuturesUnordered<Connecting> = FuturesUnordered::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => self.tick(),
                Some((number, link)) = connecting.next() => self.connected(number, link),
                signal = heartbeats.next() => match signal.map(|signal| GatewayHeartbeat::decode(signal.payload)) {
                    Some(Ok(heartbeat)) => connecting.extend(self.heard(heartbeat)),
                    Some(Err(error)) => tracing::warn!(%error, "a gateway's heartbeat cannot be read"),
                    None => break,
                },
            }
        }
    }

    fn tick(&self) {
        let mut known = self.known.write();
        for gateway in &mut known.gateways {
            gateway.silent = gateway.silent.saturating_add(1);
            if gateway.silent >= SILENT && gateway.link.take().is_some() {
                self.metrics.links_lost.inc();
                tracing::warn!(gateway = %gateway.id, "gateway is silent");
            }
        }
        let links = known.gateways.iter().filter_map(|gateway| gateway.link.as_ref());
        self.metrics.links(links.map(|link| link.to.waiting()));
    }

    /// Notes the heartbeat; what there is to do to get a link, if it has none.
    fn heard(&self, heartbeat: GatewayHeartbeat) -> Option<Connecting> {
        let number = self.number(&heartbeat.gateway);
        let mut known = self.known.write();
        let gateway = known.gateways.get_mut(number as usize)?;
        if heartbeat.leaving {
            gateway.left = true;
            gateway.link = None;
            tracing::info!(gateway = %gateway.id, "gateway leaves");
            return None;
        }
        if !gateway.heard || gateway.silent >= SILENT {
            self.news.send_modify(|news| *news += 1);
        }
        gateway.silent = 0;
        gateway.heard = true;
        if gateway.left || gateway.link.is_some() || gateway.connecting {
            return None;
        }
        gateway.connecting = true;
        let connector = Arc::clone(&self.connector);
        Some(Box::pin(async move {
            (
                number,
                connector.connect(&heartbeat.gateway, &heartbeat.address).await,
            )
        }))
    }

    fn connected(&self, number: u32, link: Result<Arc<dyn GatewayLink>, LinkError>) {
        let mut known = self.known.write();
        let Some(gateway) = known.gateways.get_mut(number as usize) else {
            return;
        };
        gateway.connecting = false;
        match link {
            Ok(_) if gateway.is_gone() => {}
            Ok(to) => {
                gateway.links += 1;
                gateway.link = Some(Link {
                    number: gateway.links,
                    to,
                });
                tracing::info!(gateway = %gateway.id, "gateway connected");
            }
            Err(error) => tracing::warn!(%error, gateway = %gateway.id, "gateway cannot be reached"),
        }
    }
}
