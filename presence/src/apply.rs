//! Gateways' batches: checked, applied, announced, answered, in this order.

use bus::subjects;
use model::{GatewayId, IdError, Namespace, RoomName, UserId};
use prost::Message;
use proto::v1::{self, presence_delta::Kind};
use registry::presence_store::{Batch, Delta, Outcome, PresenceError, Socket, SocketKey};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    Core,
    lanes::Arrived,
    parts::{Part, Put},
};

/// Why a batch was not answered. The gateway runs into its time-out and sends a snapshot.
#[derive(Debug, thiserror::Error)]
enum BatchError {
    #[error(transparent)]
    Gateway(#[from] IdError),
    #[error(transparent)]
    Store(#[from] PresenceError),
}

impl Core {
    /// Takes one batch. The announcements go out after the batch is in the store and before its answer:
    /// a gateway acknowledges a join when it has the answer, so a joiner finds its own announcement on
    /// the way already.
    pub(crate) async fn take_batch(&self, arrived: Arrived, stop: &CancellationToken) {
        match self.apply(arrived.batch, arrived.bytes, stop).await {
            Ok(reply) => {
                let Some(to) = arrived.reply else { return };
                if let Err(error) = self.signals.publish(&to, reply.encode_to_vec().into()) {
                    tracing::warn!(%error, "the answer to a batch was lost");
                }
            }
            Err(error) => {
                self.metrics.batches_failed.inc();
                tracing::warn!(%error, "a presence batch was not applied; its gateway tells all anew");
            }
        }
    }

    async fn apply(
        &self,
        mut batch: v1::PresenceBatch,
        bytes: usize,
        stop: &CancellationToken,
    ) -> Result<v1::PresenceReply, BatchError> {
        let (part, more) = (batch.part, batch.more);
        let told_in = std::mem::take(&mut batch.life);
        let (batch, joins) = checked(batch)?;
        if !batch.snapshot {
            return self.apply_plain(batch, joins).await;
        }
        let part = Part {
            number: batch.number,
            part,
            more,
            deltas: batch.deltas,
            bytes,
        };
        let put = self.parts.lock().put(&batch.gateway, part, Instant::now());
        match put {
            Put::Aside => Ok(v1::PresenceReply {
                parts_to: subjects::presence_parts(&self.replica),
                ..v1::PresenceReply::default()
            }),
            Put::Whole(deltas) => {
                let batch = Batch { deltas, ..batch };
                self.apply_snapshot(batch, &told_in, stop).await
            }
            Put::Refused => {
                tracing::info!(gateway = %batch.gateway, number = batch.number, "a part of a snapshot is refused");
                Ok(self.ask_for_snapshot(0))
            }
        }
    }

    async fn apply_plain(&self, batch: Batch, joins: Vec<bool>) -> Result<v1::PresenceReply, BatchError> {
        let (gateway, number, deltas) = (batch.gateway.clone(), batch.number, batch.deltas.len());
        let _turn = self.order.of(batch.deltas.iter().filter_map(told_room)).await;
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
                    users_counts,
                    ..v1::PresenceReply::default()
                })
            }
            Outcome::NeedSnapshot { applied } => {
                tracing::info!(%gateway, number, applied, "a batch does not follow, a snapshot is asked for");
                Ok(self.ask_for_snapshot(applied))
            }
        }
    }

    /// Step by step; between two of them other gateways' batches have their turn. A replica that stops leaves
    /// the rest to another one.
    ///
    /// `told_in` names the life of the store in which the gateway's joins were told. If the store has lost them
    /// since, they are told to nobody again.
    async fn apply_snapshot(
        &self,
        mut batch: Batch,
        told_in: &str,
        stop: &CancellationToken,
    ) -> Result<v1::PresenceReply, BatchError> {
        let (gateway, number, deltas) = (batch.gateway.clone(), batch.number, batch.deltas.len());
        let life = self.store.life().await?;
        if !told_in.is_empty() && life != told_in {
            tracing::info!(%gateway, "the store has lost what this gateway had told");
            for delta in &mut batch.deltas {
                if let Delta::Stays(socket, room) = delta {
                    *delta = Delta::Restored(socket.clone(), room.clone());
                }
            }
        }
        let mut work = self.store.begin_snapshot(batch, (self.clock)()).await?;
        while !work.is_done() {
            if stop.is_cancelled() {
                tracing::info!(%gateway, number, "a snapshot is left to another replica");
                return Ok(self.ask_for_snapshot(0));
            }
            let _turn = self.order.of_all().await;
            let applied = self
                .store
                .snapshot_step(&mut work, (self.clock)(), self.settings.grace)
                .await?;
            self.announce(&applied.transitions);
        }
        self.metrics.batches_applied.inc();
        self.metrics.deltas.inc_by(deltas as u64);
        tracing::info!(%gateway, number, deltas, "a snapshot was applied");
        Ok(v1::PresenceReply {
            applied: number,
            life,
            ..v1::PresenceReply::default()
        })
    }

    fn ask_for_snapshot(&self, applied: u64) -> v1::PresenceReply {
        self.metrics.snapshots_asked.inc();
        v1::PresenceReply {
            applied,
            need_snapshot: true,
            ..v1::PresenceReply::default()
        }
    }
}

/// The room that hears of a delta when it is applied. Of a lost socket rooms hear after the grace.
fn told_room(delta: &Delta) -> Option<(&Namespace, &RoomName)> {
    match delta {
        Delta::Joined(socket, room) | Delta::Left(socket, room) => Some((&socket.namespace, room)),
        Delta::Connected(_) | Delta::Disconnected(_) | Delta::Stays(..) | Delta::Restored(..) => None,
    }
}

/// The batch in the words of the store, and for each `RoomJoined` whether it is in it: a delta with
/// names that cannot be is left out, so that one bug does not cost a gateway all its presence.
fn checked(batch: v1::PresenceBatch) -> Result<(Batch, Vec<bool>), BatchError> {
    let gateway = GatewayId::new(&batch.gateway)?;
    let mut joins = Vec::new();
    let mut deltas = Vec::with_capacity(batch.deltas.len());
    for kind in batch.deltas.into_iter().filter_map(|delta| delta.kind) {
        let join = matches!(&kind, Kind::Joined(it) if !it.told);
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
        Kind::Joined(it) if it.told => {
            Delta::Stays(key(&it.namespace, &it.socket_id)?, RoomName::stored(&it.room))
        }
        Kind::Joined(it) => Delta::Joined(key(&it.namespace, &it.socket_id)?, RoomName::stored(&it.room)),
        Kind::Left(it) => Delta::Left(key(&it.namespace, &it.socket_id)?, RoomName::stored(&it.room)),
    })
}
