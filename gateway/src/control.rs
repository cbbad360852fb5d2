//! What servers do with the sockets of this gateway: joins, leaves, disconnects, lists, questions (CONTRACT section 6).
//! Commands come as requests to the gateway's own subject and have been checked by who sends them.

mod ask;
mod disconnect;
mod find;
mod list;
mod rooms;

use std::sync::Arc;

use bus::{Signal, Subscription};
use lifecycle::Tasks;
use model::{ClientError, ErrorCode};
use prost::Message;
use proto::v1::{Command, CommandReply, command, command_reply::Outcome};
use publisher::errors::to_message;
use tokio::sync::Semaphore;

use self::{ask::Leftovers, find::Finder};
use crate::{events::Core, transport::EngineServer};

/// Commands under way at one time, at most; and questions, which wait for clients and must not hold up what does not.
const MAX_COMMANDS: usize = 1024;
const MAX_QUESTIONS: usize = 1024;

/// Answers commands.
pub(crate) struct Control {
    core: Arc<Core>,
    finder: Finder,
    leftovers: Leftovers,
    tasks: Tasks,
    room: Arc<Semaphore>,
    questions: Arc<Semaphore>,
}

impl Control {
    pub(crate) fn new(core: Arc<Core>, engine: Arc<EngineServer>, tasks: Tasks) -> Arc<Self> {
        Arc::new(Self {
            finder: Finder::new(Arc::clone(&core.rooms), engine),
            core,
            leftovers: Leftovers::default(),
            tasks,
            room: Arc::new(Semaphore::new(MAX_COMMANDS)),
            questions: Arc::new(Semaphore::new(MAX_QUESTIONS)),
        })
    }

    /// Answers until the subscription ends.
    pub(crate) async fn answer(self: Arc<Self>, mut commands: Box<dyn Subscription>) {
        while let Some(request) = commands.next().await {
            let command = match Command::decode(request.payload.clone()).map(|command| command.command) {
                Ok(Some(command)) => command,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(%error, "a command cannot be read");
                    continue;
                }
            };
            let room = match &command {
                command::Command::Ask(_) => &self.questions,
                _ => &self.room,
            };
            let Ok(permit) = Arc::clone(room).try_acquire_owned() else {
                let busy = ClientError::new(ErrorCode::Unavailable, "A gateway is busy");
                self.reply(&request, Outcome::Error(to_message(busy)));
                continue;
            };
            let this = Arc::clone(&self);
            self.tasks.spawn("command", async move {
                this.take(&request, command).await;
                drop(permit);
            });
        }
    }

    async fn take(&self, request: &Signal, command: command::Command) {
        let outcome = match command {
            command::Command::Join(join) => self.join(join).await.map(Outcome::Sockets),
            command::Command::Leave(leave) => Ok(Outcome::Sockets(self.leave(leave))),
            command::Command::Disconnect(disconnect) => Ok(Outcome::Sockets(self.disconnect(disconnect))),
            command::Command::List(list) => Ok(Outcome::List(self.list(list))),
            command::Command::Ask(ask) => self.ask(ask).await.map(Outcome::Answers),
            command::Command::Rest(rest) => self.leftovers.next(&rest).map(Outcome::Answers),
        };
        let outcome = outcome.unwrap_or_else(|refused| Outcome::Error(to_message(refused)));
        self.reply(request, outcome);
    }

    fn reply(&self, request: &Signal, outcome: Outcome) {
        let Some(reply) = &request.reply else { return };
        let answer = CommandReply {
            outcome: Some(outcome),
        };
        if let Err(error) = self.core.signals.publish(reply, answer.encode_to_vec().into()) {
            tracing::warn!(%error, "a command could not be answered");
        }
    }
}
