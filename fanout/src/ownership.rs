//! Which partitions are this worker's: rendezvous hashing over the workers that are alive, and a
//! lease for each partition so that two never own one at a time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bus::{Signals, Subscription, subjects};
use futures_util::future::join_all;
use lifecycle::Tasks;
use prost::Message;
use proto::v1::WorkerHeartbeat;
use registry::leases::{Lease, LeaseStore};
use tokio::{
    sync::oneshot,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::partition::{self, Context};

/// Heartbeats of workers and renewals of leases.
const BEAT: Duration = Duration::from_millis(500);
/// While a partition that is ours is still another's, the lease is asked for so often: its owner gives it up
/// when it hears of us.
const EAGER: Duration = Duration::from_millis(25);
/// A worker that says nothing for so long is dead; its partitions go to others when its leases end.
const SILENCE: Duration = Duration::from_secs(2);

pub(crate) struct Ownership {
    pub(crate) worker: String,
    pub(crate) lease: Duration,
    pub(crate) leases: Arc<dyn LeaseStore>,
    pub(crate) signals: Arc<dyn Signals>,
    pub(crate) context: Arc<Context>,
    pub(crate) tasks: Tasks,
}

/// A partition that is ours.
struct Owned {
    lease: Lease,
    stop: CancellationToken,
    stopped: oneshot::Receiver<()>,
}

impl Ownership {
    /// Owns what is this worker's share until `stop`, then hands everything over.
    pub(crate) async fn run(self, mut heartbeats: Box<dyn Subscription>, stop: CancellationToken) {
        let mut alive = BTreeMap::from([(self.worker.clone(), Instant::now())]);
        let mut owned: HashMap<u16, Owned> = HashMap::new();
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut wanting = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(EAGER), if wanting => {}
                _ = beat.tick() => {
                    self.beat(false);
                    alive.insert(self.worker.clone(), Instant::now());
                }
                signal = heartbeats.next() => match signal.map(|signal| WorkerHeartbeat::decode(signal.payload)) {
                    Some(Ok(heartbeat)) if heartbeat.worker == self.worker => continue,
                    Some(Ok(heartbeat)) if heartbeat.leaving => drop(alive.remove(&heartbeat.worker)),
                    Some(Ok(heartbeat)) => {
                        let news = alive.insert(heartbeat.worker, Instant::now()).is_none();
                        if !news {
                            continue;
                        }
                    }
                    Some(Err(error)) => {
                        tracing::warn!(%error, "a worker's heartbeat cannot be read");
                        continue;
                    }
                    None => break,
                },
            }
            alive.retain(|_, heard| heard.elapsed() <= SILENCE);
            wanting = self.balance(&alive, &mut owned).await;
        }
        self.hand_over(owned.into_values().collect()).await;
        self.beat(true);
    }

    /// `true` when a partition of this worker's share is not owned yet.
    async fn balance(&self, alive: &BTreeMap<String, Instant>, owned: &mut HashMap<u16, Owned>) -> bool {
        let mut wanting = false;
        let mut given_up = Vec::new();
        for number in 0..self.context.log.partitions() {
            let owner = model::rendezvous(&number.to_string(), alive.keys().map(String::as_str));
            let ours = owner == Some(self.worker.as_str());
            match (ours, owned.remove(&number)) {
                (true, Some(mut partition)) => {
                    if self.renew(number, &mut partition).await {
                        owned.insert(number, partition);
                    } else {
                        given_up.push(partition);
                    }
                }
                (false, Some(partition)) => given_up.push(partition),
                (true, None) => match self.acquire(number).await {
                    Some(partition) => drop(owned.insert(number, partition)),
                    None => wanting = true,
                },
                (false, None) => {}
            }
        }
        self.hand_over(given_up).await;
        wanting
    }

    async fn acquire(&self, number: u16) -> Option<Owned> {
        match self
            .leases
            .acquire(&lease_name(number), &self.worker, self.lease)
            .await
        {
            Ok(Some(lease)) => {
                let stop = CancellationToken::new();
                let (done, stopped) = oneshot::channel();
                let owning = partition::own(number, lease.clone(), Arc::clone(&self.context), stop.clone());
                self.tasks.spawn("partition", async move {
                    owning.await;
                    // Nobody waits when this worker has ended.
                    let _ = done.send(());
                });
                Some(Owned { lease, stop, stopped })
            }
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(%error, partition = number, "the lease cannot be taken");
                None
            }
        }
    }

    /// `false` when the partition is to be given up: it is no longer ours, or its task has ended.
    async fn renew(&self, number: u16, partition: &mut Owned) -> bool {
        if !matches!(
            partition.stopped.try_recv(),
            Err(oneshot::error::TryRecvError::Empty)
        ) {
            tracing::warn!(partition = number, "the partition's task has ended");
            return false;
        }
        match self.leases.renew(&partition.lease, self.lease).await {
            Ok(true) => true,
            Ok(false) => {
                tracing::warn!(partition = number, "the lease was lost");
                false
            }
            // Whoever takes the partition over has a newer epoch, and gateways drop what comes from an older
            // one: going on harms nobody, and clients do not notice that the registry is away.
            Err(error) => {
                tracing::warn!(%error, partition = number, "the lease cannot be renewed");
                true
            }
        }
    }

    /// Ends all of them at once; each lease is free when its partition has saved where it ended.
    async fn hand_over(&self, partitions: Vec<Owned>) {
        for partition in &partitions {
            partition.stop.cancel();
        }
        let release = partitions.into_iter().map(|partition| async move {
            if !partition.stopped.is_terminated() {
                // An error says that it has ended already.
                let _ = partition.stopped.await;
            }
            if let Err(error) = self.leases.release(&partition.lease).await {
                tracing::warn!(%error, lease = partition.lease.name, "the lease could not be released");
            }
        });
        join_all(release).await;
    }

    fn beat(&self, leaving: bool) {
        let beat = WorkerHeartbeat {
            worker: self.worker.clone(),
            leaving,
        };
        if let Err(error) = self
            .signals
            .publish(subjects::WORKER_HEARTBEAT, beat.encode_to_vec().into())
        {
            tracing::debug!(%error, "a heartbeat was not sent");
        }
    }
}

fn lease_name(partition: u16) -> String {
    format!("partition-{partition}")
}
