use std::{io, sync::Arc, time::Duration};

use rand::Rng;
use redis::RedisResult;
use tokio::{sync::watch, task::AbortHandle, time::Instant};

use super::{
    ConnectError, REMIND,
    connection::{self, Connection, describe},
    target::Target,
};

/// How often a sign of life is asked for.
const PROBE: Duration = Duration::from_secs(1);
/// Longest pause between two attempts.
const PAUSE: Duration = Duration::from_millis(500);
/// A connection that is this young is not given up yet, so that a server that takes us and then refuses every call
/// does not keep us connecting.
const YOUNG: Duration = Duration::from_millis(500);
/// The same for a cluster, where it costs connections to all nodes, and most calls may be doing well.
const YOUNG_CLUSTER: Duration = Duration::from_secs(1);

/// Holds the connection and makes it again, in a task of its own that ends with it.
pub(super) struct Keeper {
    status: watch::Receiver<Status>,
    broken: watch::Sender<Broken>,
    task: AbortHandle,
}

#[derive(Clone)]
struct Status {
    /// Counts the connections made.
    generation: u64,
    /// Or why there is none.
    connection: Result<Connection, Arc<str>>,
}

/// The latest connection that a call found broken.
#[derive(Default)]
struct Broken {
    generation: u64,
    reason: String,
}

impl Keeper {
    pub(super) fn start(target: Target, connection: Connection) -> Self {
        let (status, receiver) = watch::channel(Status {
            generation: 1,
            connection: Ok(connection),
        });
        let (broken, reports) = watch::channel(Broken::default());
        #[expect(
            clippy::disallowed_methods,
            reason = "owned: it ends with the keeper, and a panic in it is seen as a connection that does not come back"
        )]
        let task = tokio::spawn(keep(target, status, reports)).abort_handle();
        Self {
            status: receiver,
            broken,
            task,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.status.borrow().connection.is_ok()
    }

    /// The connection there is, with its number, or the next one that is made before the deadline.
    pub(super) async fn connection(&self, deadline: Instant) -> RedisResult<(u64, Connection)> {
        if let Status {
            generation,
            connection: Ok(connection),
        } = &*self.status.borrow()
        {
            return Ok((*generation, connection.clone()));
        }
        let mut status = self.status.clone();
        // The sender lives as long as the task.
        let _ = tokio::time::timeout_at(deadline, status.wait_for(|status| status.connection.is_ok())).await;
        let status = status.borrow();
        match &status.connection {
            Ok(connection) => Ok((status.generation, connection.clone())),
            Err(reason) => Err(io::Error::new(io::ErrorKind::NotConnected, reason.to_string()).into()),
        }
    }

    /// A call found the connection of this number broken.
    pub(super) fn broken(&self, generation: u64, reason: String) {
        self.broken.send_if_modified(|broken| {
            let news = generation > broken.generation;
            if news {
                *broken = Broken { generation, reason };
            }
            news
        });
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(target: Target, status: watch::Sender<Status>, mut broken: watch::Receiver<Broken>) {
    let young = if target.is_cluster() { YOUNG_CLUSTER } else { YOUNG };
    loop {
        let made = Instant::now();
        let Status {
            generation,
            connection: Ok(connection),
        } = status.borrow().clone()
        else {
            return;
        };
        let reason = tokio::select! {
            Some(reason) = reported(&mut broken, generation) => reason,
            reason = silent(connection, target.response_timeout()) => reason,
        };
        // In a cluster most nodes may be doing well, so the old connections serve until there are new ones.
        if target.is_cluster() {
            tracing::debug!(reason, "connecting to the nodes of Redis Cluster again");
        } else {
            lost(&target, &status, &reason);
        }
        tokio::time::sleep_until(made + young).await;
        let connection = open(&target, &status).await;
        status.send_replace(Status {
            generation: generation + 1,
            connection: Ok(connection),
        });
    }
}

/// Waits until a call finds the connection broken.
async fn reported(broken: &mut watch::Receiver<Broken>, generation: u64) -> Option<String> {
    let broken = broken.wait_for(|broken| broken.generation >= generation).await;
    broken.ok().map(|broken| broken.reason.clone())
}

/// Waits until the connection gives no sign of life any more.
async fn silent(mut connection: Connection, timeout: Duration) -> String {
    loop {
        tokio::time::sleep(PROBE).await;
        match tokio::time::timeout(timeout, connection.ping()).await {
            Ok(Err(error)) if connection::is_broken(&error) => return describe(&error),
            // An answer, if not a friendly one.
            Ok(_) => {}
            Err(_) => return format!("no sign of life within {timeout:?}"),
        }
    }
}

fn lost(target: &Target, status: &watch::Sender<Status>, reason: &str) {
    tracing::warn!(
        "the connection to Redis at {} is lost: {reason}; connecting again",
        target.shown()
    );
    let reason = Arc::from(format!("Redis at {}: {reason}", target.shown()));
    status.send_modify(|status| status.connection = Err(reason));
}

/// Connects, trying for ever.
async fn open(target: &Target, status: &watch::Sender<Status>) -> Connection {
    let mut attempt = 1;
    let mut told = Instant::now();
    loop {
        let error = match target.open().await {
            Ok(connection) => {
                if status.borrow().connection.is_err() {
                    tracing::info!("connected to Redis at {} again", target.shown());
                }
                return connection;
            }
            Err(error) => error,
        };
        if status.borrow().connection.is_ok() {
            lost(target, status, &reason(&error));
        } else if told.elapsed() >= REMIND {
            tracing::warn!(attempts = attempt, "no connection to Redis yet: {error}");
            told = Instant::now();
        }
        let error = Arc::from(error.to_string());
        status.send_modify(|status| status.connection = Err(error));
        attempt += 1;
        tokio::time::sleep(pause(attempt)).await;
    }
}

fn reason(error: &ConnectError) -> String {
    match error {
        ConnectError::Config(reason) | ConnectError::Unreachable { reason, .. } => reason.clone(),
    }
}

/// Before an attempt, the first of which has number 1: at once, then doubling from 50 ms to 0.5 s, less up to half by
/// chance, so that the clients of a server that comes back do not come at the same moment.
pub(super) fn pause(attempt: u32) -> Duration {
    let Some(doublings) = attempt.checked_sub(2) else {
        return Duration::ZERO;
    };
    let longest = PAUSE.min(Duration::from_millis(50 << doublings.min(10)));
    longest.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_second() {
        assert_eq!(pause(1), Duration::ZERO);
        for (attempt, most) in [(2, 50), (3, 100), (6, 500), (u32::MAX, 500)] {
            let most = Duration::from_millis(most);
            for _ in 0..100 {
                let pause = pause(attempt);
                assert!(most / 2 <= pause && pause <= most, "{attempt}: {pause:?}");
            }
        }
    }
}
