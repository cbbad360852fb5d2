//! What servers do with sockets, wherever those are connected: every gateway is asked.

use std::{sync::Arc, time::Duration};

use bus::{Signals, SignalsError, subjects};
use futures_util::future::{join_all, try_join_all};
use model::{ClientError, ErrorCode};
use prost::Message;
use proto::v1::{
    AskCommand, Command, CommandReply, ConnectedSocket, DisconnectCommand, JoinCommand, LeaveCommand,
    ListCommand, SocketAnswer, SocketsOf, command, command_reply::Outcome, disconnect_request::Mode,
};

use crate::{
    emit::Emit,
    emitter::except,
    errors::{from_message, unavailable},
    gateways::Gateways,
};

/// A gateway gets so long to do what it is told.
const PATIENCE: Duration = Duration::from_secs(10);
/// So much more than clients get to answer.
const ANSWERS: Duration = Duration::from_secs(2);

/// Sockets of the whole cluster.
#[derive(Clone)]
pub struct Sockets {
    signals: Arc<dyn Signals>,
    gateways: Arc<Gateways>,
}

/// A place in the list of sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Sockets of this gateway and of those behind it.
    pub gateway: String,
    /// Of this gateway those behind this id.
    pub id: String,
}

/// What clients answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// One for each socket that did in time.
    pub answers: Vec<SocketAnswer>,
    /// Ids of those that did not.
    pub missing: Vec<String>,
}

impl Sockets {
    /// Commands go through `signals` to those that `gateways` knows.
    #[must_use]
    pub fn new(signals: Arc<dyn Signals>, gateways: Arc<Gateways>) -> Self {
        Self { signals, gateways }
    }

    /// Brings sockets into rooms: how many. Once this returns they get every later event.
    ///
    /// # Errors
    /// `UNAVAILABLE` when a gateway does not answer; then some may be in the rooms. A retry is safe.
    pub async fn join(&self, of: SocketsOf, rooms: Vec<String>) -> Result<u64, ClientError> {
        let command = JoinCommand { of: Some(of), rooms };
        self.count(command::Command::Join(command)).await
    }

    /// Takes sockets out of rooms: how many.
    ///
    /// # Errors
    /// As [`Sockets::join`].
    pub async fn leave(&self, of: SocketsOf, rooms: Vec<String>) -> Result<u64, ClientError> {
        let command = LeaveCommand { of: Some(of), rooms };
        self.count(command::Command::Leave(command)).await
    }

    /// Ends sockets or their connections: how many.
    ///
    /// # Errors
    /// As [`Sockets::join`].
    pub async fn disconnect(&self, of: SocketsOf, mode: Mode) -> Result<u64, ClientError> {
        let command = DisconnectCommand {
            of: Some(of),
            mode: mode.into(),
        };
        self.count(command::Command::Disconnect(command)).await
    }

    /// At most `limit` sockets behind a place, by gateway and id; and the place behind them unless it is the end.
    ///
    /// # Errors
    /// `UNAVAILABLE` when a gateway does not answer.
    pub async fn page(
        &self,
        of: &SocketsOf,
        from: Place,
        limit: usize,
    ) -> Result<(Vec<ConnectedSocket>, Option<Place>), ClientError> {
        let mut sockets: Vec<ConnectedSocket> = Vec::new();
        let gateways = self.gateways.live().await;
        let mut gateways = gateways.into_iter().filter(|id| *id >= from.gateway).peekable();
        while let Some(gateway) = gateways.next() {
            let after = if gateway == from.gateway {
                from.id.clone()
            } else {
                String::new()
            };
            let command = ListCommand {
                of: Some(of.clone()),
                after,
                limit: u32::try_from(limit - sockets.len()).unwrap_or(u32::MAX),
            };
            let Some(Outcome::List(list)) = self
                .command(&gateway, command::Command::List(command), PATIENCE)
                .await?
            else {
                continue;
            };
            sockets.extend(list.sockets);
            let last = sockets.last().map(|socket| socket.id.clone());
            if let Some(id) = last.filter(|_| list.more) {
                return Ok((sockets, Some(Place { gateway, id })));
            }
            if let Some(gateway) = gateways.peek().filter(|_| sockets.len() >= limit) {
                let gateway = gateway.clone();
                return Ok((
                    sockets,
                    Some(Place {
                        gateway,
                        id: String::new(),
                    }),
                ));
            }
        }
        Ok((sockets, None))
    }

    /// Sends an event and gathers what clients answer within `timeout`. It is not stored. What a gateway that does not
    /// answer has sent is not known.
    ///
    /// # Errors
    /// `PAYLOAD_TOO_LARGE` when a gateway has too many of the sockets; `UNAVAILABLE`.
    pub async fn ask(&self, emit: &Emit, timeout: Duration) -> Result<Answers, ClientError> {
        let command = AskCommand {
            of: Some(SocketsOf {
                namespace: emit.namespace.to_string(),
                users: emit.users.iter().map(ToString::to_string).collect(),
                sockets: emit.sockets.clone(),
                rooms: emit.rooms.iter().map(ToString::to_string).collect(),
            }),
            except: except(&emit.except),
            event: emit.event.clone(),
            args: emit.args.json().as_byte_string().clone().into_bytes(),
            attachments: emit.args.attachments().to_vec(),
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
        };
        let gateways = self.gateways.live().await;
        let asked = gateways
            .iter()
            .map(|gateway| self.ask_one(gateway, command.clone(), timeout + ANSWERS));
        let mut all = Answers::default();
        for answers in join_all(asked).await {
            match answers {
                Ok(answers) => {
                    all.answers.extend(answers.answers);
                    all.missing.extend(answers.missing);
                }
                // The clients of the others have answered.
                Err(error) if error.code == ErrorCode::Unavailable && gateways.len() > 1 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    async fn ask_one(
        &self,
        gateway: &str,
        command: AskCommand,
        patience: Duration,
    ) -> Result<Answers, ClientError> {
        let mut all = Answers::default();
        let mut next = command::Command::Ask(command);
        let mut patience = patience;
        loop {
            let outcome = self.command(gateway, next, patience).await?;
            let Some(Outcome::Answers(part)) = outcome else {
                return Ok(all);
            };
            all.answers.extend(part.answers);
            all.missing.extend(part.missing);
            if part.rest.is_empty() {
                return Ok(all);
            }
            next = command::Command::Rest(part.rest);
            patience = PATIENCE;
        }
    }

    async fn count(&self, command: command::Command) -> Result<u64, ClientError> {
        let gateways = self.gateways.live().await;
        let told = gateways
            .iter()
            .map(|gateway| self.command(gateway, command.clone(), PATIENCE));
        let outcomes = try_join_all(told).await?;
        let counts = outcomes.into_iter().map(|outcome| match outcome {
            Some(Outcome::Sockets(count)) => count,
            _ => 0,
        });
        Ok(counts.sum())
    }

    /// None when the gateway is gone, and its clients with it.
    async fn command(
        &self,
        gateway: &str,
        command: command::Command,
        patience: Duration,
    ) -> Result<Option<Outcome>, ClientError> {
        let command = Command {
            command: Some(command),
        };
        let subject = subjects::commands_of(gateway);
        let payload = command.encode_to_vec().into();
        let reply = match self.signals.request(&subject, payload, patience).await {
            Ok(reply) => reply,
            Err(SignalsError::NoResponders(_)) => return Ok(None),
            Err(error @ (SignalsError::Timeout(_) | SignalsError::Unavailable(_))) => {
                return Err(unavailable(error));
            }
        };
        match CommandReply::decode(reply).map_err(unavailable)?.outcome {
            Some(Outcome::Error(error)) => Err(from_message(error)),
            outcome => Ok(outcome),
        }
    }
}
