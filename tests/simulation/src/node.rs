//! One process of the cluster: it runs, stands still or is dead, and its ways to the servers have a weather.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use crate::dice::Dice;

/// Whether a process runs.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Up,
    /// As after SIGSTOP: nothing comes out of it or reaches it, and time goes on.
    Frozen,
    /// As after SIGKILL. Its tasks go on, but nothing comes out of them any more.
    Dead,
}

/// What a process talks to.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// The log, signals and documents.
    Nats,
    /// Leases, checkpoints and snapshots.
    Redis,
}

/// What the way to a server is like.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Weather {
    /// The longest that a message takes, each way.
    pub(crate) delay: Duration,
    /// Percent of requests that do not arrive.
    pub(crate) refused: u64,
    /// Percent of requests that are done, yet not answered.
    pub(crate) unanswered: u64,
    /// Nothing arrives.
    pub(crate) cut: bool,
}

impl Weather {
    pub(crate) const FINE: Self = Self {
        delay: Duration::from_millis(4),
        refused: 0,
        unanswered: 0,
        cut: false,
    };
}

/// A request came to nothing, as far as who sent it knows.
#[derive(Debug)]
pub(crate) struct Lost;

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) dice: Dice,
    life: watch::Sender<Life>,
    nats: watch::Sender<Weather>,
    redis: watch::Sender<Weather>,
}

impl Node {
    pub(crate) fn new(seed: u64, name: String) -> Arc<Self> {
        Arc::new(Self {
            dice: Dice::new(seed, &name),
            name,
            life: watch::Sender::new(Life::Up),
            nats: watch::Sender::new(Weather::FINE),
            redis: watch::Sender::new(Weather::FINE),
        })
    }

    pub(crate) fn life(&self) -> Life {
        *self.life.borrow()
    }

    /// The dead stay dead.
    pub(crate) fn become_(&self, life: Life) {
        self.life.send_if_modified(|now| {
            let changes = *now != Life::Dead && *now != life;
            if changes {
                *now = life;
            }
            changes
        });
    }

    /// Returns when the process runs; never for one that is dead.
    pub(crate) async fn up(&self) {
        self.is(Life::Up).await;
    }

    pub(crate) async fn dead(&self) {
        self.is(Life::Dead).await;
    }

    async fn is(&self, wanted: Life) {
        let mut life = self.life.subscribe();
        if life.wait_for(|life| *life == wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn server(&self, server: Server) -> &watch::Sender<Weather> {
        match server {
            Server::Nats => &self.nats,
            Server::Redis => &self.redis,
        }
    }

    pub(crate) fn weather(&self, server: Server) -> Weather {
        *self.server(server).borrow()
    }

    pub(crate) fn change(&self, server: Server, weather: Weather) {
        self.server(server).send_replace(weather);
    }

    /// Returns when the server can be reached.
    pub(crate) async fn reaches(&self, server: Server) {
        let mut weather = self.server(server).subscribe();
        // The sender is this node's own.
        let _ = weather.wait_for(|weather| !weather.cut).await;
    }

    /// A message to the server or back.
    pub(crate) async fn trip(&self, server: Server) {
        sleep(self.dice.delay(self.weather(server).delay)).await;
    }

    /// Has `work` done by the server. Once sent it is done, whether or not anybody waits for it.
    pub(crate) async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        server: Server,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Lost> {
        self.up().await;
        let node = Arc::clone(self);
        let call = spawn(async move {
            let refused = node.dice.percent(node.weather(server).refused);
            node.trip(server).await;
            if refused || node.weather(server).cut {
                node.give_up().await;
                return Err(Lost);
            }
            let result = work.await;
            let weather = node.weather(server);
            if node.dice.percent(weather.unanswered) || weather.cut {
                node.give_up().await;
                return Err(Lost);
            }
            node.trip(server).await;
            Ok(result)
        });
        let result = call.await.unwrap_or(Err(Lost));
        self.up().await;
        result
    }

    /// The time after which an answer is no longer waited for.
    pub(crate) async fn give_up(&self) {
        sleep(self.dice.time(50..3000)).await;
    }
}

/// Runs something of the world around the processes.
#[expect(
    clippy::disallowed_methods,
    reason = "what the world does belongs to no process and ends with the runtime"
)]
pub(crate) fn spawn<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::spawn(work)
}
