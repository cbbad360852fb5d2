//! Events within and over the limits: who is near is warned, who is over is refused, who goes on is cut.

use std::{sync::Arc, time::Duration};

use model::{ClientError, ErrorCode};
use serde::Serialize;
use sio::{engine::CloseReason, packet::encode};

use super::{Call, ruled_as};
use crate::{
    limits::{Admitted, Notice, Verdict},
    session::{EventPacket, json},
    transport::Step,
};

/// `rate-limit-warning` (CONTRACT section 4).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Warning<'a> {
    event: &'a str,
    limit: u32,
    remaining: u32,
    /// Seconds.
    reset_in: u64,
}

impl Call {
    /// Handles the event if the limits allow it. Where they must be asked, later events wait, so that a socket's
    /// events keep their order.
    pub(super) fn limited(self, event: EventPacket, handle: fn(Self, &EventPacket) -> Step) -> Step {
        match self
            .core
            .limits
            .admit(&self.socket, ruled_as(event.name.as_str()))
        {
            Admitted::Now(verdict) => self.judged(&verdict, &event, handle),
            Admitted::Ask(ask) => Step::Wait(Box::pin(async move {
                let verdict = ask.answer().await;
                self.judged(&verdict, &event, handle)
            })),
        }
    }

    fn judged(self, verdict: &Verdict, event: &EventPacket, handle: fn(Self, &EventPacket) -> Step) -> Step {
        match verdict {
            Verdict::Yes(near) => {
                if let Some(near) = near {
                    self.warn(event.name.as_str(), near);
                }
                handle(self, event)
            }
            Verdict::No(over) => self.over(over),
        }
    }

    fn warn(&self, event: &str, near: &Notice) {
        let Notice { kind, decision } = near;
        self.core.metrics.limited(kind.as_str(), "near");
        let warning = Warning {
            event,
            limit: decision.limit,
            remaining: decision.remaining,
            reset_in: seconds(decision.reset_in),
        };
        self.core
            .tell(&self.socket, "rate-limit-warning", &json(&warning));
    }

    fn over(self, over: &Notice) -> Step {
        let error = over.to_error();
        let cut = self.core.limits.refused(&self.socket);
        let outcome = if cut { "cut" } else { "refused" };
        self.core.metrics.limited(over.kind.as_str(), outcome);
        let socket = Arc::clone(&self.socket);
        let step = self.fail(error);
        if cut {
            let conn = socket.conn();
            tracing::info!(ip = %conn.handshake().ip, user = %socket.user().id, "cut: it went on over its limit");
            let disconnects: Vec<_> = conn
                .sockets
                .lock()
                .iter()
                .map(|socket| encode::disconnect(socket.namespace().as_str()))
                .collect();
            // Said in their own words, so that stock clients do not come back at once by themselves.
            for disconnect in &disconnects {
                conn.send(disconnect);
            }
            conn.close(CloseReason::RateLimited);
        }
        step
    }
}

impl Notice {
    /// What somebody over the limit is told.
    pub(crate) fn to_error(self) -> ClientError {
        let mut error = ClientError::new(ErrorCode::RateLimited, "Too many events");
        error.retry_after = Some(seconds(self.decision.retry_after));
        error
    }
}

/// Whole seconds, at least one: who waits for so long waits for long enough.
pub(super) fn seconds(time: Duration) -> u64 {
    let whole = time.as_secs();
    let more = u64::from(time.subsec_nanos() > 0);
    whole.saturating_add(more).max(1)
}
