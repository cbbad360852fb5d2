//! Who is where: applies gateways' reports, answers and announces.
//!
//! Batches of one gateway are applied in their order, those of different gateways side by side; what is
//! announced of a room by one replica goes out in the order in which it was applied. A task of its own
//! answers questions. State is the store's alone, so any number of replicas may run on one store.

mod announce;
pub mod api;
mod apply;
mod crowd;
mod lanes;
mod metrics;
mod order;
mod parts;
mod query;
mod reap;
mod watch;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bus::{Signals, SignalsError, Subscription, subjects};
use parking_lot::Mutex;
use registry::presence_store::PresenceStore;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use lanes::Lanes;
pub use metrics::Metrics;

/// Replicas share the work under this name.
const QUEUE: &str = "presence";
/// How late the end of a grace may be noticed.
const GRACE_TICK: Duration = Duration::from_millis(200);
/// How late the end of a lease may be noticed, and how old the gauges may be.
const LEASE_TICK: Duration = Duration::from_secs(1);

/// Unix milliseconds of now.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The machine's clock.
#[must_use]
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// What the service works with.
pub struct Deps {
    /// Where presence is kept.
    pub store: Arc<dyn PresenceStore>,
    /// Where gateways report and rooms are told.
    pub signals: Arc<dyn Signals>,
    /// Where its tasks run.
    pub tasks: lifecycle::Tasks,
    /// What it counts.
    pub metrics: Metrics,
    /// Its time.
    pub clock: Clock,
}

/// How the service behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Partitions of the log, at least 1, the same for all roles.
    pub partitions: u16,
    /// How long a lost user stays a member of its rooms (`presence.grace_seconds`).
    pub grace: Duration,
    /// How long a gateway is believed to live after its last batch or heartbeat. With the grace it must
    /// stay under the 15 s in which presence heals (CONTRACT section 10, G6).
    pub lease: Duration,
    /// Users in one answer, at most.
    pub list_limit: u32,
    /// A room with more users hears of them at most once a second.
    pub crowd: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            partitions: 16,
            grace: Duration::from_secs(5),
            lease: Duration::from_secs(6),
            list_limit: 1_000,
            crowd: 200,
        }
    }
}

/// The presence service.
pub struct Service {
    core: Arc<Core>,
    tasks: lifecycle::Tasks,
    batches: Box<dyn Subscription>,
    parts: Box<dyn Subscription>,
    heartbeats: Box<dyn Subscription>,
    online: Box<dyn Subscription>,
    stats: Box<dyn Subscription>,
}

struct Core {
    store: Arc<dyn PresenceStore>,
    signals: Arc<dyn Signals>,
    metrics: Metrics,
    clock: Clock,
    settings: Settings,
    /// Names this replica on the bus.
    replica: String,
    order: order::Order,
    parts: Mutex<parts::Parts>,
    crowds: Mutex<crowd::Crowds>,
}

impl Service {
    /// Builds the service and listens: what is asked once this has returned waits to be answered by
    /// [`run`](Self::run).
    ///
    /// # Errors
    /// [`SignalsError::Unavailable`] when the bus does not answer.
    pub async fn build(deps: Deps, settings: Settings) -> Result<Self, SignalsError> {
        let Deps {
            store,
            signals,
            tasks,
            metrics,
            clock,
        } = deps;
        let replica = uuid::Uuid::new_v4().simple().to_string();
        let listen = async |subject| signals.subscribe(subject, Some(QUEUE)).await;
        Ok(Self {
            // Before the batches: their answers name it.
            parts: signals
                .subscribe(&subjects::presence_parts(&replica), None)
                .await?,
            batches: listen(subjects::PRESENCE_BATCH).await?,
            heartbeats: listen(subjects::GATEWAY_HEARTBEAT).await?,
            online: listen(subjects::PRESENCE_ONLINE).await?,
            stats: listen(subjects::PRESENCE_STATS).await?,
            core: Arc::new(Core {
                store,
                signals,
                metrics,
                clock,
                settings,
                replica,
                order: order::Order::default(),
                parts: Mutex::default(),
                crowds: Mutex::default(),
            }),
            tasks,
        })
    }

    /// Serves until `shutdown`; batches under way are finished by tasks of the given ones, their answers included.
    ///
    /// # Errors
    /// [`Ended`] when the bus ends a subscription for good.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Ended> {
        let Self {
            core,
            tasks,
            mut batches,
            mut parts,
            mut heartbeats,
            mut online,
            mut stats,
        } = self;
        let lanes = Lanes::new(Arc::clone(&core), tasks.clone(), shutdown.clone());
        let (asked, stop) = (Arc::clone(&core), shutdown.clone());
        tasks.spawn("presence queries", async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    Some(query) = online.next() => asked.take_online_query(query).await,
                    Some(query) = stats.next() => asked.take_stats_query(query).await,
                    else => return,
                }
            }
        });
        // Nobody may have heard the gateways while no replica was there.
        let leases_hold_until = Instant::now() + core.settings.lease;
        let mut graces = ticks(GRACE_TICK);
        let mut leases = ticks(LEASE_TICK);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                batch = batches.next() => match batch {
                    Some(batch) => lanes.take(batch),
                    None => return Err(Ended(subjects::PRESENCE_BATCH)),
                },
                part = parts.next() => match part {
                    Some(part) => lanes.take(part),
                    None => return Err(Ended("parts of snapshots")),
                },
                heartbeat = heartbeats.next() => match heartbeat {
                    Some(heartbeat) => core.take_heartbeat(&heartbeat).await,
                    None => return Err(Ended(subjects::GATEWAY_HEARTBEAT)),
                },
                _ = graces.tick() => {
                    core.end_graces().await;
                    core.tell_crowds().await;
                }
                _ = leases.tick() => {
                    // After a stall the signs of life that wait count before the leases do.
                    while let Some(Some(heartbeat)) = ready(heartbeats.next()).await {
                        core.take_heartbeat(&heartbeat).await;
                    }
                    if Instant::now() >= leases_hold_until {
                        core.end_leases().await;
                    }
                    core.parts.lock().tidy(Instant::now());
                    core.measure().await;
                }
            }
        }
    }
}

/// The bus ended a subscription of the service, which cannot do its work without.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the subscription of {0} has ended")]
pub struct Ended(&'static str);

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// What a future has at once.
async fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = std::future::ready(()) => None,
    }
}
