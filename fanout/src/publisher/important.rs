//! Events that are sent again until they are acknowledged or expire: by one client of each user, and by each socket
//! they are for. Each is a document until then, so it outlives its worker: whoever finds one that nobody holds goes on
//! with it. Clients are asked where they are, so it outlives their gateways and connections too.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bus::{Documents, DocumentsError};
use lifecycle::Tasks;
use model::{ClientError, ErrorCode, UserId};
use parking_lot::Mutex;
use prost::Message;
use proto::v1::{EmitRequest, PendingEmit, PendingIndex};
use publisher::{Answers, Check, Emit, Sockets};
use tokio::sync::Mutex as AsyncMutex;

/// Bucket of the documents.
pub const BUCKET: &str = "important";
/// The longest that an event is sent again.
pub const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Documents that list what is open, so that writers of one wait for each other less.
const SHARDS: u8 = 4;
/// Clients get so long to acknowledge before they are asked again.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two tries; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// Whoever holds one says so again within this time.
const HELD: Duration = Duration::from_secs(40);
/// How often it is looked for what nobody holds.
const LOOK: Duration = Duration::from_secs(10);
/// Open at one time, at one worker.
const MAX_OPEN: usize = 10_000;
/// So often a list is written anew when somebody else was faster.
const TRIES: usize = 20;

/// Sends important events. Cheap to clone.
#[derive(Clone)]
pub(super) struct Important {
    documents: Arc<dyn Documents>,
    sockets: Sockets,
    tasks: Tasks,
    max_payload: usize,
    open: Arc<Mutex<HashSet<String>>>,
    /// Held while a list is written, so that writers of this worker do not overtake each other for ever.
    lists: Arc<[AsyncMutex<()>; SHARDS as usize]>,
}

/// One that is being sent, with the revision of its document.
struct Open {
    id: String,
    pending: PendingEmit,
    revision: u64,
}

impl Important {
    pub(super) fn new(
        documents: Arc<dyn Documents>,
        sockets: Sockets,
        tasks: Tasks,
        max_payload: usize,
    ) -> Self {
        Self {
            documents,
            sockets,
            tasks,
            max_payload,
            open: Arc::default(),
            lists: Arc::default(),
        }
    }

    /// Takes an event; once this returns it is sent until it is acknowledged or its time is over.
    pub(super) async fn take(&self, request: EmitRequest, prefix: &str) -> Result<String, ClientError> {
        let emit = Emit::check_important(request.clone(), self.max_payload, prefix)?;
        let mut check = Check::within(prefix);
        let longest = MAX_AGE.as_secs();
        if u64::from(request.acknowledge_within) > longest {
            check.reject("acknowledge_within", format!("must be 1 to {longest} seconds"));
        }
        if !emit.rooms.is_empty() || (emit.users.is_empty() && emit.sockets.is_empty()) {
            check.reject("rooms", "an event to be acknowledged is for users and sockets");
        }
        if emit.volatile {
            check.reject("volatile", "an event to be acknowledged is not volatile");
        }
        check.finish(Some(()))?;
        if self.open.lock().len() >= MAX_OPEN {
            return Err(ClientError::new(
                ErrorCode::Unavailable,
                "Too many events wait for acknowledgements",
            ));
        }
        let id = emit.new_id();
        let now = now_ms();
        let pending = PendingEmit {
            users: request.users.clone(),
            sockets: request.sockets.clone(),
            expires_ms: now + u64::from(request.acknowledge_within) * 1000,
            held_until_ms: now + millis(HELD),
            emit: Some(request),
        };
        let value = pending.encode_to_vec().into();
        let revision = match self.documents.put(BUCKET, &key(&id), value, None).await {
            Ok(revision) => revision,
            // The same idempotency key: whoever wrote it sends it, or has gone before it was listed.
            Err(DocumentsError::Conflict(_)) => {
                self.list(&id, true).await.map_err(|error| unavailable(&error))?;
                return Ok(id);
            }
            Err(error) => return Err(unavailable(&error)),
        };
        self.list(&id, true).await.map_err(|error| unavailable(&error))?;
        self.begin(Open {
            id: id.clone(),
            pending,
            revision,
        });
        Ok(id)
    }

    /// Goes on with what nobody holds, for ever.
    pub(super) async fn look_after(self) {
        loop {
            for shard in 0..SHARDS {
                if let Err(error) = self.adopt(shard).await {
                    tracing::debug!(%error, "events that wait for acknowledgements cannot be looked at");
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn adopt(&self, shard: u8) -> Result<(), DocumentsError> {
        let Some(document) = self.documents.get(BUCKET, &index(shard)).await? else {
            return Ok(());
        };
        let listed = PendingIndex::decode(document.value).unwrap_or_default();
        for id in listed.ids {
            if self.open.lock().contains(&id) {
                continue;
            }
            let Some(document) = self.documents.get(BUCKET, &key(&id)).await? else {
                self.list(&id, false).await?;
                continue;
            };
            let mut pending = PendingEmit::decode(document.value).unwrap_or_default();
            if is_over(&pending) {
                self.list(&id, false).await?;
                continue;
            }
            if pending.held_until_ms > now_ms() {
                continue;
            }
            pending.held_until_ms = now_ms() + millis(HELD);
            let value = pending.encode_to_vec().into();
            let taken = self
                .documents
                .put(BUCKET, &key(&id), value, Some(document.revision))
                .await;
            match taken {
                Ok(revision) => self.begin(Open {
                    id,
                    pending,
                    revision,
                }),
                // Another worker has taken it.
                Err(DocumentsError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn begin(&self, open: Open) {
        let id = open.id.clone();
        if self.open.lock().insert(id.clone()) {
            let this = self.clone();
            self.tasks.background("important event", async move {
                this.send(open).await;
                this.open.lock().remove(&id);
            });
        }
    }

    /// Until it is acknowledged, its time is over, or somebody else has it.
    async fn send(&self, mut open: Open) {
        let Some(request) = open.pending.emit.clone() else {
            return;
        };
        let Ok(mut emit) = Emit::check_important(request, usize::MAX, "") else {
            return;
        };
        let mut pause = FIRST_PAUSE;
        loop {
            emit.users = open
                .pending
                .users
                .iter()
                .filter_map(|user| UserId::new(user).ok())
                .collect();
            emit.sockets.clone_from(&open.pending.sockets);
            match self.sockets.ask(&emit, ANSWER).await {
                Ok(answers) => strike(&mut open.pending, &answers),
                Err(error) => tracing::debug!(%error, "an important event could not be sent yet"),
            }
            open.pending.held_until_ms = now_ms() + millis(HELD);
            let value = open.pending.encode_to_vec().into();
            match self
                .documents
                .put(BUCKET, &key(&open.id), value, Some(open.revision))
                .await
            {
                Ok(revision) => open.revision = revision,
                Err(DocumentsError::Conflict(_)) => return,
                Err(error) => tracing::debug!(%error, "an acknowledgement could not be kept yet"),
            }
            if is_over(&open.pending) {
                return self.finish(&open).await;
            }
            tokio::time::sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// What has an idempotency key stays, so that a retry sends nothing.
    async fn finish(&self, open: &Open) {
        let has_key = open
            .pending
            .emit
            .as_ref()
            .is_some_and(|emit| !emit.idempotency_key.is_empty());
        let finished = async {
            if !has_key {
                self.documents.delete(BUCKET, &key(&open.id)).await?;
            }
            self.list(&open.id, false).await
        };
        // Whoever looks after the list takes it out later.
        if let Err(error) = finished.await {
            tracing::debug!(%error, "a finished event stays listed for now");
        }
    }

    /// Puts an event into its list, or takes it out.
    async fn list(&self, id: &str, is_open: bool) -> Result<(), DocumentsError> {
        let shard = id.bytes().fold(0, u8::wrapping_add) % SHARDS;
        let _turn = self.lists[usize::from(shard)].lock().await;
        let key = index(shard);
        let mut last = DocumentsError::Conflict(key.clone());
        for _ in 0..TRIES {
            let known = self.documents.get(BUCKET, &key).await?;
            let revision = known.as_ref().map(|document| document.revision);
            let known = known.map(|document| document.value).unwrap_or_default();
            let mut listed = PendingIndex::decode(known).unwrap_or_default();
            listed.ids.retain(|known| known != id);
            if is_open {
                listed.ids.push(id.to_owned());
            }
            match self
                .documents
                .put(BUCKET, &key, listed.encode_to_vec().into(), revision)
                .await
            {
                Ok(_) => return Ok(()),
                Err(error @ DocumentsError::Conflict(_)) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }
}

/// Takes out who has acknowledged.
fn strike(pending: &mut PendingEmit, answers: &Answers) {
    let by = |id: &String, of: fn(&proto::v1::SocketAnswer) -> &String| {
        answers.answers.iter().any(|answer| of(answer) == id)
    };
    pending.users.retain(|user| !by(user, |answer| &answer.user_id));
    pending
        .sockets
        .retain(|socket| !by(socket, |answer| &answer.socket_id));
}

fn is_over(pending: &PendingEmit) -> bool {
    (pending.users.is_empty() && pending.sockets.is_empty()) || pending.expires_ms <= now_ms()
}

fn key(id: &str) -> String {
    format!("event.{id}")
}

fn index(shard: u8) -> String {
    format!("index.{shard}")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn now_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn unavailable(error: &DocumentsError) -> ClientError {
    tracing::warn!(%error, "an important event could not be kept");
    ClientError::new(ErrorCode::Unavailable, "Try again later")
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bus::{Document, documents::memory::MemoryDocuments, signals::memory::MemorySignals};
    use bytes::Bytes;
    use futures_util::future::join_all;

    use super::*;

    /// Others get their turn during each call.
    struct Far(MemoryDocuments);

    #[async_trait]
    impl Documents for Far {
        async fn get(&self, bucket: &str, key: &str) -> Result<Option<Document>, DocumentsError> {
            tokio::task::yield_now().await;
            self.0.get(bucket, key).await
        }

        async fn put(
            &self,
            bucket: &str,
            key: &str,
            value: Bytes,
            expected: Option<u64>,
        ) -> Result<u64, DocumentsError> {
            tokio::task::yield_now().await;
            self.0.put(bucket, key, value, expected).await
        }

        async fn delete(&self, bucket: &str, key: &str) -> Result<(), DocumentsError> {
            self.0.delete(bucket, key).await
        }
    }

    #[tokio::test]
    async fn a_whole_batch_is_listed_at_once() {
        let (sockets, _) = Sockets::following(Arc::new(MemorySignals::default()), None)
            .await
            .unwrap();
        let documents = Arc::new(Far(MemoryDocuments::new()));
        let important = Important::new(documents, sockets, Tasks::new(), 1000);
        let ids: Vec<String> = (0..200).map(|number| format!("event-{number}")).collect();
        let listed = join_all(ids.iter().map(|id| important.list(id, true))).await;
        assert!(listed.iter().all(Result::is_ok), "{listed:?}");
    }
}
