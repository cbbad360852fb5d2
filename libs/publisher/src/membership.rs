//! Who may use rooms that nothing else opens to them: participants of conversations, and users whom servers bring in.

use std::collections::HashSet;

use bus::{Documents, DocumentsError};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use model::{ClientError, ErrorCode, Namespace, RoomName, RoomToken};
use serde::{Deserialize, Serialize};

use crate::errors::unavailable;

/// Bucket of [`Conversation`] documents, by room token, and of members that servers brought in, by the tokens of both.
const BUCKET: &str = "rooms";
/// What stands at a member's key.
const MEMBER: Bytes = Bytes::from_static(b"{}");
/// Documents that are written or removed at a time.
const AT_A_TIME: usize = 64;

/// Whose room it is, for good.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    /// Ids of its users.
    pub participants: Vec<String>,
    /// What they call it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
}

/// Opens a room to its participants; whether nobody had before.
///
/// # Errors
/// `UNAVAILABLE` when the documents cannot be written.
pub async fn open(
    documents: &dyn Documents,
    room: RoomToken,
    conversation: &Conversation,
) -> Result<bool, ClientError> {
    let value = serde_json::to_vec(conversation).map_err(unavailable)?;
    write(documents, &room.to_string(), value.into()).await
}

/// Whether a user is among a room's participants or was brought in by a server.
///
/// # Errors
/// `UNAVAILABLE` when the documents cannot be read.
pub async fn is_member(
    documents: &dyn Documents,
    user: &str,
    namespace: &Namespace,
    room: &RoomName,
) -> Result<bool, ClientError> {
    let token = RoomToken::new(namespace, room);
    let (room, member) = (token.to_string(), member(token, user, namespace));
    let read = futures_util::try_join!(documents.get(BUCKET, &room), documents.get(BUCKET, &member));
    let (room, member) = read.map_err(unavailable)?;
    if member.is_some() {
        return Ok(true);
    }
    let Some(document) = room else {
        return Ok(false);
    };
    let conversation: Conversation = serde_json::from_slice(&document.value).map_err(|error| {
        tracing::error!(%error, "a membership document cannot be read");
        ClientError::new(ErrorCode::Internal, "Internal error")
    })?;
    Ok(conversation.participants.iter().any(|id| id == user))
}

/// Makes every one of the users a member of every one of the rooms. A retry is safe.
///
/// # Errors
/// `UNAVAILABLE` when the documents cannot be written; then some may be members.
pub async fn admit(
    documents: &dyn Documents,
    namespace: &Namespace,
    users: &[String],
    rooms: &[String],
) -> Result<(), ClientError> {
    let keys = stream::iter(keys(namespace, users, rooms));
    let written = keys.map(async |key| write(documents, &key, MEMBER).await);
    written
        .buffer_unordered(AT_A_TIME)
        .try_for_each(async |_| Ok(()))
        .await
}

/// The reverse of [`admit`]. Participants of a conversation stay what they are.
///
/// # Errors
/// `UNAVAILABLE` when the documents cannot be written; then some may be members still.
pub async fn dismiss(
    documents: &dyn Documents,
    namespace: &Namespace,
    users: &[String],
    rooms: &[String],
) -> Result<(), ClientError> {
    let keys = stream::iter(keys(namespace, users, rooms));
    let removed = keys.map(async |key| documents.delete(BUCKET, &key).await.map_err(unavailable));
    removed
        .buffer_unordered(AT_A_TIME)
        .try_for_each(async |()| Ok(()))
        .await
}

fn keys(namespace: &Namespace, users: &[String], rooms: &[String]) -> HashSet<String> {
    let keys = rooms.iter().flat_map(|room| {
        let token = RoomToken::new(namespace, &RoomName::stored(room));
        users.iter().map(move |user| member(token, user, namespace))
    });
    keys.collect()
}

/// A user's id may hold what a key may not, the token of its room holds nothing else.
fn member(room: RoomToken, user: &str, namespace: &Namespace) -> String {
    format!("{room}.{}", RoomToken::new(namespace, &RoomName::of_user(user)))
}

/// Whether there was nothing before.
async fn write(documents: &dyn Documents, key: &str, value: Bytes) -> Result<bool, ClientError> {
    match documents.put(BUCKET, key, value, None).await {
        Ok(_) => Ok(true),
        Err(DocumentsError::Conflict(_)) => Ok(false),
        Err(error) => Err(unavailable(error)),
    }
}

#[cfg(test)]
mod tests {
    use bus::documents::memory::MemoryDocuments;

    use super::*;

    #[tokio::test]
    async fn members_come_and_go_and_participants_stay() {
        let documents = MemoryDocuments::new();
        let namespace = Namespace::new("/chat").unwrap();
        let room = RoomName::new("order-7").unwrap();
        let is = async |user: &str| is_member(&documents, user, &namespace, &room).await.unwrap();
        let (users, rooms) = (["ada".to_owned(), "x y/*>".to_owned()], ["order-7".to_owned()]);
        assert!(!is("ada").await);
        for _ in 0..2 {
            admit(&documents, &namespace, &users, &rooms).await.unwrap();
        }
        assert!(is("ada").await && is("x y/*>").await && !is("eve").await);
        let elsewhere = Namespace::new("/").unwrap();
        assert!(!is_member(&documents, "ada", &elsewhere, &room).await.unwrap());

        let conversation = Conversation {
            participants: vec!["ada".to_owned()],
            name: None,
        };
        let token = RoomToken::new(&namespace, &room);
        assert!(open(&documents, token, &conversation).await.unwrap());
        assert!(!open(&documents, token, &conversation).await.unwrap());
        dismiss(&documents, &namespace, &users, &rooms).await.unwrap();
        assert!(is("ada").await && !is("x y/*>").await);
    }
}
