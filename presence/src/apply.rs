//! Gateways' batches: checked, applied, announced, answered, in this order.

use bus::Signal;
use model::{GatewayId, IdError, Namespace, RoomName, UserId};
use prost::Message;
use proto::v1::{self, presence_delta::Kind};
use registry::presence_store::{Batch, Delta, Outcome, PresenceError, Socket, SocketKey};

use crate::Core;

/// Why a batch was not answered. The gateway runs into its time-out and sends again.
#[derive(Debug, thiserror::Error)]
enum BatchError {
    #[error("the batch cannot be read: {0}")]
    Unreadable(#[from] prost::DecodeError),
    #[error(transparent)]
    Gateway(#[from] IdError),
    #[error(transparent)]
    Store(#[from] PresenceError),
}

impl Core {
    /// Takes one batch. The announcements go out after the batch is in the store and before its answer:
    /// a gateway acknowledges a join when it has the answer, so a joiner finds its own announcement on
    /// the way already.
    pub(crate) async fn take_batch(&self, signal: Signal) {
        match self.apply(&signal.payload).await {
            Ok(reply) => {
                let Some(to) = signal.reply else { return };
                if let Err(error) = self.signals.publish(&to, reply.encode_to_vec().into()) {
                    tracing::warn!(%error, "the answer to a batch was lost");
                }
            }
            Err(error) => {
                self.metrics.batches_failed.inc();
                tracing::error!(%error, "a presence batch was not applied");
            }
        }
    }

    async fn apply(&self, payload: &[u8]) -> Result<v1::PresenceReply, BatchError> {
        let batch = v1::PresenceBatch::decode(payload)?;
        let (number, deltas) = (batch.number, batch.deltas.len());
        let (batch, joins) = checked(batch)?;
        let gateway = batch.gateway.clone();
        match self
            .store
            .apply(batch, (self.clock)(), self.settings.grace)
            .await?
        {
            Outcome::Applied(applied) => {
                self.metrics.batches_applied.inc();
                self.metrics.deltas.inc_by(deltas as u64);
                self.announce(&applied.transitions);
                let mut counts = applied.users_counts.into_iter();
                let users_counts = joins
                    .into_iter()
                    .map(|valid| if valid { counts.next().unwrap_or(0) } else { 0 })
                    .collect();
                Ok(v1::PresenceReply {
                    applied: number,
                    need_snapshot: false,
                    users_counts,
                })
            }
            Outcome::NeedSnapshot { applied } => {
                self.metrics.snapshots_asked.inc();
                tracing::info!(%gateway, number, applied, "a batch does not follow, a snapshot is asked for");
                Ok(v1::PresenceReply {
                    applied,
                    need_snapshot: true,
                    users_counts: Vec::new(),
                })
            }
        }
    }
}

/// The batch in the words of the store, and for each `RoomJoined` whether it is in it: a delta with
/// names that cannot be is left out, so that one bug does not cost a gateway all its presence.
fn checked(batch: v1::PresenceBatch) -> Result<(Batch, Vec<bool>), BatchError> {
    let gateway = GatewayId::new(&batch.gateway)?;
    let mut joins = Vec::new();
    let mut deltas = Vec::with_capacity(batch.deltas.len());
    for kind in batch.deltas.into_iter().filter_map(|delta| delta.kind) {
        let join = matches!(kind, Kind::Joined(_));
        let delta = delta(kind);
        if join {
            joins.push(delta.is_some());
        }
        match delta {
            Some(delta) => deltas.push(delta),
            None => {
                tracing::error!(%gateway, "a delta with a namespace or user id that cannot be was left out")
            }
        }
    }
    Ok((
        Batch {
            gateway,
            number: batch.number,
            snapshot: batch.snapshot,
            deltas,
        },
        joins,
    ))
}

fn delta(kind: Kind) -> Option<Delta> {
    let key = |namespace: &str, id: &str| {
        Some(SocketKey {
            namespace: Namespace::new(namespace).ok()?,
            id: id.into(),
        })
    };
    Some(match kind {
        Kind::Connected(it) => Delta::Connected(Socket {
            key: key(&it.namespace, &it.socket_id)?,
            user: UserId::new(&it.user_id).ok()?,
            username: it.username.into(),
            connected_at_ms: it.connected_at_ms,
            ip: it.ip.into(),
            user_agent: it.user_agent.into(),
        }),
        Kind::Disconnected(it) => Delta::Disconnected(key(&it.namespace, &it.socket_id)?),
        Kind::Joined(it) => Delta::Joined(key(&it.namespace, &it.socket_id)?, RoomName::stored(&it.room)),
        Kind::Left(it) => Delta::Left(key(&it.namespace, &it.socket_id)?, RoomName::stored(&it.room)),
    })
}
