//! Batches of one gateway are worked off in their order, those of different gateways side by side: a large
//! snapshot keeps nobody else waiting.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bus::Signal;
use lifecycle::Tasks;
use parking_lot::Mutex;
use prost::Message;
use proto::v1;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::Core;

/// Batches that are worked off at the same time.
const AT_ONCE: usize = 16;
/// Batches of one gateway that wait. It sends the next one when the last one is answered, or when it has given up.
const WAITING: usize = 4;

/// The batches of every gateway that has some.
pub(crate) struct Lanes {
    core: Arc<Core>,
    tasks: Tasks,
    stop: CancellationToken,
    slots: Semaphore,
    /// By gateway; whoever is in here has a task.
    waiting: Mutex<HashMap<String, VecDeque<Arrived>>>,
}

/// A batch as it came.
pub(crate) struct Arrived {
    pub(crate) batch: v1::PresenceBatch,
    /// Its size on the bus.
    pub(crate) bytes: usize,
    /// Where it is answered.
    pub(crate) reply: Option<String>,
}

impl Lanes {
    pub(crate) fn new(core: Arc<Core>, tasks: Tasks, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            core,
            tasks,
            stop,
            slots: Semaphore::new(AT_ONCE),
            waiting: Mutex::default(),
        })
    }

    /// Takes a batch. One that cannot be read, or for which there is no place, is not answered: the gateway runs
    /// into its time-out and sends a snapshot.
    pub(crate) fn take(self: &Arc<Self>, signal: Signal) {
        let arrived = match v1::PresenceBatch::decode(&*signal.payload) {
            Ok(batch) => Arrived {
                batch,
                bytes: signal.payload.len(),
                reply: signal.reply,
            },
            Err(error) => {
                self.core.metrics.batches_failed.inc();
                tracing::error!(%error, "a presence batch cannot be read");
                return;
            }
        };
        let mut waiting = self.waiting.lock();
        if let Some(lane) = waiting.get_mut(&arrived.batch.gateway) {
            if lane.len() < WAITING {
                lane.push_back(arrived);
            } else {
                self.core.metrics.batches_failed.inc();
                tracing::warn!(
                    gateway = arrived.batch.gateway,
                    "too many batches wait, one is dropped"
                );
            }
            return;
        }
        let lane = Lane {
            lanes: Arc::clone(self),
            gateway: arrived.batch.gateway.clone(),
            ended: false,
        };
        waiting.insert(lane.gateway.clone(), VecDeque::from([arrived]));
        self.tasks.spawn("presence batches", lane.run());
    }
}

struct Lane {
    lanes: Arc<Lanes>,
    gateway: String,
    ended: bool,
}

impl Lane {
    async fn run(mut self) {
        while let Some(arrived) = self.next() {
            let lanes = &*self.lanes;
            // The semaphore is never closed.
            let _slot = lanes.slots.acquire().await;
            lanes.core.take_batch(arrived, &lanes.stop).await;
        }
    }

    fn next(&mut self) -> Option<Arrived> {
        let mut waiting = self.lanes.waiting.lock();
        let next = waiting.get_mut(&self.gateway).and_then(VecDeque::pop_front);
        if next.is_none() {
            waiting.remove(&self.gateway);
            self.ended = true;
        }
        next
    }
}

impl Drop for Lane {
    /// After a panic the gateway's next batch gets a new task.
    fn drop(&mut self) {
        if !self.ended {
            self.lanes.waiting.lock().remove(&self.gateway);
        }
    }
}
