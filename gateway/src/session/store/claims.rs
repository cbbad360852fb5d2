//! Sessions of other gateways: who takes one, and what becomes of one that nothing came of.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bus::DocumentsError;
use bytes::Bytes;
use proto::v1::{KeptSession, stored_session::State};

use super::{AGAIN, BUCKET, RACES, SessionStore, decode, encode, key};
use crate::session::Because;

/// A session that nothing came of is given back for so long.
const GIVEN_BACK: Duration = Duration::from_secs(120);

/// What the store says of a session of another gateway.
pub(crate) enum Taken {
    /// It was there, and is this gateway's now.
    Session(Box<KeptSession>),
    /// That gateway took it over.
    MovedTo(String),
}

impl SessionStore {
    /// The gateway to which a session went on from `owner`.
    pub(crate) async fn moved_to(&self, owner: &str, pid: &str) -> Result<Option<String>, Because> {
        let document = self.documents.get(BUCKET, &key(owner, pid)).await;
        let state = document
            .map_err(unavailable)?
            .and_then(|document| decode(&document.value));
        Ok(match state {
            Some(State::MovedTo(gateway)) => Some(gateway),
            Some(State::Kept(_)) | None => None,
        })
    }

    /// Takes a session of a gateway that is gone, if `fits`: nobody else gets it after that. When it is not known whether
    /// the store took note, it is given back.
    pub(crate) async fn take(
        self: &Arc<Self>,
        owner: &str,
        pid: &str,
        fits: impl Fn(&KeptSession) -> bool,
    ) -> Result<Taken, Because> {
        let key = key(owner, pid);
        for _ in 0..RACES {
            let document = self.documents.get(BUCKET, &key).await.map_err(unavailable)?;
            let document = document.ok_or(Because::Unknown)?;
            let session = match decode(&document.value) {
                Some(State::MovedTo(gateway)) => return Ok(Taken::MovedTo(gateway)),
                Some(State::Kept(session)) if fits(&session) => session,
                Some(State::Kept(_)) | None => return Err(Because::Unknown),
            };
            let taken = encode(State::MovedTo(self.gateway.to_string()));
            match self
                .documents
                .put(BUCKET, &key, taken.into(), Some(document.revision))
                .await
            {
                Ok(_) => return Ok(Taken::Session(Box::new(session))),
                Err(DocumentsError::Conflict(_)) => {}
                Err(error) => {
                    self.give_back(owner, pid, session);
                    return Err(unavailable(error));
                }
            }
        }
        Err(Because::Unavailable)
    }

    /// Gives a session back that was [taken](SessionStore::take), or may have been, as nothing came of it; tries until
    /// the store takes it.
    pub(crate) fn give_back(self: &Arc<Self>, owner: &str, pid: &str, session: KeptSession) {
        let (this, pid, key) = (Arc::clone(self), pid.to_owned(), key(owner, pid));
        self.going_back.lock().insert(pid.clone());
        self.tasks.spawn("give session back", async move {
            let value = Bytes::from(encode(State::Kept(session)));
            let until = Instant::now() + GIVEN_BACK;
            while let Err(error) = this.put_back(&key, &value).await {
                if Instant::now() >= until {
                    tracing::warn!(%error, "a session that could not be recovered is lost");
                    break;
                }
                tokio::time::sleep(AGAIN).await;
            }
            this.going_back.lock().remove(&pid);
        });
    }

    /// Whether a session is on its way back into the store.
    pub(crate) fn is_going_back(&self, pid: &str) -> bool {
        self.going_back.lock().contains(pid)
    }

    async fn put_back(&self, key: &str, value: &Bytes) -> Result<(), DocumentsError> {
        let Some(document) = self.documents.get(BUCKET, key).await? else {
            return Ok(());
        };
        match decode(&document.value) {
            // Written anew also when it was not taken: the note that it is may still be on its way.
            Some(State::Kept(_)) => {}
            Some(State::MovedTo(gateway)) if gateway == self.gateway.as_str() => {}
            _ => return Ok(()),
        }
        let back = self
            .documents
            .put(BUCKET, key, value.clone(), Some(document.revision));
        back.await.map(drop)
    }
}

pub(super) fn unavailable(error: impl std::fmt::Display) -> Because {
    tracing::warn!(%error, "a session cannot be taken up from the store");
    Because::Unavailable
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bus::{Document, Documents, documents::memory::MemoryDocuments};
    use lifecycle::Tasks;
    use model::{GatewayId, RoomName};
    use parking_lot::Mutex;
    use proto::v1::KeptRoom;

    use super::*;

    fn store(documents: &MemoryDocuments, gateway: &str) -> Arc<SessionStore> {
        let id = GatewayId::new(gateway).unwrap();
        SessionStore::new(Arc::new(documents.clone()), id, Tasks::new())
    }

    fn session(rooms: &[&str]) -> KeptSession {
        let rooms = rooms.iter().map(|name| KeptRoom {
            name: (*name).to_owned(),
            ..KeptRoom::default()
        });
        KeptSession {
            user_id: "ada".to_owned(),
            rooms: rooms.collect(),
            ..KeptSession::default()
        }
    }

    async fn rooms_taken(by: &Arc<SessionStore>, from: &str) -> Result<Vec<String>, String> {
        match by.take(from, "pid", |session| session.user_id == "ada").await {
            Ok(Taken::Session(session)) => Ok(session.rooms.into_iter().map(|room| room.name).collect()),
            Ok(Taken::MovedTo(gateway)) => Err(gateway),
            Err(because) => Err(because.as_str().to_owned()),
        }
    }

    #[tokio::test]
    async fn a_join_that_was_told_is_there_and_one_takes_it() {
        let documents = MemoryDocuments::new();
        let (first, second, third) = (
            store(&documents, "first-"),
            store(&documents, "second"),
            store(&documents, "third-"),
        );
        first.begin(&"pid".into(), session(&["user:ada"]));
        let room = RoomName::new("room").unwrap();
        first.joined("pid", &room, 7, false).unwrap().await.unwrap();
        assert_eq!(rooms_taken(&second, "other-").await, Err("unknown".to_owned()));
        let stranger = second
            .take("first-", "pid", |session| session.user_id == "bob")
            .await;
        assert!(stranger.is_err_and(|because| because == Because::Unknown));
        let taken = rooms_taken(&second, "first-").await;
        assert_eq!(taken, Ok(vec!["user:ada".to_owned(), "room".to_owned()]));
        assert_eq!(rooms_taken(&third, "first-").await, Err("second".to_owned()));
        // Whoever had it does not write over that.
        let left = RoomName::new("another").unwrap();
        assert!(first.joined("pid", &left, 8, false).unwrap().await.is_err());
        assert_eq!(rooms_taken(&third, "first-").await, Err("second".to_owned()));
    }

    #[tokio::test]
    async fn a_session_comes_back_to_where_it_was() {
        let documents = MemoryDocuments::new();
        let (first, second) = (store(&documents, "first-"), store(&documents, "second"));
        let room = RoomName::new("room").unwrap();
        for _ in 0..3 {
            for (at, to) in [(&first, "second"), (&second, "first-")] {
                at.begin(&"pid".into(), session(&[]));
                at.joined("pid", &room, 7, false).unwrap().await.unwrap();
                at.moved("pid", to);
            }
        }
        first.begin(&"pid".into(), session(&[]));
        first.joined("pid", &room, 7, false).unwrap().await.unwrap();
        assert_eq!(rooms_taken(&second, "first-").await, Ok(vec!["room".to_owned()]));
    }

    /// The next `put`s are done without an answer (`true`), or not done; then all goes well.
    struct Unreliable(MemoryDocuments, Mutex<VecDeque<bool>>);

    #[async_trait::async_trait]
    impl Documents for Unreliable {
        async fn get(&self, bucket: &str, key: &str) -> Result<Option<Document>, DocumentsError> {
            self.0.get(bucket, key).await
        }

        async fn put(
            &self,
            bucket: &str,
            key: &str,
            value: Bytes,
            expected: Option<u64>,
        ) -> Result<u64, DocumentsError> {
            let fault = self.1.lock().pop_front();
            if fault != Some(false) {
                let done = self.0.put(bucket, key, value, expected).await;
                if fault.is_none() {
                    return done;
                }
            }
            Err(DocumentsError::Unavailable("no answer".to_owned()))
        }

        async fn delete(&self, bucket: &str, key: &str) -> Result<(), DocumentsError> {
            self.0.delete(bucket, key).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_may_have_been_taken_is_given_back() {
        let documents = MemoryDocuments::new();
        let (first, third) = (store(&documents, "first-"), store(&documents, "third-"));
        let faults = Mutex::new(VecDeque::from([true, false, true]));
        let second = SessionStore::new(
            Arc::new(Unreliable(documents, faults)),
            GatewayId::new("second").unwrap(),
            Tasks::new(),
        );
        first.begin(&"pid".into(), session(&[]));
        let room = RoomName::new("room").unwrap();
        first.joined("pid", &room, 7, false).unwrap().await.unwrap();
        assert_eq!(
            rooms_taken(&second, "first-").await,
            Err("unavailable".to_owned())
        );
        assert!(second.is_going_back("pid"));
        assert_eq!(rooms_taken(&third, "first-").await, Err("second".to_owned()));
        second.tasks.shutdown(GIVEN_BACK).await;
        assert!(!second.is_going_back("pid"));
        assert_eq!(rooms_taken(&third, "first-").await, Ok(vec!["room".to_owned()]));
    }

    #[tokio::test]
    async fn what_is_over_is_not_there() {
        let documents = MemoryDocuments::new();
        let (first, second) = (store(&documents, "first-"), store(&documents, "second"));
        first.begin(&"pid".into(), session(&[]));
        let room = RoomName::new("room").unwrap();
        first.joined("pid", &room, 7, false).unwrap().await.unwrap();
        first.end("pid");
        while !first.sessions.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        first.tasks.shutdown(Duration::from_secs(30)).await;
        assert_eq!(rooms_taken(&second, "first-").await, Err("unknown".to_owned()));
    }
}
