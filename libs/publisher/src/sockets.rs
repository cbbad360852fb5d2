//! What servers do with sockets, wherever those are connected: every gateway is asked.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bus::{Documents, Signals, SignalsError, subjects};
use futures_util::future::{join_all, try_join_all};
use model::{ClientError, ErrorCode};
use prost::Message;
use proto::v1::{
    AskCommand, Command, CommandReply, ConnectedSocket, DisconnectCommand, JoinCommand, LeaveCommand,
    ListCommand, SocketAnswer, SocketList, SocketsOf, command, command_reply::Outcome,
    disconnect_request::Mode,
};

use crate::{
    departures,
    emit::Emit,
    emitter::except,
    errors::{from_message, unavailable},
    gateways::Gateways,
};

/// A gateway gets so long to do what it is told.
const PATIENCE: Duration = Duration::from_secs(10);
/// So much more than clients get to answer; and for a list where a gateway was silent already.
const ANSWERS: Duration = Duration::from_secs(2);
/// Sockets that are listed at a time.
const PAGE: usize = 1000;

/// Sockets of the whole cluster.
#[derive(Clone)]
pub struct Sockets {
    signals: Arc<dyn Signals>,
    gateways: Arc<Gateways>,
    documents: Option<Arc<dyn Documents>>,
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
    /// Ids of those that got it, or may have got it, and did not.
    pub missing: Vec<String>,
    /// Why some gateways are not heard: then `missing` lacks their sockets.
    pub unheard: Option<ClientError>,
}

impl Sockets {
    /// Commands go through `signals` to the gateways that are heard there, as long as the future is polled. What they do
    /// to sessions that gone gateways have left behind is noted in `documents`; without, nothing outlives a gateway.
    ///
    /// # Errors
    /// When the bus does not answer.
    pub async fn following(
        signals: Arc<dyn Signals>,
        documents: Option<Arc<dyn Documents>>,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), SignalsError> {
        let heartbeats = Gateways::subscribe(&*signals).await?;
        let gateways = Gateways::new();
        let known = Arc::clone(&gateways);
        let following = async move { known.follow(heartbeats).await };
        let sockets = Self {
            signals,
            gateways,
            documents,
        };
        Ok((sockets, following))
    }

    /// Brings sockets into rooms: how many. Once this returns they get every later event.
    ///
    /// # Errors
    /// `UNAVAILABLE` when a gateway does not answer; then some may be in the rooms. A retry is safe.
    pub async fn join(&self, of: SocketsOf, rooms: Vec<String>) -> Result<u64, ClientError> {
        let command = JoinCommand { of: Some(of), rooms };
        self.count(command::Command::Join(command)).await
    }

    /// Takes sockets out of rooms: how many, without those that gone gateways have left behind.
    ///
    /// # Errors
    /// As [`Sockets::join`].
    pub async fn leave(&self, of: SocketsOf, rooms: Vec<String>) -> Result<u64, ClientError> {
        self.note(&of, &rooms).await?;
        let command = LeaveCommand { of: Some(of), rooms };
        self.count(command::Command::Leave(command)).await
    }

    /// Ends sockets or their connections: how many, without those that gone gateways have left behind.
    ///
    /// # Errors
    /// As [`Sockets::join`].
    pub async fn disconnect(&self, of: SocketsOf, mode: Mode) -> Result<u64, ClientError> {
        if mode != Mode::Reconnect {
            self.note(&of, &[]).await?;
        }
        let command = DisconnectCommand {
            of: Some(of),
            mode: mode.into(),
        };
        self.count(command::Command::Disconnect(command)).await
    }

    /// First, so that whoever comes back meanwhile finds the note or is found by the command.
    async fn note(&self, of: &SocketsOf, rooms: &[String]) -> Result<(), ClientError> {
        match &self.documents {
            Some(documents) => departures::note(&**documents, of, rooms).await,
            None => Ok(()),
        }
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
        let gateways = self.gateways.live().await?;
        let mut gateways = gateways.into_iter().filter(|id| *id >= from.gateway).peekable();
        while let Some(gateway) = gateways.next() {
            let after = if gateway == from.gateway {
                from.id.clone()
            } else {
                String::new()
            };
            let left = limit - sockets.len();
            let Some(list) = self.list(&gateway, of, after, left, PATIENCE).await? else {
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

    /// Sends an event and gathers what clients answer within `timeout`. It is not stored. Of a gateway that does not
    /// answer every socket counts as missing that it tells to be there afterwards; if it tells nothing, see
    /// [`Answers::unheard`].
    ///
    /// # Errors
    /// `PAYLOAD_TOO_LARGE` when a gateway has too many of the sockets; `UNAVAILABLE` when no gateway answers.
    pub async fn ask(&self, emit: &Emit, timeout: Duration) -> Result<Answers, ClientError> {
        let of = SocketsOf {
            namespace: emit.namespace.to_string(),
            users: emit.users.iter().map(ToString::to_string).collect(),
            sockets: emit.sockets.clone(),
            rooms: emit.rooms.iter().map(ToString::to_string).collect(),
            except: except(&emit.except),
        };
        let command = AskCommand {
            of: Some(of.clone()),
            event: emit.event.clone(),
            args: emit.args.json().as_byte_string().clone().into_bytes(),
            attachments: emit.args.attachments().to_vec(),
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
        };
        let gateways = self.gateways.live().await?;
        let asked = gateways
            .iter()
            .map(|gateway| self.ask_one(gateway, command.clone(), timeout + ANSWERS));
        let mut all = Answers::default();
        let mut silent = Vec::new();
        for (gateway, answers) in gateways.iter().zip(join_all(asked).await) {
            let part = answers?;
            all.answers.extend(part.answers);
            all.missing.extend(part.missing);
            if let Some(error) = part.unheard {
                silent.push(gateway);
                all.unheard = Some(error);
            }
        }
        let nobody = silent.len() == gateways.len() && all.answers.is_empty();
        if let Some(error) = all.unheard.take_if(|_| nobody) {
            return Err(error);
        }
        let listed = silent.into_iter().map(|gateway| self.list_all(gateway, &of));
        let listed = try_join_all(listed).await;
        match listed {
            Ok(sockets) => {
                all.unheard = None;
                all.miss(sockets.into_iter().flatten());
            }
            Err(error) => all.unheard = Some(error),
        }
        Ok(all)
    }

    /// What was heard before a gateway fell silent is kept.
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
            let part = match self.command(gateway, next, patience).await {
                Ok(Some(Outcome::Answers(part))) => part,
                Ok(_) => return Ok(all),
                Err(error) if error.code == ErrorCode::Unavailable => {
                    all.unheard = Some(error);
                    return Ok(all);
                }
                Err(error) => return Err(error),
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

    /// All sockets of a gateway.
    async fn list_all(&self, gateway: &str, of: &SocketsOf) -> Result<Vec<ConnectedSocket>, ClientError> {
        let mut sockets: Vec<ConnectedSocket> = Vec::new();
        loop {
            let after = sockets.last().map(|socket| socket.id.clone());
            let after = after.unwrap_or_default();
            let Some(list) = self.list(gateway, of, after, PAGE, ANSWERS).await? else {
                return Ok(sockets);
            };
            let is_end = !list.more || list.sockets.is_empty();
            sockets.extend(list.sockets);
            if is_end {
                return Ok(sockets);
            }
        }
    }

    /// At most `limit` sockets of a gateway behind an id; None when the gateway is gone.
    async fn list(
        &self,
        gateway: &str,
        of: &SocketsOf,
        after: String,
        limit: usize,
        patience: Duration,
    ) -> Result<Option<SocketList>, ClientError> {
        let command = command::Command::List(ListCommand {
            of: Some(of.clone()),
            after,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        });
        match self.command(gateway, command, patience).await? {
            Some(Outcome::List(list)) => Ok(Some(list)),
            _ => Ok(None),
        }
    }

    async fn count(&self, command: command::Command) -> Result<u64, ClientError> {
        let gateways = self.gateways.live().await?;
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
            Err(error) => {
                return Err(unavailable(error));
            }
        };
        match CommandReply::decode(reply).map_err(unavailable)?.outcome {
            Some(Outcome::Error(error)) => Err(from_message(error)),
            outcome => Ok(outcome),
        }
    }
}

impl Answers {
    /// These count as missing, but for those that have answered.
    fn miss(&mut self, sockets: impl Iterator<Item = ConnectedSocket>) {
        let answered = self.answers.iter().map(|answer| answer.socket_id.as_str());
        let known: HashSet<&str> = answered.chain(self.missing.iter().map(String::as_str)).collect();
        let missing: Vec<String> = sockets
            .map(|socket| socket.id)
            .filter(|id| !known.contains(id.as_str()))
            .collect();
        self.missing.extend(missing);
    }
}

#[cfg(test)]
mod tests {
    use bus::signals::memory::MemorySignals;
    use model::Namespace;
    use proto::v1::{GatewayHeartbeat, SocketAnswers};
    use tokio::task::JoinSet;

    use super::*;
    use crate::args::Args;

    /// What a gateway says to a command; nothing is no answer.
    type Says = fn(command::Command) -> Option<Outcome>;

    struct Stage {
        sockets: Sockets,
        gateways: JoinSet<()>,
    }

    async fn stage(says: &[(&str, Says)]) -> Stage {
        let signals = Arc::new(MemorySignals::default());
        let (sockets, following) = Sockets::following(signals.clone(), None).await.unwrap();
        let mut gateways = JoinSet::new();
        gateways.spawn(following);
        for (gateway, says) in says {
            let heartbeat = GatewayHeartbeat {
                gateway: (*gateway).to_owned(),
                ..GatewayHeartbeat::default()
            };
            signals
                .publish(subjects::GATEWAY_HEARTBEAT, heartbeat.encode_to_vec().into())
                .unwrap();
            let subject = subjects::commands_of(gateway);
            let mut commands = signals.subscribe(&subject, None).await.unwrap();
            let (signals, says) = (Arc::clone(&signals), *says);
            gateways.spawn(async move {
                while let Some(asked) = commands.next().await {
                    let command = Command::decode(asked.payload).unwrap().command.unwrap();
                    if let Some(outcome) = says(command) {
                        let reply = CommandReply {
                            outcome: Some(outcome),
                        };
                        signals
                            .publish(&asked.reply.unwrap(), reply.encode_to_vec().into())
                            .unwrap();
                    }
                }
            });
        }
        Stage { sockets, gateways }
    }

    fn socket(id: &str, user: &str) -> ConnectedSocket {
        ConnectedSocket {
            id: id.to_owned(),
            user_id: user.to_owned(),
            ..ConnectedSocket::default()
        }
    }

    fn part(answered: &str, missing: &str, rest: &str) -> Option<Outcome> {
        Some(Outcome::Answers(SocketAnswers {
            answers: vec![SocketAnswer {
                socket_id: answered.to_owned(),
                ..SocketAnswer::default()
            }],
            missing: vec![missing.to_owned()],
            rest: rest.to_owned(),
        }))
    }

    fn answers(command: command::Command) -> Option<Outcome> {
        match command {
            command::Command::Ask(_) => part("a-1", "a-2", ""),
            _ => None,
        }
    }

    /// Answers only who is there, and not all of it at a time.
    fn lists(command: command::Command) -> Option<Outcome> {
        let command::Command::List(list) = command else {
            return None;
        };
        let (mut sockets, more) = match &*list.after {
            "" => (vec![socket("b-1", "bob"), socket("b-2", "eve")], true),
            "b-1" => (vec![socket("b-3", "cyd")], false),
            other => panic!("{other}"),
        };
        let except = list.of.and_then(|of| of.except).unwrap_or_default();
        sockets.retain(|socket| !except.users.contains(&socket.user_id));
        Some(Outcome::List(SocketList { sockets, more }))
    }

    /// Loses the second part of its answers.
    fn breaks_off(command: command::Command) -> Option<Outcome> {
        match command {
            command::Command::Ask(_) => part("b-1", "b-3", "more"),
            command::Command::List(_) => lists(command),
            _ => None,
        }
    }

    fn silent(_: command::Command) -> Option<Outcome> {
        None
    }

    async fn ask(says: &[(&str, Says)]) -> Result<(Vec<String>, Vec<String>, bool), ClientError> {
        let mut stage = stage(says).await;
        let mut emit = Emit::new(Namespace::new("/").unwrap(), "question", Args::default());
        emit.except.users = vec![model::UserId::new("eve").unwrap()];
        let asked = stage.sockets.ask(&emit, Duration::from_secs(1)).await;
        stage.gateways.shutdown().await;
        let asked = asked?;
        let answered = asked.answers.into_iter().map(|answer| answer.socket_id);
        Ok((answered.collect(), asked.missing, asked.unheard.is_some()))
    }

    #[tokio::test(start_paused = true)]
    async fn sockets_of_a_silent_gateway_are_missing() {
        let (answered, missing, unheard) = ask(&[("a", answers), ("b", lists)]).await.unwrap();
        assert_eq!(answered, ["a-1"]);
        assert_eq!(missing, ["a-2", "b-1", "b-3"]);
        assert!(!unheard);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_gateway_said_before_it_fell_silent_is_kept() {
        let (answered, missing, unheard) = ask(&[("b", breaks_off)]).await.unwrap();
        assert_eq!(answered, ["b-1"]);
        assert_eq!(missing, ["b-3"]);
        assert!(!unheard);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_told_that_some_or_all_gateways_are_not_heard() {
        let (answered, _, unheard) = ask(&[("a", answers), ("b", silent)]).await.unwrap();
        assert_eq!(answered, ["a-1"]);
        assert!(unheard);
        let none = ask(&[("a", silent), ("b", silent)]).await.unwrap_err();
        assert_eq!(none.code, ErrorCode::Unavailable);
    }
}
