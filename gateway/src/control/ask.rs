//! Events that servers want answers to. They are not stored: who is away does not get them.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use model::{ClientError, ErrorCode};
use parking_lot::Mutex;
use prost::Message;
use proto::v1::{AskCommand, SocketAnswer, SocketAnswers};
use sio::packet::encode;
use tokio::time::timeout_at;
use uuid::Uuid;

use super::Control;
use crate::session::Answer;

/// Sockets that one event may ask at a gateway.
const MAX_SOCKETS: usize = 10_000;
/// Bytes of answers that are gathered at a time for one event; what comes on top counts as missing.
const MAX_GATHERED: usize = 32 << 20;
/// Bytes of one part of the answers, but for its last: a NATS server takes 1 MiB as it comes.
const MAX_PART: usize = 256 << 10;
/// Further parts are asked for within this time.
const KEPT: Duration = Duration::from_secs(10);

impl Control {
    /// Asks sockets and gathers their answers until the time is over or all have come.
    pub(super) async fn ask(&self, command: AskCommand) -> Result<SocketAnswers, ClientError> {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(command.timeout_ms.into());
        let sockets = self.finder.find(&command.of.unwrap_or_default());
        if sockets.len() > MAX_SOCKETS {
            return Err(ClientError::new(
                ErrorCode::PayloadTooLarge,
                format!("A gateway asks at most {MAX_SOCKETS} sockets at a time"),
            ));
        }
        let args = std::str::from_utf8(&command.args).unwrap_or_default();
        let mut asked = FuturesUnordered::new();
        let mut missing: HashMap<String, u64> = HashMap::new();
        for socket in &sockets {
            // Packets go out in the order of the lane.
            let lane = self.core.journal.lane();
            let Some((id, answer)) = socket.ask() else {
                continue;
            };
            let namespace = socket.namespace().as_str();
            let packet = encode::event(
                namespace,
                Some(id),
                &command.event,
                args,
                &command.attachments,
                None,
            );
            socket.conn().send(&packet);
            drop(lane);
            self.core
                .samples
                .sent(socket.namespace(), socket.id(), &command.event, args);
            missing.insert(socket.id().to_owned(), id);
            let socket = Arc::clone(socket);
            asked.push(async move { (socket, answer.await) });
        }
        let mut answers = Vec::with_capacity(asked.len());
        let mut gathered = 0;
        while let Ok(Some((socket, answer))) = timeout_at(deadline, asked.next()).await {
            // It is gone.
            let Ok(Answer { args, attachments }) = answer else {
                continue;
            };
            let answer = SocketAnswer {
                socket_id: socket.id().to_owned(),
                user_id: socket.user().id.to_string(),
                args: args.as_byte_string().clone().into_bytes(),
                attachments,
            };
            gathered += answer.encoded_len();
            if gathered > MAX_GATHERED {
                break;
            }
            missing.remove(socket.id());
            answers.push(answer);
        }
        for socket in &sockets {
            if let Some(id) = missing.get(socket.id()) {
                socket.forget(*id);
            }
        }
        let mut missing: Vec<String> = missing.into_keys().collect();
        missing.sort_unstable();
        Ok(self.leftovers.keep(parts(answers, missing)))
    }
}

/// Cuts answers into parts that fit a message.
fn parts(answers: Vec<SocketAnswer>, missing: Vec<String>) -> VecDeque<SocketAnswers> {
    let mut parts = VecDeque::from([SocketAnswers::default()]);
    let mut bytes = 0;
    let mut add = |parts: &mut VecDeque<SocketAnswers>, size: usize| {
        if bytes > MAX_PART {
            parts.push_back(SocketAnswers::default());
            bytes = 0;
        }
        bytes += size;
    };
    for answer in answers {
        add(&mut parts, answer.encoded_len());
        if let Some(part) = parts.back_mut() {
            part.answers.push(answer);
        }
    }
    for id in missing {
        add(&mut parts, id.len());
        if let Some(part) = parts.back_mut() {
            part.missing.push(id);
        }
    }
    parts
}

/// Parts of answers that have not been asked for yet.
#[derive(Default)]
pub(super) struct Leftovers(Mutex<HashMap<String, (Instant, VecDeque<SocketAnswers>)>>);

impl Leftovers {
    /// The first part; it names the others if there are any.
    fn keep(&self, mut parts: VecDeque<SocketAnswers>) -> SocketAnswers {
        let mut first = parts.pop_front().unwrap_or_default();
        let mut kept = self.0.lock();
        let now = Instant::now();
        kept.retain(|_, (at, _)| now.duration_since(*at) < KEPT);
        if !parts.is_empty() {
            first.rest = Uuid::new_v4().to_string();
            kept.insert(first.rest.clone(), (now, parts));
        }
        first
    }

    /// The next part.
    pub(super) fn next(&self, name: &str) -> Result<SocketAnswers, ClientError> {
        let kept = self.0.lock().remove(name);
        let (_, parts) = kept.ok_or_else(|| ClientError::new(ErrorCode::Unavailable, "Too late"))?;
        Ok(self.keep(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_parts_that_fit() {
        let answer = |number: usize| SocketAnswer {
            socket_id: number.to_string(),
            args: vec![b'1'; 100 << 10].into(),
            ..SocketAnswer::default()
        };
        let leftovers = Leftovers::default();
        let missing = vec!["m".to_owned()];
        let mut part = leftovers.keep(parts((0..10).map(answer).collect(), missing));
        let mut ids = Vec::new();
        let mut missing = Vec::new();
        loop {
            assert!(part.encoded_len() < 512 << 10);
            ids.extend(part.answers.into_iter().map(|answer| answer.socket_id));
            missing.append(&mut part.missing);
            if part.rest.is_empty() {
                break;
            }
            part = leftovers.next(&part.rest).unwrap();
        }
        assert_eq!(ids, (0..10).map(|number| number.to_string()).collect::<Vec<_>>());
        assert_eq!(missing, ["m"]);
        assert!(leftovers.next("unknown").is_err());
    }
}
