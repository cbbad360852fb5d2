//! Answers to questions on the bus.

use bus::Signal;
use model::{Namespace, RoomName};
use prost::Message;
use proto::v1;
use registry::presence_store::{Page, PageRequest, PresenceError};

use crate::Core;

/// Why a question was not answered. Who asked runs into its time-out.
#[derive(Debug, thiserror::Error)]
enum QueryError {
    #[error("the question cannot be read: {0}")]
    Unreadable(#[from] prost::DecodeError),
    #[error(transparent)]
    Store(#[from] PresenceError),
}

impl Core {
    /// `OnlineUsersQuery` → `OnlineUsersReply`.
    pub(crate) async fn take_online_query(&self, signal: Signal) {
        let answer = self.online(&signal.payload).await;
        self.answer(signal, "online", answer);
    }

    /// `PresenceStatsQuery` → `PresenceStatsReply`.
    pub(crate) async fn take_stats_query(&self, signal: Signal) {
        let answer = self.stats().await;
        self.answer(signal, "stats", answer);
    }

    async fn online(&self, payload: &[u8]) -> Result<v1::OnlineUsersReply, QueryError> {
        let query = v1::OnlineUsersQuery::decode(payload)?;
        // Nobody is in a namespace that cannot be.
        let Ok(namespace) = Namespace::new(&query.namespace) else {
            return Ok(v1::OnlineUsersReply::default());
        };
        let bound = self.settings.list_limit;
        let limit = if query.limit == 0 {
            bound
        } else {
            query.limit.min(bound)
        };
        let page = PageRequest {
            after: None,
            limit: limit as usize,
        };
        let Page { items, .. } = if query.room.is_empty() {
            self.store.online_users(&namespace, page).await?
        } else {
            self.store
                .room_users(&namespace, &RoomName::stored(&query.room), page)
                .await?
        };
        let users = items.into_iter().map(|user| v1::OnlineUser {
            user_id: user.user.as_str().to_owned(),
            username: user.username.as_ref().to_owned(),
            connected_at_ms: user.connected_at_ms,
        });
        Ok(v1::OnlineUsersReply {
            users: users.collect(),
        })
    }

    async fn stats(&self) -> Result<v1::PresenceStatsReply, QueryError> {
        let stats = self.store.stats().await?;
        Ok(v1::PresenceStatsReply {
            connections: stats.connections,
            users: stats.users,
            rooms: stats.rooms,
        })
    }

    fn answer(&self, signal: Signal, query: &'static str, answer: Result<impl Message, QueryError>) {
        self.metrics.query(query, answer.is_ok());
        match answer {
            Ok(answer) => {
                let Some(to) = signal.reply else { return };
                if let Err(error) = self.signals.publish(&to, answer.encode_to_vec().into()) {
                    tracing::warn!(%error, query, "an answer was lost");
                }
            }
            Err(error) => tracing::warn!(%error, query, "a question was not answered"),
        }
    }
}
