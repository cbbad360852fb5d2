//! Leaving without losing anybody: connections are closed a few at a time, and sessions are handed to the
//! gateways where their clients turn up (DESIGN, "Gateways").

use std::time::Duration;

use sio::engine::CloseReason;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::Gateway;

/// How long the world gets to learn that no new clients are taken, as a part of the window.
const NOTICE: u32 = 10;
/// Over which part of the window the connections are closed; the rest is for those who come back late.
const CLOSING: u32 = 2;
const TICK: Duration = Duration::from_millis(50);
/// How often it is looked whether sessions are left to be taken.
const LOOK: Duration = Duration::from_millis(100);
/// How often the log tells of the progress.
const REPORT: Duration = Duration::from_secs(5);

impl Gateway {
    /// Sends everybody to other gateways within `window`, zero for at once. `refuse` is called when new
    /// connections need no longer be accepted. Returns when no connection is left and every session was
    /// taken over, or the window has passed.
    ///
    /// Cancellation safe: whoever is still here then is closed by [`Gateway::close`].
    pub async fn drain(&self, window: Duration, refuse: impl FnOnce()) {
        let end = Instant::now() + window;
        self.set_draining();
        tracing::info!(connections = self.connections(), ?window, "draining");
        sleep(window / NOTICE).await;
        self.engine.refuse_handshakes();
        refuse();
        self.close_paced(window / CLOSING).await;
        while Instant::now() < end && (self.connections() > 0 || self.sessions.left_behind() > 0) {
            sleep(LOOK).await;
        }
        tracing::info!(
            connections = self.connections(),
            sessions = self.sessions.left_behind(),
            "drained"
        );
    }

    /// Closes what is open now, evenly over `time`, so that the others are not stormed.
    async fn close_paced(&self, time: Duration) {
        let mut open = self.engine.all();
        let begun = Instant::now();
        let all = open.len();
        let mut reported = begun;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while !open.is_empty() {
            ticks.tick().await;
            let part = if time.is_zero() {
                1.0
            } else {
                (begun.elapsed().as_secs_f64() / time.as_secs_f64()).min(1.0)
            };
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a share of a count"
            )]
            let keep = all - ((all as f64 * part).ceil() as usize).min(all);
            for conn in open.drain(keep..) {
                conn.close(CloseReason::ServerShuttingDown);
            }
            if reported.elapsed() >= REPORT {
                reported = Instant::now();
                tracing::info!(left = open.len(), "draining");
            }
        }
    }
}
