//! What the API does, whichever way a request came.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bus::{Documents, EventLog, PageQuery};
use config::Scope;
use futures_util::future::{BoxFuture, join_all};
use model::{ClientError, Namespace, Offset, RoomToken, partition_of};
use proto::v1::{
    BatchRequest, BatchResponse, BatchResult, DisconnectRequest, EmitRequest, EmitResponse,
    EmitWithAckRequest, EmitWithAckResponse, FetchSocketsRequest, FetchSocketsResponse, HistoryRequest,
    HistoryResponse, JoinRoomsRequest, LeaveRoomsRequest, NotifyUserRequest, NotifyUserResponse, SocketAck,
    SocketAnswer, SocketsOf, SocketsResponse, batch_result::Outcome,
};
use publisher::{
    Args, Check, Emit, Emitter, MAX_TARGETS, Place, Sockets, errors::to_message, log_error, membership,
    messages,
};
use telemetry::trace::Receiving;

use super::{Notifier, important::Important, questions::Questions};

/// Events of a batch.
const MAX_BATCH: usize = 100;
/// Members that one request makes, or ends.
const MAX_MEMBERS: usize = 10_000;
const DEFAULT_TIMEOUT_MS: u32 = 5000;
const MAX_TIMEOUT_MS: u32 = 60_000;
const DEFAULT_HISTORY: u32 = 50;
const MAX_HISTORY: u32 = 200;
const DEFAULT_PAGE: i32 = 100;
const MAX_PAGE: i32 = 1000;

/// A request, its shape checked and nothing else.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Emit(EmitRequest),
    Batch(BatchRequest),
    EmitWithAck(EmitWithAckRequest),
    JoinRooms(JoinRoomsRequest),
    LeaveRooms(LeaveRoomsRequest),
    Disconnect(DisconnectRequest),
    NotifyUser(NotifyUserRequest),
    History(HistoryRequest),
    FetchSockets(FetchSocketsRequest),
}

#[derive(Clone, Debug)]
pub(super) enum Response {
    Emit(EmitResponse),
    Batch(BatchResponse),
    EmitWithAck(EmitWithAckResponse),
    Sockets(SocketsResponse),
    NotifyUser(NotifyUserResponse),
    History(HistoryResponse),
    FetchSockets(FetchSocketsResponse),
}

impl Request {
    /// As in the gRPC service.
    pub(super) fn operation(&self) -> &'static str {
        match self {
            Self::Emit(_) => "Emit",
            Self::Batch(_) => "Batch",
            Self::EmitWithAck(_) => "EmitWithAck",
            Self::JoinRooms(_) => "JoinRooms",
            Self::LeaveRooms(_) => "LeaveRooms",
            Self::Disconnect(_) => "Disconnect",
            Self::NotifyUser(_) => "NotifyUser",
            Self::History(_) => "History",
            Self::FetchSockets(_) => "FetchSockets",
        }
    }

    /// What a key must be good for.
    pub(super) fn scope(&self) -> Scope {
        match self {
            Self::Emit(_) | Self::Batch(_) | Self::EmitWithAck(_) | Self::NotifyUser(_) => Scope::Publish,
            Self::JoinRooms(_) | Self::LeaveRooms(_) | Self::Disconnect(_) => Scope::Admin,
            Self::History(_) | Self::FetchSockets(_) => Scope::Read,
        }
    }

    /// Its namespace; empty when it has none or several.
    pub(super) fn namespace(&self) -> &str {
        match self {
            Self::Emit(emit) => &emit.namespace,
            Self::EmitWithAck(ask) => ask.emit.as_ref().map_or("", |emit| &emit.namespace),
            Self::JoinRooms(join) => &join.namespace,
            Self::LeaveRooms(leave) => &leave.namespace,
            Self::Disconnect(disconnect) => &disconnect.namespace,
            Self::History(history) => &history.namespace,
            Self::FetchSockets(fetch) => &fetch.namespace,
            Self::Batch(_) | Self::NotifyUser(_) => "",
        }
    }

    /// Every namespace it names, or leaves open.
    pub(super) fn namespaces(&mut self) -> Vec<&mut String> {
        match self {
            Self::Emit(emit) => vec![&mut emit.namespace],
            Self::EmitWithAck(ask) => vec![&mut ask.emit.get_or_insert_default().namespace],
            Self::JoinRooms(join) => vec![&mut join.namespace],
            Self::LeaveRooms(leave) => vec![&mut leave.namespace],
            Self::Disconnect(disconnect) => vec![&mut disconnect.namespace],
            Self::History(history) => vec![&mut history.namespace],
            Self::FetchSockets(fetch) => vec![&mut fetch.namespace],
            Self::Batch(batch) => batch.emits.iter_mut().map(|emit| &mut emit.namespace).collect(),
            // Users have one inbox, whatever namespaces they are in.
            Self::NotifyUser(_) => Vec::new(),
        }
    }

    /// How many rooms, users, sockets or events it names.
    pub(super) fn targets(&self) -> usize {
        let of_emit = |emit: &EmitRequest| emit.rooms.len() + emit.users.len() + emit.sockets.len();
        match self {
            Self::Emit(emit) => of_emit(emit),
            Self::EmitWithAck(ask) => ask.emit.as_ref().map_or(0, of_emit),
            Self::Batch(batch) => batch.emits.len(),
            Self::JoinRooms(join) => join.users.len() + join.sockets.len(),
            Self::LeaveRooms(leave) => leave.users.len() + leave.sockets.len(),
            Self::Disconnect(disconnect) => {
                disconnect.users.len() + disconnect.sockets.len() + disconnect.rooms.len()
            }
            Self::NotifyUser(_) | Self::History(_) => 1,
            Self::FetchSockets(fetch) => fetch.rooms.len() + fetch.users.len(),
        }
    }
}

pub(super) struct Operations {
    pub(super) emitter: Emitter,
    pub(super) sockets: Sockets,
    pub(super) log: Arc<dyn EventLog>,
    pub(super) notifier: Arc<dyn Notifier>,
    pub(super) important: Important,
    pub(super) questions: Questions,
    pub(super) documents: Arc<dyn Documents>,
    pub(super) max_payload: usize,
}

impl Operations {
    /// `trace`: what it is part of, if that is recorded.
    pub(super) async fn run(
        &self,
        request: Request,
        trace: Option<&Receiving>,
    ) -> Result<Response, ClientError> {
        Ok(match request {
            Request::Emit(request) => Response::Emit(self.emit(request, "", trace).await?),
            Request::Batch(request) => Response::Batch(self.batch(request, trace).await?),
            Request::EmitWithAck(request) => Response::EmitWithAck(self.emit_with_ack(request).await?),
            Request::JoinRooms(request) => Response::Sockets(self.join(request).await?),
            Request::LeaveRooms(request) => Response::Sockets(self.leave(request).await?),
            Request::Disconnect(request) => Response::Sockets(self.disconnect(request).await?),
            Request::NotifyUser(request) => Response::NotifyUser(self.notify(request, trace).await?),
            Request::History(request) => Response::History(self.history(request).await?),
            Request::FetchSockets(request) => Response::FetchSockets(self.fetch_sockets(request).await?),
        })
    }

    /// The event has its place at the call.
    fn emit(
        &self,
        request: EmitRequest,
        prefix: &str,
        trace: Option<&Receiving>,
    ) -> BoxFuture<'static, Result<EmitResponse, ClientError>> {
        if request.acknowledge_within > 0 {
            let (important, prefix) = (self.important.clone(), prefix.to_owned());
            return Box::pin(async move {
                let id = important.take(request, &prefix).await?;
                Ok(EmitResponse {
                    offset: String::new(),
                    id,
                })
            });
        }
        let emit = Emit::check(request, self.max_payload, prefix);
        let emitted = emit.map(|emit| self.emitter.emit(&emit, trace));
        Box::pin(async move {
            let emitted = emitted?.await?;
            Ok(EmitResponse {
                offset: emitted
                    .offset
                    .map(|offset| offset.to_string())
                    .unwrap_or_default(),
                id: emitted.id,
            })
        })
    }

    async fn batch(
        &self,
        request: BatchRequest,
        trace: Option<&Receiving>,
    ) -> Result<BatchResponse, ClientError> {
        let mut check = Check::default();
        check.at_most("emits", &[request.emits.len()], MAX_BATCH, "events");
        if request.emits.is_empty() {
            check.reject("emits", "must not be empty");
        }
        check.finish(Some(()))?;
        // In order, one behind the other, and all at once.
        let emitted = request.emits.into_iter().enumerate();
        let emitted: Vec<_> = emitted
            .map(|(index, emit)| self.emit(emit, &format!("emits.{index}."), trace))
            .collect();
        let results = join_all(emitted).await.into_iter().map(|emitted| BatchResult {
            outcome: Some(match emitted {
                Ok(emitted) => Outcome::Ok(emitted),
                Err(error) => Outcome::Error(to_message(error)),
            }),
        });
        Ok(BatchResponse {
            results: results.collect(),
        })
    }

    async fn emit_with_ack(&self, request: EmitWithAckRequest) -> Result<EmitWithAckResponse, ClientError> {
        let timeout_ms = match request.timeout_ms {
            0 => DEFAULT_TIMEOUT_MS,
            given => given,
        };
        if timeout_ms > MAX_TIMEOUT_MS {
            let mut check = Check::default();
            check.reject("timeout_ms", format!("must be 1 to {MAX_TIMEOUT_MS}"));
            return check.finish(None);
        }
        let emit = Emit::check(request.emit.unwrap_or_default(), self.max_payload, "")?;
        let timeout = Duration::from_millis(timeout_ms.into());
        let once = emit.idempotency_key.is_some().then(|| emit.new_id());
        let ask = gather(self.sockets.clone(), emit, timeout);
        match once {
            Some(id) => self.questions.once(&id, timeout, ask).await,
            None => ask.await,
        }
    }

    async fn join(&self, request: JoinRoomsRequest) -> Result<SocketsResponse, ClientError> {
        let JoinRoomsRequest {
            namespace,
            users,
            sockets,
            rooms,
        } = request;
        let (namespace, of, rooms) = check_rooms(namespace, users, sockets, rooms)?;
        membership::admit(&*self.documents, &namespace, &of.users, &rooms).await?;
        let sockets = self.sockets.join(of, rooms).await?;
        Ok(SocketsResponse { sockets })
    }

    async fn leave(&self, request: LeaveRoomsRequest) -> Result<SocketsResponse, ClientError> {
        let LeaveRoomsRequest {
            namespace,
            users,
            sockets,
            rooms,
        } = request;
        let (namespace, of, rooms) = check_rooms(namespace, users, sockets, rooms)?;
        // First, so that nobody who is taken out comes in again.
        membership::dismiss(&*self.documents, &namespace, &of.users, &rooms).await?;
        let sockets = self.sockets.leave(of, rooms).await?;
        Ok(SocketsResponse { sockets })
    }

    async fn disconnect(&self, request: DisconnectRequest) -> Result<SocketsResponse, ClientError> {
        let mode = request.mode();
        let DisconnectRequest {
            namespace,
            users,
            sockets,
            rooms,
            ..
        } = request;
        let of = SocketsOf {
            namespace,
            users,
            sockets,
            rooms,
            except: None,
        };
        let mut check = Check::default();
        if of.namespace.is_empty() {
            if !of.rooms.is_empty() {
                check.reject("namespace", "is required with rooms");
            }
        } else {
            check.namespace("namespace", &of.namespace);
        }
        check_selection(&mut check, &of);
        if of.users.is_empty() && of.sockets.is_empty() && of.rooms.is_empty() {
            check.reject("users", "users, sockets or rooms are required");
        }
        check.finish(Some(()))?;
        let sockets = self.sockets.disconnect(of, mode).await?;
        Ok(SocketsResponse { sockets })
    }

    async fn notify(
        &self,
        request: NotifyUserRequest,
        trace: Option<&Receiving>,
    ) -> Result<NotifyUserResponse, ClientError> {
        Ok(NotifyUserResponse {
            id: self.notifier.notify(request, trace).await?,
        })
    }

    async fn history(&self, request: HistoryRequest) -> Result<HistoryResponse, ClientError> {
        let mut check = Check::default();
        let namespace = check.namespace("namespace", &request.namespace);
        let room = check.room("room", &request.room);
        let place = namespace.zip(room);
        let partition = place
            .as_ref()
            .map(|(namespace, room)| partition_of(RoomToken::new(namespace, room), self.log.partitions()));
        let mut offset = |path: &str, text: &str| {
            let offset = Some(text).filter(|text| !text.is_empty())?.parse::<Offset>();
            let offset = offset.ok();
            if offset.is_none_or(|offset| partition.is_some_and(|own| own != offset.partition)) {
                check.reject(path, "is not an offset of this room");
            }
            offset
        };
        let before = offset("before", &request.before);
        let after = offset("after", &request.after);
        if !request.before.is_empty() && !request.after.is_empty() {
            check.reject("after", "cannot be combined with before");
        }
        let limit = match request.limit {
            0 => DEFAULT_HISTORY,
            limit => limit,
        };
        if limit > MAX_HISTORY {
            check.reject("limit", format!("must be 1 to {MAX_HISTORY}"));
        }
        let (namespace, room) = check.finish(place)?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let query = match after {
            Some(after) => PageQuery::After {
                after: after.seq,
                limit,
            },
            None => PageQuery::Before {
                before: before.map_or(u64::MAX, |before| before.seq),
                limit,
            },
        };
        let token = RoomToken::new(&namespace, &room);
        let page = messages::page(&*self.log, token, query).await;
        let page = page.map_err(log_error)?;
        Ok(HistoryResponse {
            messages: page.messages.into_iter().map(|(_, message)| message).collect(),
            has_more: page.has_more,
        })
    }

    async fn fetch_sockets(&self, request: FetchSocketsRequest) -> Result<FetchSocketsResponse, ClientError> {
        let of = SocketsOf {
            namespace: request.namespace,
            users: request.users,
            sockets: Vec::new(),
            rooms: request.rooms,
            except: None,
        };
        let mut check = Check::default();
        check.namespace("namespace", &of.namespace);
        check_selection(&mut check, &of);
        let page_size = match request.page_size {
            0 => DEFAULT_PAGE,
            size => size,
        };
        if !(1..=MAX_PAGE).contains(&page_size) {
            check.reject("page_size", format!("must be 1 to {MAX_PAGE}"));
        }
        let from = read_token(&request.page_token);
        if from.is_none() {
            check.reject("page_token", "is no token of this list");
        }
        let from = check.finish(from)?;
        let limit = usize::try_from(page_size).unwrap_or_default();
        let (sockets, next) = self.sockets.page(&of, from, limit).await?;
        Ok(FetchSocketsResponse {
            sockets,
            next_page_token: next.as_ref().map(token).unwrap_or_default(),
        })
    }
}

async fn gather(sockets: Sockets, emit: Emit, timeout: Duration) -> Result<EmitWithAckResponse, ClientError> {
    let answers = sockets.ask(&emit, timeout).await?;
    // Who may have got it can be named only in part.
    if let Some(error) = answers.unheard {
        return Err(error);
    }
    let acks = answers.answers.into_iter().map(|answer| {
        let SocketAnswer {
            socket_id,
            user_id,
            args,
            attachments,
        } = answer;
        SocketAck {
            socket_id,
            user_id,
            args: Args::handed_on(args.into(), attachments).to_messages(),
        }
    });
    Ok(EmitWithAckResponse {
        acks: acks.collect(),
        missing: answers.missing,
    })
}

fn check_selection(check: &mut Check, of: &SocketsOf) {
    check.users("users", &of.users);
    check.sockets("sockets", &of.sockets);
    check.rooms("rooms", &of.rooms);
    let targets = [of.users.len(), of.sockets.len(), of.rooms.len()];
    check.at_most("users", &targets, MAX_TARGETS, "rooms, users and sockets");
}

/// Of which sockets, and which rooms they join or leave.
fn check_rooms(
    namespace: String,
    users: Vec<String>,
    sockets: Vec<String>,
    rooms: Vec<String>,
) -> Result<(Namespace, SocketsOf, Vec<String>), ClientError> {
    let of = SocketsOf {
        namespace,
        users,
        sockets,
        rooms: Vec::new(),
        except: None,
    };
    let mut check = Check::default();
    let namespace = check.namespace("namespace", &of.namespace);
    check_selection(&mut check, &of);
    if of.users.is_empty() && of.sockets.is_empty() {
        check.reject("users", "users or sockets are required");
    }
    if rooms.is_empty() {
        check.reject("rooms", "is required");
    }
    check.rooms("rooms", &rooms);
    check.at_most("rooms", &[rooms.len()], MAX_TARGETS, "rooms");
    check.at_most(
        "users",
        &[of.users.len() * rooms.len()],
        MAX_MEMBERS,
        "users times rooms",
    );
    check.finish(namespace.map(|namespace| (namespace, of, rooms)))
}

/// Opaque for callers.
fn token(place: &Place) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{}.{}", place.gateway, place.id))
}

fn read_token(token: &str) -> Option<Place> {
    if token.is_empty() {
        return Some(Place::default());
    }
    let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (gateway, id) = text.split_once('.')?;
    Some(Place {
        gateway: gateway.to_owned(),
        id: id.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_bring_places_back() {
        let place = Place {
            gateway: "abc-_9".to_owned(),
            id: "s_-1".to_owned(),
        };
        assert_eq!(read_token(&token(&place)), Some(place));
        assert_eq!(read_token(""), Some(Place::default()));
        for bad in ["?", "YWJj", "é"] {
            assert_eq!(read_token(bad), None, "{bad}");
        }
    }
}
