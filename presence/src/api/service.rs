//! The calls: counted, within their deadlines.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use lifecycle::Tasks;
use proto::v1::{
    BatchGetUsersRequest, BatchGetUsersResponse, GetRoomRequest, GetStatsRequest, GetStatsResponse,
    GetUserRequest, IsOnlineRequest, IsOnlineResponse, ListOnlineUsersRequest, ListOnlineUsersResponse,
    ListRoomMembersRequest, ListRoomMembersResponse, ListRoomsRequest, ListRoomsResponse,
    ListUserRoomsRequest, ListUserRoomsResponse, PresenceRoom, PresenceUser, WatchRequest, WatchResponse,
    presence_server::Presence,
};
use registry::presence_store::PresenceStore;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::{
    Metrics,
    check::Filter,
    deadline,
    queries::{Queries, away},
    watching::Watching,
};
use crate::watch::Feed;

/// Messages that may wait for one watcher, besides what HTTP/2 takes.
const WAITING: usize = 64;

/// The service `fanfare.v1.Presence`.
pub(super) struct Api {
    queries: Queries,
    store: Arc<dyn PresenceStore>,
    feed: Arc<Feed>,
    metrics: Metrics,
    tasks: Tasks,
    stop: CancellationToken,
}

impl Api {
    pub(super) fn new(
        store: Arc<dyn PresenceStore>,
        feed: Arc<Feed>,
        metrics: Metrics,
        tasks: Tasks,
        stop: CancellationToken,
    ) -> Self {
        Self {
            queries: Queries::new(Arc::clone(&store)),
            store,
            feed,
            metrics,
            tasks,
            stop,
        }
    }

    async fn answer<T>(
        &self,
        method: &'static str,
        deadline: Option<Instant>,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let begun = Instant::now();
        let answer = deadline::within(deadline, call).await;
        let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
        self.metrics.call(method, code, begun.elapsed());
        answer.map(Response::new)
    }

    async fn begin_watch(
        &self,
        request: WatchRequest,
        deadline: Option<Instant>,
    ) -> Result<WatchStream, Status> {
        if self.stop.is_cancelled() {
            return Err(stopping());
        }
        let (filter, resume) = Filter::new(&request)?;
        let watcher = self.feed.watcher();
        let begin = watcher.begin().await.map_err(away)?;
        let (tell, told) = mpsc::channel(WAITING);
        let watching = Watching::new(
            self.queries.clone(),
            Arc::clone(&self.store),
            watcher,
            filter,
            tell,
            self.metrics.clone(),
        );
        self.tasks.spawn("presence watch", watching.run(begin, resume));
        Ok(Box::pin(until(told, self.stop.clone(), deadline)))
    }
}

/// The messages of a watch.
pub(super) type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

/// What is told, until the end of the service or of the caller's time.
fn until(
    told: mpsc::Receiver<WatchResponse>,
    stop: CancellationToken,
    deadline: Option<Instant>,
) -> impl Stream<Item = Result<WatchResponse, Status>> + Send {
    stream::unfold(Some(told), move |told| {
        let stop = stop.clone();
        async move {
            let mut told = told?;
            tokio::select! {
                biased;
                () = stop.cancelled() => Some((Err(stopping()), None)),
                () = deadline::passed(deadline) => Some((Err(deadline::exceeded()), None)),
                next = told.recv() => next.map(|next| (Ok(next), Some(told))),
            }
        }
    })
}

fn stopping() -> Status {
    Status::unavailable("this replica of the presence service stops; another one may go on")
}

#[tonic::async_trait]
impl Presence for Api {
    async fn get_user(&self, request: Request<GetUserRequest>) -> Result<Response<PresenceUser>, Status> {
        let deadline = deadline::of(&request);
        let call = self.queries.get_user(request.into_inner());
        self.answer("GetUser", deadline, call).await
    }

    async fn batch_get_users(
        &self,
        request: Request<BatchGetUsersRequest>,
    ) -> Result<Response<BatchGetUsersResponse>, Status> {
        let deadline = deadline::of(&request);
        let call = self.queries.batch_get_users(request.into_inner());
        self.answer("BatchGetUsers", deadline, call).await
    }

    async fn is_online(
        &self,
        request: Request<IsOnlineRequest>,
    ) -> Result<Response<IsOnlineResponse>, Status> {
        let deadline = deadline::of(&request);
        let call = self.queries.is_online(request.into_inner());
        self.answer("IsOnline", deadline, call).await
    }

    async fn list_online_users(
        &self,
        request: Request<ListOnlineUsersRequest>,
    ) -> Result<Response<ListOnlineUsersResponse>, Status> {
        let deadline = deadline::of(&request);
        let call = self.queries.list_online_users(request.into_inner());
        self.answer("ListOnlineUsers", deadline, call).await
    }

    async fn list_room_members(
        &self,
        request: Request<ListRoomMembersRequest>,
    ) -> Result<Response<ListRoomMembersResponse>, Status> {
        let deadline = deadline::of(&request);
        let call = self.queries.list_room_members(request.into_inner());
        self.answer("ListRoomMembers", deadline, call).await
    }

    async fn list_user_rooms(
        &self,
        request: Request<ListUserRoomsRequest>,
    ) -> Result<Response<ListUserRoomsResponse>, Status> {
        let deadline = deadline::of(&request);
        let call = self.queries.list_user_rooms(request.into_inner());
        self.answer("ListUserRooms", deadline, call).await
    }

    async fn get_room(&self, request: Request<GetRoomRequest>) -> Result<Response<PresenceRoom>, Status> {
        let deadline = deadline::of(&request);
        let call = self.queries.get_room(request.into_inner());
        self.answer("GetRoom", deadline, call).await
    }

    async fn list_rooms(
        &self,
        request: Request<ListRoomsRequest>,
    ) -> Result<Response<ListRoomsResponse>, Status> {
        let deadline = deadline::of(&request);
        let call = self.queries.list_rooms(request.into_inner());
        self.answer("ListRooms", deadline, call).await
    }

    async fn get_stats(
        &self,
        request: Request<GetStatsRequest>,
    ) -> Result<Response<GetStatsResponse>, Status> {
        let deadline = deadline::of(&request);
        self.answer("GetStats", deadline, self.queries.get_stats()).await
    }

    type WatchStream = WatchStream;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<WatchStream>, Status> {
        let deadline = deadline::of(&request);
        let call = self.begin_watch(request.into_inner(), deadline);
        self.answer("Watch", deadline, call).await
    }
}
