//! What the clients of the tests read and write alike.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Message, Published, offset};

/// A publisher waits so long before it tries again what was `UNAVAILABLE`.
pub(crate) const RETRY: Duration = Duration::from_millis(100);

/// The argument of a `message`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MessageBody {
    id: String,
    offset: String,
    room_id: String,
    content: String,
}

impl MessageBody {
    pub(crate) fn came(self, at: Instant) -> Result<Message> {
        Ok(Message {
            offset: offset(&self.offset)?,
            room: self.room_id,
            id: self.id,
            content: self.content,
            at,
        })
    }
}

/// Number and first argument of an acknowledgement, from what stands behind its namespace.
pub(crate) fn acknowledgement(ack: &str) -> Result<(u64, Value)> {
    let digits = ack.find('[').context("an ack without arguments")?;
    let args: Vec<Value> = serde_json::from_str(&ack[digits..])?;
    Ok((
        ack[..digits].parse()?,
        args.into_iter().next().unwrap_or_default(),
    ))
}

/// A message on its way, with the same `client_id` again and again while the answer is `UNAVAILABLE`.
pub(crate) struct Publication {
    pub(crate) payload: Value,
    began: Instant,
    unavailable: usize,
}

impl Publication {
    pub(crate) fn new(room: &str, content: &str, client_id: &str) -> Self {
        Self {
            payload: json!({ "roomId": room, "content": content, "clientId": client_id }),
            began: Instant::now(),
            unavailable: 0,
        }
    }

    /// What became of it, or `None` when it is to be tried again after a pause of [`RETRY`].
    pub(crate) fn answered(&mut self, answer: &Value) -> Result<Option<Published>> {
        if answer["status"] == "ok" {
            let text = |key: &str| answer[key].as_str().map(str::to_owned);
            return Ok(Some(Published {
                id: text("id").context("an ack without id")?,
                offset: offset(&text("offset").context("an ack without offset")?)?,
                unavailable: self.unavailable,
                took: self.began.elapsed(),
            }));
        }
        if answer["code"] != "UNAVAILABLE" {
            bail!("message {}: {answer}", self.payload);
        }
        self.unavailable += 1;
        Ok(None)
    }
}
