use std::sync::Arc;

use async_nats::{Event, ServerError};
use tokio::sync::watch;

/// Whether one connection to NATS stands, and what befell it. Cheap to clone; all clones say the same.
///
/// Made before the connection is, so that a role can say what it waits for.
#[derive(Clone, Debug)]
pub struct NatsHealth {
    state: Arc<watch::Sender<State>>,
}

#[derive(Copy, Clone, Debug, Default)]
struct State {
    connected: bool,
    /// Attempts that failed since the connection was lost.
    failed_in_a_row: u64,
    counts: NatsCounts,
}

/// What befell a connection since it was first asked for. Counts only grow.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsCounts {
    /// Times it was made, the first one included.
    pub connects: u64,
    /// Times it was lost.
    pub disconnects: u64,
    /// Messages lost because a subscription did not keep up.
    pub slow_consumer: u64,
    /// Errors the server reported, such as a subject that may not be used.
    pub server_errors: u64,
    /// Times a server said that it is about to stop.
    pub lame_duck: u64,
    /// Attempts to connect again that failed; each tries every server.
    pub failed_attempts: u64,
}

impl NatsCounts {
    /// Times the connection was made again after it had been lost.
    #[must_use]
    pub fn reconnects(&self) -> u64 {
        self.connects.saturating_sub(1)
    }
}

impl Default for NatsHealth {
    fn default() -> Self {
        Self::new()
    }
}

impl NatsHealth {
    /// Not connected yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: Arc::new(watch::Sender::new(State::default())),
        }
    }

    /// Whether the connection stands, as far as is known: a silent cut is noticed within about 6 s.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.state.borrow().connected
    }

    /// Waits until the connection stands. Cancellation safe.
    pub async fn connected(&self) {
        self.until(|state| state.connected).await;
    }

    /// Waits until the connection is lost. Cancellation safe.
    pub async fn disconnected(&self) {
        self.until(|state| !state.connected).await;
    }

    /// What befell it so far.
    #[must_use]
    pub fn counts(&self) -> NatsCounts {
        self.state.borrow().counts
    }

    /// Waits until it was made more than so many times.
    pub(super) async fn connected_after(&self, connects: u64) {
        self.until(|state| state.counts.connects > connects).await;
    }

    pub(super) fn on_event(&self, event: &Event) {
        let mut now = State::default();
        self.state.send_modify(|state| {
            match event {
                Event::Connected => {
                    state.connected = true;
                    state.counts.connects += 1;
                }
                Event::Disconnected => {
                    state.connected = false;
                    state.counts.disconnects += 1;
                }
                Event::Closed => state.connected = false,
                Event::LameDuckMode => state.counts.lame_duck += 1,
                Event::SlowConsumer(_) => state.counts.slow_consumer += 1,
                Event::ServerError(_) => state.counts.server_errors += 1,
                Event::ClientError(_) => {
                    state.counts.failed_attempts += 1;
                    state.failed_in_a_row += 1;
                }
                Event::Draining => {}
            }
            if state.connected {
                state.failed_in_a_row = 0;
            }
            now = *state;
        });
        log(event, &now);
    }

    async fn until(&self, mut reached: impl FnMut(&State) -> bool) {
        // The sender lives as long as this.
        let _ = self.state.subscribe().wait_for(|state| reached(state)).await;
    }
}

fn log(event: &Event, now: &State) {
    let counts = &now.counts;
    match event {
        Event::Connected if counts.reconnects() == 0 => tracing::info!("connected to NATS"),
        Event::Connected => tracing::info!(reconnects = counts.reconnects(), "connected to NATS again"),
        Event::Disconnected => tracing::warn!("the connection to NATS is lost; connecting again"),
        Event::LameDuckMode => tracing::warn!("the NATS server is about to stop"),
        // One line a lost message would be a flood.
        Event::SlowConsumer(_) if counts.slow_consumer.is_power_of_two() => tracing::warn!(
            lost = counts.slow_consumer,
            "a NATS subscription does not keep up and loses messages"
        ),
        Event::SlowConsumer(_) => {}
        Event::ServerError(ServerError::AuthorizationViolation) => {
            tracing::error!("NATS refuses the credentials");
        }
        Event::ServerError(error) => tracing::error!(%error, "NATS reports an error"),
        // There is about one a second.
        Event::ClientError(error) if now.failed_in_a_row.is_power_of_two() => {
            tracing::warn!(%error, attempts = now.failed_in_a_row, "no connection to NATS yet");
        }
        Event::ClientError(_) => {}
        Event::Draining => tracing::debug!("the connection to NATS is being drained"),
        Event::Closed => tracing::debug!("the connection to NATS is closed"),
    }
}

#[cfg(test)]
mod tests {
    use async_nats::ClientError;

    use super::*;

    #[tokio::test]
    async fn events_are_counted() {
        let health = NatsHealth::new();
        assert!(!health.is_connected());
        for event in [
            Event::Connected,
            Event::SlowConsumer(1),
            Event::SlowConsumer(1),
            Event::LameDuckMode,
            Event::Disconnected,
            Event::ClientError(ClientError::Other("IO error".to_owned())),
            Event::ClientError(ClientError::Other("IO error".to_owned())),
        ] {
            health.on_event(&event);
        }
        health.disconnected().await;
        health.on_event(&Event::Connected);
        health.clone().connected().await;
        assert!(health.is_connected());
        let counts = health.counts();
        assert_eq!(
            counts,
            NatsCounts {
                connects: 2,
                disconnects: 1,
                slow_consumer: 2,
                server_errors: 0,
                lame_duck: 1,
                failed_attempts: 2,
            }
        );
        assert_eq!(counts.reconnects(), 1);
        health.on_event(&Event::Closed);
        assert!(!health.is_connected());
    }
}
