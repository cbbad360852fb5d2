//! What time alone brings about: graces that are over, gateways that are dead.

use bus::Signal;
use model::GatewayId;
use prost::Message;
use proto::v1;

use crate::Core;

/// How many ended stays are taken from the store at a time.
const AT_ONCE: usize = 256;

impl Core {
    /// A gateway says that it lives. One that is leaving for good is left to its lease, which its
    /// last batches may still outrun.
    pub(crate) async fn take_heartbeat(&self, signal: &Signal) {
        let Ok(heartbeat) = v1::GatewayHeartbeat::decode(&*signal.payload) else {
            tracing::error!("a heartbeat cannot be read");
            return;
        };
        let Ok(gateway) = GatewayId::new(&heartbeat.gateway) else {
            tracing::error!(
                gateway = heartbeat.gateway,
                "a heartbeat of a gateway that cannot be"
            );
            return;
        };
        if heartbeat.leaving {
            return;
        }
        // A gateway that the store does not know is asked for a snapshot at its next batch.
        if let Err(error) = self.store.touch(&gateway, (self.clock)()).await {
            tracing::warn!(%error, %gateway, "a lease was not renewed");
        }
    }

    /// Announces the users whose grace is over.
    pub(crate) async fn end_graces(&self) {
        loop {
            let _turn = self.order.of_all().await;
            match self.store.due((self.clock)(), AT_ONCE).await {
                Ok(left) => {
                    self.announce(&left);
                    if left.len() < AT_ONCE {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "graces were not looked at");
                    return;
                }
            }
        }
    }

    /// Removes dead gateways.
    pub(crate) async fn end_leases(&self) {
        let _turn = self.order.of_all().await;
        match self
            .store
            .expire((self.clock)(), self.settings.lease, self.settings.grace)
            .await
        {
            Ok(expired) => {
                for dead in expired {
                    self.metrics.gateways_expired.inc();
                    // One that left on purpose has taken its sockets back before.
                    if dead.sockets > 0 {
                        tracing::warn!(gateway = %dead.gateway, sockets = dead.sockets, "a gateway is dead");
                    }
                    self.announce(&dead.transitions);
                }
            }
            Err(error) => tracing::warn!(%error, "leases were not looked at"),
        }
    }

    /// Brings the gauges up to date.
    pub(crate) async fn measure(&self) {
        match self.store.stats().await {
            Ok(stats) => self.metrics.stats(stats),
            Err(error) => tracing::warn!(%error, "the counts are not known"),
        }
    }
}
