//! Answers from the store, in the words of the API.

use std::sync::Arc;

use futures_util::future::try_join_all;
use model::{Namespace, RoomName, UserId};
use prost_types::Timestamp;
use proto::v1::{
    BatchGetUsersRequest, BatchGetUsersResponse, GatewayStats, GetRoomRequest, GetStatsResponse,
    GetUserRequest, IsOnlineRequest, IsOnlineResponse, ListOnlineUsersRequest, ListOnlineUsersResponse,
    ListRoomMembersRequest, ListRoomMembersResponse, ListRoomsRequest, ListRoomsResponse,
    ListUserRoomsRequest, ListUserRoomsResponse, NamespaceStats, PresenceRoom, PresenceSocket, PresenceUser,
};
use registry::presence_store::{
    HeldSocket, OnlineUser, Page, PageRequest, PresenceError, PresenceStore, RoomInfo, StatsBreakdown,
    is_listed,
};
use tonic::Status;

use super::check::{self, Fields, List};

/// Users whose sockets are asked for at the same time.
const AT_ONCE: usize = 32;

/// What can be asked of the store.
#[derive(Clone)]
pub(super) struct Queries {
    store: Arc<dyn PresenceStore>,
}

impl Queries {
    pub(super) fn new(store: Arc<dyn PresenceStore>) -> Self {
        Self { store }
    }

    pub(super) async fn get_user(&self, request: GetUserRequest) -> Result<PresenceUser, Status> {
        let namespace = check::namespace(&request.namespace)?;
        let user = check::user_id(&request.user_id)?;
        let fields = Fields::new(request.read_mask.as_ref(), Fields::ALL)?;
        let mut found = self.users(&namespace, &[user], fields).await.map_err(away)?;
        found
            .pop()
            .ok_or_else(|| Status::internal("no answer for the user"))
    }

    pub(super) async fn batch_get_users(
        &self,
        request: BatchGetUsersRequest,
    ) -> Result<BatchGetUsersResponse, Status> {
        let namespace = check::namespace(&request.namespace)?;
        let users = check::user_ids(&request.user_ids)?;
        let fields = Fields::new(request.read_mask.as_ref(), Fields::ALL)?;
        let users = self.users(&namespace, &users, fields).await.map_err(away)?;
        Ok(BatchGetUsersResponse { users })
    }

    pub(super) async fn is_online(&self, request: IsOnlineRequest) -> Result<IsOnlineResponse, Status> {
        let namespace = check::namespace(&request.namespace)?;
        let user = check::user_id(&request.user_id)?;
        let found = self.store.users_online(&namespace, &[user]).await.map_err(away)?;
        Ok(IsOnlineResponse {
            online: found.iter().any(Option::is_some),
        })
    }

    pub(super) async fn list_online_users(
        &self,
        request: ListOnlineUsersRequest,
    ) -> Result<ListOnlineUsersResponse, Status> {
        let namespace = check::namespace(&request.namespace)?;
        let fields = Fields::new(request.read_mask.as_ref(), Fields::NO_SOCKETS)?;
        let list = List::new(
            &["online users", namespace.as_str()],
            request.page_size,
            &request.page_token,
        )?;
        let page = self.online_users(&namespace, list.page.clone(), fields);
        let page = page.await.map_err(away)?;
        Ok(ListOnlineUsersResponse {
            users: page.items,
            next_page_token: list.next(page.next),
        })
    }

    pub(super) async fn list_room_members(
        &self,
        request: ListRoomMembersRequest,
    ) -> Result<ListRoomMembersResponse, Status> {
        let namespace = check::namespace(&request.namespace)?;
        let room = check::room("room", &request.room)?;
        let fields = Fields::new(request.read_mask.as_ref(), Fields::NO_SOCKETS)?;
        let list = List::new(
            &["members", namespace.as_str(), room.as_str()],
            request.page_size,
            &request.page_token,
        )?;
        let page = self.members(&namespace, &room, list.page.clone(), fields);
        let page = page.await.map_err(away)?;
        Ok(ListRoomMembersResponse {
            members: page.items,
            next_page_token: list.next(page.next),
        })
    }

    pub(super) async fn list_user_rooms(
        &self,
        request: ListUserRoomsRequest,
    ) -> Result<ListUserRoomsResponse, Status> {
        let namespace = check::namespace(&request.namespace)?;
        let user = check::user_id(&request.user_id)?;
        let rooms = self.store.user_rooms(&namespace, &user).await.map_err(away)?;
        let listed = rooms.iter().filter(|room| is_listed(room));
        Ok(ListUserRoomsResponse {
            rooms: listed.map(|room| room.as_str().to_owned()).collect(),
        })
    }

    pub(super) async fn get_room(&self, request: GetRoomRequest) -> Result<PresenceRoom, Status> {
        let namespace = check::namespace(&request.namespace)?;
        let name = check::room("room", &request.room)?;
        self.room(&namespace, &name).await.map_err(away)
    }

    pub(super) async fn list_rooms(&self, request: ListRoomsRequest) -> Result<ListRoomsResponse, Status> {
        let namespace = check::namespace(&request.namespace)?;
        let list = List::new(
            &["rooms", namespace.as_str()],
            request.page_size,
            &request.page_token,
        )?;
        let page = self.store.list_rooms(&namespace, list.page.clone());
        let Page { items, next } = page.await.map_err(away)?;
        Ok(ListRoomsResponse {
            rooms: items.into_iter().map(|info| room_of(&namespace, &info)).collect(),
            next_page_token: list.next(next),
        })
    }

    pub(super) async fn get_stats(&self) -> Result<GetStatsResponse, Status> {
        let StatsBreakdown {
            all,
            namespaces,
            gateways,
        } = self.store.stats_breakdown().await.map_err(away)?;
        let namespaces = namespaces.into_iter().map(|(namespace, stats)| NamespaceStats {
            namespace: namespace.as_str().to_owned(),
            connections: stats.connections,
            users: stats.users,
            rooms: stats.rooms,
        });
        let gateways = gateways.into_iter().map(|(gateway, stats)| GatewayStats {
            gateway: gateway.as_str().to_owned(),
            connections: stats.connections,
            users: stats.users,
            rooms: stats.rooms,
        });
        Ok(GetStatsResponse {
            connections: all.connections,
            users: all.users,
            rooms: all.rooms,
            namespaces: namespaces.collect(),
            gateways: gateways.collect(),
        })
    }

    /// These users, in their order, those too who are not online.
    pub(super) async fn users(
        &self,
        namespace: &Namespace,
        users: &[UserId],
        fields: Fields,
    ) -> Result<Vec<PresenceUser>, PresenceError> {
        let mut answers = Vec::with_capacity(users.len());
        if fields.sockets {
            // What is said of a user follows from the sockets that are answered.
            for some in users.chunks(AT_ONCE) {
                let held = some.iter().map(|user| self.store.user_sockets(namespace, user));
                let held = try_join_all(held).await?;
                answers.extend(
                    some.iter()
                        .zip(held)
                        .map(|(user, held)| user_with(user, &held, fields)),
                );
            }
        } else {
            let found = self.store.users_online(namespace, users).await?;
            answers.extend(users.iter().zip(found).map(|(user, found)| match found {
                Some(found) => user_of(&found, true, fields),
                None => PresenceUser {
                    user_id: user.as_str().to_owned(),
                    ..PresenceUser::default()
                },
            }));
        }
        Ok(answers)
    }

    pub(super) async fn online_users(
        &self,
        namespace: &Namespace,
        page: PageRequest,
        fields: Fields,
    ) -> Result<Page<PresenceUser>, PresenceError> {
        let Page { items, next } = self.store.online_users(namespace, page).await?;
        let items = if fields.sockets {
            let users: Vec<_> = items.into_iter().map(|user| user.user).collect();
            self.users(namespace, &users, fields).await?
        } else {
            items.iter().map(|user| user_of(user, true, fields)).collect()
        };
        Ok(Page { items, next })
    }

    /// Members whose last socket is lost are there until their grace is over.
    pub(super) async fn members(
        &self,
        namespace: &Namespace,
        room: &RoomName,
        page: PageRequest,
        fields: Fields,
    ) -> Result<Page<PresenceUser>, PresenceError> {
        let Page { items, next } = self.store.room_users(namespace, room, page).await?;
        let members = if fields.online || fields.sockets {
            let users: Vec<_> = items.iter().map(|member| member.user.clone()).collect();
            let asked = Fields {
                online: true,
                ..fields
            };
            let found = self.users(namespace, &users, asked).await?;
            let found = found
                .into_iter()
                .zip(&items)
                .map(|(found, member)| match found.online {
                    true => PresenceUser {
                        online: fields.online,
                        ..found
                    },
                    false => user_of(member, false, fields),
                });
            found.collect()
        } else {
            items
                .iter()
                .map(|member| user_of(member, false, fields))
                .collect()
        };
        Ok(Page { items: members, next })
    }

    pub(super) async fn room(
        &self,
        namespace: &Namespace,
        name: &RoomName,
    ) -> Result<PresenceRoom, PresenceError> {
        let info = self.store.room(namespace, name).await?;
        Ok(room_of(namespace, &info))
    }
}

/// The store's reasons are for the log, not for callers.
pub(super) fn away(error: PresenceError) -> Status {
    tracing::warn!(%error, "a call of the presence API was not answered");
    Status::unavailable("the presence store is unavailable")
}

/// Unix milliseconds as a timestamp.
pub(super) fn timestamp(ms: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(ms / 1_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(ms % 1_000).unwrap_or_default() * 1_000_000,
    }
}

fn user_of(user: &OnlineUser, online: bool, fields: Fields) -> PresenceUser {
    PresenceUser {
        user_id: user.user.as_str().to_owned(),
        username: text(fields.username, &user.username),
        online: online && fields.online,
        connected_at: fields.connected_at.then(|| timestamp(user.connected_at_ms)),
        sockets: Vec::new(),
    }
}

/// A user by the sockets held, oldest first.
fn user_with(user: &UserId, held: &[HeldSocket], fields: Fields) -> PresenceUser {
    let Some(oldest) = held.first() else {
        return PresenceUser {
            user_id: user.as_str().to_owned(),
            ..PresenceUser::default()
        };
    };
    let sockets = held.iter().map(|held| PresenceSocket {
        socket_id: held.socket.key.id.as_ref().to_owned(),
        gateway: held.gateway.as_str().to_owned(),
        connected_at: Some(timestamp(held.socket.connected_at_ms)),
        ip: held.socket.ip.as_ref().to_owned(),
        user_agent: held.socket.user_agent.as_ref().to_owned(),
        namespace: held.socket.key.namespace.as_str().to_owned(),
    });
    PresenceUser {
        user_id: user.as_str().to_owned(),
        username: text(fields.username, &oldest.socket.username),
        online: fields.online,
        connected_at: fields
            .connected_at
            .then(|| timestamp(oldest.socket.connected_at_ms)),
        sockets: sockets.collect(),
    }
}

fn text(asked: bool, text: &str) -> String {
    if asked { text.to_owned() } else { String::new() }
}

fn room_of(namespace: &Namespace, info: &RoomInfo) -> PresenceRoom {
    PresenceRoom {
        room: info.room.as_str().to_owned(),
        namespace: namespace.as_str().to_owned(),
        users_count: info.users_count,
        sockets_count: info.sockets_count,
    }
}
