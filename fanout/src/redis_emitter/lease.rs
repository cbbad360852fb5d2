//! Which worker is the one.

use std::{sync::Arc, time::Duration};

use registry::leases::{Lease, LeaseStore};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::Metrics;

const NAME: &str = "redis-emitter";
/// A worker that dies is replaced after so long.
const TTL: Duration = Duration::from_secs(3);
/// How often the lease is renewed, or asked for while another has it.
const RENEW: Duration = Duration::from_millis(500);
const EAGER: Duration = Duration::from_millis(250);

/// Takes the lease when it can be had, and keeps it.
pub(super) struct Holding {
    pub(super) worker: String,
    pub(super) leases: Arc<dyn LeaseStore>,
    pub(super) metrics: Metrics,
    /// Who hears nothing leaves the lease to others.
    pub(super) subscribed: watch::Receiver<bool>,
    /// The epoch of the lease, if it is ours.
    pub(super) held: watch::Sender<Option<u64>>,
}

impl Holding {
    /// Until `done`, then the lease is given back.
    pub(super) async fn run(mut self, done: &CancellationToken) {
        let mut lease = None;
        let mut is_away = false;
        while !done.is_cancelled() {
            if *self.subscribed.borrow_and_update() {
                match self.leases.acquire(NAME, &self.worker, TTL).await {
                    Ok(answer) => {
                        is_away = false;
                        self.is_now(&mut lease, answer);
                    }
                    // If another gets it, a mark with a newer epoch will say so.
                    Err(error) if !is_away => {
                        tracing::warn!(%error, "the lease for Redis emitters cannot be asked for");
                        is_away = true;
                    }
                    Err(_) => {}
                }
            } else {
                self.give_back(&mut lease).await;
            }
            let pause = if lease.is_some() { RENEW } else { EAGER };
            tokio::select! {
                () = done.cancelled() => {}
                Ok(()) = self.subscribed.changed() => {}
                () = sleep(pause) => {}
            }
        }
        self.give_back(&mut lease).await;
    }

    fn is_now(&self, lease: &mut Option<Lease>, now: Option<Lease>) {
        match (lease.is_some(), now.is_some()) {
            (false, true) => tracing::info!("this worker carries out what Redis emitters publish"),
            (true, false) => tracing::info!("this worker no longer carries out what Redis emitters publish"),
            _ => {}
        }
        *lease = now;
        let epoch = lease.as_ref().map(|lease| lease.epoch);
        self.metrics.bridging(epoch.is_some());
        self.held.send_if_modified(|held| {
            let news = *held != epoch;
            *held = epoch;
            news
        });
    }

    async fn give_back(&self, lease: &mut Option<Lease>) {
        let Some(held) = lease.clone() else { return };
        self.is_now(lease, None);
        if let Err(error) = self.leases.release(&held).await {
            tracing::warn!(%error, "the lease for Redis emitters could not be released");
        }
    }
}
