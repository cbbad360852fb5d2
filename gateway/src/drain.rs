//! Leaving without losing anybody: connections are closed a few at a time, and sessions are handed to the
//! gateways where their clients turn up (DESIGN, "Gateways").

use std::{sync::Arc, time::Duration};

use rand::{Rng, seq::SliceRandom};
use sio::engine::CloseReason;
use tokio::time::{Instant, sleep};

use crate::{Gateway, transport::Conn};

/// How long the world gets to learn that no new clients are taken, as a part of the window.
const NOTICE: u32 = 10;
/// Over which part of the window the connections are closed; the rest is for those who come back late.
const CLOSING: u32 = 2;
/// Connections are closed so often, on average: no two gateways in step.
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
        let mut open = self.engine.all();
        open.shuffle(&mut rand::rng());
        self.close_paced("drain", open, window / CLOSING).await;
        while Instant::now() < end && (self.connections() > 0 || self.sessions.left_behind() > 0) {
            sleep(LOOK).await;
        }
        tracing::info!(
            connections = self.connections(),
            sessions = self.sessions.left_behind(),
            "drained"
        );
    }

    /// Leaves in the store what is needed to take over the sessions that are left. To be called once no connection
    /// is left.
    pub async fn leave_sessions(&self) {
        if let Some(remains) = &self.remains {
            let (sessions, incomplete) = remains.leave().await;
            tracing::info!(sessions, incomplete, "left sessions in the store");
        }
    }

    /// Closes `percent` of the connections, evenly over `time`, so that their clients come back elsewhere. Returns how
    /// many.
    pub async fn shed(&self, percent: u8, time: Duration) -> usize {
        let mut open = self.engine.all();
        let count = open.len() * usize::from(percent.min(100)) / 100;
        // Sessions lie in shards by their random ids, but so would they the next time.
        open.shuffle(&mut rand::rng());
        open.truncate(count);
        tracing::info!(connections = count, percent, ?time, "shedding");
        self.close_paced("shed", open, time).await;
        count
    }

    /// Closes connections, evenly over `time`, so that the others are not stormed.
    async fn close_paced(&self, why: &'static str, mut open: Vec<Arc<Conn>>, time: Duration) {
        let begun = Instant::now();
        let all = open.len();
        let mut reported = begun;
        while !open.is_empty() {
            let pause = rand::rng().random_range(Duration::ZERO..2 * TICK);
            sleep(pause).await;
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
            self.metrics.sent_away(why, open.len().saturating_sub(keep));
            for conn in open.drain(keep.min(open.len())..) {
                conn.close(CloseReason::ServerShuttingDown);
            }
            if reported.elapsed() >= REPORT {
                reported = Instant::now();
                tracing::info!(left = open.len(), all, why, "closing connections");
            }
        }
    }
}
